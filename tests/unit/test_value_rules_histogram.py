"""The rows "histogram", "summary" and "exemplar" of the table of value rules."""

from __future__ import annotations

import math

import pytest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from catchment.limits import Limits
from tests.edge_harness import EdgeHarness, add_histograms, by_window, total
from tests.otlp import (
    CUMULATIVE,
    DELTA,
    body,
    counter,
    exemplar,
    explicit,
    exponential,
    exponential_histogram,
    gauge,
    histogram,
    ns,
    number,
    quantiles,
    summary,
)

INF = math.inf


def _rounded(intervals: dict[tuple[float, float], int]) -> dict[tuple[float, float], int]:
    return {(round(lower, 4), round(upper, 4)): count for (lower, upper), count in intervals.items()}


def test_histogram_becomes_its_increase() -> None:
    """Buckets, count and sum of a cumulative histogram are differenced; min and max count where they moved."""
    edge = EdgeHarness()
    edge.send(body(histogram("lat", explicit(10, [1, 2, 0], [1, 2], total=4.0, low=0.5, high=1.5, start=0))), at=10)
    edge.flush(11)
    edge.send(body(histogram("lat", explicit(20, [1, 3, 4], [1, 2], total=30.0, low=0.5, high=9.0, start=0))), at=20)
    row = edge.flush(21)[0]
    assert row["histogram"] == {(1.0, 2.0): 1, (2.0, INF): 4}
    assert (row["count"], row["sum_float"], row["min"], row["max"], row["kind"]) == (5, 26.0, None, 9.0, "histogram")


def test_histogram_delta_adds() -> None:
    """Delta histograms add up, whatever their bounds, with their min and max; a repeat counts once."""
    edge = EdgeHarness()
    first = histogram("lat", explicit(10, [1, 2], [1], total=4.0, low=0.5, high=3.0, start=0), temporality=DELTA)
    second = histogram("lat", explicit(20, [1, 2, 3], [1, 2], low=0.25, high=9.0, start=10), temporality=DELTA)
    rows = []
    for _ in range(2):
        edge.send(body(first), body(second), body(first), at=20)
        rows += edge.flush(21)
    assert add_histograms(rows, "lat") == {(-INF, 1.0): 2, (1.0, INF): 2, (1.0, 2.0): 2, (2.0, INF): 3}
    assert rows[0]["count"] == 9 and (rows[0]["min"], rows[0]["max"]) == (0.25, 9.0)
    assert edge.points_tallied("repeated") == 4


def test_histogram_of_too_many_intervals_gets_coarser() -> None:
    """Senders that change their bounds make no row without end: wider intervals, and a count of it, also when a flush
    fails and all goes with the next.
    """
    edge = EdgeHarness(Limits(histogram_intervals_max=256))
    for at in range(1, 41):
        bounds = [1 + at / 1000 + i * 0.1 for i in range(10)]
        edge.send(body(histogram("lat", explicit(at, [1] * 11, bounds, start=at - 1), temporality=DELTA)), at=at)
        edge.send(body(histogram("few", explicit(at, [1, 1], [1.5], start=at - 1), temporality=DELTA)), at=at)
    edge.edge.put_back(edge.edge.drain(ns(41)))
    edge.send(body(histogram("lat", explicit(41, [1, 0], [2.0], start=40), temporality=DELTA)), at=41)
    rows = edge.flush(42)
    lat = add_histograms(rows, "lat")
    assert len(lat) < 20 and sum(lat.values()) == 441 == total(rows, "lat", "count")
    assert all(math.log2(abs(end)).is_integer() for ends in lat for end in ends if not math.isinf(end) and end)
    assert add_histograms(rows, "few") == {(-INF, 1.5): 40, (1.5, INF): 40}
    assert edge.tally["histogram_coarsened", "rows"] == 1


def test_histogram_of_several_streams_with_other_bounds_stays_monotonic() -> None:
    """Streams of one series with different bounds keep their intervals; the cumulative count is never torn."""
    edge = EdgeHarness()
    for pod, bounds in enumerate(([1, 5, 10], [2, 5], [], [5, 7, 8, 9])):
        counts = [3] * (len(bounds) + 1)
        point = explicit(10, counts, bounds, start=0, attributes={"k8s.pod.name": str(pod)})
        edge.send(body(histogram("lat", point)), at=10)
    row = edge.flush(11)[0]
    assert sum(row["histogram"].values()) == row["count"] == 3 * (4 + 3 + 1 + 5)
    assert row["histogram"][(-INF, 5.0)] == 3 and row["histogram"][(-INF, INF)] == 3


