"""Minimum and maximum of floats, null being neutral.

Floats are compared by their *total order* (IEEE 754-2008 §5.10) through order-preserving integers, so that the result
is the same bits in any order of the rows: -0 is below 0 and a NaN, should one ever come, is above or below all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.algebra.grouping import Grouping, Int64s, view

_LOWEST = np.iinfo(np.int64).min
_HIGHEST = np.iinfo(np.int64).max


class Extreme:
    """The smallest or largest non-null float per group, null where there is none."""

    def __init__(self, operation: np.ufunc, neutral: int, groups: Grouping) -> None:
        self._operation = operation
        self._ordered = np.full(groups.groups, neutral, np.int64)
        self._found = np.zeros(groups.groups, np.bool_)

    def add(self, columns: Sequence[pa.Array[Any]], group_of: Int64s) -> None:
        """Compare each row of the one column with its group."""
        column = columns[0]
        values = view(column, np.float64)
        valid = validity(column)
        if valid is not None:
            present = np.flatnonzero(valid)
            values, group_of = values[present], group_of[present]
        self._operation.at(self._ordered, group_of, total_order(values))
        self._found[group_of] = True

    def flush(self) -> list[pa.Array[Any]]:
        """The extreme of each group."""
        values = total_order(self._ordered.view(np.float64)).view(np.float64)
        return [pa.array(values, mask=None if self._found.all() else ~self._found)]


def minimum(groups: Grouping) -> Extreme:
    """Of the smallest."""
    return Extreme(np.minimum, _HIGHEST, groups)


def maximum(groups: Grouping) -> Extreme:
    """Of the largest."""
    return Extreme(np.maximum, _LOWEST, groups)


def total_order(values: npt.NDArray[np.float64]) -> Int64s:
    """Integers ordered as the floats are; the map is its own inverse on the bits."""
    bits = values.view(np.int64)
    return bits ^ ((bits >> np.int64(63)) & np.int64(_HIGHEST))


def validity(column: pa.Array[Any]) -> npt.NDArray[np.bool_] | None:
    """Which rows are not null; None where all are."""
    bitmap = column.buffers()[0]
    if bitmap is None or not column.null_count:
        return None
    begin = column.offset
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=begin + len(column), bitorder="little")
    return bits[begin:].view(np.bool_)
