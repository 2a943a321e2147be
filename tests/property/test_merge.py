"""Rows merge to the same table in any order, grouping and split."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.algebra import grouping
from catchment.algebra.extremes import total_order
from catchment.algebra.merge import merge, to_region
from catchment.columns import LANES, METRICS_CLUSTER, METRICS_REGION, Column, Merge
from tests.property.lane_rows import Row, finite, lane_rows, reference, to_table

LANE_NAMES = sorted(LANES)


def _bits(value: Any) -> Any:
    return struct.pack(">d", value) if isinstance(value, float) else value


def _exact(table: pa.Table, columns: tuple[Column, ...]) -> pa.Table:
    """Without the sums of floats, the only values that may depend on the order."""
    floats = [c.name for c in columns if c.merge is Merge.SUM and pa.types.is_floating(c.arrow_type)]
    return table.drop_columns(floats) if floats else table


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _assert_floats_close(left: pa.Table, right: pa.Table, rows: list[Row], columns: tuple[Column, ...]) -> None:
    for column in columns:
        if column.merge is Merge.SUM and pa.types.is_floating(column.arrow_type):
            magnitude = math.fsum(abs(row[column.name]) for row in rows)
            gap = np.abs(left[column.name].to_numpy() - right[column.name].to_numpy())
            assert np.all(gap <= 1e-12 * magnitude)


@pytest.mark.parametrize("lane", LANE_NAMES)
@given(data=st.data())
def test_merge_is_what_the_plain_reference_says(lane: str, data: st.DataObject) -> None:
    """The merged rows are those of a dictionary of lists in plain Python, in ascending order of the keys."""
    columns = LANES[lane].columns
    rows = data.draw(lane_rows(columns))
    merged = merge(to_table(rows, columns), columns)
    merged.validate(full=True)
    assert merged.schema.equals(LANES[lane].schema)
    expected = reference(rows, columns)
    keys = LANES[lane].keys
    found = merged.to_pylist(maps_as_pydicts="strict")
    assert {tuple(row[key] for key in keys) for row in found} == set(expected) and len(found) == len(expected)
    for row in found:
        wanted = expected[tuple(row[key] for key in keys)]
        for column in columns:
            got, want = row[column.name], wanted[column.name]
            if column.merge is Merge.SUM and pa.types.is_floating(column.arrow_type):
                assert abs(got - want) <= 1e-12 * math.fsum(abs(r[column.name]) for r in rows)
            else:
                assert got == want, column.name
            if column.merge is Merge.HISTOGRAM:
                assert list(got) == sorted(got)
    order = ["series_id", *[k for k in ("window_start_ns", "window_seconds", "cluster") if k in keys]]
    order = order if "series_id" in keys else list(keys)
    sort_keys = [tuple(row[k].encode() if isinstance(row[k], str) else row[k] for k in order) for row in found]
    assert sort_keys == sorted(sort_keys)


@pytest.mark.parametrize("lane", LANE_NAMES)
@given(data=st.data())
def test_order_and_grouping_do_not_matter(lane: str, data: st.DataObject) -> None:
    """A shuffle, cut into pieces of which each is merged first, gives the same bytes as one merge of all."""
    columns = LANES[lane].columns
    rows = data.draw(lane_rows(columns))
    whole = merge(to_table(rows, columns), columns)
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    pieces = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    tables = [to_table(piece, columns) for piece in pieces]
    parts = [merge(table, columns) if data.draw(st.booleans()) else table for table in tables]
    again = merge(pa.concat_tables(parts), columns)
    assert _ipc(_exact(again, columns)) == _ipc(_exact(whole, columns))
    _assert_floats_close(again, whole, rows, columns)


@given(rows=lane_rows(METRICS_CLUSTER), cut=st.integers(0, 12))
def test_region_of_the_whole_is_the_merge_of_the_regions_of_its_parts(rows: list[Row], cut: int) -> None:
    """Rolling up to the region commutes with splitting the input."""
    whole = to_region(merge(to_table(rows, METRICS_CLUSTER), METRICS_CLUSTER))
    parts = [to_region(to_table(part, METRICS_CLUSTER)) for part in (rows[:cut], rows[cut:])]
    again = merge(pa.concat_tables(parts), METRICS_REGION)
    assert _ipc(_exact(again, METRICS_REGION)) == _ipc(_exact(whole, METRICS_REGION))
    assert "cluster" not in whole.column_names


@given(values=st.lists(st.integers(-(10**36), 10**36), min_size=1, max_size=20))
def test_decimal_sums_are_exact(values: list[int]) -> None:
    """A sum over 128-bit integers of any sign and size is the sum that Python's integers give."""
    columns = tuple(c for c in METRICS_REGION if c.name in {"window_start_ns", "sum_int"})
    table = to_table([{"window_start_ns": 0, "sum_int": value} for value in values], columns)
    assert int(merge(table, columns)["sum_int"][0].as_py()) == sum(values)