@pytest.mark.parametrize("flush_between", [False, True])
def test_histogram_resets_by_fall_of_one_bucket(flush_between: bool) -> None:
    """A bucket that fell is a reset, even though the count rose: all of the point counts."""
    edge = EdgeHarness()
    edge.send(body(histogram("lat", explicit(10, [5, 5], [1], total=9.0, start=0))), at=10)
    rows = edge.flush(11) if flush_between else []
    edge.send(body(histogram("lat", explicit(20, [4, 20], [1], total=50.0, low=0.5, high=8.0, start=0))), at=20)
    rows += edge.flush(21)
    assert add_histograms(rows, "lat") == {(-INF, 1.0): 9, (1.0, INF): 25}
    assert (total(rows, "lat", "count"), total(rows, "lat", "sum_float")) == (34, 59.0)
    assert edge.points_tallied("reset") == 1


def test_histogram_without_buckets_resets_by_count() -> None:
    """Count and sum alone are differenced, and reset, too."""
    edge = EdgeHarness()
    for time, count in ((10, 10), (20, 12), (30, 3)):
        edge.send(body(histogram("lat", explicit(time, [], [], count=count, total=count * 2.0, start=0))), at=time)
    rows = edge.flush(31)
    assert (total(rows, "lat", "count"), total(rows, "lat", "sum_float")) == (15, 30.0)
    assert add_histograms(rows, "lat") == {(-INF, INF): 15}


@pytest.mark.parametrize("flush_between", [False, True])
@pytest.mark.parametrize(
    ("counts", "bounds"),
    [([6, 6], [2]), ([7, 5, 2], [1, 10]), ([5, 5, 5, 5], [1, 2, 3]), ([40], []), ([7, 5, 1, 1], [1, 10, 20])],
)
def test_histogram_resets_by_changed_bounds(counts: list[int], bounds: list[float], flush_between: bool) -> None:
    """Changed explicit bounds are a reset, also where the old buckets would fit into the new ones."""
    edge = EdgeHarness()
    edge.send(body(histogram("lat", explicit(10, [5, 5, 0], [1, 10], total=9.0, start=0))), at=10)
    rows = edge.flush(11) if flush_between else []
    same = bounds == [1, 10]
    edge.send(body(histogram("lat", explicit(20, counts, bounds, total=50.0, start=0))), at=20)
    rows += edge.flush(21)
    assert total(rows, "lat", "count") == (sum(counts) if same else sum(counts) + 10)
    assert sum(add_histograms(rows, "lat").values()) == total(rows, "lat", "count")
    assert edge.points_tallied("reset") == (0 if same else 1)


def test_histogram_first_point_rules_hold() -> None:
    """Old lives begin with a baseline, young ones count from zero, start = time contributes nothing."""
    edge = EdgeHarness(known_since=0)
    for name, start in (("old", -5.0), ("young", 5.0), ("unknown", 10.0)):
        edge.send(body(histogram(name, explicit(10, [5, 5], [1], low=0.5, high=2.0, total=8.0, start=start))), at=10)
        edge.send(body(histogram(name, explicit(20, [6, 5], [1], low=0.5, high=2.0, total=8.5, start=start))), at=20)
    rows = edge.flush(21)
    found = {row["metric"]: (row["count"], row["sum_float"], row["min"], row["points"]) for row in rows}
    assert found == {"old": (1, 0.5, None, 2), "young": (11, 8.5, 0.5, 2), "unknown": (1, 0.5, None, 2)}
    assert add_histograms(rows, "old") == {(-INF, 1.0): 1}
    assert edge.points_tallied("baseline") == 2


