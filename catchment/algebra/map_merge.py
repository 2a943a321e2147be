"""Maps merged by key: histograms (interval → count, added) and registers (register → rank, the larger one).

The keys of a result ascend.

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


class MapMerge:
    """Maps without null maps, those of a group merged by key.

    ``combine`` makes one of two values of a key, 0 being neutral: `numpy.add` or `numpy.maximum`.
    """

    def __init__(self, column_type: pa.DataType, groups: Grouping, combine: np.ufunc = np.add) -> None:
        self._type = column_type
        self._combine = combine
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
        rest = self._take_shapes(owners, starts, lengths, keys, counts)
        if len(rest) < len(owners):
            entries = _ranges(starts[rest], lengths[rest])
            keys, counts, owners, lengths = keys[entries], counts[entries], owners[rest], lengths[rest]
            starts = np.cumsum(lengths) - lengths
        if len(rest):
            self._add_to_shapes(owners, starts, lengths, keys, counts)

    def flush(self) -> list[pa.Array[Any]]:
        """The merged map of each group."""
        owners = np.flatnonzero(self._starts >= 0)
        lengths = self._lengths[owners]
        shaped = _ranges(self._starts[owners], lengths)
        keys, counts = self._keys[shaped], self._counts[shaped]
        sizes = self._lengths
        if self._others:
            parts = zip((np.repeat(owners, lengths), keys, counts), *self._others, strict=True)
            sizes, keys, counts = _merged(
                *(np.concatenate(part) for part in parts), groups=self._groups, combine=self._combine
            )
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
        return [pa.MapArray.from_arrays(offsets, keys, counts, type=self._type)]

    def _add_to_shapes(self, owners: Int64s, starts: Int64s, lengths: Int64s, keys: Int64s, counts: UInt64s) -> None:
        """Add maps, one after the other in ``keys`` and ``counts``, to the shapes that they fit; keep the others."""
        base = self._starts[owners]
        fits = (base >= 0) & (self._lengths[owners] == lengths)
        cells = np.repeat(base - starts, lengths)
        cells += np.arange(len(keys))
        if not fits.all():
            cells[np.repeat(~fits, lengths)] = 0
        differs = self._keys[cells] != keys
        if differs.any():
            fits &= ~np.logical_or.reduceat(differs, starts)
        if fits.all():
            self._combine.at(self._counts, cells, counts)
            return
        fitting = np.repeat(fits, lengths)
        self._combine.at(self._counts, cells[fitting], counts[fitting])
        other = ~fitting
        self._others.append((np.repeat(owners, lengths)[other], keys[other], counts[other]))

    def _take_shapes(self, owners: Int64s, starts: Int64s, lengths: Int64s, keys: Int64s, counts: UInt64s) -> Int64s:
        """Make the first map of each group its shape, if its intervals ascend; returns the rows that are left."""
        rows = np.flatnonzero(self._starts[owners] < 0)
        if not len(rows):
            return np.arange(len(owners))
        self._starts[owners[rows]] = rows  # of several rows of a group one stands
        rows = rows[self._starts[owners[rows]] == rows]
        whole = len(rows) == len(owners)
        taken, sizes = owners[rows], lengths[rows]
        entries = slice(None) if whole else _ranges(starts[rows], sizes)
        shapes = keys[entries]
        begins = np.cumsum(sizes) - sizes
        self._starts[taken] = begins + self._size
        self._lengths[taken] = sizes
        self._append(shapes, counts[entries])
        ascends = shapes[1:] > shapes[:-1]
        ascends[begins[1:] - 1] = True
        left = np.ones(len(owners), np.bool_)
        left[rows] = False
        if not ascends.all():
            wrong = np.searchsorted(begins, np.flatnonzero(~ascends) + 1, side="right") - 1
            self._starts[taken[wrong]] = -1
            self._lengths[taken[wrong]] = 0
            left[rows[wrong]] = True
        return np.flatnonzero(left)

    def _append(self, keys: Int64s, counts: UInt64s) -> None:
        begin, end = self._size, self._size + len(keys)
        if end > len(self._keys):
            capacity = max(end, 4 * len(self._keys))
            kept = self._keys[:begin], self._counts[:begin]
            self._keys, self._counts = np.empty(capacity, np.int64), np.empty(capacity, np.uint64)
            self._keys[:begin], self._counts[:begin] = kept
        self._keys[begin:end], self._counts[begin:end] = keys, counts
        self._size = end


def _ranges(starts: Int64s, lengths: Int64s) -> Int64s:
    """The integers from each start on, as many as its length says, one range after the other."""
    ranges: npt.NDArray[np.int64] = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    ranges += np.arange(len(ranges))
    return ranges


def _merged(
    owners: Int64s, keys: Int64s, counts: UInt64s, *, groups: int, combine: np.ufunc
) -> tuple[Int64s, Int64s, UInt64s]:
    """Entries merged by (owner, key): how many each group has, and their keys and counts in order."""
    entries = group((Ranks(owners, groups), rank(pa.array(keys))), len(keys))
    sums = np.zeros(entries.groups, np.uint64)
    combine.at(sums, entries.group_of, counts)
    return np.bincount(owners[entries.firsts], minlength=groups), keys[entries.firsts], sums
