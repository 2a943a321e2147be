"""Gauges and sums: from points to contributions, by the value rules of the design.

Points of a chunk are sorted by life and time first, so that their order in requests does not matter. A chunk's sorted
points of one life are a chain whose head continues from the life's state:

- counter: value − value before it; a fall counts from zero; the first of a life counts from zero only if it is young
- delta: the value; a repeat is the same (stream, start, time)
- gauge: the value before it is held up to it, at most for the staleness; that is where the integral comes from
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from catchment import windows
from catchment.identity import mix, point_hashes
from collectors.contributions import Contribution, Contributions
from collectors.lives import NEVER_NS, Lives
from collectors.reasons import Reason
from collectors.seen import SeenPoints
from collectors.tally import Tally

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class NumberPoints:
    """Points of gauges or sums, one row each.

    Columns:
        life: row in `Lives`
        start_ns, time_ns: UTC
        value_int, value_float, is_int: the value; the other one is 0
        ends: flagged as no recorded value (gauges only)
    """

    life: Int32s
    start_ns: Int64s
    time_ns: Int64s
    value_int: Int64s
    value_float: Float64s
    is_int: Bools
    ends: Bools

    def __len__(self) -> int:
        return len(self.life)

    def take(self, rows: npt.NDArray[np.intp] | Bools) -> NumberPoints:
        """Some rows."""
        if rows.dtype == np.bool_ and rows.all():
            return self
        return NumberPoints(**{name: getattr(self, name)[rows] for name in _COLUMNS})

    @staticmethod
    def concat(parts: list[NumberPoints]) -> NumberPoints:
        """All rows of some tables."""
        return NumberPoints(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})

    @property
    def value(self) -> Float64s:
        """The value as double."""
        as_float: Float64s = np.where(self.is_int, self.value_int.astype(np.float64), self.value_float)
        return as_float


_COLUMNS = tuple(field.name for field in fields(NumberPoints))


def chain_order(life: Int32s, time_ns: Int64s) -> npt.NDArray[np.intp] | Bools:
    """An order in which points of one life stand side by side, by time, as rows or as a mask of all."""
    if _distinct(life):
        return np.ones(len(life), np.bool_)
    # Life and position in one integer: sorting values is several times faster than finding a stable order.
    bits = len(life).bit_length()
    packed = (life.astype(np.int64) << bits) | np.arange(len(life))
    packed.sort()
    order = packed & ((1 << bits) - 1)
    in_order = packed >> bits
    times = time_ns[order]
    if ((in_order[1:] == in_order[:-1]) & (times[1:] < times[:-1])).any():
        order = np.lexsort((time_ns, life))
    return order


def _distinct(life: Int32s) -> bool:
    """Whether no life comes twice: each finds itself in the last place that wrote its cell."""
    if not len(life):
        return True
    places = np.arange(len(life), dtype=np.int32)
    cells = np.empty(int(life.max()) + 1, np.int32)
    cells[life] = places
    return bool((cells[life] == places).all())


def heads_of(life: Int32s) -> Bools:
    """Where a chain begins, in chain order."""
    heads: Bools = np.concatenate(([True], life[1:] != life[:-1])) if len(life) else np.zeros(0, np.bool_)
    return heads


def tails_of(life: Int32s) -> Bools:
    """Where a chain ends, in chain order."""
    tails: Bools = np.concatenate((life[1:] != life[:-1], [True])) if len(life) else np.zeros(0, np.bool_)
    return tails


def fresh_cumulative(lives: Lives, life: Int32s, time_ns: Int64s, tally: Tally) -> Bools:
    """Which points of chains are newer than all before them; the others are counted as repeated or late."""
    before = lives.columns.time_ns[life]
    repeated = time_ns == before
    repeated[1:] |= (life[1:] == life[:-1]) & (time_ns[1:] == time_ns[:-1])
    late = (time_ns < before) & ~repeated
    tally.points(life[repeated], Reason.REPEATED)
    tally.points(life[late], Reason.LATE_CUMULATIVE)
    fresh: Bools = ~(repeated | late)
    return fresh


def shifted(column: npt.NDArray[Any], heads: Bools, state: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The value before each in its chain; at heads the life's state."""
    before = np.empty_like(column)
    before[1:] = column[:-1]
    before[heads] = state[heads]
    return before


