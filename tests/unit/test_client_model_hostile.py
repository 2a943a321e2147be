"""Scrapes in protobuf that are cut off, hostile or beyond limits are refused whole or counted; nothing else happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.errors import Invalid
from catchment.limits import Limits
from collectors.decode.client_messages import FamilyType
from collectors.decode.client_model import most_samples
from collectors.decode.exposition import read_records
from collectors.records import Outcome
from collectors.scrape.record import CONTENT_TYPE, Reading, Record
from collectors.scrape.survey import Surveyor
from tests import client_model as cm
from tests import remote_write as rw
from tests.client_model import GOLDEN, LABELS, pb, reading, scrape
from tests.edge_harness import EdgeHarness, add_histograms, total
from tests.otlp import ns

BODY = (GOLDEN / "client_golang_1.protobuf").read_bytes()


@given(st.integers(0, len(BODY) - 1))
def test_a_body_that_is_cut_off(size: int) -> None:
    """Its record is refused whole unless it was cut between two families, and hurts no other record."""
    edge = EdgeHarness()
    broken = Record(ns(0), reading().line(), b"", BODY[:size], b"").payload()
    good = Record(ns(0), Reading(LABELS).line(), b"", b"level 1\n", b"").payload()
    outcome, whole = edge.send(broken, good, at=0, content_type=CONTENT_TYPE)
    assert isinstance(whole, Outcome)
    assert isinstance(outcome, Invalid) or size in _ends(BODY)
    assert total(edge.flush(10), "level", "count") == 1


def _ends(body: bytes) -> set[int]:
    """Where families end."""
    ends, at = {0}, 0
    while at < len(body):
        size, shift = 0, 0
        while True:
            byte, at = body[at], at + 1
            size, shift = size | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        at += size
        ends.add(at)
    return ends


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(0, 255)), max_size=4))
def test_hostile_bodies(more: bytes, changes: list[tuple[int, int]]) -> None:
    """Any bytes are refused as invalid, or make points that are counted; nothing else happens."""
    body = bytearray(BODY)
    for at, byte in changes:
        body[at] = byte
    for hostile in (bytes(body), more, cm.delimited(more)):
        edge = EdgeHarness()
        payload = Record(ns(0), reading(classic_histograms=True).line(), b"", hostile, b"").payload()
        (outcome,) = edge.send(payload, at=0, content_type=CONTENT_TYPE)
        edge.flush(10)
        if isinstance(outcome, Outcome):
            found = read_records([Record.of(payload)])
            assert most_samples(hostile) >= len(found.key) + len(found.natives.key)
            assert outcome.points >= len(found.natives.key)


def test_spans_that_claim_too_much() -> None:
    """A span of more buckets than there are makes no memory and no row; a histogram of many buckets is folded."""
    edge = EdgeHarness(Limits(histogram_buckets_max=64))
    claims = pb.Histogram(sample_count=1, sample_sum=1, schema=0)
    claims.positive_span.add(offset=0, length=2**32 - 1)
    claims.positive_delta.append(1)
    family = cm.family("claims", FamilyType.HISTOGRAM, pb.Metric(histogram=claims))
    for at in (0, 15):
        wide = cm.native_of(rw.native(at, 5, dict.fromkeys(range(500), 1 + at)))
        scrape(edge, family, cm.family("wide", FamilyType.HISTOGRAM, pb.Metric(histogram=wide)), at=at)
    rows = edge.flush(60)
    assert {row["metric"] for row in rows} == {"wide"}
    assert total(rows, "wide", "count") == 500 * 15
    assert len(add_histograms(rows, "wide")) <= 64
    assert edge.points_tallied("buckets_malformed") == 2


def test_answers_with_too_much_in_them() -> None:
    """More samples than a request may have, more families than any program has: refused before they are read."""
    record = Record(ns(0), reading().line(), b"", BODY, b"")
    with pytest.raises(Invalid, match="more than 50 samples"):
        Surveyor(50).survey(record)
    with pytest.raises(Invalid, match="metric families"):
        read_records([Record(ns(0), reading().line(), b"", bytes(1 << 18), b"")])
    for many in (pb.Histogram(positive_delta=[0] * 100_000), pb.Histogram(exemplars=[b""] * 20_000)):
        body = cm.delimited(cm.family("a", FamilyType.HISTOGRAM, pb.Metric(histogram=many)))
        assert most_samples(body) > 10_000
