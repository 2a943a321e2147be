"""Builders of Prometheus remote write requests. Times are seconds after `tests.otlp.T0`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from collectors.decode import remote_write_pb2
from collectors.decode.families import MetricType
from tests.otlp import ns

pb: Any = remote_write_pb2
STALE = struct.unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))[0]

Series = tuple[Mapping[str, str], Sequence[tuple[float, float]]]


def labels(name: str, **others: str) -> dict[str, str]:
    """The labels of a series, sorted as senders sort them."""
    return dict(sorted({"__name__": name, "job": "shop", "instance": "a:80", **others}.items()))


def ms(seconds: float) -> int:
    """Milliseconds, UTC, of a time in seconds after T0."""
    return ns(seconds) // 10**6


def body(*series: Series, metadata: Mapping[str, MetricType] | None = None) -> bytes:
    """A request of 1.0: series are their labels and (time, value) pairs."""
    request = pb.WriteRequest()
    for names, samples in series:
        one = request.timeseries.add()
        for name, text in names.items():
            one.labels.append(pb.Label(name=name.encode(), value=text.encode()).SerializeToString())
        for time, value in samples:
            one.samples.add(value=value, timestamp=ms(time))
    for family, of_type in (metadata or {}).items():
        request.metadata.add(type=of_type, metric_family_name=family.encode())
    encoded: bytes = request.SerializeToString()
    return encoded


def histogram(
    name: str, time: float, counts: Sequence[int], total: float, bounds: Sequence[float], **others: str
) -> list[Series]:
    """The series of a classic histogram at one time; ``counts`` are of the buckets, not cumulative."""
    series: list[Series] = []
    cumulative = 0
    for bound, count in zip([*bounds, float("inf")], counts, strict=True):
        cumulative += count
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        series.append((labels(f"{name}_bucket", le=le, **others), [(time, cumulative)]))
    series.append((labels(f"{name}_sum", **others), [(time, total)]))
    series.append((labels(f"{name}_count", **others), [(time, cumulative)]))
    return series
