"""The baseline: decode, identity and aggregation as a straightforward loop over ``opentelemetry-proto`` objects.

It does for the benchmarks' load what the columnar path does: attributes of resource and point become an identity, one
attribute is dropped, cumulative values become increases per stream, and series are summed. No windows, no durability.

``python -m benchmarks.peer_loop`` measures it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from benchmarks.harness import measure, record
from benchmarks.load import DROPPED_ATTRIBUTE, Load

_DROPPED: Final = (DROPPED_ATTRIBUTE, "host.name")
Identity = tuple[str, str, tuple[tuple[str, Any], ...]]


@dataclass
class Sums:
    """The values of one series."""

    points: int = 0
    count: int = 0
    sum: float = 0
    buckets: dict[tuple[float, ...], int] = field(default_factory=dict)


@dataclass
class Loop:
    """The state: the previous values per stream, and the sums per series: (service, metric, kept attributes).

    ``counts_from_zero``: whether the first point of a stream is an increase since its start, or only a baseline.
    """

    counts_from_zero: bool = False
    previous: dict[Identity, tuple[float, ...]] = field(default_factory=dict)
    series: dict[Identity, Sums] = field(default_factory=dict)

    def add(self, body: bytes) -> None:
        """Decode one request and add its points."""
        request = ExportMetricsServiceRequest.FromString(body)
        for resource_metrics in request.resource_metrics:
            resource = _attributes(resource_metrics.resource.attributes)
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    self._add_metric(metric, resource)

    def _add_metric(self, metric: Any, resource: dict[str, Any]) -> None:
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            attributes = {**resource, **_attributes(point.attributes)}
            stream = (resource["service.name"], metric.name, tuple(sorted(attributes.items())))
            kept = tuple(pair for pair in stream[2] if pair[0] not in _DROPPED)
            key = (resource["service.name"], metric.name, kept)
            sums = self.series.setdefault(key, Sums())
            sums.points += 1
            if kind in ("gauge", "sum"):
                value = getattr(point, point.WhichOneof("value"))
                sums.count += 1
                sums.sum += value if kind == "gauge" else self._increase(stream, (value,))[0]
            elif kind == "histogram":
                counts = list(point.bucket_counts)
                bounds = [float("-inf"), *point.explicit_bounds, float("inf")]
                keys: Iterable[tuple[float, ...]] = itertools.pairwise(bounds)
                self._add_buckets(stream, sums, point, counts, keys)
            else:
                counts = list(point.positive.bucket_counts)
                first = point.positive.offset
                keys = ((point.scale, first + place) for place in range(len(counts)))
                self._add_buckets(stream, sums, point, counts, keys)

    def _add_buckets(
        self, stream: Identity, sums: Sums, point: Any, counts: list[int], keys: Iterable[tuple[float, ...]]
    ) -> None:
        increase = self._increase(stream, (point.count, point.sum, *counts))
        sums.count += int(increase[0])
        sums.sum += increase[1]
        for key, count in zip(keys, increase[2:], strict=True):
            sums.buckets[key] = sums.buckets.get(key, 0) + int(count)

    def _increase(self, stream: Identity, values: tuple[float, ...]) -> tuple[float, ...]:
        previous = self.previous.get(stream)
        self.previous[stream] = values
        if previous is None:
            return values if self.counts_from_zero else tuple(0 for _ in values)
        if values[0] < previous[0]:
            return values
        return tuple(now - before for now, before in zip(values, previous, strict=True))


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


def points_per_cpu_second(load: Load, runs: int = 3) -> float:
    """Points per CPU-second of the loop with all streams known, median of runs."""
    loop = Loop()
    for body in load.bodies(1):
        loop.add(body)
    prepared = iter([load.bodies(interval)[:3] for interval in range(2, 2 + runs)])

    def once() -> int:
        for body in next(prepared):
            loop.add(body)
        return 3 * min(load.shape.points_per_body, load.streams)

    return measure(once, runs)


def main() -> None:
    """Measure and record."""
    begin = time.monotonic()
    rate = points_per_cpu_second(Load())
    record(
        "Baseline: a loop over opentelemetry-proto objects",
        [
            ("decode + identity + aggregation", f"{rate / 1e6:.3f} M points per CPU-second"),
            ("took", f"{time.monotonic() - begin:.0f} s"),
        ],
    )


if __name__ == "__main__":
    main()
