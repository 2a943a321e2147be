"""Fewer intervals, for a histogram that has too many: wider ones, of a grid that all histograms share."""

from __future__ import annotations

from typing import Final

import numpy as np

from catchment.histogram.addition import canonical
from catchment.histogram.keys import (
    HALF,
    Bools,
    Histograms,
    Int64s,
    concat_histograms,
    ordered_below,
    split,
    take_histograms,
)

# Steps of s(x), the bits of a float32: a factor of 2 from bound to bound, then 16. The last leaves 8,256 intervals
# at most, and no more than 256 where each begins as the one before it ends.
_STEP_BITS: Final = (23, 25)
_LOWEST, _HIGHEST = (np.int64(end) for end in ordered_below(np.array([-np.inf, np.inf])))


def coarsened(histograms: Histograms, intervals_max: int) -> tuple[Histograms, Bools]:
    """Histograms whose intervals are widened outward where there are more than ``intervals_max``.

    Counts stay, and what was in its interval is in the wider one (rule 2 of the package).

    Args:
        histograms: canonical.
        intervals_max: of one histogram; what still has more with the widest grid stays so.

    Returns:
        Canonical histograms, and which of them became coarser.
    """
    rows = len(histograms.offsets) - 1
    is_coarser = np.zeros(rows, np.bool_)
    for bits in _STEP_BITS:
        over = np.flatnonzero(np.diff(histograms.offsets) > intervals_max)
        if not len(over):
            break
        is_coarser[over] = True
        chosen = take_histograms(histograms, over)
        coarser = canonical(chosen._replace(keys=_outward(chosen.keys, bits)))
        order = np.arange(rows)
        order[over] = rows + np.arange(len(over))
        histograms = take_histograms(concat_histograms([take_histograms(histograms, np.arange(rows)), coarser]), order)
    return histograms, is_coarser


def _outward(keys: Int64s, bits: int) -> Int64s:
    lower, upper = split(keys)
    lower = np.maximum((lower >> bits) << bits, _LOWEST)
    upper = np.minimum(-((-upper >> bits) << bits), _HIGHEST)
    outward: Int64s = (lower << 32) + (upper + HALF)
    return outward
