"""Histograms: maps of interval → count, added by key; the keys of a result ascend.

Works on the buffers of the map array: the entries of all rows, taken in the order of the groups, are sorted by (group,
interval) and added with one reduceat, never exploded into rows. Each row's intervals ascend already, so the sort finds
long runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from catchment.algebra.grouping import Grouping, Int64s, Ranks, UInt64s, group, rank, view


def merge_histogram(column: pa.MapArray[Any, Any], groups: Grouping) -> pa.MapArray[Any, Any]:
    """The sum of the maps of each group; an entry of count 0 is kept, since it names a bucket."""
    offsets = view(column.offsets, np.int32).astype(np.int64)
    lengths = groups.arrange(np.diff(offsets))
    filled = np.flatnonzero(lengths)
    lengths = lengths[filled]
    total = int(lengths.sum())
    starts = offsets[groups.order[filled]]
    owner = np.repeat(groups.group_of[filled], lengths)
    entries = np.arange(total, dtype=np.int64)
    if not groups.ordered:
        entries += np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    elif total:
        entries += starts[0]
    keys, counts = view(column.keys, np.int64)[entries], view(column.items, np.uint64)[entries]
    if np.all((owner[1:] != owner[:-1]) | (keys[1:] > keys[:-1])):
        return _maps(owner, keys, counts, groups, column.type)  # one map a group, or maps that follow one another
    merged = group((Ranks(owner, max(groups.groups, 1)), rank(pa.array(keys))), total, in_runs=True)
    firsts = merged.firsts
    return _maps(owner[firsts], keys[firsts], merged.reduce(np.add, counts), groups, column.type)


def _maps(
    owner: Int64s, keys: Int64s, counts: UInt64s, groups: Grouping, map_type: pa.DataType
) -> pa.MapArray[Any, Any]:
    """One map per group, of entries that ascend by owner and key."""
    sizes = np.bincount(owner, minlength=groups.groups)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    return pa.MapArray.from_arrays(offsets, keys, counts, type=map_type)
