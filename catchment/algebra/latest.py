"""The latest: per group the row whose tuple of columns is the largest, null tuples being neutral.

Column by column the rows that do not reach their group's largest value fall out, until each group has one row left or
only equal tuples are left. Text is compared by its UTF-8 bytes, floats by total order; a null within a tuple whose
first column is not null is below every value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.algebra.extremes import total_order, validity
from catchment.algebra.grouping import Array, Grouping, Int64s, view


def merge_latest(columns: Sequence[pa.Array[Any]], groups: Grouping) -> list[pa.Array[Any]]:
    """The columns of one LATEST group, one row per group; all null where every row of a group was.

    ``columns`` are int64, uint64, float64 or string, in schema order; the first decides whether a tuple is null.
    """
    if groups.singletons:
        return [column if groups.ordered else column.take(pa.array(groups.order)) for column in columns]
    valid = validity(columns[0])
    rows, group_of = groups.order, groups.group_of
    if valid is not None:
        present = groups.arrange(valid)
        rows, group_of = rows[present], group_of[present]
    if not len(rows):
        return [pa.nulls(groups.groups, column.type) for column in columns]
    for compare in (key for column in columns for key in _keys(column)):
        starts = _starts(group_of)
        if len(starts) == len(rows):
            break
        kept = _reach_largest(compare(rows), starts)
        rows, group_of = rows[kept], group_of[kept]
    chosen = rows[_starts(group_of)]
    if len(chosen) == groups.groups:
        return [column.take(pa.array(chosen)) for column in columns]
    where = np.full(groups.groups, -1, np.int64)
    where[group_of[_starts(group_of)]] = chosen
    indices = pa.array(where, mask=where < 0)
    return [column.take(indices) for column in columns]


def _starts(group_of: Int64s) -> Int64s:
    return np.concatenate(([0], np.flatnonzero(group_of[1:] != group_of[:-1]) + 1)).astype(np.int64)


def _reach_largest(values: Array, starts: Int64s) -> Int64s:
    largest = np.maximum.reduceat(values, starts)
    reached: Int64s = np.flatnonzero(values == np.repeat(largest, np.diff(starts, append=len(values))))
    return reached


def _keys(column: pa.Array[Any]) -> list[Callable[[Int64s], Array]]:
    """What to compare, one after the other, as functions of row indices."""
    if pa.types.is_string(column.type):
        return [lambda rows: _text_ranks(column.take(pa.array(rows)))]
    values = view(column, column.type.to_pandas_dtype())
    keys: list[Callable[[Int64s], Array]] = []
    valid = validity(column)
    if valid is not None:
        keys.append(lambda rows: valid[rows])
    if values.dtype == np.float64:
        keys.append(lambda rows: total_order(values[rows]))
    else:
        keys.append(lambda rows: values[rows])
    return keys


def _text_ranks(text: pa.Array[Any]) -> Array:
    """Ranks by UTF-8 bytes, from 1; null is 0."""
    encoded = text.dictionary_encode()
    ranks = pc.rank(encoded.dictionary, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64)
    codes: Array = encoded.indices.fill_null(len(ranks)).to_numpy(zero_copy_only=False)
    ranked: Array = np.append(ranks, 0)[codes]
    return ranked
