"""Lives: what is remembered of each stream, so that cumulative values become increases exactly once.

A *stream* is what one sender writes; a *life* is a stream from one start time on: a restart begins a new life, and
several writers with equal attributes live beside each other, told apart by their starts. Columns, one row a life.

Rules:
1. At most ``lives_per_stream_max`` lives a stream; a further one evicts the one idle longest. Its row is marked dead
   and is not used again before the next `Lives.evict`: look-ups elsewhere may still name it.
2. Whatever is evicted raises ``known_since_ns`` to its start, where it has one: a point of a life that starts at or
   before it is a baseline, since what it counted may have been counted already.
3. Gauges and delta streams have one life, start 0.
4. Histogram baselines lie in an arena, appended when they change and compacted when half of it is garbage.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

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
        series: slot in the catalog
        time_ns: time of the latest point; NEVER_NS before the first
        value_int, value_float, is_int: value then (cumulative numbers, gauges)
        held: a gauge's value is still held (ends by staleness or by a no-recorded-value point)
        held_until_ns: up to when a gauge's values were integrated already
        count, sum, min, max: of cumulative histograms and summaries
        scale, zero_threshold: of cumulative exponential histograms
        bucket_start, bucket_count: the baseline's place in the arena
        next_life: the next life of the same stream, or -1
        touched: changed since the last flush
        dead: evicted; the row waits to be removed
    """

    stream_id: UInt64s
    start_ns: Int64s
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
    touched: npt.NDArray[np.bool_]
    dead: npt.NDArray[np.bool_]


DTYPES: dict[str, type] = {
    "stream_id": np.uint64,
    "start_ns": np.int64,
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
    "touched": np.bool_,
    "dead": np.bool_,
}


class Lives:
    """The table of lives and the arena of histogram baselines."""

    def __init__(self, known_since_ns: int) -> None:
        self.known_since_ns = known_since_ns
        self._size = 0
        self._any_dead = False
        self._columns = LifeColumns(**{name: np.zeros(1024, dtype) for name, dtype in DTYPES.items()})
        self._heads = HashIndex()
        self.arena_keys: Int64s = np.zeros(1024, np.int64)
        self.arena_counts: UInt64s = np.zeros(1024, np.uint64)
        self._arena_used = 0

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

    def add(self, stream_ids: UInt64s, start_ns: Int64s, series: Int32s, *, lives_max: int) -> Int32s:
        """Begin distinct lives, evicting the sibling idle longest where a stream has ``lives_max`` already.

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
        todo = np.arange(len(rows))
        while len(todo):
            # Several new lives of one stream are linked one after the other.
            ids, first = np.unique(stream_ids[todo], return_index=True)
            turn = todo[first]
            heads = self._heads.find(ids)
            self._columns.next_life[rows[turn]] = heads
            self._heads.insert(ids, rows[turn])
            for life in rows[turn][heads != ABSENT].tolist():
                self._limit_siblings(life, lives_max)
            todo = np.delete(todo, first)
        return rows

    def _limit_siblings(self, head: int, lives_max: int) -> None:
        """Evict the life idle longest from the chain behind ``head`` while it is too long."""
        chain = [head]
        while (following := int(self._columns.next_life[chain[-1]])) != ABSENT:
            chain.append(following)
        while len(chain) > lives_max:
            oldest = min(chain[1:], key=lambda row: int(self._columns.time_ns[row]))
            self._raise_known_since(np.array([oldest]))
            self._columns.dead[oldest] = self._any_dead = True
            chain.remove(oldest)
            for row, following in zip(chain, [*chain[1:], ABSENT], strict=True):
                self._columns.next_life[row] = following

    def buckets(self, lives: npt.NDArray[np.intp]) -> tuple[Int64s, Int64s, UInt64s]:
        """The baselines of some lives as ragged columns: offsets, keys, counts."""
        counts = self._columns.bucket_count[lives].astype(np.int64)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        index = np.repeat(self._columns.bucket_start[lives] - offsets[:-1], counts) + np.arange(offsets[-1])
        return offsets, self.arena_keys[index], self.arena_counts[index]

    def set_buckets(self, lives: npt.NDArray[np.intp], offsets: Int64s, keys: Int64s, counts: UInt64s) -> None:
        """Replace the baselines of some distinct lives."""
        if self._arena_used + len(keys) > len(self.arena_keys):
            self._compact_arena(len(keys))
        start = self._arena_used
        self.arena_keys[start : start + len(keys)] = keys
        self.arena_counts[start : start + len(keys)] = counts
        self._arena_used += len(keys)
        self._columns.bucket_start[lives] = start + offsets[:-1]
        self._columns.bucket_count[lives] = np.diff(offsets)

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
        order = np.argsort(ids, kind="stable")
        same = np.concatenate(([False], ids[order][1:] == ids[order][:-1])) if self._size else np.zeros(0, bool)
        previous = np.where(same, np.concatenate((order[:1], order[:-1])), ABSENT)
        self._columns.next_life[order] = previous
        heads = order[np.concatenate((~same[1:], [True]))] if self._size else order
        self._heads.insert(ids[heads], heads.astype(np.int32))

    def _raise_known_since(self, evicted: npt.NDArray[np.intp]) -> None:
        if len(evicted):
            self.known_since_ns = max(self.known_since_ns, int(self._columns.start_ns[evicted].max()))

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
