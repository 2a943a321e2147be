"""Who may read: from a request's credentials and address to a `Reader`, or a refusal.

Rules:

1. Without credentials only a peer on loopback is served, and only under a host name that cannot be somebody else's
   web page (an address or ``localhost``): a browser that was lured to a name which resolves to 127.0.0.1 gets nothing.
   Where there is a readers file, nobody is served without credentials.
2. A user is known by name and SHA-256 of the password. The comparison takes the same time for a wrong user and a
   wrong password, and the answer does not tell them apart.
3. What a reader may see is `Reader.tenants`; None means every tenant, as for every user of ``sql.users``.
4. A name that the readers file has is looked up there only: it must not become an operator by a second password.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from store.engine.port import EngineError
from store.readers import Reader, Readers

AUTHENTICATION_FAILED = 516
REQUIRED_PASSWORD = 194
_ANONYMOUS = "default"


@dataclass(frozen=True)
class Credentials:
    """What a request says of its sender; "" where it says nothing."""

    user: str = ""
    password: str = ""
    token: str = ""


def is_loopback(address: str) -> bool:
    """Whether an IP address is of this machine's own loopback; False for anything that is no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def admit(
    credentials: Credentials, peer: str, host: str, users: Mapping[str, str], readers: Readers | None = None
) -> Reader:
    """The reader behind a request.

    Args:
        credentials: as sent.
        peer: the IP address of the other end of the connection, never a forwarded header.
        host: the request's Host header.
        users: name → SHA-256 of the password, in hex.
        readers: of the readers file, if there is one.

    Raises:
        EngineError: 194 (no credentials where some are needed) or 516 (wrong ones).
    """
    if credentials.token:
        reader = readers.of_token(credentials.token) if readers is not None else None
        if reader is None:
            raise EngineError(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", "Authentication failed: unknown token.")
        return reader
    name = credentials.user or _ANONYMOUS
    if readers is not None:
        if not credentials.user and not credentials.password:
            raise EngineError(
                REQUIRED_PASSWORD, "REQUIRED_PASSWORD", "Authentication failed: a reader's credentials are required."
            )
        if name in readers.by_name or name not in users:
            return _known(readers.of_password(name, credentials.password), name)
    if name not in users and name == _ANONYMOUS and not credentials.password:
        if is_loopback(peer) and _is_plain_host(host):
            return Reader(_ANONYMOUS)
        raise EngineError(
            REQUIRED_PASSWORD,
            "REQUIRED_PASSWORD",
            f"{name}: Authentication failed: a user and password are required from this address.",
        )
    digest = hashlib.sha256(credentials.password.encode()).hexdigest()
    good = hmac.compare_digest(digest, users.get(name, "").lower())
    return _known(Reader(name) if good else None, name)


def _known(reader: Reader | None, name: str) -> Reader:
    if reader is None:
        raise EngineError(
            AUTHENTICATION_FAILED,
            "AUTHENTICATION_FAILED",
            f"{name}: Authentication failed: password is incorrect, or there is no user with such name.",
        )
    return reader


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
