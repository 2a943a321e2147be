"""From the buckets of OTLP points, explicit and exponential, to interval keys (rules 2 to 4 of the package)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from catchment.histogram.addition import canonical
from catchment.histogram.keys import HALF, Float64s, Histograms, Int64s, UInt64s, ordered_above, ordered_below, pack
from catchment.histogram.table import BOUNDS, FINEST_SCALE, FIRST_BOUND, LAST_BOUND

# Halves of the keys of exponential buckets by bound, so that a key is two look-ups and one addition.
LOW_HALF: Final = ordered_below(BOUNDS) << 32
HIGH_HALF: Final = ordered_above(BOUNDS) + HALF
NEGATIVE_LOW_HALF: Final = ordered_below(-BOUNDS) << 32
NEGATIVE_HIGH_HALF: Final = ordered_above(-BOUNDS) + HALF
LOWER_ORDERED: Final = ordered_below(BOUNDS)
UPPER_ORDERED: Final = ordered_above(BOUNDS)


def explicit_keys(bounds_offsets: Int64s, bounds: Float64s) -> tuple[Int64s, Int64s]:
    """Keys of explicit buckets: (-inf, b0], (b0, b1], ..., (bn, +inf] per point.

    Args:
        bounds_offsets: int64[n + 1] into ``bounds``.
        bounds: ascending and finite within each point; no bounds give one bucket, (-inf, +inf].

    Returns:
        (offsets int64[n + 1], keys int64), one key more per point than it has bounds.
    """
    points = len(bounds_offsets) - 1
    bounds = np.asarray(bounds, np.float64)[bounds_offsets[0] : bounds_offsets[-1]]
    bounds_offsets = np.asarray(bounds_offsets, np.int64) - bounds_offsets[0]
    offsets = bounds_offsets + np.arange(points + 1)
    width = int(bounds_offsets[1]) if points else 0
    if points > 1 and len(bounds) == width * points and (np.diff(bounds_offsets) == width).all():
        rows = bounds.reshape(points, width)
        if (rows == rows[0]).all():
            # All points of one instrument, as is usual: its keys are made once.
            _, keys = explicit_keys(bounds_offsets[:2], rows[0])
            return offsets, np.tile(keys, points)
    low: Int64s = np.full(offsets[-1], ordered_below(np.array([-np.inf]))[0], np.int64)
    high: Int64s = np.full(offsets[-1], ordered_above(np.array([np.inf]))[0], np.int64)
    at = np.arange(bounds_offsets[-1]) + np.repeat(np.arange(points), np.diff(bounds_offsets))
    high[at] = ordered_above(bounds)
    low[at + 1] = ordered_below(bounds)
    return offsets, (low << 32) + (high + HALF)


class _Side(NamedTuple):
    """The filled buckets of one sign: how many per point; of each its two bounds (places in the table) and count."""

    lengths: Int64s
    low: Int64s
    high: Int64s
    counts: UInt64s


def _side(scale: Int64s, first_index: Int64s, offsets: Int64s, counts: UInt64s) -> _Side:
    """Buckets in order of magnitude, those of equal bounds added, empty ones left out."""
    points = len(scale)
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(points), lengths)
    counts = np.asarray(counts, np.uint64)[offsets[0] : offsets[-1]]
    place = np.flatnonzero(counts)
    if len(place) < len(counts):
        owner, counts = owner[place], counts[place]
    index = place + (np.asarray(first_index, np.int64) - (offsets[:-1] - offsets[0]))[owner]
    finer = np.maximum(scale - FINEST_SCALE, 0)
    coarser = np.maximum(FINEST_SCALE - scale, 0)
    folds = bool(finer.any())
    if folds:
        index >>= finer[owner]
    first, last = FIRST_BOUND >> coarser, (LAST_BOUND - 1) >> coarser
    outside = (first_index >> finer < first) | (first_index + lengths >> finer > last)
    if outside.any():
        folds = True
        index = np.clip(index, first[owner], last[owner])
    shift: Int64s | np.int64 = coarser[owner] if coarser.any() else np.int64(0)
    low = index << shift
    high = np.minimum(low + (np.int64(1) << shift), LAST_BOUND) - FIRST_BOUND
    low = np.maximum(low, FIRST_BOUND) - FIRST_BOUND
    if folds and len(low):
        new = np.ones(len(low), np.bool_)
        new[1:] = (low[1:] != low[:-1]) | (owner[1:] != owner[:-1])
        starts = np.flatnonzero(new)
        owner, low, high, counts = owner[starts], low[starts], high[starts], np.add.reduceat(counts, starts)
    return _Side(np.bincount(owner, minlength=points), low, high, counts)


def exponential_keys(
    scale: npt.NDArray[np.int32],
    zero_threshold: Float64s,
    zero_count: UInt64s,
    positive_offset: npt.NDArray[np.int32],
    positive_offsets: Int64s,
    positive_counts: UInt64s,
    negative_offset: npt.NDArray[np.int32],
    negative_offsets: Int64s,
    negative_counts: UInt64s,
) -> Histograms:
    """Canonical histograms of exponential points; see rules 3 and 4.

    Args:
        scale: int32[n], -10 to 20 (the caller rejects others).
        zero_threshold: float64[n], >= 0, finite.
        zero_count: uint64[n].
        positive_offset: int32[n], index of the first positive bucket; any int32, buckets beyond the table saturate.
        positive_offsets: int64[n + 1] into ``positive_counts``.
        positive_counts: uint64.
        negative_offset: like the positive one, as are the next two.
        negative_offsets: int64[n + 1].
        negative_counts: uint64.
    """
    scales = np.asarray(scale, np.int64)
    zero_count = np.asarray(zero_count, np.uint64)
    positive = _side(scales, np.asarray(positive_offset, np.int64), np.asarray(positive_offsets), positive_counts)
    negative = _side(scales, np.asarray(negative_offset, np.int64), np.asarray(negative_offsets), negative_counts)
    has_zero = zero_count > 0
    offsets = np.zeros(len(scales) + 1, np.int64)
    np.cumsum(negative.lengths + has_zero + positive.lengths, out=offsets[1:])
    positive_keys = LOW_HALF[positive.low] + HIGH_HALF[positive.high]
    if len(positive_keys) == offsets[-1]:
        return Histograms(offsets, positive_keys, positive.counts)
    keys, counts = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.uint64)
    is_positive = np.ones(len(keys), np.bool_)
    if len(negative.counts):
        ends = np.cumsum(negative.lengths)
        # Negative buckets come in order of magnitude, so each point's run is written backwards.
        at = np.repeat(offsets[:-1] + ends - 1, negative.lengths) - np.arange(ends[-1])
        keys[at] = NEGATIVE_LOW_HALF[negative.high] + NEGATIVE_HIGH_HALF[negative.low]
        counts[at] = negative.counts
        is_positive[at] = False
    at = (offsets[:-1] + negative.lengths)[has_zero]
    threshold = np.asarray(zero_threshold, np.float64)[has_zero]
    keys[at], counts[at] = pack(-threshold, threshold), zero_count[has_zero]
    is_positive[at] = False
    keys[is_positive], counts[is_positive] = positive_keys, positive.counts
    if (has_zero & (negative.lengths > 0) & (np.asarray(zero_threshold) > 0)).any():
        # A sender may have filled negative buckets inside its zero bucket: these come after it.
        return canonical(Histograms(offsets, keys, counts))
    return Histograms(offsets, keys, counts)
