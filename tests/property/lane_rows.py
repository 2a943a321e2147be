"""Hypothesis strategies for rows of every lane, and the plain-Python reference of what merging them means."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from catchment.columns import Column, Merge

Row = dict[str, Any]

finite = st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda x: abs(x) < 1e200)
_text = st.sampled_from(["", "a", "b", "é", "zz"])


def _value(column: Column) -> st.SearchStrategy[Any]:
    kind = column.arrow_type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        return _text
    if pa.types.is_map(kind):
        return st.dictionaries(st.sampled_from([-(2**63), -1, 0, 5, 2**40]), st.integers(0, 2**62), max_size=4)
    if pa.types.is_decimal(kind):
        return st.one_of(st.integers(-100, 100), st.integers(-(2**63), 2**63 - 1), st.integers(-(10**36), 10**36))
    if pa.types.is_floating(kind):
        return finite
    if pa.types.is_uint64(kind):
        return st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1))
    if pa.types.is_uint32(kind):
        return st.sampled_from([1, 60, 300])
    return st.sampled_from([-(2**63), -60, 0, 60, 2**63 - 1])


@st.composite
def lane_rows(draw: st.DrawFn, columns: tuple[Column, ...]) -> list[Row]:
    """Rows with many equal keys; in metrics lanes the series id decides the texts, as it does in life."""
    latest_groups = {column.group for column in columns if column.group}
    rows = []
    for _ in range(draw(st.integers(0, 12))):
        nulls = {group: draw(st.booleans()) for group in sorted(latest_groups)}
        row: Row = {}
        for column in columns:
            absent = column.nullable and (nulls[column.group] if column.group else draw(st.booleans()))
            row[column.name] = None if absent else draw(_value(column))
        if "series_id" in row:
            row["series_id"] = draw(st.sampled_from([0, 7, 2**64 - 1]))
            for name in ("service", "metric", "kind", "unit", "attributes"):
                row[name] = f"{name} of {row['series_id']}"
        rows.append(row)
    return rows


def to_table(rows: list[Row], columns: tuple[Column, ...]) -> pa.Table:
    """The rows as one table with a dictionary of its own per text column."""
    arrays = []
    for column in columns:
        values = [row[column.name] for row in rows]
        if pa.types.is_map(column.arrow_type):
            values = [list(value.items()) for value in values]
        if pa.types.is_dictionary(column.arrow_type):
            arrays.append(pa.array(values, pa.string()).dictionary_encode().cast(column.arrow_type))
        else:
            arrays.append(pa.array(values, column.arrow_type))
    return pa.table(arrays, schema=pa.schema([column.field for column in columns]))


def reference(rows: list[Row], columns: tuple[Column, ...]) -> dict[tuple[Any, ...], Row]:
    """What merging means, said plainly: key → merged row."""
    keys = [column.name for column in columns if column.merge is Merge.KEY]
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[key] for key in keys), []).append(row)
    return {key: {column.name: _merged(column, columns, group) for column in columns} for key, group in grouped.items()}


def _merged(column: Column, columns: tuple[Column, ...], rows: list[Row]) -> Any:
    values = [row[column.name] for row in rows]
    present = [value for value in values if value is not None]
    if column.merge is Merge.KEY:
        return values[0]
    if column.merge is Merge.SUM:
        if pa.types.is_floating(column.arrow_type):
            return math.fsum(values)
        return sum(values) % 2**64 if pa.types.is_uint64(column.arrow_type) else sum(values)
    if column.merge is Merge.MIN:
        return min(present, default=None)
    if column.merge is Merge.MAX:
        return max(present, default=None)
    if column.merge is Merge.LATEST:
        names = [other.name for other in columns if other.group == column.group]
        tuples = [tuple(row[name] for name in names) for row in rows if row[names[0]] is not None]
        return max(tuples)[names.index(column.name)] if tuples else None
    total: dict[int, int] = {}
    for value in values:
        for key, count in value.items():
            known = total.get(key, 0)
            total[key] = max(known, count) if column.merge is Merge.REGISTERS else (known + count) % 2**64
    return total
