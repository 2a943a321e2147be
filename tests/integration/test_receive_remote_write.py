"""Prometheus remote write over real sockets: the specifications' answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pyarrow as pa
import pytest

from catchment.config_rates import Rate
from catchment.errors import Bug, CatchmentError, Invalid, Reject, Retry
from catchment.limits import Limits
from collectors.content import TooLarge
from collectors.decode.remote_wire import REMOTE_WRITE_1, REMOTE_WRITE_2
from collectors.rates import Rates
from collectors.records import Outcome, Written
from collectors.tenants import Tenants
from tests.integration.receivers import Receivers, RecordingIntake
from tests.integration.test_receive_http import TENANTS, Answer, post

PATH = "/api/v1/write"
HEADERS = {"content-type": "application/x-protobuf", "content-encoding": "snappy"}
SECOND = HEADERS | {"content-type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}
SMALL = dataclasses.replace(Limits(), request_bytes_max=1000)
BODY = pa.Codec("snappy").compress(b"x" * 50, asbytes=True)


def write(port: int, headers: dict[str, str] = HEADERS, body: bytes = BODY) -> Answer:
    """One request."""
    return post(port, body, headers, path=PATH)


def written(answer: Answer) -> tuple[str | None, ...]:
    """What the headers say was written: samples, histograms, exemplars."""
    return tuple(
        answer.headers[f"X-Prometheus-Remote-Write-{what}-Written"] for what in ("Samples", "Histograms", "Exemplars")
    )


@pytest.fixture
def intake() -> RecordingIntake:
    """An intake that takes all."""
    return RecordingIntake()


@pytest.fixture
def port(intake: RecordingIntake) -> Iterator[int]:
    """The port of a receiver with small limits and one known token."""
    with Receivers(intake, limits=SMALL, tenants=TENANTS) as receivers:
        yield receivers.http_port


@pytest.mark.parametrize(
    ("content_type", "kept"),
    [
        ("application/x-protobuf", REMOTE_WRITE_1),
        ("application/x-protobuf;proto=prometheus.WriteRequest", REMOTE_WRITE_1),
        ('Application/X-Protobuf; charset=x; proto="prometheus.WriteRequest"', REMOTE_WRITE_1),
        ("application/x-protobuf;proto=io.prometheus.write.v2.Request", REMOTE_WRITE_2),
    ],
)
def test_success_is_204_and_the_message_is_kept_by_name(
    intake: RecordingIntake, port: int, content_type: str, kept: str
) -> None:
    """Both messages are told apart by the content type, which is kept in full: a replay must know what the body is."""
    intake.answers.append(Outcome(points=5, written=Written(samples=3, histograms=2, exemplars=1)))
    answer = write(port, HEADERS | {"content-type": content_type})
    assert (answer.status, answer.body, written(answer)) == (204, b"", ("3", "2", "1"))
    (received,) = intake.received
    assert (received.signal, received.content_type, received.content_encoding) == ("metrics", kept, "snappy")
    assert received.body == BODY


def test_a_request_without_an_encoding_is_snappy(intake: RecordingIntake, port: int) -> None:
    """1.0 knows no other, and some senders leave the header out."""
    assert write(port, {"content-type": "application/x-protobuf"}).status == 204
    assert intake.received[0].content_encoding == "snappy"


def test_a_partial_write_is_400_with_what_was_written(intake: RecordingIntake, port: int) -> None:
    """The sender is told why in plain text, and how much is durable all the same."""
    intake.answers.append(Outcome(2, "2 no_name: the metric has no name", 7, Written(samples=5)))
    answer = write(port, SECOND)
    assert (answer.status, written(answer)) == (400, ("5", "0", "0"))
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body == b"partial write: 2 no_name: the metric has no name\n"


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Invalid("truncated protobuf"), 400, None),
        (TooLarge("a bomb"), 413, None),
        (Reject("inbox is full", retry_after_seconds=7), 503, "7"),
        (Retry("disk sleeps"), 503, "5"),
        (Bug("secret detail"), 500, None),
    ],
)
def test_each_error_has_its_answer(
    intake: RecordingIntake, port: int, error: CatchmentError, status: int, retry_after: str | None
) -> None:
    """4xx is for what will never do, 5xx for what is to be sent again; nothing was written either way."""
    intake.answers.append(error)
    answer = write(port)
    assert (answer.status, answer.headers["retry-after"], written(answer)) == (status, retry_after, ("0",) * 3)
    assert answer.body and b"secret" not in answer.body


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (415, {"content-type": "application/json"}),
        (415, {"content-type": ""}),
        (415, {"content-type": "application/x-protobuf;proto=io.prometheus.write.v3.Request"}),
        (415, {"content-encoding": "br"}),
        (401, {"authorization": "Bearer wrong"}),
        (413, {"content-length": "1001"}),
    ],
)
def test_what_is_not_served_is_refused(
    intake: RecordingIntake, port: int, status: int, headers: dict[str, str]
) -> None:
    """Wrong types, messages, codings, senders and sizes get their status and reach no intake."""
    body = bytes(1001) if status == 413 else BODY
    assert write(port, HEADERS | headers, body).status == status
    assert intake.received == []


def test_a_token_names_the_tenant(intake: RecordingIntake, port: int) -> None:
    """Senders are who their token says, as with OTLP."""
    assert write(port, HEADERS | {"authorization": "Bearer s3cret"}).status == 204
    assert (intake.received[0].tenant, intake.received[0].cluster) == ("acme", "osaka-7")


def test_beyond_its_rate_a_sender_is_told_to_come_back(intake: RecordingIntake) -> None:
    """503, since Prometheus drops what is answered with 429; OTLP at the same listener has its own."""
    rates = Rates((Rate("*", requests_per_second=1, burst_seconds=2),), lambda: 0.0)
    with Receivers(intake, tenants=Tenants.of([], "test"), rates=rates) as receivers:
        answers = [write(receivers.http_port) for _ in range(3)]
        assert [answer.status for answer in answers] == [204, 204, 503]
        assert int(answers[-1].headers["retry-after"]) > 0
        assert post(receivers.http_port, b"").status == 429
