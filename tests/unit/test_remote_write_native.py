"""Remote write 2.0 through the edge's core: symbols, types, starts and native histograms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.errors import Invalid
from collectors.decode.families import MetricType
from collectors.decode.remote_wire import REMOTE_WRITE_1, REMOTE_WRITE_2
from collectors.records import Outcome
from tests import otlp
from tests import remote_write as rw
from tests.edge_harness import EdgeHarness, Row, add_histograms, total

SIZE = rw.labels("size")


def send(edge: EdgeHarness, body: bytes, at: float) -> Outcome:
    """Send a request of 2.0 that is taken, in whole or in part."""
    (outcome,) = edge.send(body, at=at, content_type=REMOTE_WRITE_2)
    assert isinstance(outcome, Outcome), outcome
    return outcome


def write_native(edge: EdgeHarness, message: Any, at: float) -> Outcome:
    """Send one native histogram of the metric ``size``."""
    return send(edge, rw.body_2((SIZE, []), natives={"size": [message]}), at)


def test_types_and_units_come_with_the_series() -> None:
    """No earlier request has to have told them; the unit is the metric's."""
    edge = EdgeHarness()
    metadata = {"hits": (MetricType.COUNTER, "requests"), "level": (MetricType.GAUGE, "")}
    for time in (1, 2):
        series = [(rw.labels("hits"), [(time, 5.0 * time)]), (rw.labels("level"), [(time, 1.0)])]
        assert send(edge, rw.body_2(*series, metadata=metadata), time).written.samples == 2
    rows = {row["metric"]: row for row in edge.flush(3)}
    assert (rows["hits"]["kind"], rows["hits"]["unit"], rows["hits"]["sum_int"]) == ("counter", "requests", 5)
    assert (rows["level"]["kind"], rows["level"]["unit"]) == ("gauge", "")


def test_a_start_says_that_a_counter_is_young() -> None:
    """A first point counts from zero if its counter began after the collector knew it; a new start is a new life."""
    edge = EdgeHarness()
    for time, value, start in ((10, 5, 1), (20, 7, 1), (30, 8, 25)):
        send(edge, rw.body_2((rw.labels("hits_total"), [(time, value)]), starts={"hits_total": start}), time)
    (row,) = edge.flush(31)
    assert row["sum_int"] == 7 + 8
    assert edge.tally == {}


def test_a_classic_histogram_has_its_type_with_each_series() -> None:
    """Parts of 2.0 make a point as those of 1.0 do, with the start that they share."""
    edge = EdgeHarness()
    parts = rw.histogram("req_seconds", 10, [1, 2], 1.5, [0.5])
    metadata = {f"req_seconds_{part}": (MetricType.HISTOGRAM, "") for part in ("bucket", "count", "sum")}
    starts = dict.fromkeys(metadata, 1.0)
    for series in parts:
        send(edge, rw.body_2(series, metadata=metadata, starts=starts), 10)
    rows = edge.flush(16)
    assert add_histograms(rows, "req_seconds") == {(-float("inf"), 0.5): 1, (0.5, float("inf")): 2}
    assert total(rows, "req_seconds", "sum_float") == 1.5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda series: series.labels_refs.append(1),
        lambda series: series.labels_refs.extend((900, 901)),
        lambda series: series.labels_refs.extend([1] * 2000),
        lambda series: series.labels_refs.extend(list(series.labels_refs[:2])),
    ],
)
def test_references_that_lead_nowhere_are_refused_alone(spoil: Any) -> None:
    """An odd number of them, beyond the table, too many, a name that stands twice: the series beside it counts."""
    request = rw.pb.Request.FromString(rw.body_2((rw.labels("a"), [(1, 1)]), (rw.labels("b"), [(1, 1)])))
    spoil(request.timeseries[0])
    edge = EdgeHarness()
    outcome = send(edge, request.SerializeToString(), 1)
    assert (outcome.points_rejected, outcome.written.samples) == (1, 1)
    assert [row["metric"] for row in edge.flush(2)] == ["b"]
    assert edge.points_tallied("attributes_malformed") == 1


def test_a_message_of_the_other_version_has_nothing_in_it() -> None:
    """A request that is sent with the wrong content type is empty, by design of the specification."""
    edge = EdgeHarness()
    (outcome,) = edge.send(rw.body((rw.labels("a"), [(1, 1)])), at=1, content_type=REMOTE_WRITE_2)
    assert isinstance(outcome, Invalid) or outcome.points == 0
    assert edge.flush(2) == []


