"""Reading a histogram: quantiles with their bracket, and counts below a value (rules 5 to 7 of the package)."""

from __future__ import annotations

import math

import numpy as np

from catchment.histogram.keys import Int64s, UInt64s, pack, unpack


def quantile_bounds(q: float, keys: Int64s, counts: UInt64s) -> tuple[float, float]:
    """The bracket (low, high) of the q-quantile of one histogram (rule 5); keys in any order; 0 <= q <= 1."""
    total = int(np.sum(counts, dtype=np.uint64))
    if total == 0:
        return math.nan, math.nan
    rank = np.uint64(min(max(1, math.ceil(q * total)), total))
    lower, upper = unpack(keys)
    low, high = (
        float(bounds[order][np.searchsorted(np.cumsum(counts[order], dtype=np.uint64), rank)])
        for bounds, order in ((lower, np.argsort(lower)), (upper, np.argsort(upper)))
    )
    return low, high


def quantile(
    q: float, keys: Int64s, counts: UInt64s, minimum: float | None = None, maximum: float | None = None
) -> float:
    """The estimate of the q-quantile within its bracket (rule 5), clamped to the known minimum and maximum."""
    estimate = _estimate(*quantile_bounds(q, keys, counts))
    if maximum is not None and estimate > maximum:
        estimate = maximum
    if minimum is not None and estimate < minimum:
        estimate = minimum
    return estimate


def _estimate(low: float, high: float) -> float:
    if math.isinf(low):
        return math.nan if math.isinf(high) else high
    if math.isinf(high):
        return low
    if low * high > 0 and max(abs(low), abs(high)) <= 2 * min(abs(low), abs(high)):
        return 2 * low * high / (low + high)
    return (low + high) / 2


def count_below(x: float, keys: Int64s, counts: UInt64s) -> tuple[int, int, float]:
    """How many values are <= x, for one histogram.

    ``x`` is resolved like the bounds are, to float32: at a bucket's own bound the answer is exact.

    Returns:
        (certain, at_most, estimate): values of intervals wholly below x; those plus the values of intervals that hold
        x; and ``certain`` plus each such interval's linear share (none of an infinite one).
    """
    lower, upper = unpack(keys)
    x_low, x_high = (float(bounds[0]) for bounds in unpack(pack(x, x)))
    below = upper <= x_high
    # The lower bound of a negative exponential bucket belongs to it.
    partly = ~below & ((lower < x_low) | ((lower == x_low) & (x_low < 0)))
    certain = int(counts[below].sum(dtype=np.uint64))
    at_most = certain + int(counts[partly].sum(dtype=np.uint64))
    partly &= np.isfinite(lower) & np.isfinite(upper)
    share = (x - lower[partly]) / (upper[partly] - lower[partly])
    return certain, at_most, certain + float((np.clip(share, 0, 1) * counts[partly]).sum())
