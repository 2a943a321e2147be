"""The roll-up core: what goes in adds up to what comes out, one tenant, region and table per output."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from aggregators.rollup import encode_bounded, roll_up
from catchment.columns import EDGE_LANES
from catchment.envelope import Envelope, decode
from catchment.errors import Bug
from catchment.reach import Reach
from tests.integration.fleet import counter_row, envelope, totals_row
from tests.property.lane_rows import Row

_NAMED: dict[str, Any] = {"producer": "p", "sequence": 1}


def test_cluster_rows_go_out_as_both_tables() -> None:
    """The sums per cluster and over the region are those of the inputs; points and digests are equal on both."""
    inputs = [
        envelope("metrics_cluster", [counter_row(c, "m", v, points=2)], digest=2**63)
        for c, v in (("a", 1), ("b", 2), ("a", 4))
    ]
    cluster, region = roll_up(inputs, producer="p", sequence=9)
    assert cluster.rows.select(["cluster", "sum_int"]).to_pylist() == [
        {"cluster": "a", "sum_int": 5},
        {"cluster": "b", "sum_int": 2},
    ]
    assert region.rows["sum_int"].to_pylist() == [7]
    for output, lane in ((cluster, "metrics_cluster"), (region, "metrics_region")):
        header = output.header
        assert (header.lane, header.producer, header.sequence) == (lane, "p", 9)
        assert (header.totals.points, header.totals.digest) == (6, 3 * 2**63 % 2**64)


def test_outputs_do_not_depend_on_the_order_of_the_inputs() -> None:
    """The same envelopes in reverse give the same outputs in the same order."""
    inputs = [
        envelope("metrics_cluster", [counter_row("a", "m", 1, tenant)], tenant=tenant) for tenant in ("x", "y", "x")
    ] + [envelope("totals", [totals_row("a", 1, 1, 5)])]
    forward, backward = roll_up(inputs, producer="p", sequence=1), roll_up(inputs[::-1], producer="p", sequence=1)
    assert [o.header for o in forward] == [o.header for o in backward]
    assert all(a.rows.equals(b.rows) for a, b in zip(forward, backward, strict=True))


def test_regions_are_kept_apart() -> None:
    """Envelopes of two regions in one partition give rows of each, never a mixed one."""
    one = envelope("metrics_cluster", [counter_row("a", "m", 1)])
    other = Envelope(replace(one.header, region="eu-west"), one.rows)
    outputs = roll_up([one, other], producer="p", sequence=1)
    found = [(o.header.region, o.header.lane, o.rows.num_rows) for o in outputs]
    lanes = ("metrics_cluster", "metrics_region")
    assert found == [(region, lane, 1) for region in ("eu-west", "jp-east") for lane in lanes]


def test_only_the_lanes_that_were_asked_for_are_made() -> None:
    """A zone sends cluster rows on, a large fleet's region only region rows."""
    inputs = [envelope("metrics_cluster", [counter_row("a", "m", 1)])]
    zone = roll_up(inputs, producer="p", sequence=1, lanes=EDGE_LANES)
    large = roll_up(inputs, producer="p", sequence=1, lanes=("metrics_region",))
    assert [o.header.lane for o in zone] == ["metrics_cluster"]
    assert [o.header.lane for o in large] == ["metrics_region"]


def test_cluster_rows_of_each_reach_go_out_apart() -> None:
    """A zone hands every reach on; a region with no store makes only rows that reach the globe, and all region rows."""
    inputs = [
        Envelope(replace(each.header, reach=reach), each.rows)
        for number, reach in enumerate(("global", "region", "cluster", "region"))
        for each in [envelope("metrics_cluster", [counter_row("a", "m", 1 << number)], digest=1 << number)]
    ]
    zone = roll_up(inputs, **_NAMED, lanes=EDGE_LANES)
    found = {o.header.reach: (o.rows["sum_int"].to_pylist(), o.header.totals.digest) for o in zone}
    assert found == {"cluster": ([4], 4), "region": ([10], 10), "global": ([1], 1)}
    assert len({(o.header.producer, o.header.lane) for o in zone}) == 3
    cluster, region = roll_up(inputs, **_NAMED, reach=Reach.GLOBAL)
    assert (cluster.header.reach, cluster.rows["sum_int"].to_pylist()) == ("global", [1])
    assert (region.header.totals.digest, region.rows["sum_int"].to_pylist()) == (15, [15])
    assert [o.header for o in roll_up(inputs[::-1], **_NAMED)] == [o.header for o in roll_up(inputs, **_NAMED)]


def test_an_output_names_the_policy_versions_of_all_its_inputs() -> None:
    """Each once, in order; beyond eight it says that there are more, also when merged again."""

    def rolled(*versions: str) -> list[str]:
        inputs = [envelope("metrics_cluster", [counter_row("a", "m", 1)]) for _ in versions]
        named = [
            Envelope(replace(one.header, policy_version=version), one.rows)
            for one, version in zip(inputs, versions, strict=True)
        ]
        return [output.header.policy_version for output in roll_up(named, **_NAMED)]

    assert rolled("7+b", "", "6+a", "7+b") == ["6+a,7+b"] * 2
    many = rolled(*(f"v{n}" for n in range(9)))
    assert many == ["v0,v1,v2,v3,v4,v5,v6,v7,..."] * 2
    assert rolled(many[0], "v1") == many


