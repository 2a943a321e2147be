"""Admission: who a sender is. The answer is the tenant of all that it sends.

Rules:

1. A bearer token that the tenants file knows names tenant, cluster and labels; so does the name of a certificate that
   the listener has verified. Where both are known they must name the same sender, so that a token that got out is of no
   use to whoever has another certificate.
2. An unknown token or certificate is refused, from wherever it comes: falling back to another tenant would mix two
   tenants' data. A certificate that is not in the file may come with a token that is.
3. Without either, only a peer on the loopback interface is served, as one fixed sender, and only if the collector was
   given one. A request that a proxy forwarded is not from loopback, whatever its peer is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

from catchment.errors import CatchmentError
from collectors.rates import UNLIMITED, Rates
from collectors.tenants import Sender

_OF_PROXIES = frozenset(("forwarded", "via", "x-real-ip"))
_OF_PROXIES_PREFIXES = ("x-forwarded-", "x-envoy-")


class Unauthenticated(CatchmentError):
    """The sender is not known: answer 401, UNAUTHENTICATED."""


class Directory(Protocol):
    """Where tokens are looked up: `collectors.tenants.TenantsFile`, or fixed `collectors.tenants.Tenants`."""

    def find(self, token: str) -> Sender | None:
        """The sender that a token speaks for; None if there is none."""
        ...

    def certified(self, names: Iterable[str]) -> frozenset[Sender]:
        """The senders that the names of a certificate speak for."""
        ...


class Admit:
    """Decides for one collector.

    Args:
        directory: the tokens; None refuses every token.
        anonymous: whom a loopback peer without a token counts as; None refuses such peers.
        policy_version: what receivers record with each request; replace the attribute when the policy changes.
        rates: how much its tenants may send; no limit unless given.
    """

    def __init__(
        self,
        directory: Directory | None,
        anonymous: Sender | None,
        policy_version: str = "",
        rates: Rates = UNLIMITED,
    ) -> None:
        self._directory = directory
        self._anonymous = anonymous
        self.policy_version = policy_version
        self.rates = rates

    def sender(
        self,
        authorization: str | None,
        peer: str,
        *,
        forwarded: bool = False,
        certificate_names: Sequence[str] | None = None,
    ) -> Sender:
        """Who is asking.

        Args:
            authorization: the value of the header or metadata entry ``authorization``, None if there is none.
            peer: the peer's IP address; "" if it has none (a socket in the file system).
            forwarded: the request bears the marks of a proxy.
            certificate_names: of the certificate that the peer has proved to hold; None if it has none.

        Raises:
            Unauthenticated: unknown, or anonymous where that is not allowed.
        """
        certified = self._certified(certificate_names or ())
        if authorization is None:
            if certified is not None:
                return certified
            if certificate_names is not None and self._directory is not None:
                raise Unauthenticated("unknown certificate")
            if self._anonymous is None:
                raise Unauthenticated("a bearer token is needed")
            if forwarded or not is_loopback(peer):
                raise Unauthenticated("a bearer token is needed: only loopback senders may come without one")
            return self._anonymous
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("authorization must be: Bearer <token>")
        sender = self._directory.find(token) if self._directory is not None else None
        if sender is None:
            raise Unauthenticated("unknown token")
        if certified not in (None, sender):
            raise Unauthenticated("token and certificate are of different senders")
        return sender

    def _certified(self, names: Sequence[str]) -> Sender | None:
        """The sender that a certificate speaks for; None if there is none."""
        known = self._directory.certified(names) if self._directory is not None else frozenset()
        if len(known) > 1:
            raise Unauthenticated("the certificate has names of several senders")
        return next(iter(known), None)


def is_forwarded(names: Iterable[str]) -> bool:
    """Whether the names of a request's headers, in lower case, have one that proxies add."""
    return any(name in _OF_PROXIES or name.startswith(_OF_PROXIES_PREFIXES) for name in names)


@lru_cache(maxsize=4096)
def is_loopback(peer: str) -> bool:
    """Whether an address is of the loopback interface; an IPv4 address inside an IPv6 one counts as itself."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
