"""The receivers' certificate, and who a sender's certificate says that it is.

Rules:

1. Connections are TLS 1.2 or above, or refused; with ``client_ca`` those without a certificate of it are refused too.
2. Files are read again when they change, for the connections that come then. Files with a fault leave those before
   them in force, and the report says so.
3. A session from before the files in force is not resumed: whoever resumes one is not verified anew.
4. A certificate's names are its common name and its alternative names (DNS, URI such as a SPIFFE ID, mail, address).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from catchment.config_tls import ListenTls
from catchment.errors import CatchmentError
from catchment.files import version_of


@dataclass(frozen=True)
class _Loaded:
    """Files that belong together, read at one time."""

    context: ssl.SSLContext
    credentials: Any


class Certificates:
    """What listeners and handshakes use; `watch` keeps it fresh.

    ``report`` is told in one line what a reload brought.

    Raises:
        CatchmentError: the files cannot be used.
    """

    def __init__(self, settings: ListenTls, report: Callable[[str], None]) -> None:
        self._settings = settings
        self._report = report
        self._seen = self._look()
        self._loaded = _load(settings)
        self._in_force_since_seconds = 0.0
        # A listener keeps its context; each handshake gets the one of the files in force.
        self.context = self._loaded.context
        self.context.sni_callback = self._choose

    def grpc_credentials(self) -> Any:
        """For gRPC's port; every handshake asks whether there is something new."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.credentials, lambda: self._loaded.credentials, self._settings.client_ca is not None
        )

    async def watch(self, poll_seconds: float = 1.0) -> None:
        """Look after the files until cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            looked = await asyncio.to_thread(self._look)
            if looked == self._seen:
                continue
            self._seen = looked
            try:
                self._loaded = await asyncio.to_thread(_load, self._settings)
            except CatchmentError as error:
                self._report(f"TLS files have a fault, those before them stay in force: {error}")
            else:
                self._in_force_since_seconds = time.time()
                self._report(f"TLS certificate {self._settings.cert} read")

    def _choose(self, handshake: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        # TLS 1.2 resumes by the listener's own cache of sessions too, for two hours, which Python cannot turn off. The
        # sender is told once, and its next connection is a full handshake. (OpenSSL cuts a session's time to seconds.)
        if handshake.session_reused and handshake.session.time <= self._in_force_since_seconds:
            return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
        handshake.context = self._loaded.context
        return None

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [version_of(file) for file in _files(self._settings).values()]


def _files(settings: ListenTls) -> dict[str, Path]:
    named = {"tls.cert": settings.cert, "tls.key": settings.key, "tls.client_ca": settings.client_ca}
    return {key: path for key, path in named.items() if path is not None}


def _load(settings: ListenTls) -> _Loaded:
    read: dict[str, bytes] = {}
    for key, file in _files(settings).items():
        try:
            read[key] = file.read_bytes()
        except OSError as error:
            raise CatchmentError(f"{key} cannot be read: {error.strerror}", file=str(file)) from error
    # OpenSSL checks what gRPC would only complain of at the first handshake: the key is the certificate's.
    context = _context(settings)
    credentials = grpc.ssl_server_certificate_configuration(
        [(read["tls.key"], read["tls.cert"])], read.get("tls.client_ca")
    )
    return _Loaded(context, credentials)


def _context(settings: ListenTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # No tickets: they would be resumed whatever was replaced (rule 3).
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    assert settings.cert is not None  # the configuration is checked for it
    try:
        context.load_cert_chain(settings.cert, settings.key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        said = f"tls.cert and tls.key cannot be used: {_reason(error)}"
        raise CatchmentError(said, cert=str(settings.cert), key=str(settings.key)) from error
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except (ssl.SSLError, OSError, ValueError) as error:
            said = f"tls.client_ca cannot be used: {_reason(error)}"
            raise CatchmentError(said, file=str(settings.client_ca)) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> str:
    """Instead of asking for it at the terminal."""
    raise ValueError("the key is encrypted, write it without a password")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(getattr(error, "strerror", None) or error)


def names_of_peer(certificate: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The names of a certificate as `ssl.SSLSocket.getpeercert` gives it; None where none was verified."""
    if not certificate:
        return None
    subject = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for kind, value in certificate.get("subjectAltName", ()) if isinstance(value, str)]
    return tuple(dict.fromkeys([*subject, *others]))


def names_of_call(properties: Mapping[str, Sequence[bytes]]) -> tuple[str, ...] | None:
    """The names of a certificate as gRPC's ``auth_context`` gives them; None where none was verified."""
    if "x509_pem_cert" not in properties:
        return None
    found = [*properties.get("x509_common_name", ()), *properties.get("x509_subject_alternative_name", ())]
    return tuple(dict.fromkeys(name.decode("utf-8", "surrogateescape") for name in found))