def counters(lives: Lives, points: NumberPoints, out: Contributions, tally: Tally) -> None:
    """Add the increases of cumulative monotonic sums, and move the lives on."""
    points = points.take(chain_order(points.life, points.time_ns))
    points = points.take(fresh_cumulative(lives, points.life, points.time_ns, tally))
    if not len(points):
        return
    state, life = lives.columns, points.life
    heads = heads_of(life)
    before_int = shifted(points.value_int, heads, state.value_int[life])
    before_float = shifted(points.value_float, heads, state.value_float[life])
    before_is_int = shifted(points.is_int, heads, state.is_int[life]).astype(np.bool_)
    both_int = points.is_int & before_is_int
    value = points.value
    before = np.where(before_is_int, before_int, before_float)
    fell = np.where(both_int, points.value_int < before_int, value < before)
    first = heads & (state.time_ns[life] == NEVER_NS)
    fell &= ~first
    from_zero, baseline = first_points(lives, first, points.life, points.start_ns, points.time_ns)
    whole = fell | from_zero
    increase_int = np.where(both_int, points.value_int - before_int, 0)
    increase_int = np.where(whole, points.value_int, increase_int)
    increase_float = np.where(both_int, 0.0, value - before)
    increase_float = np.where(whole, points.value_float, increase_float)
    increase_int[baseline] = 0
    increase_float[baseline] = 0.0
    tally.points(life[fell], Reason.RESET)
    tally.points(life[baseline], Reason.BASELINE)
    out.add(
        Contribution(
            series=state.series[life],
            window_ns=windows.of_increases(points.time_ns, out.window_seconds),
            points=True,
            digest=number_digests(lives, points),
            count=np.ones(len(points), np.uint64),
            sum_int=increase_int,
            sum_float=increase_float,
        )
    )
    _move_on(lives, points.take(tails_of(life)))


def first_points(lives: Lives, first: Bools, life: Int32s, start_ns: Int64s, time_ns: Int64s) -> tuple[Bools, Bools]:
    """Which first points of lives count from zero, and which are only a baseline."""
    since_ns = np.maximum(lives.columns.floor_ns[life], lives.known_since_ns)
    young = (time_ns > start_ns) & (start_ns > since_ns)
    return first & young, first & ~young


def number_digests(lives: Lives, points: NumberPoints) -> UInt64s:
    """The hash of each point: identity, times and value."""
    bits = np.where(points.is_int, points.value_int, points.value_float.view(np.int64)).view(np.uint64)
    return mix(point_hashes(lives.columns.stream_id[points.life], points.start_ns, points.time_ns), bits)


def _move_on(lives: Lives, tails: NumberPoints) -> None:
    state, life = lives.columns, tails.life
    state.time_ns[life] = tails.time_ns
    state.value_int[life] = tails.value_int
    state.value_float[life] = tails.value_float
    state.is_int[life] = tails.is_int
    state.touched[life] = True


def unseen_rows(
    lives: Lives, life: Int32s, start_ns: Int64s, time_ns: Int64s, seen: SeenPoints, tally: Tally
) -> tuple[Bools, Bools]:
    """For kinds whose repeats do not show by value: which points are no repeats, and which of these came out of order.

    Points in chain order. What is newer than the life's latest point cannot be a repeat; the rest is looked up among
    the points remembered. All that is kept is remembered.
    """
    hashes = point_hashes(lives.columns.stream_id[life], start_ns, time_ns)
    out_of_order = time_ns <= lives.columns.time_ns[life]
    repeated = np.zeros(len(life), np.bool_)
    twin = np.zeros(len(life), np.bool_)
    twin[1:] = (life[1:] == life[:-1]) & (time_ns[1:] == time_ns[:-1])
    if twin.any():
        _, first = np.unique(hashes, return_index=True)
        repeated[:] = True
        repeated[first] = False
    # A life without a point may be one that was evicted: its points are still remembered.
    is_new = lives.columns.time_ns[life] == NEVER_NS
    candidates = np.flatnonzero((out_of_order | is_new) & ~repeated)
    if len(candidates):
        known = seen.contains(hashes[candidates])
        repeated[candidates[known]] = True
        doubtful = candidates[~known & out_of_order[candidates] & (time_ns[candidates] <= seen.horizon_ns)]
        tally.points(life[doubtful], Reason.UNVERIFIED)
    tally.points(life[repeated], Reason.REPEATED)
    seen.add(hashes[~repeated], time_ns[~repeated])
    return ~repeated, out_of_order


def deltas(lives: Lives, points: NumberPoints, out: Contributions, seen: SeenPoints, tally: Tally) -> None:
    """Add delta sums."""
    points = points.take(chain_order(points.life, points.time_ns))
    kept, _ = unseen_rows(lives, points.life, points.start_ns, points.time_ns, seen, tally)
    points = points.take(kept)
    if not len(points):
        return
    out.add(
        Contribution(
            series=lives.columns.series[points.life],
            window_ns=windows.of_increases(points.time_ns, out.window_seconds),
            points=True,
            digest=number_digests(lives, points),
            count=np.ones(len(points), np.uint64),
            sum_int=points.value_int,
            sum_float=points.value_float,
        )
    )
    touch_latest(lives, points.life, points.time_ns)


