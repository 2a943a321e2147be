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
from collectors.decode.wire import Buckets, Points, Shape
from collectors.identify import Kind
from collectors.reasons import Reason

Codes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
UInt64s = npt.NDArray[np.uint64]

# https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponential-scale: what senders may use.
SCALE_MIN, SCALE_MAX = -10, 20
_NO_RECORDED_VALUE = 1


def no_recorded_value(points: Points) -> Bools:
    """Where the point is flagged as carrying no value."""
    flagged: Bools = (points.flags & _NO_RECORDED_VALUE) != 0
    return flagged


def validate(points: Points, kinds: npt.NDArray[np.int32], received_ns: npt.NDArray[np.int64], limits: Limits) -> Codes:
    """The reason of each point, `Reason.OK` where it can be used; the first failing check decides.

    Args:
        points: of one shape.
        kinds: see `identify.kinds_of`.
        received_ns: when the request of each point came.
        limits: bounds of time, counts and buckets.
    """
    codes = np.zeros(len(points), np.uint8)

    def refuse(where: Bools, reason: Reason) -> None:
        if where.any():
            codes[where & (codes == 0)] = reason

    refuse(kinds < 0, Reason.UNKNOWN_TEMPORALITY)
    refuse(points.time_ns < received_ns - limits.past_seconds_max * NANOSECONDS, Reason.TOO_OLD)
    refuse(points.time_ns > received_ns + limits.future_seconds_max * NANOSECONDS, Reason.TOO_FAR_IN_FUTURE)
    refuse((points.start_ns > points.time_ns) | (points.start_ns < 0), Reason.START_AFTER_TIME)
    empty = no_recorded_value(points)
    if points.shape is not Shape.GAUGE:
        refuse(empty & (kinds != Kind.GAUGE), Reason.NO_RECORDED_VALUE)
    if points.shape in (Shape.GAUGE, Shape.SUM):
        refuse(~points.has_number & ~empty, Reason.NO_VALUE)
        refuse(~np.isfinite(points.number_float) & ~empty, Reason.NOT_FINITE)
        negative = np.where(points.is_int, points.number_int < 0, points.number_float < 0)
        refuse(negative & points.monotonic, Reason.NEGATIVE_MONOTONIC)
        return codes
    refuse(points.count > np.uint64(limits.histogram_count_max), Reason.COUNT_TOO_LARGE)
    # min and max are advice: one that is not finite is left out later, the point stays good.
    refuse(points.has_sum & ~np.isfinite(points.sum), Reason.NOT_FINITE)
    if points.buckets is not None:
        _validate_buckets(points, points.buckets, limits, refuse)
    return codes


def _validate_buckets(
    points: Points, buckets: Buckets, limits: Limits, refuse: Callable[[Bools, Reason], None]
) -> None:
    counts_of = np.diff(buckets.offsets)
    if points.shape is Shape.HISTOGRAM:
        bounds_of = np.diff(buckets.bound_offsets)
        refuse(counts_of > limits.histogram_buckets_max, Reason.BUCKETS_TOO_MANY)
        # Neither counts nor bounds is allowed: a histogram of count and sum alone.
        refuse((counts_of != bounds_of + 1) & ~((counts_of == 0) & (bounds_of == 0)), Reason.BUCKETS_MALFORMED)
        refuse(~_ascending(buckets), Reason.BOUNDS_MALFORMED)
        refuse(~_adds_up(points.count, (buckets.offsets, buckets.counts)) & (counts_of > 0), Reason.BUCKETS_MALFORMED)
        return
    negatives_of = np.diff(buckets.negative_offsets)
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
        some = np.flatnonzero(np.diff(offsets))
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
        owner = np.repeat(np.arange(n), np.diff(buckets.bound_offsets))
        falls = np.zeros(len(bounds), np.bool_)
        falls[1:] = (bounds[1:] <= bounds[:-1]) & (owner[1:] == owner[:-1])
        bad |= falls
    if not bad.any():
        return np.ones(n, np.bool_)
    owner = np.repeat(np.arange(n), np.diff(buckets.bound_offsets))
    good = np.ones(n, np.bool_)
    good[owner[bad]] = False
    return good