def reference(messages: Sequence[tuple[float, Any]]) -> list[Row]:
    """The rows that OTLP's exponential histograms give."""
    edge = EdgeHarness()
    for time, message in messages:
        metric = otlp.exponential_histogram("size", message)
        edge.send(otlp.body(metric, resource={"service.name": "shop", "service.instance.id": "a:80"}), at=time)
    return edge.flush(100)


@given(
    schema=st.integers(-4, 8),
    counts=st.dictionaries(st.integers(-40, 40), st.integers(0, 9), max_size=12),
    negative=st.dictionaries(st.integers(-40, 40), st.integers(0, 9), max_size=5),
    zeros=st.integers(0, 5),
    as_float=st.booleans(),
)
def test_a_native_histogram_is_an_exponential_one(
    schema: int, counts: dict[int, int], negative: dict[int, int], zeros: int, as_float: bool
) -> None:
    """Prometheus' bucket i is OTLP's i − 1; gaps between spans are empty buckets; whole floats are integers."""
    edge = EdgeHarness()
    expected = []
    for time, factor in ((10, 1), (20, 3)):
        own = {index: factor * count for index, count in counts.items()}
        below = {index: factor * count for index, count in negative.items()}
        message = rw.native(
            time, schema, own, total=2.5 * factor, zeros=zeros * factor, negative=below, as_float=as_float
        )
        assert write_native(edge, message, time).written.histograms == 1
        expected.append(
            (
                time,
                otlp.exponential(
                    time,
                    schema,
                    min(own, default=0) - 1,
                    [own.get(index, 0) for index in range(min(own), max(own) + 1)] if own else [],
                    negative_offset=min(below, default=0) - 1,
                    negative=[below.get(index, 0) for index in range(min(below), max(below) + 1)] if below else [],
                    zeros=zeros * factor,
                    zero_threshold=1e-9,
                    total=2.5 * factor,
                ),
            )
        )
    found, wanted = edge.flush(100), reference(expected)
    for name in ("count", "sum_float", "histogram", "kind"):
        assert [row[name] for row in found] == [row[name] for row in wanted]


def test_custom_buckets_are_explicit_bounds() -> None:
    """Schema -53 brings its bounds along; the last bucket is beyond them."""
    edge = EdgeHarness()
    for time, turn in ((10, 1), (20, 2)):
        write_native(edge, rw.native(time, -53, {0: turn, 2: 3 * turn}, total=turn, custom=[0.5, 1.0]), time)
    rows = edge.flush(21)
    assert add_histograms(rows, "size") == {(-float("inf"), 0.5): 1, (1.0, float("inf")): 3}
    assert total(rows, "size", "sum_float") == 1


def test_a_reset_hint_counts_from_zero() -> None:
    """Prometheus saw the reset; that the histogram is larger than before says nothing against it."""
    edge = EdgeHarness()
    write_native(edge, rw.native(10, 0, {1: 2}), 10)
    write_native(edge, rw.native(20, 0, {1: 5}, hint=1), 20)
    write_native(edge, rw.native(30, 0, {1: 6}, hint=2), 30)
    assert total(edge.flush(31), "size", "count") == 5 + 1
    assert edge.points_tallied("reset") == 1


def test_a_stale_native_histogram_is_skipped() -> None:
    """It has nothing to add, and nobody is told."""
    edge = EdgeHarness()
    message = rw.native(10, 0, {})
    message.sum = rw.STALE
    assert write_native(edge, message, 10).points_rejected == 0
    assert edge.flush(11) == []
    assert edge.points_tallied("no_recorded_value") == 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (rw.native(10, 0, {1: 2}, hint=3), "unknown_temporality"),
        (rw.native(10, 40, {1: 2}), "scale_out_of_range"),
        (rw.native(10, -53, {4: 2}, custom=[1.0]), "buckets_malformed"),
        (rw.native(10, -53, {1: 2}, custom=[2.0, 1.0]), "bounds_malformed"),
        (rw.native(10, 0, {1: 2}, as_float=True, total=float("inf")), "not_finite"),
        (rw.native(1e6, 0, {1: 2}), "too_far_in_future"),
    ],
)
def test_what_is_wrong_with_a_native_histogram_is_told(message: Any, reason: str) -> None:
    """Refused with its reason, which is counted once."""
    edge = EdgeHarness()
    outcome = write_native(edge, message, 10)
    assert outcome.points_rejected == 1 and reason in outcome.message and outcome.written.histograms == 0
    assert edge.flush(11) == []
    assert edge.points_tallied(reason) == 1


