"""What made a budget overflow is told in one line: which attribute of which metric, how many values, what to do."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from catchment.limits import Limits
from collectors.catalog import Catalog
from collectors.explosion import Explosion, Explosions
from tests import otlp
from tests.edge_harness import EdgeHarness
from tests.otlp import DELTA, body, ns


def orders(*users: object, metric: str = "orders", service: str = "shop") -> bytes:
    """A request with a stream for each value of ``user``, on three routes."""
    numbers = [
        otlp.number(1, 1, start=0, attributes={"user": user, "route": i % 3, "sdk": "go"})
        for i, user in enumerate(users)
    ]
    return body(otlp.counter(metric, *numbers, temporality=DELTA), resource={"service.name": service})


def flush(edge: EdgeHarness, at: float) -> Explosion | None:
    """What a flush tells."""
    found = edge.edge.exploded(ns(at))
    edge.flush(at)
    return found


def test_the_attribute_with_the_most_values_is_named() -> None:
    """The line has tenant, metric, attribute, its values, the series and the remedy, for people and for programs."""
    edge = EdgeHarness(Limits(series_per_metric_max=100))
    edge.send(orders(*range(100)))
    assert flush(edge, 10) is None
    edge.send(orders(*range(100, 130)))
    found = flush(edge, 20)
    assert found == Explosion("acme", "orders", "user", 100, 100, "series_per_metric_max")
    assert found.text == (
        "series_per_metric_max is reached by tenant acme: metric 'orders' has 100 series, since its attribute 'user' "
        "has 100 values; further streams fold into otel.metric.overflow=true. Drop it in the sender or by policy "
        "(policies.metrics: [{match: 'orders', drop: ['user']}]), or raise limits.series_per_metric_max"
    )
    assert found.fields["attribute"] == "user" and found.fields["values"] == 100


def test_a_flood_is_no_flood_of_lines() -> None:
    """The same tenant and metric are told again after a while only; of several metrics one a flush."""
    edge = EdgeHarness(Limits(series_per_metric_max=1, overflow_log_seconds=600))
    told = []
    for at in (10, 20, 30, 500, 615):
        for metric, streams in (("a", 3), ("b", 5)):
            edge.send(orders(*(f"{at}-{i}" for i in range(streams)), metric=metric), at=at)
        found = flush(edge, at)
        told.append(found and found.metric)
    assert told == ["b", "a", None, None, "b"]


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (Limits(series_per_tenant_max=50), "series_per_tenant_max"),
        (Limits(series_bytes_per_tenant_max=50 * 50), "series_bytes_per_tenant_max"),
    ],
)
def test_a_tenant_s_budget_is_blamed_on_who_took_it(limits: Limits, limit: str) -> None:
    """Where an innocent metric folds since another took the tenant's budget, the other one is named."""
    edge = EdgeHarness(limits)
    edge.send(orders(*range(1000, 1060), metric="guilty"))
    flush(edge, 10)
    edge.send(orders("x", "y", metric="innocent"), at=700)
    found = flush(edge, 700)
    assert found is not None
    assert (found.metric, found.attribute, found.limit) == ("guilty", "user", limit)
    assert found.values == found.series >= 40


@pytest.mark.parametrize(
    ("limits", "others", "values"),
    [
        (Limits(series_per_tenant_max=60), "metrics", 60),
        (Limits(series_per_metric_max=60), "services", 20),
        (Limits(series_per_metric_max=60), "names of attributes", 60 + 2),
    ],
)
def test_what_is_no_attribute_s_fault_is_told_apart(limits: Limits, others: str, values: int) -> None:
    """Too many metrics, services or names of attributes are said as such, though each has three routes."""
    edge = EdgeHarness(limits)
    named = [otlp.number(1, 1, start=0, attributes={f"user.{i}": 0, "route": i % 3, "sdk": "go"}) for i in range(70)]
    bodies = {
        "metrics": [orders("x", metric=f"m{i}") for i in range(70)],
        "services": [orders("x", "x", "x", service=f"s{i}") for i in range(30)],
        "names of attributes": [body(otlp.counter("m", *named, temporality=DELTA))],
    }
    edge.send(*bodies[others])
    found = flush(edge, 10)
    assert found is not None and (found.attribute, found.others, found.values) == ("", others, values)
    assert f"{values} {others}" in found.text and found.fields["others"] == others


def test_a_look_is_bounded_whatever_attributes_are_called() -> None:
    """A metric whose every series has names of its own takes neither seconds nor memory by the name."""
    limits = Limits(series_bytes_per_tenant_max=2 << 20)
    catalog = Catalog(limits)
    place = catalog.place("acme", "tokyo-1")
    reason, at = "", 0
    while not reason:
        attributes = json.dumps({f"{at + i:x}": 0 for i in range(128)})
        _, reason = catalog.slot(place, "shop", "m", "counter", "", attributes)
        at += 128
    tracemalloc.start()
    found = Explosions(limits, catalog).look({("acme", "m"): 1}, ns(0))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None and (found.others, found.values) == ("names of attributes", at - 128)
    assert peak_bytes < 8 << 20


def test_of_large_attributes_some_series_are_looked_at() -> None:
    """The attribute is named all the same, and its values are said to be at least so many."""
    catalog = Catalog(Limits())
    place = catalog.place("acme", "tokyo-1")
    for i in range(3_000):
        catalog.slot(place, "shop", "m", "counter", "", json.dumps({"a": i % 9, "sql": f"{i}{'x' * 4_000}"}))
    found = Explosions(Limits(), catalog).look({("acme", "m"): 1}, ns(0))
    assert found is not None and (found.attribute, found.values, found.series) == ("sql", 1_500, 3_000)
    assert "has at least 1,500 values" in found.text


def test_names_stay_in_their_line() -> None:
    """Control characters and endless names of a sender neither break a line nor reach a terminal."""
    found = Explosion("acme", "m\n\x1b[31m" + "x" * 5000, "a\rb", 5, 5, "series_per_metric_max")
    assert found.text.isprintable() and len(found.text) < 1_000
    assert all(str(value).isprintable() for value in found.fields.values())
