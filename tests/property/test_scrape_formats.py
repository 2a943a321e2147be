"""One registry, scraped as text, OpenMetrics and protobuf: the same rows, whatever its metrics do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import prometheus_client as prom
import prometheus_client.openmetrics.exposition as openmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.config_policies import MetricPolicy, Policies
from collectors.scrape.record import CONTENT_TYPE, Format, Reading, Record
from tests import client_model
from tests.edge_harness import EdgeHarness, Row
from tests.otlp import ns

KEEP = Policies(metrics=(MetricPolicy(match="*", keep=("*",)),))
_TEXT = st.text(max_size=6)
# What adds up exactly in every order.
_VALUE = st.integers(-(2**20), 2**20).map(lambda n: n / 64)


@dataclass(frozen=True)
class Change:
    """What a program does to one of its metrics between two scrapes."""

    metric: str
    label: str
    value: float

    def apply(self, registry: prom.CollectorRegistry) -> None:
        """Do it."""
        known: dict[str, Any] = registry._names_to_collectors
        metric = known[self.metric].labels(self.label)
        if self.metric == "hits":
            metric.inc(abs(self.value))
        elif self.metric == "level":
            metric.set(self.value)
        else:
            metric.observe(self.value)


_CHANGES = st.lists(
    st.builds(Change, st.sampled_from(["hits", "level", "seconds", "latency"]), _TEXT, _VALUE), max_size=12
)


def _registry() -> prom.CollectorRegistry:
    registry = prom.CollectorRegistry()
    prom.Counter("hits", "h", ["label"], registry=registry)
    prom.Gauge("level", "l", ["label"], registry=registry)
    prom.Histogram("seconds", "s", ["label"], buckets=(-1.5, 0.1, 1e7), registry=registry)
    prom.Summary("latency", "q", ["label"], registry=registry)
    return registry


def _without_created(generate: Callable[[prom.CollectorRegistry], bytes]) -> Callable[[prom.CollectorRegistry], bytes]:
    """Its clock is not the test's."""
    return lambda registry: b"\n".join(line for line in generate(registry).split(b"\n") if b"_created" not in line)


FORMATS: dict[Format, Callable[[prom.CollectorRegistry], bytes]] = {
    Format.TEXT: _without_created(prom.generate_latest),
    Format.OPENMETRICS: _without_created(openmetrics.generate_latest),
    Format.PROTOBUF: client_model.of_registry,
}


@settings(max_examples=50)
@given(st.lists(_CHANGES, min_size=1, max_size=4))
def test_all_formats_make_the_same_rows(turns: list[list[Change]]) -> None:
    """Counters, gauges, histograms and summaries with any labels, scraped after each turn, in each format."""
    registry = _registry()
    edges = {format: EdgeHarness(policies=KEEP) for format in FORMATS}
    for i, changes in enumerate(turns):
        for change in changes:
            change.apply(registry)
        for format, generate in FORMATS.items():
            reading = Reading({"job": "shop"}, format=format).line()
            payload = Record(ns(15 * i), reading, b"", generate(registry), b"").payload()
            edges[format].send(payload, at=15 * i, content_type=CONTENT_TYPE)

    def sorted_rows(edge: EdgeHarness) -> list[Row]:
        return sorted(edge.flush(120), key=lambda row: (row["metric"], row["attributes"], row["window"]))

    text, *others = (sorted_rows(edge) for edge in edges.values())
    for other in others:
        assert other == text
    assert len({frozenset(edge.tally.items()) for edge in edges.values()}) == 1
