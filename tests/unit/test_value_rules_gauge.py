"""The rows "gauge" and "last" of the table of value rules."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from itertools import pairwise

import pytest

from catchment.limits import Limits
from tests.edge_harness import EdgeHarness, Row, by_window, total
from tests.otlp import CUMULATIVE, NO_RECORDED_VALUE, body, counter, gauge, number

MAX = 2**63 - 1


def _gauge(*samples: tuple[float, float], name: str = "level", **attributes: str) -> bytes:
    return body(gauge(name, *(number(time, value, attributes=attributes) for time, value in samples)))


def _brute_force(
    samples: list[tuple[float, float | None]], staleness: float, window: float
) -> tuple[dict[float, float], dict[float, float]]:
    """Integral and observed seconds by window: every second step by step; None ends what is held."""
    integral: dict[float, float] = defaultdict(float)
    observed: dict[float, float] = defaultdict(float)
    for (time, value), (following, _) in pairwise([*samples, (math.inf, None)]):
        if value is None:
            continue
        end = min(following, time + staleness)
        at = time
        while at < end:
            start = at // window * window
            step = min(end, start + window) - at
            integral[start] += value * step
            observed[start] += step
            at += step
    return integral, observed


def _assert_integrals(rows: list[Row], samples: list[tuple[float, float | None]], staleness: float) -> None:
    integral, observed = _brute_force(samples, staleness, 60)
    for value, expected in (("integral", integral), ("observed_seconds", observed)):
        given: dict[float, float] = defaultdict(float)
        for row in rows:
            given[row["window"]] += row[value]
        for window in {*expected, *given}:
            assert given[window] == pytest.approx(expected[window], rel=1e-9, abs=1e-6), (value, window)


def test_gauge_gives_count_sum_min_max_last() -> None:
    """All samples of a window go into count, sum, min and max; the latest is last."""
    edge = EdgeHarness()
    edge.send(_gauge((10, 5), (20, -7), (30, 2)), at=30)
    rows = edge.flush(31)
    assert len(rows) == 1
    row = rows[0]
    assert (row["kind"], row["count"], row["sum_int"], row["min"], row["max"]) == ("gauge", 3, 0, -7, 5)
    assert (row["last_value"], row["points"]) == (2, 3)


def test_gauge_sample_at_a_boundary_belongs_to_the_window_that_begins() -> None:
    """A sample is an instant: at a window's end it is the next window's."""
    edge = EdgeHarness()
    edge.send(_gauge((0, 1), (60, 2), (119.999999999, 3), (120, 4)), at=120)
    assert by_window(edge.flush(120), "level", "sum_int") == {0: 1, 60: 5, 120: 4}


def test_gauge_integral_is_value_times_seconds_held() -> None:
    """A value is held up to the next sample; the windows it crosses get their shares."""
    edge = EdgeHarness()
    edge.send(_gauge((30, 2), (90, 10), (150, 0)), at=150)
    rows = edge.flush(150)
    assert by_window(rows, "level", "integral") == {0: 60, 60: 60 + 300, 120: 300}
    assert by_window(rows, "level", "observed_seconds") == {0: 30, 60: 60, 120: 30}


def test_gauge_value_is_held_at_most_until_staleness() -> None:
    """A silent sender's value counts for staleness_seconds, whether silence ends or a flush finds it stale."""
    edge = EdgeHarness(Limits(staleness_seconds=45))
    edge.send(_gauge((0, 2)), at=0)
    edge.send(_gauge((100, 4)), at=100)
    rows = edge.flush(101)
    assert by_window(rows, "level", "integral") == {0: 90, 60: 0}
    assert edge.flush(144.9) == []
    rows = edge.flush(145)
    assert by_window(rows, "level", "integral") == {60: 80, 120: 100}
    assert total(rows, "level", "points") == 0
    assert edge.flush(1000) == []


