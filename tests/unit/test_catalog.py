"""The catalog: slots, budgets and the overflow series, whose folding keeps totals right for every kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from catchment.limits import Limits
from collectors.catalog import OVERFLOW_ATTRIBUTES, OVERFLOW_METRIC, Catalog
from tests import otlp
from tests.edge_harness import EdgeHarness, Row, add_histograms, total
from tests.otlp import DELTA, body, ns


def _slot(catalog: Catalog, i: int, *, metric: str = "m", tenant: str = "t", kind: str = "counter") -> tuple[int, str]:
    return catalog.slot(catalog.place(tenant, "c"), "s", metric, kind, "", f'{{"i":{i}}}')


def test_a_series_has_one_slot() -> None:
    """Asked again, the slot is the same; another place is another slot, though the series id is equal."""
    catalog = Catalog(Limits())
    first = _slot(catalog, 1)
    assert _slot(catalog, 1) == first == (0, "")
    elsewhere = catalog.slot(catalog.place("t", "other"), "s", "m", "counter", "", '{"i":1}')
    assert elsewhere == (1, "")
    assert catalog.series[0].series_id == catalog.series[1].series_id


def test_beyond_a_metric_s_budget_series_fold() -> None:
    """The budget of one metric does not touch another's."""
    catalog = Catalog(Limits(series_per_metric_max=2))
    slots = [_slot(catalog, i) for i in range(4)]
    assert [reason for _, reason in slots] == ["", "", "overflow_metric", "overflow_metric"]
    assert slots[2][0] == slots[3][0]
    assert catalog.series[slots[2][0]].attributes == OVERFLOW_ATTRIBUTES == '{"otel.metric.overflow":true}'
    assert _slot(catalog, 9, metric="other")[1] == ""
    assert _slot(catalog, 1) == slots[1], "known series stay"


def test_beyond_a_tenant_s_budget_series_fold_for_this_tenant_only() -> None:
    """One tenant's flood does not fold another's series."""
    catalog = Catalog(Limits(series_per_tenant_max=2))
    assert [_slot(catalog, i, metric=f"m{i}")[1] for i in range(3)] == ["", "", "overflow_tenant"]
    assert _slot(catalog, 0, tenant="u")[1] == ""


def test_the_overflow_series_are_bounded_too() -> None:
    """A flood of metric names ends in one overflow series a kind."""
    catalog = Catalog(Limits(series_per_tenant_max=10))
    for i in range(1000):
        _slot(catalog, i, metric=f"m{i}", kind=("counter", "gauge")[i % 2])
    assert len(catalog.series) <= 10 + 2 + 2
    assert {series.kind for series in catalog.series if series.metric == OVERFLOW_METRIC} == {"counter", "gauge"}


@pytest.mark.parametrize("padding", ["attribute", "metric", "own overflow"])
def test_texts_of_series_are_bounded(padding: str) -> None:
    """Series with long texts fold sooner, whatever of them is long, those that senders call overflow included."""
    catalog = Catalog(Limits(series_bytes_per_tenant_max=100_000))
    place, long = catalog.place("t", "c"), "x" * 1000
    for i in range(1_000):
        metric = "m" if padding == "attribute" else f"{long}{i}"
        attributes = OVERFLOW_ATTRIBUTES if padding == "own overflow" else f'{{"{long}":{i}}}'
        _, reason = catalog.slot(place, "s", metric, "counter", "", attributes)
    assert reason == "overflow_tenant"
    texts = [series.service + series.metric + series.unit + series.attributes for series in catalog.series]
    assert sum(map(len, texts)) <= 100_000 * 1.1 + 4_000
    assert _slot(catalog, 1, tenant="u")[1] == ""


def test_restored_series_have_their_slots_and_count_for_budgets() -> None:
    """After a restart the same series have the same slots, and no budget is forgotten."""
    limits = Limits(series_per_metric_max=2)
    catalog, again = Catalog(limits), Catalog(limits)
    slots = [_slot(catalog, i) for i in range(3)]
    for series in catalog.series:
        place = catalog.places[series.place]
        again.restore(place.tenant, place.cluster, series)
    assert [_slot(again, i) for i in range(3)] == slots
    assert _slot(again, 99) == (slots[2][0], "overflow_metric")