def test_histogram_without_room_for_its_baseline_counts_no_increase_twice() -> None:
    """What is not remembered is a baseline each time: counted as such, never from zero again; with room it goes on."""
    edge = EdgeHarness(Limits(baseline_buckets_max=6, stream_idle_seconds=100))
    rows = []
    for turn in (1, 2, 3):
        for stream in range(3):
            point = explicit(10.0 * turn, [turn, turn, 0], [1, 2], total=3.0 * turn, start=0, attributes={"i": stream})
            edge.send(body(histogram("lat", point)), at=10 * turn)
        rows += edge.flush(10 * turn + 1)
        assert edge.points_tallied("baseline") == turn - 1
    counts = {
        stream: total([r for r in rows if f'"i":{stream}' in r["attributes"]], "lat", "count") for stream in range(3)
    }
    assert counts == {0: 6, 1: 6, 2: 2}
    assert sum(add_histograms(rows, "lat").values()) == total(rows, "lat", "count")
    repeated = histogram("lat", explicit(30, [3, 3, 0], [1, 2], total=9.0, start=0, attributes={"i": 2}))
    edge.send(body(repeated), at=31)
    assert edge.flush(32) == [] and edge.points_tallied("late_cumulative") + edge.points_tallied("repeated") == 1
    for turn in (20, 21, 22):
        point = explicit(10.0 * turn, [turn, 0, 0], [1, 2], total=1.0 * turn, start=0, attributes={"i": 2})
        edge.send(body(histogram("lat", point)), at=10 * turn)
        assert sum(row["count"] for row in edge.flush(10 * turn + 1)) == (1 if turn > 21 else 0)
        edge.edge.evict_idle(ns(10 * turn + 1))


def test_histogram_min_and_max_of_cumulative_points_count_only_where_they_moved() -> None:
    """A minimum that stood before the window says nothing about the window."""
    edge = EdgeHarness()
    for time, low, high in ((10, 5.0, 6.0), (70, 5.0, 7.0), (130, 4.0, 7.0), (190, 4.0, 7.0)):
        point = explicit(time, [time], [], low=low, high=high, start=0)
        edge.send(body(histogram("lat", point)), at=time)
    rows = edge.flush(200)
    assert by_window(rows, "lat", "min") == {0: 5.0, 60: None, 120: 4.0, 180: None}
    assert by_window(rows, "lat", "max") == {0: 6.0, 60: 7.0, 120: None, 180: None}


def test_histogram_at_a_window_s_end_belongs_to_that_window() -> None:
    """As for counters, the interval is closed at its end."""
    edge = EdgeHarness()
    edge.send(body(histogram("lat", explicit(60, [1], [], start=0), explicit(120, [3], [], start=0))), at=120)
    assert by_window(edge.flush(121), "lat", "count") == {0: 1, 60: 2}


def test_histogram_huge_counts_are_exact() -> None:
    """Counts near the limit of 2^48 are differenced and added to the unit."""
    edge = EdgeHarness()
    huge = 2**47
    for pod in range(3):
        for time, more in ((10, 0), (20, 1)):
            point = explicit(time, [huge + more, 1], [1], start=0, attributes={"k8s.pod.name": str(pod)})
            edge.send(body(histogram("lat", point)), at=time)
    row = edge.flush(21)[0]
    assert row["histogram"] == {(-INF, 1.0): 3 * huge + 3, (1.0, INF): 3}
    assert row["count"] == 3 * huge + 6


def test_histogram_bucket_counts_that_wrap_to_the_count_are_malformed() -> None:
    """Buckets whose sum exceeds 64 bits do not add up to their count, even where the wrapped sum does."""
    edge = EdgeHarness()
    outcome = edge.send(body(histogram("lat", explicit(10, [2**63, 2**63, 5], [1, 2], count=5, start=0))), at=10)[0]
    assert outcome.points_rejected == 1  # type: ignore[union-attr]
    assert edge.flush(11) == []


def test_exponential_histogram_with_a_lower_offset_later() -> None:
    """A later point that reaches lower, as one sender's range grows, keeps every bucket in its place."""
    edge = EdgeHarness()
    edge.send(body(exponential_histogram("lat", exponential(10, 0, 4, [1, 2], start=0))), at=10)
    rows = edge.flush(11)
    edge.send(body(exponential_histogram("lat", exponential(20, 0, 1, [7, 0, 0, 1, 3, 1], start=0))), at=20)
    rows += edge.flush(21)
    assert add_histograms(rows, "lat") == {(2.0, 4.0): 7, (16.0, 32.0): 1, (32.0, 64.0): 3, (64.0, 128.0): 1}
    assert edge.tally == {}


def test_exponential_histograms_of_several_streams_with_other_offsets_add() -> None:
    """Streams of one series merge by interval, whichever offset comes first."""
    edge = EdgeHarness()
    for pod, offset in enumerate((5, 0, -3, 2)):
        point = exponential(10, 0, offset, [1, 1], start=0, attributes={"k8s.pod.name": str(pod)})
        edge.send(body(exponential_histogram("lat", point, temporality=CUMULATIVE)), at=10)
    buckets = {(2.0**i, 2.0 ** (i + 1)): 1 for offset in (5, 0, -3, 2) for i in (offset, offset + 1)}
    assert edge.flush(11)[0]["histogram"] == buckets


