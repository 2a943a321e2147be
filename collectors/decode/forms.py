"""The forms that payloads come in, and the decoder of each: OTLP, and what other protocols add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from catchment.limits import Limits
from collectors.decode import wire
from collectors.decode.exposition import ScrapeDecoder
from collectors.decode.points import Decoded
from collectors.decode.remote_wire import (
    REMOTE_WRITE_1,
    REMOTE_WRITE_2,
    WriteRequests,
    count_1,
    count_2,
    decode_1,
    decode_2,
)
from collectors.scrape.record import CONTENT_TYPE


class Form(Enum):
    """What the plain bytes of a request are."""

    OTLP = "otlp"
    REMOTE_WRITE_1 = "remote write 1.0"
    REMOTE_WRITE_2 = "remote write 2.0"
    SCRAPE = "scrape"


FORMS: dict[str, Form] = {
    REMOTE_WRITE_1: Form.REMOTE_WRITE_1,
    REMOTE_WRITE_2: Form.REMOTE_WRITE_2,
    CONTENT_TYPE: Form.SCRAPE,
}
"""By content type; what does not stand here is OTLP, or was made so."""


def form_of(content_type: str) -> Form:
    """The form of a request whose content type was admitted."""
    return FORMS.get(content_type, Form.OTLP)


class Decoder(Protocol):
    """Reads the payloads of one form. It may remember what it has seen, as a cache only."""

    def decode(self, payloads: Sequence[bytes]) -> Decoded | WriteRequests:
        """Flatten some requests; those of remote write become points later.

        Raises:
            Invalid: at least one payload is malformed. Which one is for the caller to find, one at a time.
        """
        ...

    def count(self, payload: bytes) -> int:
        """How many points a request holds, cheaply: what is large is counted before it is decoded.

        Raises:
            Invalid: the payload is malformed.
        """
        ...


class OtlpDecoder:
    """The `Decoder` of OTLP."""

    def decode(self, payloads: Sequence[bytes]) -> Decoded:
        """See `Decoder.decode`."""
        return wire.decode(payloads)

    def count(self, payload: bytes) -> int:
        """See `Decoder.count`."""
        return wire.count_messages(payload)


class WriteDecoder:
    """The `Decoder` of a version of remote write."""

    def __init__(self, decode: Callable[[Sequence[bytes]], WriteRequests], count: Callable[[bytes], int]) -> None:
        self._decode = decode
        self._count = count

    def decode(self, payloads: Sequence[bytes]) -> WriteRequests:
        """See `Decoder.decode`."""
        return self._decode(payloads)

    def count(self, payload: bytes) -> int:
        """See `Decoder.count`."""
        return self._count(payload)


def decoders(limits: Limits) -> dict[Form, Decoder]:
    """A decoder of each form, for one edge."""
    return {
        Form.OTLP: OtlpDecoder(),
        Form.REMOTE_WRITE_1: WriteDecoder(decode_1, count_1),
        Form.REMOTE_WRITE_2: WriteDecoder(decode_2, count_2),
        Form.SCRAPE: ScrapeDecoder(limits.histogram_buckets_max),
    }
