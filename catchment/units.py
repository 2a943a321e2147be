"""Texts of durations, sizes and addresses, as a person writes them in a configuration file."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from fractions import Fraction

DURATION_EXAMPLES = "500ms, 10s, 5m, 1h, 30d"
SIZE_EXAMPLES = "512KiB, 64MiB, 2GiB"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?i?b)", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A host and a TCP port to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def seconds_of(text: str) -> float:
    """Seconds of a duration such as ``10s`` or ``1h30m``; raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"expected a duration such as {DURATION_EXAMPLES}")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def bytes_of(text: str) -> int:
    """Bytes of a size such as ``64MiB`` or ``1.5GB``; raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a size such as {SIZE_EXAMPLES}")
    return round(Fraction(match[1]) * _BYTES[match[2].lower()])


def address_of(text: str) -> Address:
    """The address of ``host:port`` or ``[host]:port``; raises ValueError."""
    expected = "expected host:port such as 127.0.0.1:4317, with a port from 1 to 65535"
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(expected + "; an IPv6 host goes in brackets")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(expected)
    return Address(host, int(port))


def duration_text(seconds: float) -> str:
    """A duration in the largest unit that shows it whole; `seconds_of` reads it back."""
    milliseconds = round(seconds * 1000)
    for unit in ("d", "h", "m", "s"):
        width = round(_SECONDS[unit] * 1000)
        if milliseconds and milliseconds % width == 0:
            return f"{milliseconds // width}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def about(size_bytes: int) -> str:
    """A size to three digits, for people."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        size = size_bytes / _BYTES[unit.lower()]
        if size >= 1:
            return f"{size:.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"
    return f"{size_bytes} bytes"


def about_duration(seconds: float) -> str:
    """A duration in its two largest units, for people."""
    left, counts = int(seconds), []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, round(_SECONDS[unit]))
        counts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(counts) if count), len(counts))
    return " ".join(f"{count} {unit}" for count, unit in counts[first : first + 2] if count) or "0 s"


def size_text(size_bytes: int) -> str:
    """A size in the largest unit that shows it whole; `bytes_of` reads it back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        width = _BYTES[unit.lower()]
        if size_bytes and size_bytes % width == 0:
            return f"{size_bytes // width}{unit}"
    return f"{size_bytes}B"