def test_what_does_not_add_up_is_a_bug() -> None:
    """An input whose rows lost points since they were checked never leaves."""
    whole = envelope("metrics_cluster", [counter_row("a", "m", 1), counter_row("b", "m", 1)])
    with pytest.raises(Bug, match="2 points went in and 1 came out"):
        roll_up([Envelope(whole.header, whole.rows.slice(0, 1))], producer="p", sequence=1)


def test_large_tables_are_split_by_rows() -> None:
    """No part is over rows_max, none is empty, and each has a name of its own; the digest is carried once."""
    inputs = [envelope("metrics_cluster", [counter_row(f"c{n}", "m", n) for n in range(25)], digest=3)]
    parts = [o for o in roll_up(inputs, producer="p", sequence=1, rows_max=10) if o.header.lane == "metrics_cluster"]
    assert [o.rows.num_rows for o in parts] == [10, 10, 5]
    assert [o.header.producer for o in parts] == ["p/0", "p/1", "p/2"]
    assert [o.header.totals.digest for o in parts] == [3, 0, 0]
    assert sum(o.header.totals.points for o in parts) == 25


def test_large_encodings_are_split_by_bytes() -> None:
    """Every part is within the limit unless it is one row; together they hold every row once."""
    whole = envelope("metrics_cluster", [counter_row(f"c{n}", "m", n) for n in range(200)], digest=3)
    single = len(encode_bounded(envelope("metrics_cluster", [counter_row("c0", "m", 0)]), 1)[0][1])
    for limit in (single + 1_000, 1):
        parts = encode_bounded(whole, limit)
        assert all(len(data) <= limit or part.rows.num_rows == 1 for part, data in parts)
        decoded = [decode(data) for _, data in parts]
        assert sorted(x for e in decoded for x in e.rows["cluster"].to_pylist()) == sorted(f"c{n}" for n in range(200))
        assert sum(e.header.totals.digest for e in decoded) == 3
        assert len({e.header.producer for e in decoded}) == len(decoded)


def _float_row(cluster: str, value: float) -> Row:
    return {**counter_row(cluster, "m", 0), "sum_float": value}


def _drops(outputs: list[Envelope]) -> list[tuple[str, str, str, str, str, int]]:
    names = ["cluster", "tier", "lane", "reason", "unit", "count"]
    rows = [row for o in outputs if o.header.lane == "drops" for row in o.rows.select(names).to_pylist()]
    return [tuple(row.values()) for row in rows]


def test_a_sum_that_overflows_is_counted_where_it_overflows() -> None:
    """Finite sums that merge to infinity go out as infinity, and their rows are counted by cluster and as a region."""
    rows = [_float_row("a", 1e308), _float_row("a", 1e308), _float_row("b", 1e308), _float_row("c", 1.0)]
    outputs = roll_up([envelope("metrics_cluster", rows[:2]), envelope("metrics_cluster", rows[2:])], **_NAMED)
    drops, cluster, region = outputs
    assert cluster.rows["sum_float"].to_pylist() == [math.inf, 1e308, 1.0]
    assert region.rows["sum_float"].to_pylist() == [math.inf]
    assert _drops(outputs) == [("a", "aggregator", "metrics_cluster", "sum_overflow", "rows", 1)]
    assert drops.rows["window_start_ns"].to_pylist() == [rows[0]["window_start_ns"]]
    assert (drops.header.producer, drops.header.sequence, drops.header.tenant) == ("p", 1, "default")
    only_region = [envelope("metrics_cluster", [_float_row(c, -1e308) for c in ("a", "b")])]
    assert _drops(roll_up(only_region, **_NAMED)) == [("", "aggregator", "metrics_region", "sum_overflow", "rows", 1)]


def test_an_overflow_is_counted_once_however_often_it_is_merged_again() -> None:
    """A next tier does not count what came in infinite, only what overflowed anew, beside the drops that came in."""
    first = roll_up([envelope("metrics_cluster", [_float_row("a", 1e308)] * 2)], **_NAMED, lanes=EDGE_LANES)
    more = [envelope("metrics_cluster", [_float_row("a", -math.inf), *[_float_row("b", 1e308)] * 2])]
    again = roll_up([*first, *more], **_NAMED)
    found = {o.header.lane: o for o in again}
    sums = found["metrics_cluster"].rows["sum_float"].to_pylist()
    assert math.isnan(sums[0]) and sums[1] == math.inf
    assert _drops(again) == [
        (cluster, "aggregator", "metrics_cluster", "sum_overflow", "rows", 1) for cluster in ("a", "b")
    ]


def test_no_input_no_output() -> None:
    """Nothing comes of nothing, nor of envelopes without rows."""
    assert roll_up([], producer="p", sequence=1) == []
    assert roll_up([envelope("totals", [])], producer="p", sequence=1) == []