@pytest.mark.parametrize("flush_between", [False, True])
def test_exponential_histogram_folds_its_baseline_to_the_coarser_scale(flush_between: bool) -> None:
    """A sender that halves its resolution goes on: nothing is a reset and the increase is exact."""
    edge = EdgeHarness()
    edge.send(body(exponential_histogram("lat", exponential(10, 1, 0, [1, 2, 3, 4], start=0))), at=10)
    rows = edge.flush(11) if flush_between else []
    edge.send(body(exponential_histogram("lat", exponential(20, 0, 0, [3, 8, 5], start=0))), at=20)
    rows += edge.flush(21)
    assert total(rows, "lat", "count") == 16
    assert edge.points_tallied("reset") == 0
    later = rows[-1]["histogram"] if flush_between else {}
    assert not flush_between or later == {(2.0, 4.0): 1, (4.0, 8.0): 5}


def test_exponential_histogram_back_at_a_finer_scale_after_a_fall_keeps_its_own_buckets() -> None:
    """After a reset the point stands as it came: the old coarser scale does not blur it."""
    edge = EdgeHarness()
    edge.send(body(exponential_histogram("lat", exponential(10, 0, 0, [100], start=0))), at=10)
    rows = edge.flush(11)
    edge.send(body(exponential_histogram("lat", exponential(20, 1, 0, [1, 2], start=0))), at=20)
    rows += edge.flush(21)
    assert edge.points_tallied("reset") == 1
    assert _rounded(rows[1]["histogram"]) == {(1.0, 1.4142): 1, (1.4142, 2.0): 2}


def test_exponential_histogram_finer_than_scale_5_folds() -> None:
    """Scale 20 is more than anybody needs: buckets of one scale-5 bucket become it."""
    edge = EdgeHarness()
    edge.send(body(exponential_histogram("lat", exponential(10, 20, 0, [1] * 100, start=0))), at=10)
    assert _rounded(edge.flush(11)[0]["histogram"]) == {(1.0, 1.0219): 100}


@pytest.mark.parametrize("scale", [-10, 0, 5, 20])
def test_exponential_histogram_scale_limits(scale: int) -> None:
    """Every scale that OTLP allows is taken; one beyond is refused by reason."""
    edge = EdgeHarness()
    edge.send(body(exponential_histogram("lat", exponential(10, scale, -1, [1, 1], start=0))), at=10)
    assert edge.flush(11)[0]["count"] == 2
    for beyond in (-11, 21, 2**31 - 1, -(2**31)):
        edge.send(body(exponential_histogram("bad", exponential(10, beyond, -1, [1, 1], start=0))), at=10)
    assert edge.flush(12) == []
    assert edge.points_tallied("scale_out_of_range") == 4


@pytest.mark.parametrize("offset", [2**31 - 1, -(2**31), 2**31 - 5])
@pytest.mark.parametrize("scale", [-10, 0, 20])
def test_exponential_histogram_with_absurd_offsets_keeps_its_count(offset: int, scale: int) -> None:
    """Offsets at the ends of int32 end in the outermost buckets; nothing wraps to the other side."""
    edge = EdgeHarness()
    edge.send(body(exponential_histogram("lat", exponential(10, scale, offset, [1] * 10, start=0))), at=10)
    row = edge.flush(11)[0]
    assert sum(row["histogram"].values()) == 10
    assert all((lower >= 1) == (offset > 0) for lower, _ in row["histogram"])


def test_exponential_histogram_zero_threshold_grows() -> None:
    """A zero bucket that widens swallows the baseline's small buckets: the increase stays exact."""
    edge = EdgeHarness()
    edge.send(body(exponential_histogram("lat", exponential(10, 0, -2, [2, 3, 4], zeros=1, start=0))), at=10)
    edge.flush(11)
    point = exponential(20, 0, 0, [6], zeros=8, zero_threshold=1.0, start=0)
    edge.send(body(exponential_histogram("lat", point)), at=20)
    rows = edge.flush(21)
    assert rows[0]["histogram"] == {(-1.0, 1.0): 2, (1.0, 2.0): 2}
    assert edge.points_tallied("reset") == 0


