"""The row "NaN, ±Inf" of the table of value rules, and every other reason for which a point is not taken."""

from __future__ import annotations

import math

import pytest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from catchment.errors import Invalid
from catchment.limits import Limits
from collectors.reasons import MEANING, Reason
from collectors.records import Outcome
from tests.edge_harness import EdgeHarness, received, total
from tests.otlp import (
    DELTA,
    NO_RECORDED_VALUE,
    body,
    counter,
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

NAN, INF = math.nan, math.inf
UNKNOWN = 0


def _refused(metric: pb.Metric, reason: str, *, limits: Limits | None = None, count: int = 1) -> None:
    """The metric's points are refused for a reason, told to the sender, counted; the good one beside it is kept."""
    edge = EdgeHarness(limits)
    outcome = edge.send(body(metric, counter("good", number(10, 7, start=0))), at=10)[0]
    rows = edge.flush(11)
    assert isinstance(outcome, Outcome)
    assert outcome.points_rejected == count
    assert reason in outcome.message
    assert edge.tally == {(reason, "points"): count}
    assert [(row["metric"], row["sum_int"]) for row in rows] == [("good", 7)]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("temporality", [DELTA, pb.AGGREGATION_TEMPORALITY_CUMULATIVE])
def test_nan_and_inf_are_refused_and_counted(value: float, temporality: int) -> None:
    """What is not a number never reaches a sum."""
    _refused(gauge("bad", number(10, value)), "not_finite")
    for monotonic in (False, True):
        metric = counter("bad", number(10, value, start=0), temporality=temporality, monotonic=monotonic)
        _refused(metric, "not_finite")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_nan_and_inf_sums_of_distributions_are_refused(value: float) -> None:
    """A sum that is not finite spoils its point."""
    _refused(histogram("bad", explicit(10, [1], [], total=value, start=0)), "not_finite")
    _refused(exponential_histogram("bad", exponential(10, 0, 0, [1], total=value, start=0)), "not_finite")
    _refused(summary("bad", quantiles(10, 1, value, start=0)), "not_finite")


def test_nan_and_inf_in_min_and_max_are_left_out() -> None:
    """min and max are advice: the point stays good without them."""
    edge = EdgeHarness()
    edge.send(body(histogram("lat", explicit(10, [1], [], low=-INF, high=NAN, start=0))), at=10)
    row = edge.flush(11)[0]
    assert (row["count"], row["min"], row["max"]) == (1, None, None)


def test_nan_does_not_disturb_the_stream_it_came_in() -> None:
    """The increase goes on from the last good value."""
    edge = EdgeHarness()
    points = [number(10, 5.0, start=0), number(20, NAN, start=0), number(30, 8.0, start=0)]
    edge.send(body(counter("hits", *points)), at=30)
    assert total(edge.flush(31), "hits", "sum_float") == 8.0


@pytest.mark.parametrize("temporality", [0, 3, 99, -1, 2**31 - 1])
def test_unknown_temporality_is_refused(temporality: int) -> None:
    """Only delta and cumulative say what a value means; unknown enum values are no crash."""
    _refused(counter("bad", number(10, 5, start=0), temporality=temporality), "unknown_temporality")
    _refused(histogram("bad", explicit(10, [1], [], start=0), temporality=temporality), "unknown_temporality")
    metric = exponential_histogram("bad", exponential(10, 0, 0, [1], start=0), temporality=temporality)
    _refused(metric, "unknown_temporality")


@pytest.mark.parametrize("value", [-1, -0.5, -(2**63)])
def test_negative_monotonic_values_are_refused(value: float) -> None:
    """A counter below zero contradicts itself, cumulative or delta."""
    _refused(counter("bad", number(10, value, start=0)), "negative_monotonic")
    _refused(counter("bad", number(10, value, start=0), temporality=DELTA), "negative_monotonic")


def test_points_without_a_value_are_refused() -> None:
    """Neither as_int nor as_double is no value, not a zero."""
    _refused(gauge("bad", number(10, None)), "no_value")
    _refused(counter("bad", number(10, None, start=0)), "no_value")


def test_no_recorded_value_of_counters_and_distributions_is_skipped_not_refused() -> None:
    """Such a point says that there is nothing to say: the sender is not told of an error."""
    edge = EdgeHarness()
    metrics = (
        counter("a", number(10, 0, start=0, flags=NO_RECORDED_VALUE)),
        histogram("b", explicit(10, [], [], start=0, flags=NO_RECORDED_VALUE)),
        exponential_histogram("c", exponential(10, 0, 0, [], start=0, flags=NO_RECORDED_VALUE)),
        summary("d", quantiles(10, 0, 0.0, start=0, flags=NO_RECORDED_VALUE)),
    )
    outcomes = edge.send(body(*metrics), at=10)
    assert outcomes == [Outcome()]
    assert edge.flush(11) == []
    assert edge.points_tallied("no_recorded_value") == 4


@pytest.mark.parametrize("offset_ns", [0, -1])
def test_absurd_timestamps_past(offset_ns: int) -> None:
    """A point exactly past_seconds_max old is taken, one nanosecond more is refused."""
    edge = EdgeHarness(Limits(past_seconds_max=100))
    point = pb.NumberDataPoint(time_unix_nano=ns(-100) + offset_ns, as_int=1)
    outcome = edge.send(body(gauge("level", point)), at=0)[0]
    assert outcome.points_rejected == (offset_ns < 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("offset_ns", [0, 1])
def test_absurd_timestamps_future(offset_ns: int) -> None:
    """A point exactly future_seconds_max ahead is taken, one nanosecond more is refused."""
    edge = EdgeHarness(Limits(future_seconds_max=100))
    point = pb.NumberDataPoint(time_unix_nano=ns(100) + offset_ns, as_int=1)
    outcome = edge.send(body(gauge("level", point)), at=0)[0]
    assert outcome.points_rejected == (offset_ns > 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("time_ns", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_absurd_timestamps_at_the_ends_of_the_type(time_ns: int) -> None:
    """The Epoch, and what does not fit a signed 64-bit number of nanoseconds, are refused without wrapping."""
    reason = "too_far_in_future" if time_ns == 2**63 - 1 else "too_old"
    _refused(gauge("bad", pb.NumberDataPoint(time_unix_nano=time_ns, as_int=1)), reason)


@pytest.mark.parametrize("start_ns", [ns(10) + 1, 2**63, 2**64 - 1])
def test_absurd_starts_are_refused(start_ns: int) -> None:
    """A point cannot begin after it ended."""
    point = pb.NumberDataPoint(start_time_unix_nano=start_ns, time_unix_nano=ns(10), as_int=1)
    _refused(counter("bad", point), "start_after_time")


@pytest.mark.parametrize(
    ("counts", "bounds"),
    [([1, 2], []), ([1], [1.0]), ([], [1.0]), ([1, 2, 3], [1.0]), ([1], [1.0, 2.0, 3.0])],
)
def test_malformed_buckets_do_not_fit_their_bounds(counts: list[int], bounds: list[float]) -> None:
    """n bounds make n + 1 buckets, or there are neither."""
    _refused(histogram("bad", explicit(10, counts, bounds, start=0)), "buckets_malformed")


def test_malformed_buckets_do_not_add_up_to_the_count() -> None:
    """Counts that contradict the total are refused, explicit and exponential."""
    _refused(histogram("bad", explicit(10, [1, 2], [1.0], count=4, start=0)), "buckets_malformed")
    metric = exponential_histogram("bad", exponential(10, 0, 0, [1], negative=[2], zeros=3, count=5, start=0))
    _refused(metric, "buckets_malformed")
    wraps = exponential(10, 0, 0, [2**63, 2**63], zeros=1, count=1, start=0)
    _refused(exponential_histogram("bad", wraps), "buckets_malformed")


@pytest.mark.parametrize("bounds", [[2.0, 1.0], [1.0, 1.0], [1.0, NAN], [NAN, 1.0], [1.0, INF], [-INF, 1.0]])
def test_malformed_bounds_are_refused(bounds: list[float]) -> None:
    """Bounds ascend and are finite."""
    _refused(histogram("bad", explicit(10, [1, 2, 3], bounds, start=0)), "bounds_malformed")


@pytest.mark.parametrize("threshold", [NAN, INF, -1.0])
def test_malformed_zero_thresholds_are_refused(threshold: float) -> None:
    """The zero bucket has a finite width that is not negative."""
    metric = exponential_histogram("bad", exponential(10, 0, 0, [1], zero_threshold=threshold, start=0))
    _refused(metric, "bounds_malformed")


def test_too_many_buckets_are_refused() -> None:
    """One point cannot take more room than histogram_buckets_max, both signs together."""
    limits = Limits(histogram_buckets_max=4)
    _refused(histogram("bad", explicit(10, [1] * 5, [1, 2, 3, 4], start=0)), "buckets_too_many", limits=limits)
    metric = exponential_histogram("bad", exponential(10, 0, 0, [1] * 3, negative=[1] * 2, start=0))
    _refused(metric, "buckets_too_many", limits=limits)


@pytest.mark.parametrize("count", [2**62 + 1, 2**63, 2**64 - 1])
def test_too_large_counts_are_refused(count: int) -> None:
    """Counts beyond histogram_count_max are nonsense that would wrap sums."""
    _refused(histogram("bad", explicit(10, [count], [], start=0)), "count_too_large")
    _refused(summary("bad", quantiles(10, count, 1.0, start=0)), "count_too_large")
    _refused(exponential_histogram("bad", exponential(10, 0, 0, [count], start=0)), "count_too_large")


def test_bad_points_beside_good_ones_in_one_metric() -> None:
    """Each point is judged alone, and the sender learns how many of which sort were refused."""
    edge = EdgeHarness()
    points = [number(10, 5, start=0), number(20, NAN, start=0), number(9e6, 7, start=0), number(30, 9, start=0)]
    outcome = edge.send(body(counter("hits", *points)), at=30)[0]
    assert isinstance(outcome, Outcome)
    assert outcome.points_rejected == 2
    assert "1 not_finite" in outcome.message and "1 too_far_in_future" in outcome.message
    assert total(edge.flush(31), "hits", "sum_int") == 9


def test_refusals_are_told_to_the_request_they_were_in() -> None:
    """Requests that share a decode do not share answers."""
    edge = EdgeHarness()
    good, bad = body(gauge("a", number(10, 1))), body(gauge("b", number(10, NAN), number(11, NAN)))
    outcomes = edge.send(good, bad, good, bad, at=10)
    assert [outcome.points_rejected for outcome in outcomes] == [0, 2, 0, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [b"\xff", b"garbage", b"\x0a\x05\x01", b"\x0a\xff\xff\xff\xff\x0f"])
def test_undecodable_requests_hurt_no_other(bad: bytes) -> None:
    """A request that is no protobuf is `Invalid` alone; those beside it are taken."""
    edge = EdgeHarness()
    good = body(counter("hits", number(10, 5, start=0)))
    outcomes = edge.send(bad, good, bad, at=10)
    assert [type(outcome) for outcome in outcomes] == [Invalid, Outcome, Invalid]
    assert total(edge.flush(11), "hits", "sum_int") == 5


def test_undecodable_requests_alone_leave_the_edge_as_it_was() -> None:
    """A batch of nothing but garbage is discarded, and eviction still works afterwards."""
    edge = EdgeHarness(Limits(stream_idle_seconds=100))
    edge.send(body(counter("hits", number(10, 5, start=0))), at=10)
    outcomes, staged = edge.edge.stage([received(b"\xff", 11)], [b"\xff"])
    assert isinstance(outcomes[0], Invalid)
    edge.edge.discard(staged)
    edge.flush(12)
    assert edge.edge.staged_outstanding == 0
    assert edge.edge.evict_idle(ns(1000)) == 1


def test_empty_requests_are_fine() -> None:
    """Nothing is a valid request, alone and beside others, and a batch of none is one too."""
    edge = EdgeHarness()
    assert edge.send(b"", at=10) == [Outcome()]
    assert edge.send(at=10) == []
    assert edge.send(b"", body(gauge("a", number(10, 1))), body(), at=10) == [Outcome()] * 3
    assert total(edge.flush(11), "a", "count") == 1


def test_every_reason_has_a_meaning() -> None:
    """What is counted can be looked up."""
    assert set(MEANING) == set(Reason) - {Reason.OK}


def test_an_outcome_says_how_many_points_a_request_held() -> None:
    """Each request's points are counted by themselves, refused ones too, for the rate of its tenant."""
    edge = EdgeHarness()
    refused = gauge("b", number(10, NAN), number(10, 2))
    outcomes = edge.send(body(gauge("a", number(10, 1)), refused), body(), body(gauge("a", number(11, 1))), at=12)
    assert [outcome.points for outcome in outcomes if isinstance(outcome, Outcome)] == [3, 0, 1]
