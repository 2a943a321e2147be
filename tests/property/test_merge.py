"""Rows merge to the same table in any order, grouping and split."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
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
def test_keys_that_do_not_fit_one_integer_group_alike(data: st.DataObject, rows: int, width: int) -> None:
    """Where the packed key would not fit 64 bits, or is too sparse for a table, the groups are the same."""
    small = [
        grouping.Ranks(np.array(data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))), 3)
        for _ in range(width)
    ]
    huge = [grouping.Ranks(key.codes, 2**31 - 1) for key in small]
    fast, packed = grouping.group(small, rows), grouping.group(huge, rows)
    tuples = list(zip(*(key.codes.tolist() for key in small), strict=True))
    wanted = [sorted(set(tuples)).index(key) for key in tuples]
    assert fast.group_of.tolist() == packed.group_of.tolist() == wanted
    assert fast.groups == packed.groups == len(set(tuples))
    assert fast.firsts.tolist() == [wanted.index(number) for number in range(fast.groups)]


@pytest.mark.parametrize("rows", [3, 70_000])
def test_sparse_keys_are_numbered_in_order(rows: int) -> None:
    """Packed keys far apart are hashed, and their groups still ascend."""
    codes = np.random.default_rng(3).integers(0, 2**40, rows)
    codes[-1] = codes[0]
    groups = grouping.group([grouping.Ranks(codes, 2**40)], rows)
    assert groups.group_of.tolist() == np.unique(codes, return_inverse=True)[1].tolist()


def _as_blocks(table: pa.Table, cuts: list[int]) -> pa.Table:
    parts = [table.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, table.num_rows], strict=True)]
    return pa.concat_tables(parts)


@pytest.mark.parametrize("lane", LANE_NAMES)
@given(data=st.data())
def test_rows_are_added_in_blocks_of_any_size(lane: str, data: st.DataObject) -> None:
    """Blocks of a row or two, of chunks that are slices of others, give the same bytes as one block."""
    columns = LANES[lane].columns
    rows = data.draw(lane_rows(columns))
    table = to_table(rows, columns)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    whole = merge(table, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_BLOCK_ROWS", data.draw(st.integers(1, 4)))
        again = merge(_as_blocks(table, cuts), columns)
    assert _ipc(_exact(again, columns)) == _ipc(_exact(whole, columns))


def test_sums_of_floats_keep_their_bound_over_any_number_of_rows() -> None:
    """A million ones after 2^53, each of which is lost where all are added one by one, are within 1e-12."""
    columns = tuple(c for c in METRICS_REGION if c.name in {"window_start_ns", "sum_float"})
    ones = 1_000_000
    values = np.concatenate(([2.0**53], np.ones(ones), [5.0]))
    starts = np.concatenate((np.zeros(ones + 1, np.int64), [60]))
    schema = pa.schema([column.field for column in columns])
    found = merge(pa.table([starts, values], schema=schema), columns)["sum_float"].to_pylist()
    assert abs(found[0] - (2.0**53 + ones)) <= 1e-12 * (2.0**53 + ones) and found[1] == 5.0


@pytest.mark.parametrize("scale", [1, 2**40, 2**62, 10**30])
def test_decimals_of_many_blocks_are_exact(scale: int) -> None:
    """Sums that outgrow a word between two blocks are carried, whatever the blocks before and after held."""
    columns = tuple(c for c in METRICS_REGION if c.name in {"window_start_ns", "sum_int"})
    rng = np.random.default_rng(9)
    values = [int(v) * (scale if i % 3 else 1) for i, v in enumerate(rng.integers(-3, 4, 50_000))]
    starts = rng.integers(0, 5, len(values))
    schema = pa.schema([column.field for column in columns])
    decimals = pa.array([Decimal(value) for value in values], pa.decimal128(38, 0))
    table = pa.table([starts, decimals], schema=schema)
    found = merge(table, columns)["sum_int"].to_pylist()
    assert [int(v) for v in found] == [sum(v for v, s in zip(values, starts, strict=True) if s == g) for g in range(5)]


def test_many_different_histograms_are_merged_by_interval() -> None:
    """Groups whose maps hardly overlap, so that no two have the same intervals, add up to what a dictionary gives."""
    columns = tuple(c for c in METRICS_REGION if c.name in {"window_start_ns", "histogram"})
    rng = np.random.default_rng(5)
    rows: list[Row] = [
        {"window_start_ns": int(rng.integers(0, 200)), "histogram": {int(k): 1 for k in rng.integers(0, 10_000, 5)}}
        for _ in range(1_000)
    ]
    found = merge(to_table(rows, columns), columns).to_pylist(maps_as_pydicts="strict")
    expected = reference(rows, columns)
    assert {(row["window_start_ns"],): row for row in found} == expected


def test_intervals_out_of_order_are_put_in_order() -> None:
    """A map whose intervals do not ascend is no shape for others: it merges, and the result ascends."""
    columns = tuple(c for c in METRICS_REGION if c.name in {"window_start_ns", "histogram"})
    maps = [[(3, 1), (2, 10)], [(2, 100), (3, 1000)], [], [(3, 1), (2, 10)]]
    schema = pa.schema([column.field for column in columns])
    table = pa.table([pa.array([0] * 4), pa.array(maps, columns[1].arrow_type)], schema=schema)
    assert merge(table, columns)["histogram"].to_pylist() == [[(2, 120), (3, 1002)]]
