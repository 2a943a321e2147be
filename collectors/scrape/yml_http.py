"""How a job, or a discovery, of ``prometheus.yml`` speaks HTTP: who we are, and whom we trust."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collectors.scrape.job import Http, Tls
from collectors.scrape.yml_reader import Reader

HTTP_LEAVES_OUT = ("oauth2", "sigv4", "azuread", "google_iam", "proxy_url", "proxy_from_environment", "http_headers")
"""Keys that a job cannot be asked rightly without, and which are not supported."""
_SILENT = ("no_proxy", "proxy_connect_header", "enable_http2")
HTTP_KEYS = (
    "basic_auth",
    "authorization",
    "bearer_token",
    "bearer_token_file",
    "tls_config",
    "follow_redirects",
    *HTTP_LEAVES_OUT,
    *_SILENT,
)


def read_http(reader: Reader, fields: Mapping[str, Any], where: str) -> Http:
    """The settings among some fields; faults are told to the reader."""
    basic = reader.mapping(
        fields.get("basic_auth"),
        f"{where}.basic_auth",
        ("username", "password", "password_file"),
        {"username_file": "give username"},
    )
    bearer = reader.mapping(
        fields.get("authorization"), f"{where}.authorization", ("type", "credentials", "credentials_file")
    )
    kind = reader.text(bearer, "type", f"{where}.authorization", "Bearer") if bearer else ""
    old = fields.get("bearer_token") or fields.get("bearer_token_file")
    if sum(map(bool, (basic, bearer, old))) > 1:
        reader.fault(where, "expected at most one of basic_auth, authorization and bearer_token")
    for given, secret in ((basic, "password"), (bearer, "credentials"), (fields, "bearer_token")):
        if given.get(secret) and given.get(f"{secret}_file"):
            reader.fault(where, f"expected at most one of {secret} and {secret}_file")
    if kind.lower() == "basic":
        reader.fault(f"{where}.authorization.type", "expected basic_auth for this")
    return Http(
        username=reader.text(basic, "username", where),
        password=reader.text(basic, "password", where),
        password_file=reader.path(basic, "password_file", where),
        authorization_type="Bearer" if old else kind,
        credentials=reader.text(bearer, "credentials", where) or reader.text(fields, "bearer_token", where),
        credentials_file=reader.path(bearer, "credentials_file", where)
        or reader.path(fields, "bearer_token_file", where),
        tls=_tls(reader, fields.get("tls_config"), f"{where}.tls_config"),
        follow_redirects=reader.truth(fields, "follow_redirects", where, True),
    )


def _tls(reader: Reader, value: Any, where: str) -> Tls:
    known = ("ca_file", "cert_file", "key_file", "server_name", "insecure_skip_verify", "min_version")
    inline = dict.fromkeys(("ca", "cert", "key", "ca_ref", "cert_ref", "key_ref", "max_version"), "give it as a file")
    fields = reader.mapping(value, where, known, inline)
    version = reader.text(fields, "min_version", where)
    if version not in ("", "TLS10", "TLS11", "TLS12", "TLS13"):
        reader.fault(f"{where}.min_version", f"{version!r} is none of TLS10, TLS11, TLS12 and TLS13")
    if bool(fields.get("cert_file")) != bool(fields.get("key_file")):
        reader.fault(where, "cert_file and key_file belong together")
    return Tls(
        reader.path(fields, "ca_file", where),
        reader.path(fields, "cert_file", where),
        reader.path(fields, "key_file", where),
        reader.text(fields, "server_name", where),
        reader.truth(fields, "insecure_skip_verify", where, False),
        version,
    )
