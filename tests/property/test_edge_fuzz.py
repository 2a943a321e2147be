"""Whatever bytes come: an outcome or `Invalid`, never another exception, and what is good beside them is unhurt."""

from __future__ import annotations

from random import Random

from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from catchment.errors import Invalid
from catchment.limits import Limits
from collectors.decode import wire
from collectors.records import Outcome
from tests.edge_harness import EdgeHarness, total
from tests.edge_streams import streams
from tests.otlp import body, counter, number

RANDOM = st.integers(0, 2**63).map(Random)
LIMITS = Limits(streams_max=500, names_cached_max=100)


def _survives(bad: bytes) -> None:
    """The bytes get an answer; good requests before and after them count in full."""
    edge = EdgeHarness(LIMITS)
    first = body(counter("good", number(10, 5, start=0)))
    second = body(counter("good", number(20, 9, start=0)))
    outcomes = edge.send(first, bad, second, at=20)
    assert isinstance(outcomes[0], Outcome) and isinstance(outcomes[2], Outcome)
    assert outcomes[0].points_rejected == outcomes[2].points_rejected == 0
    assert isinstance(outcomes[1], (Outcome, Invalid))
    rows = [row for row in edge.flush(21) if row["service"] == "shop" and row["unit"] == ""]
    assert total(rows, "good", "sum_int") == 9


@settings(max_examples=80)
@given(st.binary(max_size=300))
@example(b"")
@example(b"\x0b\x0c")
@example(b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
def test_random_bytes(data: bytes) -> None:
    """Random bytes."""
    _survives(data)


@settings(max_examples=80)
@given(RANDOM)
def test_valid_requests_with_bits_flipped_or_cut(rng: Random) -> None:
    """Real requests, damaged: bits flipped, bytes replaced, cut off, doubled."""
    data = bytearray(b"".join(each.body for each in streams(rng, writers_max=2, points_max=3)))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) or 1)
        damage = rng.random()
        if damage < 0.4 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif damage < 0.6:
            data[at : at + 1] = rng.randbytes(rng.randint(0, 3))
        elif damage < 0.8:
            del data[at:]
        else:
            data[at:at] = data[at : at + rng.randint(1, 40)]
    _survives(bytes(data).replace(b"shop", b"fuzz"))


@settings(max_examples=60)
@given(RANDOM)
def test_damaged_requests_are_judged_as_the_official_library_does_where_both_can_read(rng: Random) -> None:
    """What `opentelemetry-proto` cannot read at the level of messages, the decoder does not take either."""
    data = bytearray(b"".join(each.body for each in streams(rng, writers_max=1, points_max=3)))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    try:
        decoded = wire.decode([bytes(data)])
    except Invalid:
        try:
            ExportMetricsServiceRequest.FromString(bytes(data))
        except DecodeError:
            return
        raise AssertionError("refused although the official library reads it") from None
    assert decoded.requests == 1
