"""Certificates of our own listeners: TLS 1.2 or above, and files that are read again when they change.

Rules:

1. Connections are TLS 1.2 or above, or refused; with ``client_ca`` those without a certificate of it are refused too.
2. Files are read again when they change, for the connections that come then. Files with a fault leave those before
   them in force, and the report says so.
3. A session from before the files in force is not resumed: whoever resumes one is not verified anew.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from catchment.config_tls import ListenTls
from catchment.errors import CatchmentError
from catchment.files import version_of
from catchment.telemetry import OwnMetric, Telemetry


@dataclass(frozen=True)
class Loaded:
    """Files that belong together, read at one time; ``files`` by cert, key, client_ca."""

    context: ssl.SSLContext
    files: Mapping[str, bytes]


class ServerCertificates:
    """What listeners and handshakes use; `watch` keeps it fresh.

    Args:
        settings: the files.
        report: told in one line that what changed was read.
        section: of the configuration that names them, for reports.
        refuse: told in one line why what changed was not taken; as ``report`` unless given.

    Attributes:
        is_refused: what changed was not taken: those before it are in force.

    Raises:
        CatchmentError: the files cannot be used.
    """

    def __init__(
        self,
        settings: ListenTls,
        report: Callable[[str], None],
        section: str = "tls",
        refuse: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings
        self._report = report
        self._refuse = refuse or report
        self.is_refused = False
        self._section = section
        self._seen = self._look()
        self.loaded = _load(settings, section)
        self._in_force_since_seconds = 0.0
        # A listener keeps its context; each handshake gets the one of the files in force.
        self.context = self.loaded.context
        self.context.sni_callback = self._choose

    @classmethod
    def of(cls, settings: ListenTls, log: logging.Logger, telemetry: Telemetry, section: str) -> Self | None:
        """The certificates of a listener, whose reloads are logged and told by a metric; None where TLS is off.

        Raises:
            CatchmentError: the files cannot be used.
        """
        if not settings.is_on:
            return None
        certificates = cls(settings, log.info, section, log.warning)
        telemetry.read_from(OwnMetric.FILES_REFUSED, lambda: certificates.is_refused, section)
        return certificates

    async def watch(self, poll_seconds: float = 1.0) -> None:
        """Look after the files until cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            looked = await asyncio.to_thread(self._look)
            if looked == self._seen:
                continue
            self._seen = looked
            try:
                self.loaded = await asyncio.to_thread(_load, self.settings, self._section)
            except CatchmentError as error:
                self.is_refused = True
                self._refuse(f"TLS files have a fault, those before them stay in force: {error}")
            else:
                self.is_refused = False
                self._in_force_since_seconds = time.time()
                self._report(f"TLS certificate {self.settings.cert} read")

    def _choose(self, handshake: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        # TLS 1.2 resumes by the listener's own cache of sessions too, for two hours, which Python cannot turn off. The
        # sender is told once, and its next connection is a full handshake. (OpenSSL cuts a session's time to seconds.)
        if handshake.session_reused and handshake.session.time <= self._in_force_since_seconds:
            return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
        handshake.context = self.loaded.context
        return None

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [version_of(file) for file in _files(self.settings).values()]


def _files(settings: ListenTls) -> dict[str, Path]:
    named = {"cert": settings.cert, "key": settings.key, "client_ca": settings.client_ca}
    return {key: path for key, path in named.items() if path is not None}


def _load(settings: ListenTls, section: str) -> Loaded:
    read: dict[str, bytes] = {}
    for key, file in _files(settings).items():
        try:
            read[key] = file.read_bytes()
        except OSError as error:
            raise CatchmentError(f"{section}.{key} cannot be read: {error.strerror}", file=str(file)) from error
    return Loaded(_context(settings, section), read)


def _context(settings: ListenTls, section: str) -> ssl.SSLContext:
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
        said = f"{section}.cert and {section}.key cannot be used: {_reason(error)}"
        raise CatchmentError(said, cert=str(settings.cert), key=str(settings.key)) from error
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except (ssl.SSLError, OSError, ValueError) as error:
            said = f"{section}.client_ca cannot be used: {_reason(error)}"
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
