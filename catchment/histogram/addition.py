"""Addition of histograms by group: the one primitive of downsampling and roll-up."""

from __future__ import annotations

from typing import Final

import numpy as np

from catchment.histogram.keys import Histograms, Int64s, UInt64s

# A table of this sparsity still beats sorting; its windows fit a processor's cache.
_DENSE_CELLS_PER_BUCKET: Final = 16
_DENSE_CELLS: Final = 1 << 17
# Multiplicative hashing: 2^64 over the golden ratio, the upper 16 bits of the product.
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
_SLOT_SHIFT: Final = np.uint64(48)
_SLOTS: Final = 1 << 16


def sum_by_group(offsets: Int64s, keys: Int64s, counts: UInt64s, group: Int64s, groups: int) -> Histograms:
    """Add histograms by group and interval.

    Args:
        offsets: int64[n + 1].
        keys: int64, in any order, also repeated within a histogram.
        counts: uint64.
        group: int[n], the group of each histogram, 0 <= group < groups, in any order.
        groups: number of groups; one without histograms gives an empty one.

    Returns:
        ``groups`` canonical histograms.
    """
    group = np.asarray(group, np.int64)
    keys, counts = np.asarray(keys, np.int64), np.asarray(counts, np.uint64)
    lengths = np.diff(offsets)
    width = int(lengths[0]) if len(lengths) else 0
    if width and (lengths == width).all():
        rows = keys[offsets[0] : offsets[-1]].reshape(-1, width)
        if (rows == rows[0]).all() and (rows[0, 1:] > rows[0, :-1]).all():
            return _sum_alike(rows[0], counts[offsets[0] : offsets[-1]].reshape(-1, width), group, groups)
    if (group[1:] < group[:-1]).any():
        order = np.argsort(group, kind="stable")
        group, lengths = group[order], lengths[order]
        at = np.repeat(offsets[:-1][order] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        keys, counts = keys[at], counts[at]
    else:
        keys, counts = keys[offsets[0] : offsets[-1]], counts[offsets[0] : offsets[-1]]
    owner = np.repeat(group, lengths)
    filled = counts != 0
    if not filled.all():
        owner, keys, counts = owner[filled], keys[filled], counts[filled]
    if not ascending(owner, keys):
        owner, keys, counts = _merge(owner, keys, counts, groups)
    return Histograms(offsets_of(owner, groups), keys, counts)


def _sum_alike(keys: Int64s, counts: UInt64s, group: Int64s, groups: int) -> Histograms:
    """`sum_by_group` where all histograms have the same intervals, as those of one instrument do: rows of a matrix."""
    if (group[1:] < group[:-1]).any():
        order = np.argsort(group, kind="stable")
        group, counts = group[order], counts[order]
    starts = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
    sums = np.add.reduceat(counts, starts, axis=0)
    filled = sums != 0
    per_group = np.zeros(groups, np.int64)
    per_group[group[starts]] = filled.sum(axis=1)
    offsets = np.concatenate(([0], np.cumsum(per_group)))
    return Histograms(offsets, np.broadcast_to(keys, sums.shape)[filled], sums[filled])


def ascending(owner: Int64s, keys: Int64s) -> bool:
    """Whether (owner, key) ascends strictly."""
    return bool(((owner[1:] > owner[:-1]) | ((owner[1:] == owner[:-1]) & (keys[1:] > keys[:-1]))).all())


def offsets_of(owner: Int64s, groups: int) -> Int64s:
    """The offsets of histograms whose intervals belong to ``owner``, ascending, of ``groups``."""
    offsets = np.zeros(groups + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=groups), out=offsets[1:])
    return offsets


def rank(keys: Int64s) -> tuple[Int64s, Int64s]:
    """The distinct keys, ascending, and the place of each key among them.

    Many buckets share few intervals, so a hash table of one probe finds nearly all; sorting is left for the rest.
    """
    if len(keys) < _SLOTS // 16:
        return np.unique(keys, return_inverse=True)
    slot = (keys.view(np.uint64) * _SPREAD) >> _SLOT_SHIFT
    table, used = np.zeros(_SLOTS, np.int64), np.zeros(_SLOTS, np.bool_)
    table[slot], used[slot] = keys, True
    stray = np.flatnonzero(table[slot] != keys)
    distinct = np.unique(np.concatenate((table[used], keys[stray])))
    place = np.zeros(_SLOTS, np.int64)
    place[used] = np.searchsorted(distinct, table[used])
    ranks: Int64s = place[slot]
    ranks[stray] = np.searchsorted(distinct, keys[stray])
    return distinct, ranks


def _merge(owner: Int64s, keys: Int64s, counts: UInt64s, groups: int) -> tuple[Int64s, Int64s, UInt64s]:
    """Add counts of equal (owner, key); ``owner`` ascends."""
    distinct, ranks = rank(keys)
    width = np.int64(len(distinct))
    cell = owner * width + ranks
    if groups * width <= _DENSE_CELLS_PER_BUCKET * len(keys):
        cell, counts = _merge_dense(owner, cell, counts, int(width))
    else:
        order = np.argsort(cell)
        cell = cell[order]
        starts = np.flatnonzero(np.concatenate(([True], cell[1:] != cell[:-1])))
        cell, counts = cell[starts], np.add.reduceat(counts[order], starts)
    owner = cell // width
    return owner, distinct[cell - owner * width], counts


def _merge_dense(owner: Int64s, cell: Int64s, counts: UInt64s, width: int) -> tuple[Int64s, UInt64s]:
    """Add counts of equal cells in a table of (owner, key), which beats sorting where the table is not too sparse.

    The table is a window over some owners at a time, which bounds its memory.
    """
    step = max(1, _DENSE_CELLS // width)
    owners = np.arange(0, owner[-1] + 1, step)
    ends = np.append(np.searchsorted(owner, owners), len(owner))
    cells: list[Int64s] = []
    sums: list[UInt64s] = []
    for first, start, end in zip(owners.tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        table = np.zeros(step * width, np.uint64)
        np.add.at(table, cell[start:end] - first * width, counts[start:end])
        filled = np.flatnonzero(table)
        cells.append(filled + first * width)
        sums.append(table[filled])
    return np.concatenate(cells), np.concatenate(sums)


def canonical(histograms: Histograms) -> Histograms:
    """The same histograms with ascending keys, equal ones added, empty intervals left out."""
    points = len(histograms.offsets) - 1
    return sum_by_group(*histograms, np.arange(points), points)
