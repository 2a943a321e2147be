"""The latest: per group the row whose tuple of columns is the largest, null tuples being neutral.

Column by column the rows that do not reach their group's largest value fall out, until each group has one row left or
only equal tuples are left. Text is compared by its UTF-8 bytes, floats by total order; a null within a tuple whose
first column is not null is below every value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.algebra.extremes import total_order, validity
from catchment.algebra.grouping import Array, Grouping, Int64s, view


class Latest:
    """The columns of one LATEST group: int64, uint64, float64 or string, in schema order.

    The first decides whether a tuple is null.
    """

    def __init__(self, column_types: Sequence[pa.DataType], groups: Grouping) -> None:
        self._types = column_types
        self._groups = groups.groups
        self._tuples: list[list[pa.Array[Any]]] = [[] for _ in column_types]
        self._group_of: list[Int64s] = []

    def add(self, columns: Sequence[pa.Array[Any]], group_of: Int64s) -> None:
        """Keep the tuples that are not null."""
        valid = validity(columns[0])
        if valid is not None:
            present = np.flatnonzero(valid)
            group_of = group_of[present]
            columns = [_take(column, present) for column in columns]
        self._group_of.append(group_of)
        for kept, column in zip(self._tuples, columns, strict=True):
            kept.append(column)

    def flush(self) -> list[pa.Array[Any]]:
        """The largest tuple of each group; all null where every row of a group was."""
        group_of = np.concatenate([np.empty(0, np.int64), *self._group_of])
        if not len(group_of):
            return [pa.nulls(self._groups, column_type) for column_type in self._types]
        columns = [pa.concat_arrays(kept) for kept in self._tuples]
        rows = np.arange(len(group_of), dtype=np.int64)
        where = np.full(self._groups, -1, np.int64)
        where[group_of] = rows
        filled = int(np.count_nonzero(where >= 0))
        for compare in _keys(columns):
            if filled == len(rows):
                break
            values = compare(rows)
            largest = np.full(self._groups, np.iinfo(values.dtype).min, values.dtype)
            np.maximum.at(largest, group_of, values)
            reached = values == largest[group_of]
            rows, group_of = rows[reached], group_of[reached]
        where[group_of] = rows
        indices = pa.array(where, mask=None if filled == self._groups else where < 0)
        return [column.take(indices) for column in columns]


def _take(column: pa.Array[Any], rows: Int64s) -> pa.Array[Any]:
    valid = validity(column)
    if pa.types.is_string(column.type) or not (valid is None or valid[rows].all()):
        return column.take(pa.array(rows))
    values = view(column, column.type.to_pandas_dtype())
    return pa.array(values[rows], type=column.type)  # a fraction of what Arrow's own take costs


def _keys(columns: Sequence[pa.Array[Any]]) -> Iterator[Callable[[Int64s], Array]]:
    """What to compare, one after the other, as functions of row indices that give integers."""
    for column in columns:
        if pa.types.is_string(column.type):
            yield lambda rows, text=column: _text_ranks(text.take(pa.array(rows)))  # type: ignore[misc]
            continue
        values = view(column, column.type.to_pandas_dtype())
        valid = validity(column)
        if valid is not None:
            yield valid.view(np.int8).__getitem__
        yield (total_order(values) if values.dtype == np.float64 else values).__getitem__


def _text_ranks(text: pa.Array[Any]) -> Array:
    """Ranks by UTF-8 bytes, from 1; null is 0."""
    encoded = text.dictionary_encode()
    ranks = pc.rank(encoded.dictionary, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64)
    codes: Array = encoded.indices.fill_null(len(ranks)).to_numpy(zero_copy_only=False)
    ranked: Array = np.append(ranks, 0)[codes]
    return ranked