@given(values=st.lists(st.one_of(finite, st.sampled_from([0.0, -0.0, math.inf, -math.inf])), min_size=2, max_size=8))
def test_extremes_have_the_same_bits_in_any_order(values: list[float]) -> None:
    """Minimum and maximum tell -0 from 0, take infinities, and do not depend on the order, bit for bit."""
    columns = tuple(c for c in METRICS_REGION if c.name in {"window_start_ns", "min", "max"})
    rows = [{"window_start_ns": 0, "min": value, "max": value} for value in values]
    forward, backward = (merge(to_table(r, columns), columns).to_pylist()[0] for r in (rows, rows[::-1]))
    assert _bits(forward["min"]) == _bits(backward["min"]) and _bits(forward["max"]) == _bits(backward["max"])
    assert forward["min"] == min(values) and forward["max"] == max(values)


@given(values=st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_total_order_sorts_as_floats_do(values: list[float]) -> None:
    """The integers that stand for floats are ordered as the floats are, and map back to the same bits."""
    floats = np.array(values)
    keys = total_order(floats)
    ordered = floats[np.argsort(keys)]
    assert np.all(ordered[1:] >= ordered[:-1])
    assert total_order(keys.view(np.float64)).tobytes() == floats.tobytes()


@given(data=st.data(), rows=st.integers(1, 40), width=st.integers(1, 5))
def test_radix_and_lexsort_group_alike(data: st.DataObject, rows: int, width: int) -> None:
    """Where the packed key does not fit 64 bits the fallback finds the same groups in the same order."""
    small = [
        grouping.Ranks(np.array(data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))), 3)
        for _ in range(width)
    ]
    huge = [grouping.Ranks(key.codes, 2**62) for key in small]
    fast, fallback = grouping.group(small, rows), grouping.group([*huge, *huge[:1]], rows)
    assert fast.order.tolist() == fallback.order.tolist()
    assert fast.starts.tolist() == fallback.starts.tolist()


@pytest.mark.parametrize("rows", [3, 70_000])
def test_keys_beyond_16_bits_are_sorted_by_all_their_digits(rows: int) -> None:
    """Packed keys of more than 16 bits come out in order, ties by row index."""
    codes = np.random.default_rng(3).integers(0, 2**40, rows)
    codes[-1] = codes[0]
    groups = grouping.group([grouping.Ranks(codes, 2**40)], rows)
    assert groups.order.tolist() == np.argsort(codes, kind="stable").tolist()


def test_many_different_histograms_take_the_sorting_path() -> None:
    """Groups whose buckets hardly overlap (too many cells for a grid) add up to what a dictionary gives."""
    columns = tuple(c for c in METRICS_REGION if c.name in {"window_start_ns", "histogram"})
    rng = np.random.default_rng(5)
    rows: list[Row] = [
        {"window_start_ns": int(rng.integers(0, 200)), "histogram": {int(k): 1 for k in rng.integers(0, 10_000, 5)}}
        for _ in range(1_000)
    ]
    found = merge(to_table(rows, columns), columns).to_pylist(maps_as_pydicts="strict")
    expected = reference(rows, columns)
    assert {(row["window_start_ns"],): row for row in found} == expected
