"""Grouping: which group each row belongs to, groups being numbered in the order of their keys. Nothing is sorted.

Each key column becomes ranks (rank 0 is the smallest value); the ranks of a row are packed into one integer, and these
are made dense: by a table of which integers occur where that is small, else by hashing them and sorting the few that
differ. Values are then added to their groups where they stand (``numpy.ufunc.at``), in the order of the rows, so that
no column is ever moved into the order of the keys: a scatter into as many cells as there are groups stays in the
processor's cache, a gather from as many as there are rows does not (benchmarks/rollup.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[Any]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

# Rows that are added in one go: a column of them stays in a core's cache, and numpy's cost per call does not count.
_BLOCK_ROWS = 16_384
_PACKED_MAX = 1 << 62


@dataclass(frozen=True)
class Ranks:
    """A key column as ranks: ``codes`` in ``[0, size)`` per row, ordered as the values are; unused where size is 1."""

    codes: Int64s
    size: int


@dataclass(frozen=True)
class Grouping:
    """Groups of rows with equal keys: ``group_of`` is each row's, in ``[0, groups)``, ascending by key."""

    group_of: Int64s
    groups: int

    @cached_property
    def firsts(self) -> Int64s:
        """The row index of each group's first row."""
        rows = len(self.group_of)
        firsts = np.empty(self.groups, np.int64)
        # On repeated indexes the last assignment stands, so going backwards leaves the first row of each group.
        firsts[self.group_of[::-1]] = np.arange(rows - 1, -1, -1)
        return firsts

    @cached_property
    def sizes(self) -> Int64s:
        """Rows per group."""
        return np.bincount(self.group_of, minlength=self.groups)


def view(array: pa.Array[Any], dtype: npt.DTypeLike) -> Array:
    """The values (or dictionary indices) of a fixed-width array, not copied; what stands under nulls is undefined."""
    width = np.dtype(dtype).itemsize
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype=dtype, count=len(array), offset=array.offset * width)


def blocks(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """The rows in single chunks of about 16,384; larger chunks are sliced, smaller ones put together."""
    waiting: list[pa.RecordBatch] = []
    for batch in rows.to_batches(max_chunksize=_BLOCK_ROWS):
        waiting.append(batch)
        if sum(len(each) for each in waiting) >= _BLOCK_ROWS // 2:
            yield pa.concat_batches(waiting) if len(waiting) > 1 else batch
            waiting = []
    if waiting:
        yield pa.concat_batches(waiting)


def rank(column: pa.Array[Any]) -> Ranks:
    """The ranks of a key column: integers by value, dictionary-encoded text by its UTF-8 bytes."""
    if not pa.types.is_dictionary(column.type):
        extremes = pc.min_max(column)
        if extremes["min"] == extremes["max"]:
            return Ranks(np.empty(0, np.int64), 1)
        column = column.dictionary_encode()
    if not len(column):
        return Ranks(np.empty(0, np.int64), 1)
    # Ties get one rank, so a dictionary that lists a value twice still groups by value.
    ranks = pc.rank(column.dictionary, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64) - 1
    return Ranks(ranks[view(column, np.int32)], int(ranks.max()) + 1)


def group(keys: Sequence[Ranks], rows: int) -> Grouping:
    """Group ``rows`` rows by their keys, the most significant first."""
    packed, size = np.zeros(rows, np.int64), 1
    for key in keys:
        if key.size == 1:
            continue
        if size * key.size > _PACKED_MAX:
            packed, size = _dense(packed, size)  # now below 2^31, as is the size of any column's ranks
        packed = packed * key.size + key.codes if size > 1 else key.codes
        size *= key.size
    return Grouping(*_dense(packed, size))


def _dense(values: Int64s, size: int) -> tuple[Int64s, int]:
    """Integers in ``[0, size)`` as ranks without a gap, and how many differ."""
    if size <= 4 * len(values) + 65_536:
        occurs = np.zeros(size, np.bool_)
        occurs[values] = True
        count = int(np.count_nonzero(occurs))
        return (values if count == size else (np.cumsum(occurs) - 1)[values]), count
    encoded = pa.array(values).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    ranks = np.empty(len(distinct), np.int64)
    ranks[np.argsort(distinct)] = np.arange(len(distinct))
    return ranks[view(encoded.indices, np.int32)], len(distinct)