def test_gauge_ends_by_a_no_recorded_value_point() -> None:
    """Such a point ends the hold, is no sample, and is counted; the next sample begins anew."""
    edge = EdgeHarness()
    ends = body(gauge("level", number(20, None, flags=NO_RECORDED_VALUE)))
    edge.send(_gauge((10, 3)), at=10)
    edge.send(ends, at=20)
    edge.send(_gauge((40, 5), (50, 0)), at=50)
    row = edge.flush(51)[0]
    assert (row["count"], row["integral"], row["observed_seconds"], row["min"]) == (3, 30 + 50, 20, 0)
    assert edge.points_tallied("no_recorded_value") == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, None, 7])
def test_gauge_ends_whatever_value_its_no_recorded_value_point_carries(value: float | None) -> None:
    """Prometheus' stale marker is a NaN with the flag: the flag counts, the value does not."""
    edge = EdgeHarness()
    edge.send(_gauge((10, 3)), at=10)
    outcome = edge.send(body(gauge("level", number(20, value, flags=NO_RECORDED_VALUE))), at=20)[0]
    edge.flush(21)
    edge.send(_gauge((40, 5)), at=40)
    rows = edge.flush(500)
    assert outcome.points_rejected == 0  # type: ignore[union-attr]
    assert total(rows, "level", "integral") == 5 * 300
    assert edge.points_tallied("not_finite") == 0


def test_gauge_hold_survives_flushes() -> None:
    """What is held at a flush is integrated by the flush that sees the next sample."""
    edge = EdgeHarness()
    rows = []
    for time in range(0, 300, 30):
        edge.send(_gauge((time, time)), at=time)
        rows += edge.flush(time + 1)
    _assert_integrals(rows + edge.flush(1000), [(t, t) for t in range(0, 300, 30)], 300)


def test_gauge_total_over_streams_adds_up() -> None:
    """Integral and observed seconds of several streams add in their series: total and mean fall out."""
    edge = EdgeHarness()
    for pod in range(4):
        edge.send(_gauge((0, 10 + pod), (60, 0), **{"k8s.pod.name": str(pod)}), at=60)
    row = next(row for row in edge.flush(61) if row["window"] == 0)
    assert row["integral"] / row["window_seconds"] == 10 + 11 + 12 + 13
    assert row["integral"] / row["observed_seconds"] == 11.5


def test_gauge_late_sample_changes_count_sum_min_max_only() -> None:
    """A sample older than one that was flushed is counted and noted, and neither moves last back nor the integral."""
    edge = EdgeHarness()
    edge.send(_gauge((0, 1), (50, 5)), at=50)
    rows = edge.flush(51)
    edge.send(_gauge((20, 100)), at=52)
    late = edge.flush(53)
    assert edge.points_tallied("late_gauge") == 1
    assert [(row["count"], row["max"], row["integral"]) for row in late] == [(1, 100, 0)]
    edge.send(_gauge((60, 0)), at=60)
    assert total(rows + late + edge.flush(61), "level", "integral") == 50 + 50


def test_gauge_sample_late_after_its_predecessor_went_stale_is_not_observed_twice() -> None:
    """Seconds that a stale value filled already are not filled again by a sample that comes late."""
    edge = EdgeHarness(Limits(staleness_seconds=100))
    edge.send(_gauge((0, 1)), at=0)
    rows = edge.flush(100)
    edge.send(_gauge((50, 3)), at=101)
    rows += edge.flush(101)
    edge.send(_gauge((120, 9)), at=120)
    rows += edge.flush(121)
    assert total(rows, "level", "observed_seconds") == 120
    assert total(rows, "level", "integral") == 100 + 3 * 20


