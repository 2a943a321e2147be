"""Differences of cumulative histograms: subtract, after folding both to what they have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from catchment.histogram.addition import ascending, canonical, offsets_of
from catchment.histogram.buckets import (
    HIGH_HALF,
    LOW_HALF,
    LOWER_ORDERED,
    NEGATIVE_HIGH_HALF,
    NEGATIVE_LOW_HALF,
    UPPER_ORDERED,
)
from catchment.histogram.keys import (
    HALF,
    Bools,
    Float64s,
    Histograms,
    Int64s,
    UInt64s,
    bounds_of,
    ordered_above,
    pack,
    split,
)
from catchment.histogram.table import BOUNDS, FINEST_SCALE, FIRST_BOUND, LAST_BOUND


def subtract(current: Histograms, previous: Histograms) -> tuple[Histograms, Bools]:
    """The increases from ``previous`` to ``current``, histogram by histogram; both of n, keys ascending within each.

    Returns:
        (increases, fell): canonical histograms, and bool[n], true where an interval's count fell or an interval with a
        count vanished. That is a reset, and the increase there is all of ``current``: it counts from zero again.
    """
    if not (_is_ascending(current) and _is_ascending(previous)):
        current, previous = canonical(current), canonical(previous)
    points = len(current.offsets) - 1
    owner = np.repeat(np.arange(points), np.diff(current.offsets))
    counts = current.counts.astype(np.uint64)
    fell = np.zeros(points, np.bool_)
    at, before = _matches(current, previous, owner, fell)
    fell[owner[at[counts[at] < before]]] = True
    before = np.where(fell[owner[at]], np.uint64(0), before)
    counts[at] -= before
    grown = counts != 0
    if not grown.all():
        owner, counts = owner[grown], counts[grown]
        return Histograms(offsets_of(owner, points), current.keys[grown], counts), fell
    return Histograms(current.offsets, current.keys, counts), fell


def _matches(current: Histograms, previous: Histograms, owner: Int64s, fell: Bools) -> tuple[Int64s, UInt64s]:
    """For each interval of ``previous``: its place in ``current``, and its count. Those that vanished set ``fell``."""
    starts = current.offsets[:-1]
    lengths = np.diff(previous.offsets)
    same = lengths == np.diff(current.offsets)
    owner_before = np.repeat(np.arange(len(lengths)), lengths)
    # Where a histogram has as many intervals as before, they are nearly always the same ones, in the same places.
    at = np.arange(len(owner_before)) + (starts - previous.offsets[:-1])[owner_before]
    place = np.flatnonzero(same[owner_before])
    differs = place[current.keys[at[place]] != previous.keys[place]]
    same[owner_before[differs]] = False
    if same.all():
        return at, previous.counts
    other = np.flatnonzero(~same[owner_before])
    within = np.flatnonzero(~same[owner])
    distinct = np.unique(np.concatenate((current.keys[within], previous.keys[other])))
    width = np.int64(len(distinct))
    cells = owner[within] * width + np.searchsorted(distinct, current.keys[within])
    wanted = owner_before[other] * width + np.searchsorted(distinct, previous.keys[other])
    near = np.searchsorted(cells, wanted)
    found = near < len(cells)
    found[found] = cells[near[found]] == wanted[found]
    filled = previous.counts[other[~found]] > 0
    fell[owner_before[other[~found][filled]]] = True
    at[other[found]] = within[near[found]]
    kept = same[owner_before]
    kept[other[found]] = True
    return at[kept], previous.counts[kept]


def _is_ascending(histograms: Histograms) -> bool:
    owner = np.repeat(np.arange(len(histograms.offsets) - 1), np.diff(histograms.offsets))
    return ascending(owner, histograms.keys)


def rescale(
    histograms: Histograms, to_scale: npt.NDArray[np.int32], to_zero_threshold: Float64s
) -> tuple[Histograms, Float64s]:
    """Fold exponential histograms to a coarser scale and a larger zero bucket.

    A bucket wholly or partly inside the new zero bucket folds into it; a partly covered one widens it to the bucket's
    far bound (OTLP data model), so that no value leaves its interval.

    Args:
        histograms: of ``exponential_keys``. A bucket coarser than ``to_scale`` stays as it is.
        to_scale: int[n], -10 to 20; finer than 5 is 5.
        to_zero_threshold: float64[n]; one smaller than a histogram's own leaves that.

    Returns:
        (canonical histograms, the zero thresholds that came out of it, float64[n]).
    """
    offsets, keys, counts = canonical(histograms)
    points = len(offsets) - 1
    owner = np.repeat(np.arange(points), np.diff(offsets))
    lower, upper = split(keys)
    negative = lower < 0
    is_zero = ~((lower >= 0) & (upper > 0)) & ~(negative & (upper <= 0))
    # s(-x) is -1 - s(x), but for 0.
    near = np.where(negative & (upper < 0), -1 - upper, np.where(negative, 0, lower))
    far = np.where(negative, -1 - lower, upper)
    shift = np.maximum(FINEST_SCALE - np.asarray(to_scale, np.int64), 0)[owner]
    low = np.searchsorted(LOWER_ORDERED, near, side="right") - 1 + FIRST_BOUND
    own_high = np.searchsorted(UPPER_ORDERED, far, side="left") + FIRST_BOUND
    low = (low >> shift) << shift
    high = np.clip(np.maximum(low + (np.int64(1) << shift), own_high), FIRST_BOUND, LAST_BOUND) - FIRST_BOUND
    low = np.maximum(low, FIRST_BOUND) - FIRST_BOUND

    threshold = np.array(to_zero_threshold, np.float64)
    np.maximum.at(threshold, owner[is_zero], bounds_of(far[is_zero]))
    # Compared as float32 above, like the threshold in a key: a bucket that begins at the threshold is not covered.
    covered = ~is_zero & (UPPER_ORDERED[low] < ordered_above(threshold)[owner])
    np.maximum.at(threshold, owner[covered], BOUNDS[high[covered]])
    into_zero = is_zero | covered
    keys = np.where(negative, NEGATIVE_LOW_HALF[high] + NEGATIVE_HIGH_HALF[low], LOW_HALF[low] + HIGH_HALF[high])
    keys[into_zero] = pack(-threshold, threshold)[owner[into_zero]]
    return canonical(Histograms(offsets, keys, counts)), threshold


def common(current: Histograms, previous: Histograms) -> tuple[Histograms, Histograms]:
    """Bring pairs of explicit histograms to the bounds that both have, for ``subtract``.

    Args:
        current, previous: of n, not empty, keys ascending within each; the last interval of each ends at +Inf.
    """
    now, before = (
        (np.repeat(np.arange(len(h.offsets) - 1), np.diff(h.offsets)) << 32) + split(h.keys)[1] + HALF
        for h in (current, previous)
    )
    return _folded(current, np.isin(now, before)), _folded(previous, np.isin(before, now))


def _folded(histograms: Histograms, kept: Bools) -> Histograms:
    """Histograms whose intervals end at some bounds only; the last one of each is ``kept``."""
    ends = np.flatnonzero(kept)
    begins = np.concatenate(([0], ends[:-1] + 1))
    owner = np.repeat(np.arange(len(histograms.offsets) - 1), np.diff(histograms.offsets))[ends]
    keys = ((histograms.keys[begins] >> 32) << 32) + (split(histograms.keys[ends])[1] + HALF)
    return Histograms(offsets_of(owner, len(histograms.offsets) - 1), keys, np.add.reduceat(histograms.counts, begins))


def align(
    current: Histograms,
    current_scale: npt.NDArray[np.int32],
    current_zero_threshold: Float64s,
    previous: Histograms,
    previous_scale: npt.NDArray[np.int32],
    previous_zero_threshold: Float64s,
) -> tuple[Histograms, Histograms]:
    """Bring pairs of exponential histograms to the coarser scale and larger zero threshold, for ``subtract``."""
    scale = np.minimum(current_scale, previous_scale)
    threshold = np.maximum(current_zero_threshold, previous_zero_threshold)
    while True:
        now, threshold_now = rescale(current, scale, threshold)
        before, threshold_before = rescale(previous, scale, threshold)
        wider = np.maximum(threshold_now, threshold_before)
        if np.array_equal(wider, threshold):
            return now, before
        threshold = wider  # one side was widened: the other must follow; it ends, since bounds are finitely many
