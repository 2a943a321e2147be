"""Lives: what is remembered of each stream, so that cumulative values become increases exactly once.

A *stream* is what one sender writes; a *life* is a stream from one start time on: a restart begins a new life, and
several writers with equal attributes live beside each other, told apart by their starts. Columns, one row a life.

Rules:
1. At most ``lives_per_stream_max`` lives a stream: `Lives.limit_siblings`, called once points are counted, evicts those
   idle longest. Their rows are marked dead and are not used again before the next `Lives.evict`: points that are staged
   already may still name them.
2. What is evicted may return, and must not count from zero again. So a life evicted for its siblings raises their
   ``floor_ns`` to its start, and a stream that goes altogether raises ``known_since_ns``: a life that starts at or
   before one of them begins with a baseline. A sender of countless lives thus costs itself only.
3. Gauges and delta streams have one life, start 0.
4. Histogram baselines lie in an arena, appended when they change and compacted when half of it is garbage. It holds at
   most ``baseline_buckets_max`` of them: a baseline that does not fit is not kept, and the life's next point is one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from catchment.limits import Limits
from collectors.hash_index import ABSENT, HashIndex

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]

NEVER_NS = np.iinfo(np.int64).min


@dataclass
class LifeColumns:
    """The state of all lives.

    Columns:
        stream_id: stable id of the stream
        start_ns: start of the life; 0 where the kind has none
        floor_ns: the largest start of a life of this stream that was evicted for its siblings
        series: slot in the catalog
        time_ns: time of the latest point; NEVER_NS before the first
        value_int, value_float, is_int: value then (cumulative numbers, gauges)
        held: a gauge's value is still held (ends by staleness or by a no-recorded-value point)
        held_until_ns: up to when a gauge's values were integrated already
        count, sum, min, max: of cumulative histograms and summaries
        scale, zero_threshold: of cumulative exponential histograms
        bucket_start, bucket_count: the baseline's place in the arena
        next_life: the next life of the same stream, or -1
        heard_ns: the flush (ns, UTC) that last found it touched; 0 before the first, and after loading
        dropped: policy has dropped points of it since its latest one
        touched: changed since the last flush
        dead: evicted; the row waits to be removed
    """

    stream_id: UInt64s
    start_ns: Int64s
    floor_ns: Int64s
    series: Int32s
    time_ns: Int64s
    value_int: Int64s
    value_float: Float64s
    is_int: npt.NDArray[np.bool_]
    held: npt.NDArray[np.bool_]
    held_until_ns: Int64s
    count: UInt64s
    sum: Float64s
    min: Float64s
    max: Float64s
    scale: Int32s
    zero_threshold: Float64s
    bucket_start: Int64s
    bucket_count: Int32s
    next_life: Int32s
    heard_ns: Int64s
    dropped: npt.NDArray[np.bool_]
    touched: npt.NDArray[np.bool_]
    dead: npt.NDArray[np.bool_]


DTYPES: dict[str, type] = {
    "stream_id": np.uint64,
    "start_ns": np.int64,
    "floor_ns": np.int64,
    "series": np.int32,
    "time_ns": np.int64,
    "value_int": np.int64,
    "value_float": np.float64,
    "is_int": np.bool_,
    "held": np.bool_,
    "held_until_ns": np.int64,
    "count": np.uint64,
    "sum": np.float64,
    "min": np.float64,
    "max": np.float64,
    "scale": np.int32,
    "zero_threshold": np.float64,
    "bucket_start": np.int64,
    "bucket_count": np.int32,
    "next_life": np.int32,
    "heard_ns": np.int64,
    "dropped": np.bool_,
    "touched": np.bool_,
    "dead": np.bool_,
}


class Lives:
    """The table of lives and the arena of histogram baselines."""

    def __init__(self, known_since_ns: int, baseline_buckets_max: int = Limits.baseline_buckets_max) -> None:
        self.known_since_ns = known_since_ns
        self._size = 0
        self._any_dead = False
        self._grown: set[int] = set()
        self._columns = LifeColumns(**{name: np.zeros(1024, dtype) for name, dtype in DTYPES.items()})
        self._heads = HashIndex()
        self.arena_keys: Int64s = np.zeros(1024, np.int64)
        self.arena_counts: UInt64s = np.zeros(1024, np.uint64)
        self._arena_used = 0
        self._baseline_buckets_max = baseline_buckets_max
        self._baseline_buckets = 0

    def __len__(self) -> int:
        return self._size

    @property
    def any_dead(self) -> bool:
        """Whether a row waits to be removed."""
        return self._any_dead

    @property
    def columns(self) -> LifeColumns:
        """The columns, of which the first ``len(self)`` rows are in use; writable."""
        return self._columns

    def find(self, stream_ids: UInt64s, start_ns: Int64s) -> Int32s:
        """The life of each (stream, start), or -1."""
        lives = self._heads.find(stream_ids)
        walking = np.flatnonzero(lives != ABSENT)
        while len(walking):
            walking = walking[self._columns.start_ns[lives[walking]] != start_ns[walking]]
            lives[walking] = self._columns.next_life[lives[walking]]
            walking = walking[lives[walking] != ABSENT]
        return lives

    def add(self, stream_ids: UInt64s, start_ns: Int64s, series: Int32s) -> Int32s:
        """Begin distinct lives.

        Returns:
            The row of each.
        """
        rows = np.arange(self._size, self._size + len(stream_ids), dtype=np.int32)
        while self._size + len(rows) > len(self._columns.start_ns):
            self._grow()
        self._size += len(rows)
        for name in DTYPES:
            getattr(self._columns, name)[rows] = 0
        self._columns.stream_id[rows] = stream_ids
        self._columns.start_ns[rows] = start_ns
        self._columns.series[rows] = series
        self._columns.time_ns[rows] = NEVER_NS
        known = self._heads.find(stream_ids)
        self._columns.floor_ns[rows] = np.where(known == ABSENT, 0, self._columns.floor_ns[known])
        # Several new lives of one stream are linked one after the other, the first to those that were there.
        order = np.argsort(stream_ids, kind="stable")
        ids = stream_ids[order]
        follows = np.concatenate(([False], ids[1:] == ids[:-1]))[: len(ids)]
        self._columns.next_life[rows[order]] = np.where(follows, np.roll(rows[order], 1), known[order])
        heads = order[np.concatenate((~follows[1:], [True]))[: len(ids)]]
        self._heads.insert(stream_ids[heads], rows[heads])
        crowded = (follows | (known[order] != ABSENT)) if len(ids) else follows
        self._grown.update(ids[crowded].tolist())
        return rows

    def drop(self, lives: Int32s) -> None:
        """Note that policy drops the points of some lives from now on."""
        self._columns.dropped[lives] = self._columns.touched[lives] = True

    def take_again(self, lives: Int32s, cumulative: npt.NDArray[np.bool_]) -> None:
        """Let lives go on whose points policy dropped.

        Cumulative ones begin anew, with a baseline: what was dropped must not come back as one jump.
        """
        state = self._columns
        state.dropped[lives] = False
        state.touched[lives] = True
        anew = np.unique(lives[cumulative])
        self._baseline_buckets -= int(state.bucket_count[anew].sum())
        state.floor_ns[anew] = np.maximum(state.floor_ns[anew], state.start_ns[anew])
        state.time_ns[anew] = NEVER_NS
        for column in (state.value_int, state.value_float, state.count, state.sum, state.bucket_count):
            column[anew] = 0

    def limit_siblings(self, lives_max: int) -> None:
        """Evict the lives idle longest of streams that have more than ``lives_max``.

        A life whose first point is still on its way stays.
        """
        grown, self._grown = self._grown, set()
        for head in self._heads.find(np.array(sorted(grown), np.uint64)).tolist():
            if head == ABSENT:
                continue  # the stream went altogether since
            chain = [head]
            while (following := int(self._columns.next_life[chain[-1]])) != ABSENT:
                chain.append(following)
            if len(chain) > lives_max:
                self._limit_chain(np.array(chain), lives_max)

    def _limit_chain(self, chain: npt.NDArray[np.int64], lives_max: int) -> None:
        state = self._columns
        counted = chain[state.time_ns[chain] != NEVER_NS]
        idle_first = counted[np.argsort(state.time_ns[counted], kind="stable")]
        evicted = idle_first[: len(chain) - lives_max]
        kept = chain[~np.isin(chain, evicted)]
        if len(kept) > lives_max:
            self._grown.add(int(state.stream_id[chain[0]]))
        if not len(evicted):
            return
        state.dead[evicted] = self._any_dead = True
        state.floor_ns[chain] = max(state.floor_ns[chain].max(), state.start_ns[evicted].max())
        # The floor must be saved with one of them at least.
        state.touched[kept] = True
        state.next_life[kept] = np.append(kept[1:], ABSENT)
        self._heads.insert(state.stream_id[kept[:1]], kept[:1].astype(np.int32))

    def buckets(self, lives: npt.NDArray[np.intp]) -> tuple[Int64s, Int64s, UInt64s]:
        """The baselines of some lives as ragged columns: offsets, keys, counts."""
        counts = self._columns.bucket_count[lives].astype(np.int64)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        index = np.repeat(self._columns.bucket_start[lives] - offsets[:-1], counts) + np.arange(offsets[-1])
        return offsets, self.arena_keys[index], self.arena_counts[index]

    def set_buckets(self, lives: npt.NDArray[np.intp], offsets: Int64s, keys: Int64s, counts: UInt64s) -> None:
        """Replace the baselines of some distinct lives; what there is no room for is left empty (rule 4)."""
        lengths = np.diff(offsets)
        if (self._columns.bucket_count[lives] == lengths).all():
            # As many buckets as before, as is usual: they take the same places.
            at = np.repeat(self._columns.bucket_start[lives] - offsets[:-1], lengths) + np.arange(len(keys))
            self.arena_keys[at], self.arena_counts[at] = keys, counts
            return
        self._baseline_buckets -= int(self._columns.bucket_count[lives].sum())
        fits = np.cumsum(lengths) <= self._baseline_buckets_max - self._baseline_buckets
        if not fits.all():
            kept = np.repeat(fits, lengths)
            keys, counts, lengths = keys[kept], counts[kept], np.where(fits, lengths, 0)
            offsets = np.concatenate(([0], np.cumsum(lengths)))
        self._baseline_buckets += len(keys)
        if self._arena_used + len(keys) > len(self.arena_keys):
            self._compact_arena(len(keys))
        start = self._arena_used
        self.arena_keys[start : start + len(keys)] = keys
        self.arena_counts[start : start + len(keys)] = counts
        self._arena_used += len(keys)
        self._columns.bucket_start[lives] = start + offsets[:-1]
        self._columns.bucket_count[lives] = lengths

    def evict(self, keep: npt.NDArray[np.bool_]) -> Int32s:
        """Drop the lives where ``keep`` is false.

        Returns:
            The new row of each old one, -1 where it is gone.
        """
        self._raise_known_since(np.flatnonzero(~keep))
        moved = np.where(keep, np.cumsum(keep) - 1, ABSENT).astype(np.int32)
        kept = np.flatnonzero(keep)
        for name in DTYPES:
            column = getattr(self._columns, name)
            column[: len(kept)] = column[kept]
        self._size = len(kept)
        self._baseline_buckets = int(self._columns.bucket_count[: self._size].sum())
        self._any_dead = bool(self._columns.dead[: self._size].any())
        self._relink()
        return moved

    def load(self, columns: dict[str, npt.NDArray[np.generic]], offsets: Int64s, keys: Int64s, counts: UInt64s) -> None:
        """Put persisted lives into an empty table."""
        self._size = len(columns["stream_id"])
        capacity = max(1024, self._size * 2)
        loaded: dict[str, npt.NDArray[Any]] = {}
        for name, dtype in DTYPES.items():
            loaded[name] = np.zeros(capacity, dtype)
            if name in columns:
                loaded[name][: self._size] = columns[name]
        self._columns = LifeColumns(**loaded)
        self._relink()
        self.set_buckets(np.arange(self._size), offsets, keys, counts)

    def _relink(self) -> None:
        ids = self._columns.stream_id[: self._size]
        self._heads = HashIndex(max(1024, self._size))
        # Lives of one stream side by side: each points to the one before it, the last is the head.
        # Dead ones may still be named by staged points, but are not found any more.
        alive = np.flatnonzero(~self._columns.dead[: self._size])
        order = alive[np.argsort(ids[alive], kind="stable")]
        same = np.concatenate(([False], ids[order][1:] == ids[order][:-1])) if len(order) else np.zeros(0, bool)
        previous = np.where(same, np.concatenate((order[:1], order[:-1])), ABSENT)
        self._columns.next_life[order] = previous
        heads = order[np.concatenate((~same[1:], [True]))] if len(order) else order
        self._heads.insert(ids[heads], heads.astype(np.int32))

    def _raise_known_since(self, evicted: npt.NDArray[np.intp]) -> None:
        state = self._columns
        # Dead rows left their start in their siblings' floor; what never had a point was never counted, unless it was
        # about to begin anew.
        counted = (state.time_ns[evicted] != NEVER_NS) | (state.floor_ns[evicted] >= state.start_ns[evicted])
        evicted = evicted[~state.dead[evicted] & counted]
        if len(evicted):
            starts_ns = np.maximum(state.start_ns[evicted], state.floor_ns[evicted])
            self.known_since_ns = max(self.known_since_ns, int(starts_ns.max()))

    def _grow(self) -> None:
        for field in fields(self._columns):
            column = getattr(self._columns, field.name)
            setattr(self._columns, field.name, np.concatenate((column, np.zeros_like(column))))

    def _compact_arena(self, wanted: int) -> None:
        offsets, keys, counts = self.buckets(np.arange(self._size))
        capacity = max(1024, 2 * (len(keys) + wanted))
        self.arena_keys, self.arena_counts = np.zeros(capacity, np.int64), np.zeros(capacity, np.uint64)
        self.arena_keys[: len(keys)], self.arena_counts[: len(keys)] = keys, counts
        self._arena_used = len(keys)
        self._columns.bucket_start[: self._size] = offsets[:-1]
