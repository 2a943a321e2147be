"""Grouping: which rows have equal keys, found by one radix sort.

Rows are put in order of their key, ties in order of their index. Each key column becomes a dense rank (rank 0 is the
smallest value that occurs); the ranks of a row are packed into one integer, which is sorted 16 bits at a time from the
least significant: numpy's stable argsort of 16-bit integers is a radix sort, four times as fast here as any sort of 64
bits (benchmarks/rollup.py). Where 64 bits do not hold the ranks, `numpy.lexsort` does the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[Any]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Ranks:
    """A key column as dense ranks: ``codes`` in ``[0, size)`` per row, ordered as the values are."""

    codes: Int64s
    size: int


@dataclass(frozen=True)
class Grouping:
    """Groups of rows with equal keys.

    ``order`` lists row indices sorted by key; group ``g`` is ``order[starts[g]:starts[g + 1]]``. ``ordered`` says that
    ``order`` is 0, 1, 2 … so that nothing needs to be moved.
    """

    order: Int64s
    starts: Int64s
    ordered: bool

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.starts)

    @property
    def singletons(self) -> bool:
        """Every group has one row: nothing to add."""
        return len(self.starts) == len(self.order)

    @cached_property
    def sizes(self) -> Int64s:
        """Rows per group."""
        return np.diff(self.starts, append=len(self.order))

    @cached_property
    def firsts(self) -> Int64s:
        """The row index of each group's first row."""
        return self.order if self.singletons else self.order[self.starts]

    @cached_property
    def group_of(self) -> Int64s:
        """The group of each position of ``order``."""
        return np.repeat(np.arange(self.groups, dtype=np.int64), self.sizes)

    def arrange(self, values: npt.NDArray[T]) -> npt.NDArray[T]:
        """The values of all rows in the order of the groups."""
        return values if self.ordered else values[self.order]

    def reduce(self, operation: np.ufunc, values: npt.NDArray[T]) -> npt.NDArray[T]:
        """One value per group: ``operation`` over the values of its rows."""
        arranged = self.arrange(values)
        if self.singletons:
            return arranged
        reduced: npt.NDArray[T] = operation.reduceat(arranged, self.starts)
        return reduced


def view(array: pa.Array[Any], dtype: npt.DTypeLike) -> Array:
    """The values buffer of a fixed-width array, not copied; what stands under nulls is undefined."""
    width = np.dtype(dtype).itemsize
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype=dtype, count=len(array), offset=array.offset * width)


def rank(array: pa.Array[Any]) -> Ranks:
    """The dense ranks of a key column: integers by value, dictionary-encoded text by its UTF-8 bytes."""
    if pa.types.is_dictionary(array.type):
        return _ranks_of(array.indices, array.dictionary)
    values = array.to_numpy(zero_copy_only=False)
    if not len(values) or values.min() == values.max():
        return Ranks(np.zeros(len(values), np.int64), 1)
    encoded = array.dictionary_encode()
    return _ranks_of(encoded.indices, encoded.dictionary)


def group(keys: Sequence[Ranks], rows: int, *, in_runs: bool = False) -> Grouping:
    """Group ``rows`` rows by their keys, the most significant first.

    ``in_runs`` says that the keys ascend for long stretches: a merge sort, which takes such runs as they are, is then
    faster than the radix sort. The result is the same.
    """
    size = math.prod(key.size for key in keys)
    if size > 1 << 63:
        return _group_by_lexsort(keys, rows)
    packed = np.zeros(rows, np.int64)
    for key in keys:
        if key.size > 1:
            packed *= key.size
            packed += key.codes
    ordered = bool(np.all(packed[1:] >= packed[:-1]))
    if ordered:
        order = np.arange(rows, dtype=np.int64)
    else:
        bits = (size - 1).bit_length()
        order = np.argsort(packed, kind="stable") if in_runs else _radix_argsort(packed, bits)
        packed = packed[order]
    return Grouping(order, _starts(packed[1:] != packed[:-1], rows), ordered)


def _ranks_of(indices: pa.Array[Any], dictionary: pa.Array[Any]) -> Ranks:
    # Ties get one rank, so a dictionary that lists a value twice still groups by value.
    ranks = pc.rank(dictionary, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64) - 1
    size = int(ranks.max()) + 1 if len(ranks) else 1
    codes = view(indices, np.int32)
    return Ranks(ranks[codes] if len(ranks) else np.empty(0, np.int64), size)


def _radix_argsort(values: Int64s, bits: int) -> Int64s:
    """The stable argsort of non-negative integers below ``2**bits``."""
    order = np.argsort(values.astype(np.uint16), kind="stable")
    for shift in range(16, bits, 16):
        digit = (values >> np.int64(shift)).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order


def _group_by_lexsort(keys: Sequence[Ranks], rows: int) -> Grouping:
    order = np.lexsort([key.codes for key in reversed(keys)])
    changed = np.zeros(max(rows - 1, 0), np.bool_)
    for key in keys:
        codes = key.codes[order]
        changed |= codes[1:] != codes[:-1]
    return Grouping(order, _starts(changed, rows), False)


def _starts(changed: npt.NDArray[np.bool_], rows: int) -> Int64s:
    if not rows:
        return np.empty(0, np.int64)
    return np.concatenate(([0], np.flatnonzero(changed) + 1)).astype(np.int64)
