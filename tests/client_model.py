"""Builders of what targets answer in Prometheus' protobuf, and scrapes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import prometheus_client as prom
from google.protobuf.internal.encoder import _VarintBytes

from collectors.decode import client_model_pb2
from collectors.decode.client_messages import FamilyType
from collectors.records import Outcome
from collectors.scrape.record import CONTENT_TYPE, Format, Reading, Record
from tests.edge_harness import EdgeHarness
from tests.otlp import ns

pb: Any = client_model_pb2
GOLDEN = Path(__file__).parent / "golden"
LABELS = {"job": "shop", "instance": "a:80"}
_TYPES = {
    "counter": FamilyType.COUNTER,
    "gauge": FamilyType.GAUGE,
    "summary": FamilyType.SUMMARY,
    "histogram": FamilyType.HISTOGRAM,
    "unknown": FamilyType.UNTYPED,
}


def delimited(*messages: bytes) -> bytes:
    """Messages, each preceded by its length."""
    return b"".join(_VarintBytes(len(message)) + message for message in messages)


def labels(**named: str) -> list[bytes]:
    """Labels of a metric."""
    return [pb.LabelPair(name=n.encode(), value=v.encode()).SerializeToString() for n, v in named.items()]


def family(name: str, of_type: int, *metrics: Any, unit: str = "") -> bytes:
    """A family of metrics."""
    message = pb.MetricFamily(name=name.encode(), type=of_type, unit=unit.encode(), metric=metrics)
    encoded: bytes = message.SerializeToString()
    return encoded


def native_of(message: Any) -> Any:
    """A native histogram of remote write, as targets answer it."""
    histogram = pb.Histogram(
        sample_count=message.count_int,
        sample_count_float=message.count_float,
        sample_sum=message.sum,
        schema=message.schema,
        zero_threshold=message.zero_threshold,
        zero_count=message.zero_count_int,
        zero_count_float=message.zero_count_float,
    )
    for sign in ("positive", "negative"):
        for span in getattr(message, f"{sign}_spans"):
            getattr(histogram, f"{sign}_span").add(offset=span.offset, length=span.length)
        for name in ("delta", "count"):
            getattr(histogram, f"{sign}_{name}").extend(getattr(message, f"{sign}_{name}s"))
    return histogram


def of_registry(registry: prom.CollectorRegistry) -> bytes:
    """What a Python client's metrics are in protobuf, which it does not write itself; without times of creation."""
    families = []
    for each in registry.collect():
        of_type = _TYPES[each.type]
        name = f"{each.name}_total" if of_type is FamilyType.COUNTER else each.name
        metrics: dict[tuple[tuple[str, str], ...], Any] = {}
        for sample in each.samples:
            own = {key: value for key, value in sample.labels.items() if key not in ("le", "quantile")}
            metric = metrics.setdefault(tuple(own.items()), pb.Metric(label=labels(**own)))
            _put(metric, of_type, sample.name.removeprefix(each.name), sample.value, sample.labels)
        families.append(family(name, of_type, *metrics.values()))
    return delimited(*families)


def _put(metric: Any, of_type: FamilyType, suffix: str, value: float, named: Mapping[str, str]) -> None:
    """Put a sample where it belongs."""
    if suffix == "_created":
        return
    if of_type is FamilyType.HISTOGRAM and suffix == "_bucket":
        metric.histogram.bucket.add(cumulative_count=int(value), upper_bound=float(named["le"]))
    elif suffix == "_count":
        (metric.histogram if of_type is FamilyType.HISTOGRAM else metric.summary).sample_count = int(value)
    elif suffix == "_sum":
        (metric.histogram if of_type is FamilyType.HISTOGRAM else metric.summary).sample_sum = value
    else:
        field = {FamilyType.COUNTER: "counter", FamilyType.GAUGE: "gauge"}.get(of_type, "untyped")
        getattr(metric, field).value = value


def classic(cumulative: Sequence[int], bounds: Sequence[float], total: float) -> Any:
    """A classic histogram; the last count is that of all."""
    buckets = [pb.Bucket(cumulative_count=n, upper_bound=at) for n, at in zip(cumulative, bounds, strict=False)]
    return pb.Histogram(sample_count=cumulative[-1], sample_sum=total, bucket=buckets)


def reading(**more: Any) -> Reading:
    """How a target that answers protobuf is read."""
    return Reading(LABELS, format=Format.PROTOBUF, **more)


def scrape(edge: EdgeHarness, *families: bytes, at: float, **more: Any) -> Outcome:
    """Scrape a target that answers some families."""
    return scrape_body(edge, delimited(*families), at=at, reading=reading(**more))


def scrape_body(edge: EdgeHarness, body: bytes, *, at: float, reading: Reading) -> Outcome:
    """Scrape a target that answers a body."""
    payload = Record(ns(at), reading.line(), b"", body, b"").payload()
    (outcome,) = edge.send(payload, at=at, content_type=CONTENT_TYPE)
    assert isinstance(outcome, Outcome), outcome
    return outcome
