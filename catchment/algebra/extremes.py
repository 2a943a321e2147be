"""Minimum and maximum of floats, null being neutral.

Floats are compared by their *total order* (IEEE 754-2008 §5.10) through order-preserving integers, so that the result
is the same bits in any order of the rows: -0 is below 0 and a NaN, should one ever come, is above or below all else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.algebra.grouping import Grouping, Int64s, view

_LOWEST = np.iinfo(np.int64).min
_HIGHEST = np.iinfo(np.int64).max


def merge_min(column: pa.Array[Any], groups: Grouping) -> pa.Array[Any]:
    """The smallest non-null float per group, null where there is none."""
    return _merge(column, groups, np.minimum, _HIGHEST)


def merge_max(column: pa.Array[Any], groups: Grouping) -> pa.Array[Any]:
    """The largest non-null float per group, null where there is none."""
    return _merge(column, groups, np.maximum, _LOWEST)


def total_order(values: npt.NDArray[np.float64]) -> Int64s:
    """Integers ordered as the floats are; the map is its own inverse on the bits."""
    bits = values.view(np.int64)
    return bits ^ ((bits >> np.int64(63)) & np.int64(_HIGHEST))


def validity(column: pa.Array[Any]) -> npt.NDArray[np.bool_] | None:
    """Which rows are not null; None where all are."""
    if not column.null_count:
        return None
    valid: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _merge(column: pa.Array[Any], groups: Grouping, operation: np.ufunc, neutral: int) -> pa.Array[Any]:
    ordered = total_order(view(column, np.float64))
    valid = validity(column)
    if valid is None:
        return _floats(groups.reduce(operation, ordered), None)
    if column.null_count == len(column):
        return pa.nulls(groups.groups, column.type)
    ordered[~valid] = neutral
    found = groups.reduce(np.logical_or, valid)
    return _floats(groups.reduce(operation, ordered), found)


def _floats(ordered: Int64s, valid: npt.NDArray[np.bool_] | None) -> pa.Array[Any]:
    values = total_order(ordered.view(np.float64)).view(np.float64)
    return pa.array(values, mask=None if valid is None else ~valid)
