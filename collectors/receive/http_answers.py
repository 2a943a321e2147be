"""What the protocols over HTTP have in common and what they differ in: refusals, replies, content types."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from catchment.errors import CatchmentError, Invalid, Reject, Retry
from collectors.admit import Unauthenticated
from collectors.content import TooLarge
from collectors.rates import RateLimited
from collectors.receive.serving import reason_of, retry_after_seconds
from collectors.records import Outcome

_LOG = logging.getLogger(__name__)

Header = tuple[bytes, bytes]


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, http_status: int, error: CatchmentError, *headers: Header, reason: str = "") -> None:
        super().__init__(error.reason)
        self.reason = reason or reason_of(error)
        self.http_status = http_status
        self.error = error
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back."""

    http_status: int
    content_type: str
    body: bytes
    headers: tuple[Header, ...] = ()


class Route(Protocol):
    """A protocol at its path."""

    @property
    def signal(self) -> str:
        """What its requests carry."""
        ...

    @property
    def protocol(self) -> str:
        """Its name in our own metrics."""
        ...

    def content(self, headers: Mapping[bytes, bytes]) -> tuple[str, str]:
        """The content type that a request is kept with, and its encoding.

        Raises:
            Refusal: it has one that is not served.
        """
        ...

    def accepted(self, content_type: str, outcome: Outcome) -> Reply:
        """The answer to a request that is durable."""
        ...

    def refused(self, headers: Mapping[bytes, bytes], refusal: Refusal) -> Reply:
        """The answer to one that is not."""
        ...


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn the errors of admission and intake into answers."""
    try:
        yield
    except TooLarge as error:
        raise Refusal(413, error) from error
    except Invalid as error:
        raise Refusal(400, error) from error
    except Unauthenticated as error:
        raise Refusal(401, error, (b"www-authenticate", b"Bearer")) from error
    except (Reject, Retry) as error:
        http_status = 429 if isinstance(error, RateLimited) else 503
        raise Refusal(http_status, error, (b"retry-after", str(retry_after_seconds(error)).encode())) from error
    except CatchmentError as error:
        _LOG.exception("request failed")
        raise Refusal(500, error) from error


def too_large(bytes_max: int) -> Refusal:
    """The answer to a body beyond the limit."""
    return Refusal(413, TooLarge(f"request is too large: more than {bytes_max} bytes"))


def media_type(headers: Mapping[bytes, bytes]) -> str:
    """The content type of a request without its parameters."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")


def encoding_of(headers: Mapping[bytes, bytes]) -> str:
    """The content encoding of a request, "" where there is none."""
    encoding = headers.get(b"content-encoding", b"").strip().lower().decode("latin-1")
    return "" if encoding == "identity" else encoding


def unsupported_encoding(accepted: tuple[str, ...]) -> Refusal:
    """The answer to an encoding that is not served."""
    names = ", ".join(accepted)
    error = Invalid(f"content encoding must be one of {names}, or none")
    return Refusal(415, error, (b"accept-encoding", names.encode()), reason="unsupported_content")
