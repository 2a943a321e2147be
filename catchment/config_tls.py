"""The part of the configuration that says how our own listeners prove who they are, and ask it of their clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from catchment.setting import setting


@dataclass(frozen=True)
class ListenTls:
    """TLS of a listener. The files are read again when they change; a fault leaves those before it in force."""

    cert: Path | None = setting(None, "PEM file of our certificate and its chain; none: without TLS")
    key: Path | None = setting(None, "PEM file of its key, not encrypted")
    client_ca: Path | None = setting(
        None,
        "PEM file of the authorities of clients' certificates; who comes without one is refused",
    )

    @property
    def is_on(self) -> bool:
        """Whether the listener speaks TLS, and only that."""
        return self.cert is not None

    @property
    def scheme(self) -> str:
        """Of its addresses."""
        return "https" if self.is_on else "http"
