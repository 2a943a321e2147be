"""The histogram of intervals: a map from interval to count, so that any two histograms may be added.

Rules, which the SQL functions of the store repeat:

1. An interval ``(lower, upper]`` is an Int64 *key*. A bound is float32; ``s(x)`` is its bits as int32, and where these
   are negative, ``bits ^ 0x7FFFFFFF``, so that s orders as x does; ``key = s(lower) * 2**32 + (s(upper) + 2**31)``.
   Keys are ordered by (lower, upper). -0 is 0.
2. Bounds are rounded outward: a value that was in its bucket is inside its interval. Neighbours may overlap by one
   float32 step (at most 1.2e-7 of the bound).
3. The zero bucket ``[-t, t]`` is ``(-t, t]``; t = 0 gives ``(0, 0]``. A negative bucket of magnitudes (l, u] is
   ``(-u, -l]``, though it includes -u.
4. Exponential buckets finer than scale 5 fold to scale 5, coarser ones keep their width; bounds are those of ``table``.
5. A *quantile* is nearest rank, ``r = max(1, ceil(q * n))``. Its bracket: ``low`` is the lower bound of the interval
   that holds rank r when intervals are ordered by lower, ``high`` the upper bound of the one that holds it when
   they are ordered by upper. The true value is never outside. The estimate within: an infinite end gives the finite
   one (both: NaN, whatever min and max); ends of one sign and at most a factor of 2 apart give
   ``2 * low * high / (low + high)``; else ``(low + high) / 2``; then it is clamped to min and max where
   these are known.
6. An empty histogram has NaN for quantiles.
7. ``count_below(x)`` resolves x like bounds, to float32: an interval is wholly below x if ``upper <= ceil32(x)``,
   partly if not wholly and ``lower < floor32(x)``. So at a bucket's own bound, such as an SLO's 0.1 s, the answer is
   exact. A partly covered interval gives the share ``(x - lower) / (upper - lower)``, an infinite one gives none.
8. Where senders have bounds without number, intervals are widened outward to a grid that all share (``coarsened``).

Many histograms are *ragged arrays*: ``offsets`` (int64, n + 1), ``keys`` (int64) and ``counts`` (uint64); histogram i
is ``[offsets[i]:offsets[i + 1]]``. A histogram is *canonical* when its keys ascend strictly and no count is 0. Counts
wrap at 2^64. Nothing here loops over points.
"""

from catchment.histogram.addition import canonical, sum_by_group
from catchment.histogram.buckets import explicit_keys, exponential_keys
from catchment.histogram.coarsening import coarsened
from catchment.histogram.difference import align, common, rescale, subtract
from catchment.histogram.keys import Histograms, concat_histograms, pack, take_histograms, unpack
from catchment.histogram.quantile import count_below, quantile, quantile_bounds

__all__ = [
    "Histograms",
    "align",
    "canonical",
    "coarsened",
    "common",
    "concat_histograms",
    "count_below",
    "explicit_keys",
    "exponential_keys",
    "pack",
    "quantile",
    "quantile_bounds",
    "rescale",
    "subtract",
    "sum_by_group",
    "take_histograms",
    "unpack",
]