def touch_latest(lives: Lives, life: Int32s, time_ns: Int64s) -> None:
    """Move lives without a value on to their latest point; chain order."""
    tails = tails_of(life)
    last = life[tails]
    lives.columns.time_ns[last] = np.maximum(lives.columns.time_ns[last], time_ns[tails])
    lives.columns.touched[last] = True


def gauges(
    lives: Lives, points: NumberPoints, out: Contributions, seen: SeenPoints, staleness_ns: int, tally: Tally
) -> None:
    """Add samples, and the integral of the values that they end; move the lives on."""
    points = points.take(chain_order(points.life, points.time_ns))
    kept, out_of_order = unseen_rows(lives, points.life, points.start_ns, points.time_ns, seen, tally)
    points, out_of_order = points.take(kept), out_of_order[kept]
    samples = points.take(~points.ends)
    tally.points(points.life[points.ends], Reason.NO_RECORDED_VALUE)
    tally.points(points.life[out_of_order & ~points.ends], Reason.LATE_GAUGE)
    if len(samples):
        value = samples.value
        out.add(
            Contribution(
                series=lives.columns.series[samples.life],
                window_ns=windows.of_instants(samples.time_ns, out.window_seconds),
                points=True,
                digest=number_digests(lives, samples),
                count=np.ones(len(samples), np.uint64),
                sum_int=samples.value_int,
                sum_float=samples.value_float,
                min=value,
                max=value,
                last=(samples.time_ns, value),
            )
        )
    _hold(lives, points.take(~out_of_order), out, staleness_ns)


def _hold(lives: Lives, points: NumberPoints, out: Contributions, staleness_ns: int) -> None:
    """Integrate the value before each point up to it; points in chain order, all newer than the state."""
    if not len(points):
        return
    state, life = lives.columns, points.life
    heads = heads_of(life)
    state_value = np.where(state.is_int[life], state.value_int[life], state.value_float[life])
    value = shifted(points.value, heads, state_value).astype(np.float64)
    start_ns = shifted(points.time_ns, heads, state.time_ns[life]).astype(np.int64)
    held = np.ones(len(points), np.bool_)
    held[1:] = ~points.ends[:-1]
    held[heads] = state.held[life[heads]]
    rows = np.flatnonzero(held)
    end_ns = np.minimum(points.time_ns[rows], start_ns[rows] + staleness_ns)
    # A value swept as stale before a late sample came is integrated already: the sample's own hold begins after it.
    begin_ns = np.maximum(start_ns[rows], state.held_until_ns[life[rows]])
    _integrate(state.series[life[rows]], value[rows], begin_ns, end_ns, out)
    tails = points.take(tails_of(life))
    _move_on(lives, tails)
    state.held[tails.life] = ~tails.ends


def sweep_stale(lives: Lives, now_ns: int, staleness_ns: int, out: Contributions) -> None:
    """Integrate the gauge values whose staleness is over at ``now_ns``; they are held no longer."""
    state = lives.columns
    size = len(lives)
    stale = np.flatnonzero(state.held[:size] & (state.time_ns[:size] + staleness_ns <= now_ns) & ~state.dead[:size])
    if not len(stale):
        return
    value = np.where(state.is_int[stale], state.value_int[stale], state.value_float[stale])
    end_ns = state.time_ns[stale] + staleness_ns
    begin_ns = np.maximum(state.time_ns[stale], state.held_until_ns[stale])
    _integrate(state.series[stale], value, begin_ns, end_ns, out)
    state.held[stale] = False
    state.held_until_ns[stale] = end_ns
    state.touched[stale] = True


def _integrate(series: Int32s, value: Float64s, begin_ns: Int64s, end_ns: Int64s, out: Contributions) -> None:
    """Add value x seconds to every window that [begin, end) touches."""
    some = end_ns > begin_ns
    series, value, begin_ns, end_ns = series[some], value[some], begin_ns[some], end_ns[some]
    if not len(series):
        return
    width_ns = out.window_seconds * windows.NANOSECONDS
    first = windows.of_instants(begin_ns, out.window_seconds)
    spans = (windows.of_instants(end_ns - 1, out.window_seconds) - first) // width_ns + 1
    row = np.repeat(np.arange(len(series)), spans)
    step = np.arange(len(row)) - np.repeat(np.cumsum(spans) - spans, spans)
    window_ns = first[row] + step * width_ns
    held_ns = np.minimum(end_ns[row], window_ns + width_ns) - np.maximum(begin_ns[row], window_ns)
    seconds = held_ns / windows.NANOSECONDS
    out.add(
        Contribution(series=series[row], window_ns=window_ns, integral=value[row] * seconds, observed_seconds=seconds)
    )
