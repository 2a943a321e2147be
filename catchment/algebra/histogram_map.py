"""Histograms: maps of interval → count, added by key; the keys of a result ascend.

Works on the buffers of the map array, never exploded into rows. Series mostly keep their buckets, so the first map of
a group is its *shape*: a map with the same intervals adds its counts to the shape's cells one by one. The others are
kept aside and merged by (group, interval) at the end. An entry of count 0 is kept, since it names a bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.algebra.grouping import Grouping, Int64s, Ranks, UInt64s, group, rank, view


class HistogramSum:
    """Sums of maps, without null maps."""

    def __init__(self, column_type: pa.DataType, groups: Grouping) -> None:
        self._type = column_type
        self._groups = groups.groups
        self._starts = np.full(groups.groups, -1, np.int64)  # where a group's shape begins; -1 where there is none
        self._lengths = np.zeros(groups.groups, np.int64)
        self._size = 0
        self._keys = np.zeros(1024, np.int64)
        self._counts = np.zeros(1024, np.uint64)
        self._others: list[tuple[Int64s, Int64s, UInt64s]] = []  # entries: group, interval, count

    def add(self, columns: Sequence[pa.Array[Any]], group_of: Int64s) -> None:
        """Add each map of the one column to its group."""
        column = columns[0]
        offsets = view(column.offsets, np.int32)
        lengths = np.diff(offsets)
        filled = np.flatnonzero(lengths)
        if not len(filled):
            return
        first, last = int(offsets[0]), int(offsets[-1])
        keys, counts = view(column.keys, np.int64)[first:last], view(column.items, np.uint64)[first:last]
        starts, lengths = offsets[filled].astype(np.int64) - first, lengths[filled].astype(np.int64)
        owners = group_of[filled]
        self._take_shapes(owners, starts, lengths, keys)
        base = self._starts[owners]
        fits = (base >= 0) & (self._lengths[owners] == lengths)
        cells = np.repeat(base - starts, lengths)
        cells += np.arange(len(keys))
        if not fits.all():
            cells[np.repeat(~fits, lengths)] = 0
        differs = np.flatnonzero(self._keys[cells] != keys)
        fits[np.searchsorted(starts, differs, side="right") - 1] = False
        if fits.all():
            np.add.at(self._counts, cells, counts)
            return
        fitting = np.repeat(fits, lengths)
        np.add.at(self._counts, cells[fitting], counts[fitting])
        other = ~fitting
        self._others.append((np.repeat(owners, lengths)[other], keys[other], counts[other]))

    def flush(self) -> list[pa.Array[Any]]:
        """The sum of the maps of each group."""
        owners = np.flatnonzero(self._starts >= 0)
        lengths = self._lengths[owners]
        shaped = _ranges(self._starts[owners], lengths)
        keys, counts = self._keys[shaped], self._counts[shaped]
        sizes = self._lengths
        if self._others:
            parts = zip((np.repeat(owners, lengths), keys, counts), *self._others, strict=True)
            sizes, keys, counts = _merged(*(np.concatenate(part) for part in parts), groups=self._groups)
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
        return [pa.MapArray.from_arrays(offsets, keys, counts, type=self._type)]

    def _take_shapes(self, owners: Int64s, starts: Int64s, lengths: Int64s, keys: Int64s) -> None:
        """Make the first map of a group that has none its shape, if its intervals ascend."""
        rows = np.flatnonzero(self._starts[owners] < 0)
        if not len(rows):
            return
        self._starts[owners[rows]] = rows  # of several rows of a group one stands
        rows = rows[self._starts[owners[rows]] == rows]
        owners, lengths = owners[rows], lengths[rows]
        shapes = keys if len(rows) == len(starts) else keys[_ranges(starts[rows], lengths)]
        begins = np.cumsum(lengths) - lengths
        ascends = np.empty(len(shapes), np.bool_)
        np.greater(shapes[1:], shapes[:-1], out=ascends[1:])
        ascends[begins] = True
        self._starts[owners] = begins + self._size
        self._lengths[owners] = lengths
        if not ascends.all():
            wrong = owners[np.searchsorted(begins, np.flatnonzero(~ascends), side="right") - 1]
            self._starts[wrong] = -1
            self._lengths[wrong] = 0
        self._grow(len(shapes))
        self._keys[self._size : self._size + len(shapes)] = shapes
        self._size += len(shapes)

    def _grow(self, entries: int) -> None:
        needed = self._size + entries
        if needed > len(self._keys):
            capacity = max(needed, 2 * len(self._keys))
            keys, counts = np.empty(capacity, np.int64), np.zeros(capacity, np.uint64)
            keys[: self._size], counts[: self._size] = self._keys[: self._size], self._counts[: self._size]
            self._keys, self._counts = keys, counts


def _ranges(starts: Int64s, lengths: Int64s) -> Int64s:
    """The integers from each start on, as many as its length says, one range after the other."""
    ranges: npt.NDArray[np.int64] = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    ranges += np.arange(len(ranges))
    return ranges


def _merged(owners: Int64s, keys: Int64s, counts: UInt64s, *, groups: int) -> tuple[Int64s, Int64s, UInt64s]:
    """Entries added by (owner, key): how many each group has, and their keys and counts in order."""
    entries = group((Ranks(owners, groups), rank(pa.chunked_array([pa.array(keys)]))), len(keys))
    sums = np.zeros(entries.groups, np.uint64)
    np.add.at(sums, entries.group_of, counts)
    return np.bincount(owners[entries.firsts], minlength=groups), keys[entries.firsts], sums
