"""Who may read: from a request's credentials and address to a `Reader`, or a refusal.

Rules:

1. Without credentials only a peer on loopback is served, and only under a host name that cannot be somebody else's
   web page (an address or ``localhost``): a browser that was lured to a name which resolves to 127.0.0.1 gets nothing.
2. A user is known by name and SHA-256 of the password. The comparison takes the same time for a wrong user and a
   wrong password, and the answer does not tell them apart.
3. What a reader may see is `Reader.tenants`; None means every tenant.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from store.engine.port import EngineError

AUTHENTICATION_FAILED = 516
REQUIRED_PASSWORD = 194
_ANONYMOUS = "default"


@dataclass(frozen=True)
class Credentials:
    """What a request says of its sender; "" where it says nothing."""

    user: str = ""
    password: str = ""


@dataclass(frozen=True)
class Reader:
    """Who asks, and which tenants' rows may be answered; None is all of them."""

    name: str
    tenants: frozenset[str] | None = None


def is_loopback(address: str) -> bool:
    """Whether an IP address is of this machine's own loopback; False for anything that is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def admit(credentials: Credentials, peer: str, host: str, users: Mapping[str, str]) -> Reader:
    """The reader behind a request.

    Args:
        credentials: as sent.
        peer: the IP address of the other end of the connection, never a forwarded header.
        host: the request's Host header.
        users: name → SHA-256 of the password, in hex.

    Raises:
        EngineError: 194 (no credentials where some are needed) or 516 (wrong ones).
    """
    name = credentials.user or _ANONYMOUS
    if name not in users and name == _ANONYMOUS and not credentials.password:
        if is_loopback(peer) and _is_plain_host(host):
            return Reader(_ANONYMOUS)
        raise EngineError(
            REQUIRED_PASSWORD,
            "REQUIRED_PASSWORD",
            f"{name}: Authentication failed: a user and password are required from this address.",
        )
    digest = hashlib.sha256(credentials.password.encode()).hexdigest()
    if not hmac.compare_digest(digest, users.get(name, "").lower()):
        raise EngineError(
            AUTHENTICATION_FAILED,
            "AUTHENTICATION_FAILED",
            f"{name}: Authentication failed: password is incorrect, or there is no user with such name.",
        )
    return Reader(name)


def _is_plain_host(host: str) -> bool:
    """Whether a Host header is an address or localhost, or missing: no name that a stranger's DNS could hold."""
    name = host.strip()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