@pytest.mark.parametrize("seed", range(8))
def test_gauge_integral_equals_a_brute_force_reference(seed: int) -> None:
    """Random samples, gaps and ends in random chunks: the same integral as walking through time."""
    rng = random.Random(seed)
    time = 0.0
    samples: list[tuple[float, float | None]] = []
    edge = EdgeHarness(Limits(points_per_chunk_max=5))
    rows: list[Row] = []
    for _ in range(60):
        time += rng.choice((0.25, 1.0, 10.0, 59.75, 60.0, 200.0, 299.75, 300.0, 700.0))
        value = None if rng.random() < 0.15 else rng.choice((rng.randint(-100, 100), rng.uniform(-1e6, 1e6)))
        samples.append((time, value))
        flags = NO_RECORDED_VALUE if value is None else 0
        edge.send(body(gauge("level", number(time, value, flags=flags))), at=time)
        if rng.random() < 0.4:
            rows += edge.flush(time)
    _assert_integrals(rows + edge.flush(time + 1000), samples, 300)


def test_gauge_repeat_counts_once() -> None:
    """A sample sent again is one sample, within a flush and across flushes."""
    edge = EdgeHarness()
    rows = []
    for _ in range(3):
        edge.send(_gauge((10, 5), (20, 6)), at=20)
        edge.send(_gauge((10, 5), (20, 6)), at=20)
        rows += edge.flush(21)
    assert total(rows, "level", "count") == 2
    assert total(rows, "level", "sum_int") == 11
    assert edge.points_tallied("repeated") == 10


def test_gauge_is_what_a_cumulative_sum_that_is_not_monotonic_becomes() -> None:
    """An up-down counter's value is a level: it is never differenced, and may be negative."""
    edge = EdgeHarness()
    points = [number(time, value, start=0) for time, value in ((10, 5), (20, -3))]
    edge.send(body(counter("queue", *points, temporality=CUMULATIVE, monotonic=False)), at=20)
    row = edge.flush(21)[0]
    assert (row["kind"], row["count"], row["sum_int"], row["last_value"]) == ("gauge", 2, 2, -3)
    assert row["integral"] == 50


def test_gauge_int64_extremes_sum_exactly() -> None:
    """Integer samples are summed as integers, beyond Int64."""
    edge = EdgeHarness()
    edge.send(_gauge((1, MAX), (2, MAX - 1), (3, MAX - 2), (4, -MAX - 1)), at=5)
    row = edge.flush(5)[0]
    assert row["sum_int"] == 3 * MAX - 3 - 2**63
    assert row["min"] == float(-(2**63))


def test_gauge_of_mixed_ints_and_doubles() -> None:
    """One stream may change its number type; the hold goes on across it."""
    edge = EdgeHarness()
    edge.send(_gauge((0, 2), (10, 2.5)), at=10)
    rows = edge.flush(11)
    edge.send(_gauge((20, 3)), at=20)
    rows += edge.flush(21)
    assert (total(rows, "level", "sum_int"), total(rows, "level", "sum_float")) == (5, 2.5)
    assert total(rows, "level", "integral") == 20 + 25


def test_last_is_the_latest_by_event_time_not_by_arrival() -> None:
    """Whatever came last, the largest time wins."""
    edge = EdgeHarness()
    edge.send(_gauge((50, 1)), at=50)
    edge.send(_gauge((40, 9)), at=51)
    assert edge.flush(52)[0]["last_value"] == 1


def test_last_among_equal_times_is_the_largest_value() -> None:
    """Streams of one series that report at the same instant have a deterministic last."""
    for values in ((3, 8), (8, 3), (-3, -8), (-8, -3)):
        edge = EdgeHarness()
        for pod, value in enumerate(values):
            edge.send(_gauge((50, value), **{"k8s.pod.name": str(pod)}), at=50)
        assert edge.flush(52)[0]["last_value"] == max(values)


def test_last_of_a_row_that_only_holds_is_absent() -> None:
    """A window in which a value was held but no sample came has no last, no min and no max."""
    edge = EdgeHarness()
    edge.send(_gauge((0, 1), (130, 1)), at=130)
    row = next(row for row in edge.flush(131) if row["window"] == 60)
    assert (row["last_value"], row["last_time_ns"], row["min"], row["max"], row["points"]) == (
        None,
        None,
        None,
        None,
        0,
    )
    assert row["integral"] == 60
