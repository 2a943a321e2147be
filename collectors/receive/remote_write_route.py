"""Prometheus remote write at ``/api/v1/write``: 1.0 and 2.0, and the specifications' answers.

Sources: https://prometheus.io/docs/specs/prw/remote_write_spec/ and
https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/

Rules:

1. 204 says that all samples are durable. 400 says why some, or all, were refused and will be again; the others of the
   same request are durable (a *partial write*). Prometheus does not send such a request again.
2. 5xx with Retry-After: come back. Beyond a tenant's rate the answer is 503, too: after a 429 Prometheus drops the
   request unless it is told otherwise (``retry_on_http_429``).
3. How much was written stands in headers, as 2.0 demands; to senders of 1.0 they do no harm.
"""

from __future__ import annotations

from collections.abc import Mapping

from catchment.errors import CatchmentError, Invalid, Reject, Retry
from collectors.admit import Unauthenticated
from collectors.content import PROTOBUF, REMOTE_WRITE_ENCODINGS, SNAPPY
from collectors.decode.remote_wire import REMOTE_WRITE_1, REMOTE_WRITE_2
from collectors.receive.http_answers import Header, Refusal, Reply, encoding_of, media_type, unsupported_encoding
from collectors.records import Outcome, Written

_MESSAGES = {
    "": REMOTE_WRITE_1,
    "prometheus.writerequest": REMOTE_WRITE_1,
    "io.prometheus.write.v2.request": REMOTE_WRITE_2,
}
_NOTHING = Written()
_TEXT = "text/plain; charset=utf-8"


class RemoteWriteRoute:
    """The `Route` of remote write."""

    signal = "metrics"
    protocol = "remote_write"

    def content(self, headers: Mapping[bytes, bytes]) -> tuple[str, str]:
        """See `Route.content`."""
        content_type = None
        if media_type(headers) == PROTOBUF:
            content_type = _MESSAGES.get(_parameter(headers.get(b"content-type", b""), "proto"))
        if content_type is None:
            known = f"{PROTOBUF}, {REMOTE_WRITE_1} or {REMOTE_WRITE_2}"
            raise Refusal(415, Invalid(f"content type must be {known}"), reason="unsupported_content")
        # 1.0 knows one encoding only, and senders that leave the header out.
        encoding = encoding_of(headers) or SNAPPY
        if encoding not in REMOTE_WRITE_ENCODINGS:
            raise unsupported_encoding(REMOTE_WRITE_ENCODINGS)
        return content_type, encoding

    def accepted(self, content_type: str, outcome: Outcome) -> Reply:
        """See `Route.accepted`."""
        del content_type
        headers = _written(outcome.written)
        if not outcome.points_rejected:
            return Reply(204, "", b"", headers)
        return Reply(400, _TEXT, f"partial write: {outcome.message}\n".encode(), headers)

    def refused(self, headers: Mapping[bytes, bytes], refusal: Refusal) -> Reply:
        """See `Route.refused`."""
        del headers
        http_status = 503 if refusal.http_status == 429 else refusal.http_status
        text = refusal.error.reason if _is_told(refusal.error) else "internal error"
        return Reply(http_status, _TEXT, f"{text}\n".encode(), (*refusal.headers, *_written(_NOTHING)))


def _written(written: Written) -> tuple[Header, ...]:
    return (
        (b"x-prometheus-remote-write-samples-written", str(written.samples).encode()),
        (b"x-prometheus-remote-write-histograms-written", str(written.histograms).encode()),
        (b"x-prometheus-remote-write-exemplars-written", str(written.exemplars).encode()),
    )


def _is_told(error: CatchmentError) -> bool:
    """Whether an error is the sender's business; others are in our log."""
    return isinstance(error, (Invalid, Unauthenticated, Reject, Retry))


def _parameter(content_type: bytes, name: str) -> str:
    """A parameter of a content type, in lower case; "" where it has none."""
    for part in content_type.decode("latin-1").split(";")[1:]:
        key, _, value = part.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"').lower()
    return ""