def test_compact_drops_series_and_frees_their_budget() -> None:
    """What no stream uses any more makes room; the others keep everything but their slot."""
    catalog = Catalog(Limits(series_per_metric_max=3))
    for i in range(3):
        _slot(catalog, i)
    kept = catalog.series[2]
    moved = catalog.compact(np.array([False, False, True]))
    assert moved.tolist() == [-1, -1, 0]
    assert catalog.series == [kept]
    assert _slot(catalog, 2) == (0, "")
    assert [_slot(catalog, i)[1] for i in (7, 8, 9)] == ["", "", "overflow_metric"]
    columns = catalog.key_columns(np.array([1, 0, 0]))
    assert columns["attributes"].to_pylist() == ['{"i":7}', '{"i":2}', '{"i":2}']
    assert columns["cluster"].to_pylist() == ["c"] * 3


def _points(kind: str, i: int, time: float) -> pb.Metric:
    attributes = {"i": i}
    value = int(time) * (i + 1)
    makers: dict[str, Callable[[], pb.Metric]] = {
        "counter": lambda: otlp.counter("m", otlp.number(time, value, start=1, attributes=attributes)),
        "delta": lambda: otlp.counter(
            "m", otlp.number(time, value, start=time - 1, attributes=attributes), temporality=DELTA
        ),
        "gauge": lambda: otlp.gauge("m", otlp.number(time, value, attributes=attributes)),
        "histogram": lambda: otlp.histogram(
            "m", otlp.explicit(time, [value, i], [i + 1.0], total=value / 2, start=1, attributes=attributes)
        ),
        "exponential": lambda: otlp.exponential_histogram(
            "m", otlp.exponential(time, i % 6, i, [value], total=value / 2, start=1, attributes=attributes)
        ),
        "summary": lambda: otlp.summary("m", otlp.quantiles(time, value, value / 2, start=1, attributes=attributes)),
    }
    return makers[kind]()


def _totals(rows: list[Row]) -> tuple[object, ...]:
    sums = tuple(
        total(rows, "m", name) for name in ("points", "count", "sum_int", "sum_float", "integral", "observed_seconds")
    )
    lows = [row["min"] for row in rows if row["min"] is not None]
    return (*sums, add_histograms(rows, "m"), min(lows, default=None))


@pytest.mark.parametrize("kind", ["counter", "delta", "gauge", "histogram", "exponential", "summary"])
def test_overflow_keeps_totals_exact(kind: str) -> None:
    """Points of folded streams are differenced as streams of their own and added to the overflow series."""
    folding, roomy = EdgeHarness(Limits(series_per_metric_max=3)), EdgeHarness()
    rows: dict[int, list[Row]] = {0: [], 1: []}
    for time in (10.0, 20.0, 70.0):
        for i in range(10):
            for edge in (folding, roomy):
                edge.send(body(_points(kind, i, time)), at=time)
        for which, edge in enumerate((folding, roomy)):
            rows[which] += edge.flush(time)
    assert _totals(rows[0]) == _totals(rows[1])
    assert {row["attributes"] for row in rows[0]} == {*(f'{{"i":{i}}}' for i in range(3)), OVERFLOW_ATTRIBUTES}
    assert folding.tally["overflow_metric", "streams"] == 7
    assert roomy.tally == {}


def test_overflow_is_left_when_room_is_made() -> None:
    """After the idle streams were evicted, new streams have series of their own again."""
    edge = EdgeHarness(Limits(series_per_metric_max=2, stream_idle_seconds=100))
    for i in range(4):
        edge.send(body(_points("counter", i, 10.0)), at=10)
    edge.flush(11)
    assert edge.edge.evict_idle(ns(500)) == 4
    edge.send(body(_points("counter", 9, 500.0)), at=500)
    assert [row["attributes"] for row in edge.flush(501)] == ['{"i":9}']
    assert len(edge.catalog.series) == 1


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_folded_streams_leave_overflow_when_room_is_made(kind: str) -> None:
    """Streams that outlive an explosion get series of their own, and nothing of theirs is counted twice or lost."""
    folding, roomy = (EdgeHarness(Limits(series_per_metric_max=n, stream_idle_seconds=100)) for n in (3, 10))
    rows: dict[int, list[Row]] = {0: [], 1: []}
    for time, streams in ((10.0, range(5)), (400.0, range(3, 5)), (410.0, range(3, 5))):
        for which, edge in enumerate((folding, roomy)):
            for i in streams:
                edge.send(body(_points(kind, i, time)), at=time)
            rows[which] += edge.flush(time)
            edge.edge.evict_idle(ns(time))
    assert _totals(rows[0]) == _totals(rows[1])
    last = {row["attributes"] for row in rows[0] if row["window"] == 360.0 and row["points"]}
    assert last == {'{"i":3}', '{"i":4}', OVERFLOW_ATTRIBUTES}
    assert len(folding.catalog.series) == 2, "the overflow series goes with its last stream"