def test_lengths_that_are_a_lie_take_no_memory() -> None:
    """Spans of four thousand million buckets, counts that are none, and gaps beyond any double are refused."""
    for spoil in (
        lambda m: m.positive_spans.add(offset=0, length=2**32 - 1),
        lambda m: m.positive_counts.append(0.5),
        lambda m: m.positive_deltas.append(-5),
        lambda m: setattr(m, "count_int", 7),
        lambda m: setattr(m.positive_spans[0], "length", 0),
    ):
        message = rw.native(10, 0, {1: 2, 5: 1})
        spoil(message)
        outcome = write_native(EdgeHarness(), message, 10)
        assert outcome.points_rejected == 1 and "buckets_malformed" in outcome.message


def test_a_wide_range_becomes_coarser() -> None:
    """Buckets far apart fold until they fit; their counts stay."""
    edge = EdgeHarness()
    for time, turn in ((10, 1), (20, 2)):
        assert write_native(edge, rw.native(time, 8, {-250_000: turn, 250_000: turn}), time).points_rejected == 0
    assert total(edge.flush(21), "size", "count") == 2


def test_broken_messages_inside_make_the_request_invalid() -> None:
    """A native histogram that is no message is a request that cannot be read."""
    request = rw.pb.Request.FromString(rw.body_2((SIZE, [])))
    request.timeseries[0].histograms.append(b"\xff\xff")
    edge = EdgeHarness()
    good = rw.body_2((rw.labels("a"), [(1, 1)]))
    bad, fine = edge.send(request.SerializeToString(), good, at=1, content_type=REMOTE_WRITE_2)
    assert isinstance(bad, Invalid) and isinstance(fine, Outcome)


TRACE, SPAN = "0123456789abcdef" * 2, "0123456789abcdef"


def test_an_exemplar_stands_in_the_row_of_its_stream() -> None:
    """With its trace, for counters and native histograms of 2.0; ids that are none are left out."""
    edge = EdgeHarness()
    for time in (10, 20):
        series = [(rw.labels("hits_total"), [(time, 1.0 * time)]), (SIZE, [])]
        request = rw.pb.Request.FromString(
            rw.body_2(*series, natives={"size": [rw.native(time, 0, {1: time}, start=1)]}, starts={"hits_total": 1.0})
        )
        first = len(request.symbols)
        request.symbols.extend((b"trace_id", TRACE.upper().encode(), b"span_id", b"none"))
        for one in request.timeseries:
            message = rw.pb.SymbolExemplar(labels_refs=range(first, first + 4), value=3.5, timestamp=rw.ms(time))
            one.exemplars.append(message.SerializeToString())
        assert send(edge, request.SerializeToString(), time).written.exemplars == 2
    rows = {row["metric"]: row for row in edge.flush(21)}
    for row in rows.values():
        assert (row["exemplar_value"], row["exemplar_trace_id"], row["exemplar_span_id"]) == (3.5, TRACE, "")
    assert set(rows) == {"hits_total", "size"}


def test_an_exemplar_of_a_bucket_comes_apart_from_its_sample() -> None:
    """As Prometheus 1.0 sends it: a series without samples. Before its stream has a point it is counted and dropped."""
    edge = EdgeHarness()
    for turn in (1, 2):
        time = 10 * turn
        parts = rw.histogram("req_seconds", time, [turn, turn], 1.5 * turn, [0.5])
        request = rw.pb.WriteRequest.FromString(rw.body(*parts, (parts[0][0], [])))
        label = rw.pb.Label(name=b"traceID", value=TRACE.encode())
        span = rw.pb.Label(name=b"span_id", value=SPAN.encode())
        message = rw.pb.Exemplar(labels=[label, span], value=0.25, timestamp=rw.ms(time))
        request.timeseries[-1].exemplars.append(message.SerializeToString())
        edge.send(request.SerializeToString(), at=time, content_type=REMOTE_WRITE_1)
        rows = edge.flush(time + 4)
    assert edge.tally["exemplar_without_point", "exemplars"] == 1
    (row,) = [row for row in rows + edge.flush(40) if row["exemplar_value"] is not None]
    assert (row["exemplar_value"], row["exemplar_trace_id"], row["exemplar_span_id"]) == (0.25, TRACE, SPAN)
