"""Histograms and summaries: from points to contributions, by the value rules of the design.

Buckets are intervals (`catchment.histogram`) from here on, so that histograms of any bounds and scales add. Cumulative
ones are differenced first, along the same chains as counters; an exponential baseline is folded to the coarser scale
and the larger zero threshold of the pair. A bucket or count that fell is a reset: the point counts from zero. min and
max of cumulative points say something about an interval only where they moved.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from catchment import windows
from catchment.histogram import Histograms, align, common, concat_histograms, rescale, subtract, take_histograms
from catchment.identity import mix, point_hashes
from collectors.contributions import Contribution, Contributions
from collectors.lives import NEVER_NS, Lives
from collectors.numbers import (
    chain_order,
    first_points,
    fresh_cumulative,
    heads_of,
    shifted,
    tails_of,
    touch_latest,
    unseen_rows,
)
from collectors.reasons import Reason
from collectors.seen import SeenPoints
from collectors.tally import Tally

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class HistogramPoints:
    """Points of histograms or summaries, one row each.

    Columns:
        life: row in `Lives`
        start_ns, time_ns: UTC
        count: observations
        sum: 0 where absent
        min, max: NaN where absent
        scale, zero_threshold: of exponential ones
        bounds_vary: other bounds than before are no reset: the difference is over those that both points have
        resets: said to be the first after a reset
        histograms: interval → count; empty for summaries
    """

    life: Int32s
    start_ns: Int64s
    time_ns: Int64s
    count: UInt64s
    sum: Float64s
    min: Float64s
    max: Float64s
    scale: Int32s
    zero_threshold: Float64s
    bounds_vary: Bools
    resets: Bools
    histograms: Histograms

    def __len__(self) -> int:
        return len(self.life)

    def take(self, rows: Rows | Bools) -> HistogramPoints:
        """Some rows."""
        if rows.dtype == np.bool_ and rows.all():
            return self
        index: Rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.intp, copy=False)
        return HistogramPoints(
            **{name: getattr(self, name)[index] for name in _COLUMNS},
            histograms=take_histograms(self.histograms, index),
        )

    @staticmethod
    def concat(parts: list[HistogramPoints]) -> HistogramPoints:
        """All rows of some tables."""
        if len(parts) == 1:
            return parts[0]
        return HistogramPoints(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS},
            histograms=concat_histograms([part.histograms for part in parts]),
        )


_COLUMNS = tuple(field.name for field in fields(HistogramPoints) if field.name != "histograms")


def histogram_deltas(
    lives: Lives,
    points: HistogramPoints,
    out: Contributions,
    seen: SeenPoints,
    tally: Tally,
    scales: Int32s | None = None,
) -> None:
    """Add delta histograms. ``scales``: the finest one of exponential ones, by the slot of their series."""
    points = points.take(chain_order(points.life, points.time_ns))
    kept, _ = unseen_rows(lives, points.life, points.start_ns, points.time_ns, seen, tally)
    points = points.take(kept)
    if not len(points):
        return
    histograms = _coarser(lives, points, points.histograms, scales)
    _contribute(lives, points, points.count, points.sum, points.min, points.max, histograms, out)
    touch_latest(lives, points.life, points.time_ns)


def cumulative_histograms(
    lives: Lives,
    points: HistogramPoints,
    out: Contributions,
    tally: Tally,
    *,
    explicit: bool,
    scales: Int32s | None = None,
) -> None:
    """Add the increases of cumulative histograms and summaries, and move the lives on.

    ``explicit`` says that the buckets have bounds of the sender's: other bounds than before are a reset then.
    ``scales``: the finest one of exponential ones, by the slot of their series; baselines stay as fine as they are.
    """
    points = points.take(chain_order(points.life, points.time_ns))
    points = points.take(fresh_cumulative(lives, points.life, points.time_ns, tally))
    if not len(points):
        return
    state, life = lives.columns, points.life
    heads = heads_of(life)
    first = heads & (state.time_ns[life] == NEVER_NS)
    from_zero, baseline = first_points(lives, first, points.life, points.start_ns, points.time_ns)
    # Lives whose baseline was not kept for want of room (`Lives`, rule 4).
    lost = heads & ~first & (state.bucket_count[life] == 0) & (state.count[life] > 0)
    lost &= np.diff(points.histograms.offsets) > 0
    first, baseline = first | lost, baseline | lost
    before_count = shifted(points.count, heads, state.count[life]).astype(np.uint64)
    before_sum = shifted(points.sum, heads, state.sum[life]).astype(np.float64)
    increases, fell = _bucket_increases(lives, points, heads, explicit=explicit)
    fell = (fell & (before_count > 0)) | (((points.count < before_count) | points.resets) & ~first)
    whole = fell | from_zero
    if fell.any():
        # The point as it came: what it was compared with may have had to be coarser.
        at = np.flatnonzero(fell)
        increases = _replaced(increases, take_histograms(points.histograms, at), at)
    count = np.where(whole, points.count, points.count - before_count)
    total = np.where(whole, points.sum, points.sum - before_sum)
    before_min = shifted(points.min, heads, state.min[life]).astype(np.float64)
    before_max = shifted(points.max, heads, state.max[life]).astype(np.float64)
    low = np.where(whole | (points.min < before_min), points.min, np.nan)
    high = np.where(whole | (points.max > before_max), points.max, np.nan)
    count[baseline], total[baseline], low[baseline], high[baseline] = 0, 0.0, np.nan, np.nan
    if baseline.any():
        increases = _emptied(increases, baseline)
    tally.points(life[fell], Reason.RESET)
    tally.points(life[baseline], Reason.BASELINE)
    _contribute(lives, points, count, total, low, high, _coarser(lives, points, increases, scales), out)
    _move_on(lives, points.take(tails_of(life)))


def _coarser(lives: Lives, points: HistogramPoints, histograms: Histograms, scales: Int32s | None) -> Histograms:
    """Exponential histograms, folded where policy wants them coarser than they came."""
    if scales is None:
        return histograms
    finest = scales[lives.columns.series[points.life]]
    rows = np.flatnonzero(points.scale > finest)
    if not len(rows):
        return histograms
    folded, _ = rescale(take_histograms(histograms, rows), finest[rows], np.zeros(len(rows)))
    order = np.arange(len(points))
    order[rows] = len(points) + np.arange(len(rows))
    return take_histograms(concat_histograms([histograms, folded]), order)


def _contribute(
    lives: Lives,
    points: HistogramPoints,
    count: UInt64s,
    total: Float64s,
    low: Float64s,
    high: Float64s,
    increases: Histograms,
    out: Contributions,
) -> None:
    bits = mix(points.count, points.sum.view(np.uint64))
    hashes = point_hashes(lives.columns.stream_id[points.life], points.start_ns, points.time_ns)
    out.add(
        Contribution(
            series=lives.columns.series[points.life],
            window_ns=windows.of_increases(points.time_ns, out.window_seconds),
            points=True,
            digest=mix(hashes, bits),
            count=count,
            sum_float=total,
            min=low,
            max=high,
            histograms=increases,
        )
    )


def _bucket_increases(
    lives: Lives, points: HistogramPoints, heads: Bools, *, explicit: bool
) -> tuple[Histograms, Bools]:
    """What each point's buckets rose by since the point before it, and where any fell or the bounds changed."""
    current = points.histograms
    state = Histograms(*lives.buckets(points.life[heads].astype(np.intp)))
    before_scale = shifted(points.scale, heads, lives.columns.scale[points.life]).astype(np.int32)
    before_zero = shifted(points.zero_threshold, heads, lives.columns.zero_threshold[points.life]).astype(np.float64)
    previous = _previous(current, state, heads)
    # Nothing to align with an empty baseline.
    moved = (before_scale != points.scale) | (before_zero != points.zero_threshold)
    moved &= np.diff(previous.offsets) > 0
    if not moved.any():
        if np.array_equal(current.offsets, previous.offsets) and np.array_equal(current.keys, previous.keys):
            return _subtract_aligned(current, previous)
        if not explicit:
            return subtract(current, previous)
        changed = _bounds_changed(current, previous)
        varied = np.flatnonzero(changed & points.bounds_vary)
        if len(varied):
            now, before = common(take_histograms(current, varied), take_histograms(previous, varied))
            current, previous = _replaced(current, now, varied), _replaced(previous, before, varied)
            changed[varied] = False
        increases, fell = subtract(current, previous)
        return increases, fell | changed
    fell = np.zeros(len(points), np.bool_)
    parts: list[Histograms] = []
    for at in (np.flatnonzero(~moved), np.flatnonzero(moved)):
        now, before = take_histograms(current, at), take_histograms(previous, at)
        if len(at) and moved[at[0]]:
            now, before = align(
                now, points.scale[at], points.zero_threshold[at], before, before_scale[at], before_zero[at]
            )
        increase, fell[at] = subtract(now, before)
        parts.append(increase)
    order = np.argsort(np.concatenate((np.flatnonzero(~moved), np.flatnonzero(moved))), kind="stable")
    return take_histograms(concat_histograms(parts), order), fell


