"""What the receivers have in common: addresses, limits, how they run and stop, and what they record."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from catchment.errors import CatchmentError, Invalid, Reject, Retry
from collectors.admit import Unauthenticated
from collectors.content import TooLarge
from collectors.rates import RateLimited, Rates
from collectors.records import Intake, Outcome, Received
from collectors.tenants import Sender

_BACKLOG = 1024
_RETRY_SECONDS = 5
BODY_SECONDS_MAX = 30.0
"""How long a sender may take for the body of a request."""


class Limits(Protocol):
    """The limits that receivers keep; `catchment.limits.Limits` has them."""

    @property
    def request_bytes_max(self) -> int:
        """Bytes of one request as received."""
        ...

    @property
    def requests_in_flight_max(self) -> int:
        """Requests that are being read or wait for their answer, per receiver."""
        ...

    @property
    def connections_max(self) -> int:
        """Connections to one receiver; further ones are closed as they come."""
        ...

    @property
    def intake_queue_bytes_max(self) -> int:
        """Bytes of all bodies that are being read or wait, per receiver."""
        ...

    @property
    def retry_after_seconds(self) -> int:
        """The hint to senders that are turned away."""
        ...


@dataclass(frozen=True)
class Serving:
    """A receiver that serves until its ``stop`` event is set.

    ``port`` is the one that it is bound to; ``done`` ends when the last request has been answered, or raises why the
    receiver broke.
    """

    port: int
    done: asyncio.Task[None]


class Observe(Protocol):
    """Told of every request that was answered."""

    def __call__(self, protocol: str, answer: str, size_bytes: int, sender: Sender | None) -> None:
        """Take note.

        Args:
            protocol: ``http``, ``grpc`` or ``remote_write``.
            answer: ``accepted``, or the reason of the refusal (see docs/drops.md).
            size_bytes: of the body as received, as far as it was read.
            sender: None where it is not known.
        """
        ...


def unobserved(protocol: str, answer: str, size_bytes: int, sender: Sender | None) -> None:
    """An `Observe` that takes no note."""


ACCEPTED = "accepted"


def reason_of(error: CatchmentError) -> str:
    """The reason under which a refusal is counted."""
    if isinstance(error, TooLarge):
        return "request_too_large"
    if isinstance(error, Invalid):
        return "undecodable"
    if isinstance(error, Unauthenticated):
        return "unauthenticated"
    if isinstance(error, RateLimited):
        return "rate_limited"
    return "pushed_back" if isinstance(error, (Reject, Retry)) else "internal_error"


async def submit(intake: Intake, rates: Rates, received: Received) -> Outcome:
    """Take a request in and let its tenant pay for the points: what is durable is paid for, whoever waits for it."""
    outcome = await intake.submit(received)
    rates.pay(received.tenant, "points", outcome.points)
    return outcome


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 host stands in brackets.

    Raises:
        CatchmentError: it is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise CatchmentError(f"{address!r} is no address: write host:port")
    return host.strip("[]"), int(port)


def bind(address: str, what: str) -> socket.socket:
    """A listening socket, not shared with any other process.

    Raises:
        CatchmentError: the port is taken, or the address is none of this machine's.
    """
    host, port = split_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise cannot_listen(address, what, error) from error
    return listener


def cannot_listen(address: str, what: str, error: OSError) -> CatchmentError:
    """The error of an address that cannot be listened on, with what to do."""
    if error.errno == errno.EADDRINUSE:
        return CatchmentError(f"port is taken: stop what listens there, or set another address for {what}", at=address)
    return CatchmentError(f"cannot listen for {what}: {error.strerror or error}", at=address)


def status_of(error: CatchmentError) -> status_pb2.Status:
    """The google.rpc.Status that tells a sender of an error and what to do (OTLP: errors with details)."""
    status = status_pb2.Status(message=error.reason)
    if isinstance(error, Invalid):
        status.code = code_pb2.INVALID_ARGUMENT
        violation = error_details_pb2.BadRequest.FieldViolation(description=error.reason)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, Unauthenticated):
        status.code = code_pb2.UNAUTHENTICATED
    elif isinstance(error, (Reject, Retry)):
        # UNAVAILABLE is retryable for every client; RESOURCE_EXHAUSTED only for those that read the details.
        status.code = code_pb2.UNAVAILABLE
        delay = Duration(seconds=retry_after_seconds(error))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    else:
        status.code = code_pb2.INTERNAL
        status.message = "internal error"
    return status


def retry_after_seconds(error: Reject | Retry) -> int:
    """When a sender that was turned away should come back."""
    return error.retry_after_seconds if isinstance(error, Reject) else _RETRY_SECONDS


def too_many(limits: Limits) -> Reject:
    """The answer to a request beyond a tenant's share of `Limits.requests_in_flight_max`."""
    return Reject(
        f"too many requests in flight: all tenants may have {limits.requests_in_flight_max}",
        retry_after_seconds=limits.retry_after_seconds,
    )
