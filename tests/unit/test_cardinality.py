"""What makes series is sketched when streams begin: merged it says how many values there were; and it is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from catchment.algebra.distinct import estimate
from catchment.algebra.merge import merge
from catchment.columns import CARDINALITY
from catchment.config_policies import Policies
from catchment.limits import Limits
from collectors.cardinality import Cardinality, rows_by_tenant
from collectors.catalog import OVERFLOW_METRIC, Catalog
from tests import otlp
from tests.edge_harness import EdgeHarness
from tests.otlp import DELTA, body

Found = dict[tuple[str, str], tuple[int, int, int]]


def found(catalog: Catalog, tables: Sequence[dict[str, pa.Table]], tenant: str = "acme") -> Found:
    """(metric, attribute) → (distinct values, streams, folded) of some flushes' rows, merged."""
    rows = merge(pa.concat_tables([each[tenant] for each in tables if tenant in each]), CARDINALITY)
    return {
        (row["metric"], row["attribute"]): (round(estimate(dict(row["registers"]))), row["streams"], row["folded"])
        for row in rows.to_pylist()
    }


def rows(cardinality: Cardinality, catalog: Catalog) -> dict[str, pa.Table]:
    """What a flush would send."""
    return rows_by_tenant(cardinality.drain(), catalog, window_start_ns=0, window_seconds=60)


def points(values: range, *, metric: str = "orders") -> bytes:
    """A request with a stream for each value of an attribute."""
    numbers = [otlp.number(1, 1, start=0, attributes={"user": f"u{n}", "route": n % 3}) for n in values]
    return body(otlp.counter(metric, *numbers, temporality=DELTA), resource={"service.name": "shop", "host.name": "h"})


def test_streams_are_counted_when_they_begin() -> None:
    """Each attribute that policy keeps has its values, the series theirs; what is known, or dropped, is not in it."""
    harness = EdgeHarness(Limits(series_per_metric_max=10))
    tables = []
    for first in (0, 5, 0):
        harness.send(points(range(first, first + 10)))
        drained = harness.edge.drain(0)
        tables.append(rows_by_tenant(drained.cardinality, harness.catalog, window_start_ns=0, window_seconds=60))
    assert tables[2] == {}
    assert found(harness.catalog, tables) == {
        ("orders", ""): (15, 15, 5),
        ("orders", "user"): (15, 15, 5),
        ("orders", "route"): (3, 15, 5),
    }


def test_what_a_failed_flush_puts_back_is_in_the_next() -> None:
    """Drained, put back and drained again says the same, together with what came between."""
    harness = EdgeHarness()
    harness.send(points(range(10)))
    drained = harness.edge.drain(0)
    harness.send(points(range(10, 14)))
    harness.edge.put_back(drained)
    again = harness.edge.drain(0)
    tables = [rows_by_tenant(again.cardinality, harness.catalog, window_start_ns=0, window_seconds=60)]
    assert found(harness.catalog, tables)["orders", "user"] == (14, 14, 0)


def test_dropped_attributes_are_not_looked_at() -> None:
    """An attribute that policy drops makes no series and is not named."""
    harness = EdgeHarness(policies=Policies(default_drop=("user",)))
    harness.send(points(range(10)))
    drained = harness.edge.drain(0)
    tables = [rows_by_tenant(drained.cardinality, harness.catalog, window_start_ns=0, window_seconds=60)]
    assert found(harness.catalog, tables).keys() == {("orders", ""), ("orders", "route"), ("orders", "host.name")}


@pytest.mark.parametrize("metric", ["m{}", "m", OVERFLOW_METRIC])
def test_sketches_are_bounded(metric: str) -> None:
    """Countless metrics, or attributes, of one tenant take a quarter of the room, and leave another's alone."""
    catalog = Catalog(Limits())
    cardinality = Cardinality(Limits(cardinality_sketches_max=40), catalog)
    noisy, quiet = catalog.place("noisy", "c"), catalog.place("quiet", "c")
    for n in range(1_000):
        attributes: dict[str, Any] = {f"a{n}": n, "user": f"u{n}"}
        cardinality.add(noisy, metric.format(n), attributes, n << 40, is_folded=False)
    cardinality.add(quiet, "orders", {"user": "x"}, 1, is_folded=True)
    tables = [rows(cardinality, catalog)]
    assert sum(len(table) for table in tables[0].values()) <= 10 + 1 + 2
    assert found(catalog, tables, "quiet") == {("orders", ""): (1, 1, 1), ("orders", "user"): (1, 1, 1)}
    noisy_rows = found(catalog, tables, "noisy")
    assert sum(streams for (_, attribute), (_, streams, _) in noisy_rows.items() if attribute == "") == 1_000


def test_an_attribute_without_a_name_is_not_taken_for_the_series() -> None:
    """What a sender calls "" is left out, and the series are counted once."""
    catalog = Catalog(Limits())
    cardinality = Cardinality(Limits(), catalog)
    place = catalog.place("acme", "c")
    for n in range(5):
        cardinality.add(place, "m", {"": f"v{n}"}, 7 << 54, is_folded=False)
    assert found(catalog, [rows(cardinality, catalog)]) == {("m", ""): (1, 5, 0)}


def test_every_kind_of_value_is_a_value() -> None:
    """Numbers, truths and lists count by what they are, many at a time."""
    catalog = Catalog(Limits())
    cardinality = Cardinality(Limits(), catalog)
    place = catalog.place("acme", "c")
    values: list[object] = ["1", 1, 1.5, True, None, [1, "x"], {"a": 1}]
    for n in range(70_000):
        cardinality.add(place, "m", {"v": values[n % len(values)]}, 0, is_folded=False)
    assert found(catalog, [rows(cardinality, catalog)])["m", "v"] == (len(values), 70_000, 0)