def _previous(current: Histograms, state: Histograms, heads: Bools) -> Histograms:
    """The histogram before each in its chain; at heads, in order, those of ``state``."""
    known = concat_histograms([state, current])
    at_head = np.flatnonzero(heads)
    source = np.arange(len(heads)) + (len(at_head) - 1)
    source[at_head] = np.arange(len(at_head))
    return take_histograms(known, source)


def _bounds_changed(current: Histograms, previous: Histograms) -> Bools:
    """Which histograms have other intervals than the one before, where there is one."""
    lengths = np.diff(previous.offsets)
    changed: Bools = lengths != np.diff(current.offsets)
    rows = np.flatnonzero(~changed)
    now, before = take_histograms(current, rows), take_histograms(previous, rows)
    differ = np.flatnonzero(now.keys != before.keys)
    changed[rows[np.searchsorted(now.offsets, differ, side="right") - 1]] = True
    return changed & (lengths > 0)


def _subtract_aligned(current: Histograms, previous: Histograms) -> tuple[Histograms, Bools]:
    """`subtract` where every interval has its counterpart at the same place; empty intervals stay in."""
    fell = np.zeros(len(current.offsets) - 1, np.bool_)
    increases = current.counts - previous.counts
    lower = np.flatnonzero(current.counts < previous.counts)
    if len(lower):
        fell[np.searchsorted(current.offsets, lower, side="right") - 1] = True
        whole = np.repeat(fell, np.diff(current.offsets))
        increases[whole] = current.counts[whole]
    return Histograms(current.offsets, current.keys, increases), fell


def _replaced(into: Histograms, source: Histograms, rows: Rows) -> Histograms:
    """``into`` with some rows replaced by those of ``source``, one each."""
    n = len(into.offsets) - 1
    index = np.arange(n)
    index[rows] = n + np.arange(len(rows))
    return take_histograms(concat_histograms([into, source]), index)


def _emptied(histograms: Histograms, rows: Bools) -> Histograms:
    """``histograms`` with some rows empty."""
    lengths = np.diff(histograms.offsets)
    keep = np.repeat(~rows, lengths)
    offsets = np.concatenate(([0], np.cumsum(np.where(rows, 0, lengths))))
    return Histograms(offsets, histograms.keys[keep], histograms.counts[keep])


def _move_on(lives: Lives, tails: HistogramPoints) -> None:
    state, life = lives.columns, tails.life
    state.time_ns[life] = tails.time_ns
    state.count[life] = tails.count
    state.sum[life] = tails.sum
    state.min[life] = tails.min
    state.max[life] = tails.max
    state.scale[life] = tails.scale
    state.zero_threshold[life] = tails.zero_threshold
    state.touched[life] = True
    lives.set_buckets(life.astype(np.intp), *tails.histograms)
