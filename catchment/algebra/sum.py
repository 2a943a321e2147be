"""Sums: unsigned integers (mod 2^64, which is what a digest wants), floats, and exact 128-bit decimals.

Floats are added one after the other. Each addition may be wrong by 2^-53 of the sum of magnitudes, which is within the
promised 1e-12 for up to 4,096 rows; the few groups that have more are added in pieces of so many.

A decimal is two's complement in 128 bits. As long as every possible sum fits 63 bits the low words are added as they
are; otherwise four 32-bit limbs are added apart and their carries moved up once per group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catchment.algebra.grouping import Array, Grouping, Int64s, view
from catchment.errors import Bug

_PIECE_ROWS = 4_096
_LIMB_BITS = 32
_LIMB_MASK = np.int64((1 << _LIMB_BITS) - 1)
# |high word| of 10^38, the limit of decimal128(38, 0).
_HIGH_MAX = 10**38 >> 64


class Sum:
    """Sums of a column of integers, mod 2^64, without nulls."""

    def __init__(self, column_type: pa.DataType, groups: Grouping) -> None:
        self._type = column_type
        self._sums = np.zeros(groups.groups, column_type.to_pandas_dtype())

    def add(self, columns: Sequence[pa.Array[Any]], group_of: Int64s) -> None:
        """Add each row of the one column to its group."""
        np.add.at(self._sums, group_of, view(columns[0], self._sums.dtype))

    def flush(self) -> list[pa.Array[Any]]:
        """The sum of each group."""
        return [pa.array(self._sums, type=self._type)]


class FloatSum:
    """Sums of a column of float64, without nulls."""

    def __init__(self, groups: Grouping) -> None:
        # -0 is what adds nothing to any float: 0 would turn a lone -0 into 0.
        self._sums = np.full(groups.groups, -0.0)
        self._large = np.flatnonzero(groups.sizes > _PIECE_ROWS)
        self._pieces: list[Array] = []
        if len(self._large):
            # The cell of a group in a piece; the small groups share one behind the last, which nobody reads.
            self._cells = np.full(groups.groups, len(self._large), np.int64)
            self._cells[self._large] = np.arange(len(self._large))

    def add(self, columns: Sequence[pa.Array[Any]], group_of: Int64s) -> None:
        """Add each row of the one column to its group."""
        values = view(columns[0], np.float64)
        # Whoever merges looks for what overflowed (`catchment.algebra.overflow`); a warning would go nowhere.
        with np.errstate(over="ignore", invalid="ignore"):
            np.add.at(self._sums, group_of, values)
        if len(self._large):
            for first in range(0, len(values), _PIECE_ROWS):
                piece = slice(first, first + _PIECE_ROWS)
                cells = self._cells[group_of[piece]]
                self._pieces.append(np.bincount(cells, values[piece], len(self._large) + 1)[:-1])

    def flush(self) -> list[pa.Array[Any]]:
        """The sum of each group."""
        if len(self._large):
            with np.errstate(over="ignore", invalid="ignore"):
                self._sums[self._large] = np.sum(self._pieces, axis=0)
        return [pa.array(self._sums)]


class DecimalSum:
    """Sums of a column of decimal128(38, 0), without nulls."""

    def __init__(self, column_type: pa.DataType, groups: Grouping) -> None:
        self._type = column_type
        self._low = np.zeros(groups.groups, np.int64)
        self._low_max = 0  # no group's |low| can be above it
        self._limbs: list[Int64s] | None = None

    def add(self, columns: Sequence[pa.Array[Any]], group_of: Int64s) -> None:
        """Add each row of the one column to its group."""
        words = view(columns[0], np.dtype("V16")).view(np.int64).reshape(-1, 2)
        low, high = words[:, 0], words[:, 1]
        if not len(low):
            return
        if bool(np.all(high == low >> np.int64(63))):
            block_max = max(int(low.max()), -int(low.min())) * len(low)
            if self._low_max + block_max >= 1 << 63:
                self._spill()
            if block_max < 1 << 63:
                np.add.at(self._low, group_of, low)
                self._low_max += block_max
                return
        self._add_limbs(low, high, group_of)

    def flush(self) -> list[pa.Array[Any]]:
        """The sum of each group.

        Raises:
            Bug: one left the 38 digits.
        """
        low, high = self._low, self._low >> np.int64(63)
        if self._limbs is not None:
            self._spill()
            low, high = _carried(self._limbs)
        result = np.stack((low, high), axis=1)
        return [pa.Array.from_buffers(self._type, len(result), [None, pa.py_buffer(result)])]

    def _spill(self) -> None:
        """Move what the low words hold to the limbs, so that they can take more."""
        self._add_limbs(self._low, self._low >> np.int64(63), np.arange(len(self._low), dtype=np.int64))
        self._low = np.zeros_like(self._low)
        self._low_max = 0

    def _add_limbs(self, low: Int64s, high: Int64s, group_of: Int64s) -> None:
        if self._limbs is None:
            self._limbs = [np.zeros(len(self._low), np.int64) for _ in range(4)]
        # Each limb is below 2^32 and there are fewer than 2^31 rows, so that no sum of limbs overflows.
        limbs = (
            low & _LIMB_MASK,
            (low.view(np.uint64) >> np.uint64(_LIMB_BITS)).view(np.int64),
            high & _LIMB_MASK,
            high >> np.int64(_LIMB_BITS),  # signed: carries the sign
        )
        for sums, limb in zip(self._limbs, limbs, strict=True):
            np.add.at(sums, group_of, limb)


def _carried(limbs: Sequence[Int64s]) -> tuple[Int64s, Int64s]:
    """Low and high words of sums of limbs."""
    shift = np.int64(_LIMB_BITS)
    sums = list(limbs)
    for index in range(3):
        sums[index + 1] = sums[index + 1] + (sums[index] >> shift)
        sums[index] = sums[index] & _LIMB_MASK
    top = sums[3]
    if len(top) and max(int(top.max()), -int(top.min())) > _HIGH_MAX >> _LIMB_BITS:
        raise Bug("a sum_int is beyond 38 digits")
    return sums[0] | (sums[1] << shift), sums[2] | (top << shift)
