"""Merge: rows with equal keys become one, whatever order, grouping or split they come in.

The result is the same table bit for bit (order of rows and dictionaries too) for any order and split of the rows,
except for sums of floats, which agree within 1e-12 of the sum of magnitudes. Rows come out sorted by key. In the
metrics lanes ``series_id`` stands for service, metric, kind, unit and attributes, and goes first, so that a merged
table is already in the order that the next roll-up wants.
"""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa

from catchment.algebra.extremes import merge_max, merge_min
from catchment.algebra.grouping import Grouping, group, rank, view
from catchment.algebra.histogram_map import merge_histogram
from catchment.algebra.latest import merge_latest
from catchment.algebra.sum import merge_sum
from catchment.algebra.text import take_text
from catchment.columns import METRICS_REGION, Column, Merge

_SERIES_KEYS = ("series_id", "window_start_ns", "window_seconds", "cluster")
_MERGES = {Merge.SUM: merge_sum, Merge.MIN: merge_min, Merge.MAX: merge_max, Merge.HISTOGRAM: merge_histogram}


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
    arrays = _single_chunks(rows, schema)
    keys = _keys(lane_columns)
    groups = group([rank(arrays[key]) for key in keys], rows.num_rows)
    if groups.groups == 0:
        return schema.empty_table()
    merged: dict[str, pa.Array[Any]] = {}
    for column in lane_columns:
        if column.name not in merged:
            merged.update(_merge_column(column, lane_columns, arrays, groups))
    return pa.table([merged[name] for name in schema.names], schema=schema)


def to_region(rows: pa.Table) -> pa.Table:
    """Region rows of cluster rows: the cluster is dropped and the rest merged into ``METRICS_REGION``."""
    return merge(rows.drop_columns(["cluster"]), METRICS_REGION)


def _single_chunks(rows: pa.Table, schema: pa.Schema) -> dict[str, Any]:
    rows = rows.select(schema.names).unify_dictionaries().combine_chunks()
    empty = rows.num_rows == 0
    return {name: pa.array([], schema.field(name).type) if empty else rows[name].chunk(0) for name in schema.names}


def _keys(columns: tuple[Column, ...]) -> list[str]:
    """The key columns that decide, the most significant first."""
    names = [column.name for column in columns if column.merge is Merge.KEY]
    return [key for key in _SERIES_KEYS if key in names] if "series_id" in names else names


def _merge_column(
    column: Column, columns: tuple[Column, ...], arrays: dict[str, Any], groups: Grouping
) -> dict[str, pa.Array[Any]]:
    """The merged array of a column, and of the others of its LATEST group."""
    array = arrays[column.name]
    if column.merge is Merge.LATEST:
        names = [other.name for other in columns if other.group == column.group]
        return dict(zip(names, merge_latest([arrays[name] for name in names], groups), strict=True))
    if column.merge is Merge.KEY:
        return {column.name: _take_key(array, groups)}
    return {column.name: _MERGES[column.merge](array, groups)}


def _take_key(array: pa.Array[Any], groups: Grouping) -> pa.Array[Any]:
    if pa.types.is_dictionary(array.type):
        return take_text(cast(pa.DictionaryArray, array), groups.firsts)
    values = view(array, array.type.to_pandas_dtype())
    return pa.array(values[groups.firsts], type=array.type)
