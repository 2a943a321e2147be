"""A request of the ClickHouse HTTP interface, read into one value. Pure: header and parameter maps and a body in.

Where the query comes from: ``?query=``, the body, or both with a line feed between them; or the field ``query`` of a
multipart form. Credentials: ``X-ClickHouse-User``/``-Key`` headers, basic authentication, a bearer token, or
``user``/``password`` parameters; one of them only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qsl

from store.access import AUTHENTICATION_FAILED, Credentials
from store.engine.port import EngineError
from store.sql_guard import NOT_IMPLEMENTED
from store.sql_wire import decode, decompress_blocks

BAD_ARGUMENTS = 36
DEFAULT_DATABASE = "catchment"
_PARAMETER = "param_"


@dataclass(frozen=True)
class SqlRequest:
    """What was asked.

    Attributes:
        query: the SQL text.
        database: for unqualified names; ``default``, which clients send by default, means ``catchment``.
        format: of ``default_format`` or ``X-ClickHouse-Format``; "" where neither is given.
        parameters: values of ``{name:Type}``.
        settings: every URL parameter that is none of the above, transport ones included.
        credentials: of the sender.
    """

    query: str
    database: str
    format: str
    parameters: Mapping[str, str]
    settings: Mapping[str, str]
    credentials: Credentials
    headers: Mapping[str, str] = field(default_factory=dict)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean URL parameter."""
        return self.settings.get(name, "1" if default else "0").lower() in ("1", "true")

    @property
    def revision(self) -> int:
        """The client's protocol version for the Native format; 0 where it sends none."""
        text = self.settings.get("client_protocol_version", "0")
        return int(text) if text.isascii() and text.isdigit() else 0


def url_parameters(query_string: bytes) -> dict[str, str]:
    """The parameters of a URL; of a repeated one the first, as the server takes it."""
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=1000)
    return dict(reversed(pairs))


def read_credentials(headers: Mapping[str, str], parameters: Mapping[str, str]) -> Credentials:
    """Who the sender says to be.

    Raises:
        EngineError: 516, an Authorization header that cannot be read.
    """
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        return Credentials(headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", ""))
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise _bad_credentials("the Basic token cannot be read") from None
        return Credentials(user, password)
    if scheme.lower() == "bearer" and token.strip():
        return Credentials(token=token.strip())
    if scheme:
        raise _bad_credentials(f"'{scheme}' HTTP Authorization scheme is not supported")
    return Credentials(parameters.get("user", ""), parameters.get("password", ""))


def read_request(
    parameters: Mapping[str, str], headers: Mapping[str, str], body: bytes, *, bytes_max: int
) -> SqlRequest:
    """Read a request whose sender has been admitted.

    Args:
        parameters: of the URL.
        headers: names in lower case.
        body: as received.
        bytes_max: of the query after decompression.

    Raises:
        EngineError: what cannot be read, is too large, or needs what this endpoint has not (external tables).
    """
    asked = dict(parameters)
    body = decode(body, headers.get("content-encoding", "").strip().lower(), bytes_max)
    if asked.get("decompress", "0") in ("1", "true") and body:
        body = decompress_blocks(body, bytes_max)
    if headers.get("content-type", "").lower().startswith("multipart/form-data"):
        asked.update(_form_fields(headers["content-type"], body))
        body = b""
    # What is no UTF-8 is for the guard to refuse: the data of an INSERT, above all.
    text = body.decode(errors="surrogateescape")
    url_query = asked.pop("query", "")
    database = headers.get("x-clickhouse-database") or asked.pop("database", "") or DEFAULT_DATABASE
    settings = {name: value for name, value in asked.items() if not name.startswith(_PARAMETER)}
    return SqlRequest(
        query=f"{url_query}\n{text}" if url_query and text else url_query or text,
        database=DEFAULT_DATABASE if database == "default" else database,
        format=headers.get("x-clickhouse-format") or asked.get("default_format", ""),
        parameters={n.removeprefix(_PARAMETER): v for n, v in asked.items() if n.startswith(_PARAMETER)},
        settings=settings,
        credentials=read_credentials(headers, parameters),
        headers=headers,
    )


def _form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a multipart form; a file would be an external table, which a reader cannot bring."""
    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body
    )
    fields: dict[str, str] = {}
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(payload, bytes):
            raise EngineError(BAD_ARGUMENTS, "BAD_ARGUMENTS", "A part of the form has no name or no content.")
        if part.get_filename() is not None and name != "query" and not name.startswith(_PARAMETER):
            raise EngineError(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", f"External tables are not supported: {name}.")
        fields[name] = payload.decode(errors="replace")
    return fields


def _bad_credentials(reason: str) -> EngineError:
    return EngineError(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", f"Authentication failed: {reason}.")
