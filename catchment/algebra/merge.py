"""Merge: rows with equal keys become one, whatever order, grouping or split they come in.

The result is the same table bit for bit (order of rows and dictionaries too) for any order and split of the rows,
except for sums of floats, which agree within 1e-12 of the sum of magnitudes. Rows come out sorted by key. In the
metrics lanes ``series_id`` stands for service, metric, kind, unit and attributes, and goes first, so that a merged
table is already in the order that the next roll-up wants.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

from catchment.algebra.extremes import maximum, minimum
from catchment.algebra.grouping import Grouping, Int64s, blocks, group, rank, view
from catchment.algebra.latest import Latest
from catchment.algebra.map_merge import MapMerge
from catchment.algebra.sum import DecimalSum, FloatSum, Sum
from catchment.algebra.text import take_text
from catchment.columns import METRICS_REGION, Column, Merge

_SERIES_KEYS = ("series_id", "window_start_ns", "window_seconds", "cluster")


class _Aggregate(Protocol):
    """What the files of this folder have in common: rows are added, block by block, and one row per group comes out."""

    def add(self, columns: Sequence[pa.Array[Any]], group_of: Int64s) -> None: ...

    def flush(self) -> list[pa.Array[Any]]: ...


def merge(rows: pa.Table, lane_columns: tuple[Column, ...]) -> pa.Table:
    """Merge the rows of one lane, one tenant and one region.

    Args:
        rows: any number of partials in the schema of ``lane_columns``, in any number of chunks.
        lane_columns: the lane's columns (`catchment.columns`), each naming its way to merge.

    Returns:
        One row per key, sorted by key, one chunk, in the same schema.

    Raises:
        Bug: a decimal sum left its 38 digits.
    """
    schema = pa.schema([column.field for column in lane_columns])
    if not rows.num_rows:
        return schema.empty_table()
    keys = _keys(rows, lane_columns)
    groups = _group(keys, rows.num_rows)
    merged: dict[str, pa.Array[Any]] = {name: _take_key(key, groups) for name, key in keys.items()}
    aggregates = _aggregates(lane_columns, groups)
    begin = 0
    for block in blocks(rows.select([name for names in aggregates for name in names])):
        group_of = groups.group_of[begin : begin + block.num_rows]
        begin += block.num_rows
        for names, aggregate in aggregates.items():
            aggregate.add([block[name] for name in names], group_of)
    for names, aggregate in aggregates.items():
        merged.update(zip(names, aggregate.flush(), strict=True))
    return pa.table([merged[name] for name in schema.names], schema=schema)


def to_region(rows: pa.Table) -> pa.Table:
    """Region rows of cluster rows: the cluster is dropped and the rest merged into ``METRICS_REGION``."""
    return merge(rows.drop_columns(["cluster"]), METRICS_REGION)


def group_by_key(rows: pa.Table, lane_columns: tuple[Column, ...]) -> Grouping:
    """Which rows have equal keys; at least one row."""
    return _group(_keys(rows, lane_columns), rows.num_rows)


def _keys(rows: pa.Table, columns: tuple[Column, ...]) -> dict[str, pa.Array[Any]]:
    names = [column.name for column in columns if column.merge is Merge.KEY]
    joined = rows.select(names).unify_dictionaries().combine_chunks()
    return {name: joined[name].chunk(0) for name in names}


def _group(keys: Mapping[str, pa.Array[Any]], rows: int) -> Grouping:
    return group([rank(keys[name]) for name in _deciding(keys)], rows)


def _deciding(keys: Collection[str]) -> Collection[str]:
    """The key columns that decide, the most significant first."""
    return [key for key in _SERIES_KEYS if key in keys] if "series_id" in keys else keys


def _aggregates(columns: Sequence[Column], groups: Grouping) -> dict[tuple[str, ...], _Aggregate]:
    """An aggregate for each value column, or for all columns of a LATEST group, by their names."""
    aggregates: dict[tuple[str, ...], _Aggregate] = {}
    for column in columns:
        if column.merge is Merge.LATEST:
            members = [other for other in columns if other.group == column.group]
            names = tuple(member.name for member in members)
            if names not in aggregates:
                aggregates[names] = Latest([member.arrow_type for member in members], groups)
        elif column.merge is not Merge.KEY:
            aggregates[column.name,] = _aggregate(column, groups)
    return aggregates


def _aggregate(column: Column, groups: Grouping) -> _Aggregate:
    if column.merge is Merge.MIN:
        return minimum(groups)
    if column.merge is Merge.MAX:
        return maximum(groups)
    if column.merge is Merge.HISTOGRAM:
        return MapMerge(column.arrow_type, groups)
    if column.merge is Merge.REGISTERS:
        return MapMerge(column.arrow_type, groups, np.maximum)
    if pa.types.is_floating(column.arrow_type):
        return FloatSum(groups)
    return (DecimalSum if pa.types.is_decimal(column.arrow_type) else Sum)(column.arrow_type, groups)


def _take_key(column: pa.Array[Any], groups: Grouping) -> pa.Array[Any]:
    if pa.types.is_dictionary(column.type):
        return take_text(cast(pa.DictionaryArray, column), groups.firsts)
    return pa.array(view(column, column.type.to_pandas_dtype())[groups.firsts], type=column.type)
