"""Which points can be used at all: stateless checks, column by column, each with its reason.

Pure and deterministic: the same bytes received at the same time get the same answer again, so that replay of the inbox
refuses exactly what was refused when the sender was answered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from catchment.limits import Limits
from catchment.windows import NANOSECONDS
from collectors.decode.points import Buckets, Points, Shape
from collectors.decode.raw import lengths_of
from collectors.kinds import Kind
from collectors.reasons import Reason

Codes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Refuse = Callable[[Bools, Reason], None]

# https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponential-scale: what senders may use.
SCALE_MIN, SCALE_MAX = -10, 20
_NO_RECORDED_VALUE = 1


def no_recorded_value(points: Points) -> Bools:
    """Where the point is flagged as carrying no value."""
    flagged: Bools = (points.flags & _NO_RECORDED_VALUE) != 0
    return flagged


def validate(points: Points, received_ns: Int64s | None, limits: Limits) -> Codes:
    """The reason of each point, `Reason.OK` where it can be used; the first failing check decides.

    Extremes of whole columns tell whether anything can be wrong at all, which it hardly ever is.

    Args:
        points: of one shape.
        received_ns: when each request came; None if times were checked already.
        limits: bounds of time, counts and buckets.
    """
    codes = np.zeros(len(points), np.uint8)

    def refuse(where: Bools, reason: Reason) -> None:
        if where.any():
            codes[where & (codes == 0)] = reason

    refuse(points.kind < 0, Reason.UNKNOWN_TEMPORALITY)
    if received_ns is not None:
        _validate_times(points, received_ns, limits, refuse)
    if points.flags.any():
        empty = no_recorded_value(points)
        refuse(empty & (points.kind != Kind.GAUGE), Reason.NO_RECORDED_VALUE)
    else:
        empty = np.zeros(len(points), np.bool_)
    if points.shape is Shape.NUMBER:
        if not points.has_number.all():
            refuse(~points.has_number & ~empty, Reason.NO_VALUE)
        low, high = points.number_float.min(), points.number_float.max()
        if not -np.inf < low <= high < np.inf:
            refuse(~np.isfinite(points.number_float) & ~empty, Reason.NOT_FINITE)
        if points.number_int.min() < 0 or not low >= 0:
            negative = np.where(points.is_int, points.number_int < 0, points.number_float < 0)
            refuse(negative & points.monotonic, Reason.NEGATIVE_MONOTONIC)
        return codes
    refuse(points.count > np.uint64(limits.histogram_count_max), Reason.COUNT_TOO_LARGE)
    # min and max are advice: one that is not finite is left out later, the point stays good.
    refuse(points.has_sum & ~np.isfinite(points.sum), Reason.NOT_FINITE)
    if points.buckets is not None:
        _validate_buckets(points, points.buckets, limits, refuse)
    return codes


def _validate_times(points: Points, received_ns: Int64s, limits: Limits, refuse: Refuse) -> None:
    time_ns, start_ns = points.time_ns, points.start_ns
    past_ns, future_ns = limits.past_seconds_max * NANOSECONDS, limits.future_seconds_max * NANOSECONDS
    if time_ns.min() < received_ns.max() - past_ns:
        refuse(time_ns < received_ns[points.request] - past_ns, Reason.TOO_OLD)
    if time_ns.max() > received_ns.min() + future_ns:
        refuse(time_ns > received_ns[points.request] + future_ns, Reason.TOO_FAR_IN_FUTURE)
    if start_ns.min() < 0 or start_ns.max() > time_ns.min():
        refuse((start_ns > time_ns) | (start_ns < 0), Reason.START_AFTER_TIME)


def _validate_buckets(points: Points, buckets: Buckets, limits: Limits, refuse: Refuse) -> None:
    counts_of = lengths_of(buckets.offsets)
    if points.shape is Shape.HISTOGRAM:
        bounds_of = lengths_of(buckets.bound_offsets)
        refuse(counts_of > limits.histogram_buckets_max, Reason.BUCKETS_TOO_MANY)
        # Neither counts nor bounds is allowed: a histogram of count and sum alone.
        refuse((counts_of != bounds_of + 1) & ~((counts_of == 0) & (bounds_of == 0)), Reason.BUCKETS_MALFORMED)
        refuse(~_ascending(buckets), Reason.BOUNDS_MALFORMED)
        refuse(~_adds_up(points.count, (buckets.offsets, buckets.counts)) & (counts_of > 0), Reason.BUCKETS_MALFORMED)
        return
    negatives_of = lengths_of(buckets.negative_offsets)
    refuse(counts_of + negatives_of > limits.histogram_buckets_max, Reason.BUCKETS_TOO_MANY)
    refuse((buckets.scale < SCALE_MIN) | (buckets.scale > SCALE_MAX), Reason.SCALE_OUT_OF_RANGE)
    refuse(~(np.isfinite(buckets.zero_threshold) & (buckets.zero_threshold >= 0)), Reason.BOUNDS_MALFORMED)
    ranges = ((buckets.offsets, buckets.counts), (buckets.negative_offsets, buckets.negative_counts))
    refuse(~_adds_up(points.count, *ranges, (None, buckets.zero_count)), Reason.BUCKETS_MALFORMED)


def _adds_up(total: npt.NDArray[np.uint64], *ranges: tuple[npt.NDArray[np.int64] | None, UInt64s]) -> Bools:
    """Whether the counts of each point sum to its total; checked as doubles too, so that none can wrap around to it."""
    exact, rough = np.zeros(len(total), np.uint64), np.zeros(len(total))
    for offsets, counts in ranges:
        if offsets is None:
            exact += counts
            rough += counts
            continue
        some = np.flatnonzero(lengths_of(offsets))
        if len(some):
            exact[some] += np.add.reduceat(counts, offsets[some])
            rough[some] += np.add.reduceat(counts.astype(np.float64), offsets[some])
    adds_up: Bools = (exact == total) & (rough < 2.0**63)
    return adds_up


def _ascending(buckets: Buckets) -> Bools:
    n = len(buckets.bound_offsets) - 1
    bounds = buckets.bounds
    bad = ~np.isfinite(bounds)
    if len(bounds) > 1:
        owner = np.repeat(np.arange(n), lengths_of(buckets.bound_offsets))
        falls = np.zeros(len(bounds), np.bool_)
        falls[1:] = (bounds[1:] <= bounds[:-1]) & (owner[1:] == owner[:-1])
        bad |= falls
    if not bad.any():
        return np.ones(n, np.bool_)
    owner = np.repeat(np.arange(n), lengths_of(buckets.bound_offsets))
    good = np.ones(n, np.bool_)
    good[owner[bad]] = False
    return good