def test_exponential_histogram_keeps_negative_buckets() -> None:
    """Negative ranges are intervals below zero, differenced like the others."""
    edge = EdgeHarness()
    for time, more in ((10, 0), (20, 5)):
        point = exponential(time, 0, 0, [1], negative_offset=1, negative=[2 + more, 3], zeros=4, start=0)
        edge.send(body(exponential_histogram("lat", point)), at=time)
    row = edge.flush(21)[0]
    assert row["histogram"] == {(-8.0, -4.0): 3, (-4.0, -2.0): 7, (0.0, 0.0): 4, (1.0, 2.0): 1}


def test_summary_keeps_count_and_sum_as_increases_and_counts_its_quantiles() -> None:
    """Quantiles cannot be merged: they are dropped and counted; count and sum go on like a counter's."""
    edge = EdgeHarness()
    for time, count, of in ((10, 5, 50.0), (20, 8, 71.5), (30, 2, 3.0)):
        point = quantiles(time, count, of, values={0.5: 1.0, 0.99: 9.0}, start=0)
        edge.send(body(summary("rpc", point)), at=time)
    row = edge.flush(31)[0]
    assert (row["kind"], row["count"], row["sum_float"], row["histogram"]) == ("summary", 10, 74.5, {})
    assert (row["min"], row["max"]) == (None, None)
    assert edge.tally["summary_quantiles", "values"] == 6
    assert edge.points_tallied("reset") == 1


def test_summary_first_point_without_start_is_a_baseline() -> None:
    """Summaries from scrapes have no start: their first point adds nothing."""
    edge = EdgeHarness()
    edge.send(body(summary("rpc", quantiles(10, 5, 50.0), quantiles(20, 7, 60.0))), at=20)
    row = edge.flush(21)[0]
    assert (row["count"], row["sum_float"], row["points"]) == (2, 10.0, 2)


def test_exemplar_is_the_largest_by_value_then_time_then_ids() -> None:
    """One exemplar a row: the maximum over (value, time, trace id, span id), whatever the order."""
    candidates = [
        exemplar(3.5, 1, b"\xff" * 16, b"\xff" * 8),
        exemplar(9.5, 2, b"\xaa" * 16, b"\x01" * 8),
        exemplar(9.5, 2, b"\xaa" * 16, b"\x02" * 8),
        exemplar(9.5, 1, b"\xff" * 16, b"\xff" * 8),
    ]
    for order in (candidates, candidates[::-1]):
        edge = EdgeHarness()
        edge.send(body(histogram("lat", explicit(10, [1], [], start=0, exemplars=order))), at=10)
        row = edge.flush(11)[0]
        assert row["exemplar_value"] == 9.5
        assert (row["exemplar_trace_id"], row["exemplar_span_id"]) == ("aa" * 16, "02" * 8)


def test_exemplar_of_an_integer_counts_as_its_value_and_nan_is_left_out() -> None:
    """Integer exemplars compare with doubles; one that is not a number is no exemplar."""
    edge = EdgeHarness()
    without_value = pb.Exemplar(time_unix_nano=1)
    examples = [exemplar(-7, 1), without_value]
    edge.send(body(counter("below", number(10, 5, start=0, exemplars=examples))), at=10)
    assert edge.flush(11)[0]["exemplar_value"] == -7.0
    examples = [exemplar(7, 1), exemplar(math.nan, 5), exemplar(math.inf, 5), exemplar(6.5, 1)]
    edge.send(body(counter("hits", number(10, 5, start=0, exemplars=examples))), at=10)
    assert edge.flush(11)[0]["exemplar_value"] == 7.0


@pytest.mark.parametrize("time", [59.0, 60.0])
def test_exemplar_stands_in_the_row_of_its_point(time: float) -> None:
    """Whatever its own time: at a boundary a counter's is in the window that ends, a gauge's in the one that begins."""
    edge = EdgeHarness()
    point = number(time, 5, start=0, exemplars=[exemplar(1.5, 3)])
    edge.send(body(counter("hits", point), gauge("level", point), counter("queue", point, monotonic=False)), at=61)
    rows = edge.flush(62)
    for metric in ("hits", "level", "queue"):
        row = next(row for row in rows if row["metric"] == metric and row["exemplar_value"] is not None)
        assert (row["points"], row["exemplar_value"]) == (1, 1.5), metric
