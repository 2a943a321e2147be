"""The one exact table of exponential bucket bounds, from which every bound of every scale is taken.

Rules:

1. Bucket ``i`` at scale ``s`` is ``(base**i, base**(i + 1)]`` with ``base = 2**(2**-s)`` (OTLP data model). All scales
   up to 5 share the bounds of scale 5: bound ``j`` is ``2**(j / 32)``, and bucket ``i`` at scale ``s`` is
   ``(bound[i << (5 - s)], bound[(i + 1) << (5 - s)]]``.
2. Bound ``j`` is mantissa ``j mod 32``, correctly rounded to float64, scaled by a power of two, which is exact. So two
   processes, versions or machines never disagree about a bound in its last bit, as they would with ``exp2`` or ``pow``.
3. The table ends where float32 does. Smaller than its smallest normal number, 2**-126 (1.2e-38), all buckets are one,
   ``(0, 2**-126]``; beyond its largest, 2**128 (3.4e38), all are one, ``(float32 max, inf]``. A coarser bucket that
   reaches over an end reaches to 0 or infinity. So folding to a coarser scale and clamping commute.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

FINEST_SCALE: Final = 5
BOUNDS_PER_OCTAVE: Final = 1 << FINEST_SCALE
# Bounds from the one below 2**-126 to the one above 2**128.
FIRST_BOUND: Final = -126 * BOUNDS_PER_OCTAVE - 1
LAST_BOUND: Final = 128 * BOUNDS_PER_OCTAVE + 1


def _mantissa(index: int) -> float:
    """2**(index / 32), correctly rounded to 53 bits with integers alone; 0 <= index < 32."""
    # One bit more than the mantissa, so that adding one and halving rounds to nearest: the root is irrational or exact,
    # never a tie. Five nested integer square roots are the integer 32nd root.
    root = 1 << (index + 53 * BOUNDS_PER_OCTAVE)
    for _ in range(FINEST_SCALE):
        root = math.isqrt(root)
    return math.ldexp((root + 1) >> 1, -52)


MANTISSAS: Final = tuple(_mantissa(index) for index in range(BOUNDS_PER_OCTAVE))


def _all_bounds() -> npt.NDArray[np.float64]:
    index = np.arange(FIRST_BOUND, LAST_BOUND + 1)
    mantissas = np.array(MANTISSAS)
    bounds: npt.NDArray[np.float64] = np.ldexp(mantissas[index & (BOUNDS_PER_OCTAVE - 1)], index >> FINEST_SCALE)
    bounds[0], bounds[-1] = 0.0, np.inf
    bounds.flags.writeable = False
    return bounds


# float64, LAST_BOUND - FIRST_BOUND + 1 of them, ascending; bound j is at j - FIRST_BOUND; the ends are 0 and infinity.
BOUNDS: Final = _all_bounds()
