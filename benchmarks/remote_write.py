"""Prometheus remote write: unpack + decode + identity + reassembly + aggregation, per CPU-second of one thread.

    python -m benchmarks.remote_write

1,000 targets of 30 counters, 20 gauges and 4 histograms of 12 buckets (106 series each), eight labels; each scrape goes
by four shards, as Prometheus sends it: in requests of 2,000 samples, snappy, so that histograms come in pieces. What
comes out is compared with what was sent.
"""

from __future__ import annotations

import argparse
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import pyarrow as pa

from benchmarks.core import Core
from benchmarks.harness import cpu_seconds, measure, record
from benchmarks.load import Load
from benchmarks.wire import varint
from collectors.allocator import keep_memory, without_pandas
from collectors.content import to_protobuf
from collectors.decode import remote_write_pb2
from collectors.decode.families import MetricType
from collectors.decode.remote_wire import REMOTE_WRITE_1, REMOTE_WRITE_2
from collectors.records import Received

TARGETS = 1_000
SHARDS = 4
SAMPLES_PER_REQUEST = 2_000
REQUESTS_PER_BATCH = 8
INTERVALS_PER_RUN = 4
RUNS = 5
PERIOD_MS = 15_000
BEGIN_MS = 1_704_067_200_000
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SAMPLE = struct.Struct("<BBBd")
_CODEC = pa.Codec("snappy")


@dataclass(frozen=True)
class Series:
    """A series and how its samples grow."""

    labels: dict[str, str]
    type: MetricType
    step: int


def target(number: int) -> Iterator[Series]:
    """The series of one target in the order of its exposition."""
    own = {
        "cluster": "tokyo",
        "instance": f"10.0.{number // 250}.{number % 250}:8080",
        "job": f"shop/app-{number // 20}",
        "namespace": "shop",
        "pod": f"app-{number // 20}-6f7c9d5b8-{number:05d}",
    }

    def series(name: str, of_type: MetricType, step: int, **labels: str) -> Series:
        return Series(dict(sorted({"__name__": name, **own, **labels}.items())), of_type, step)

    for i in range(30):
        yield series(f"http_requests_{i // 5}_total", MetricType.COUNTER, i, code=str(200 + i % 5), method="GET")
    for i in range(20):
        yield series(f"queue_depth_{i // 4}", MetricType.GAUGE, i % 3, queue=str(i % 4))
    for i in range(4):
        name, path = f"request_duration_{i}_seconds", f"/api/v1/{i}"
        for rank, bound in enumerate((*BOUNDS, float("inf")), 1):
            le = "+Inf" if bound == float("inf") else str(bound)
            yield series(f"{name}_bucket", MetricType.HISTOGRAM, rank, handler=path, le=le)
        yield series(f"{name}_sum", MetricType.HISTOGRAM, 7, handler=path)
        yield series(f"{name}_count", MetricType.HISTOGRAM, len(BOUNDS) + 1, handler=path)


class Bodies:
    """Requests of a version by interval; what does not change is serialised once."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._requests: list[tuple[bytes, list[tuple[bytes, int]], bytes]] = []
        shards: list[list[Series]] = [[] for _ in range(SHARDS)]
        for number in range(TARGETS):
            for place, series in enumerate(target(number)):
                # A shard is the series' reference modulo their number.
                shards[(number * 106 + place) % SHARDS].append(series)
        self.samples = sum(map(len, shards))
        for shard in shards:
            for start in range(0, len(shard), SAMPLES_PER_REQUEST):
                self._requests.append(self._prepared(shard[start : start + SAMPLES_PER_REQUEST]))
        # Shards send side by side.
        by_time = [
            self._requests[i :: len(self._requests) // SHARDS + 1] for i in range(len(self._requests) // SHARDS + 1)
        ]
        self._requests = [request for requests in by_time for request in requests]

    def _prepared(self, all_series: list[Series]) -> tuple[bytes, list[tuple[bytes, int]], bytes]:
        """What stands before the series, the series' labels and steps, and what stands behind their samples."""
        if self._version == 1:
            labels = [
                b"".join(
                    b"\x0a" + _sized(b"\x0a" + _sized(name.encode()) + b"\x12" + _sized(value.encode()))
                    for name, value in series.labels.items()
                )
                for series in all_series
            ]
            return b"", [(raw, series.step) for raw, series in zip(labels, all_series, strict=True)], b""
        symbols = {"": 0}
        prepared = []
        for series in all_series:
            refs = [symbols.setdefault(text, len(symbols)) for pair in series.labels.items() for text in pair]
            message = remote_write_pb2.SymbolSeries(labels_refs=refs)  # type: ignore[attr-defined]
            message.metadata.type = series.type
            prepared.append((message.SerializeToString(), series.step))
        return b"".join(b"\x22" + _sized(text.encode()) for text in symbols), prepared, b""

    def interval(self, number: int) -> list[bytes]:
        """The requests of one scrape."""
        tag = b"\x0a" if self._version == 1 else b"\x2a"
        time = varint(BEGIN_MS + number * PERIOD_MS)
        bodies = []
        for head, series, _ in self._requests:
            parts = [head]
            for labels, step in series:
                sample = b"\x09" + struct.pack("<d", number * step) + b"\x10" + time
                parts.append(tag + _sized(labels + b"\x12" + _sized(sample)))
            bodies.append(_CODEC.compress(b"".join(parts), asbytes=True))
        return bodies


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def feed(core: Core, interval: int, bodies: list[bytes], content_type: str) -> None:
    """Unpack, decode, identify, reassemble."""
    received_ns = (BEGIN_MS + interval * PERIOD_MS) * 10**6 + 10**9
    for start in range(0, len(bodies), REQUESTS_PER_BATCH):
        requests = [
            Received("metrics", "t", "c", "{}", content_type, "snappy", received_ns, "", body)
            for body in bodies[start : start + REQUESTS_PER_BATCH]
        ]
        _, staged = core.edge.stage(requests, [to_protobuf(request, 1 << 30) for request in requests])
        core.edge.apply(staged, requests)


def measure_version(version: int) -> tuple[float, float]:
    """Samples per CPU-second in the steady state, and of the first scrape, in which every series is new."""
    content_type = REMOTE_WRITE_1 if version == 1 else REMOTE_WRITE_2
    bodies, core = Bodies(version), Core(Load())

    def drain(interval: int) -> int:
        drained = core.edge.drain((BEGIN_MS + interval * PERIOD_MS) * 10**6 + 10 * 10**9)
        return int(sum(drained.rows["t"]["points"].to_pylist()))

    prepared = bodies.interval(1)
    begin = cpu_seconds()
    feed(core, 1, prepared, content_type)
    found = drain(1)
    first = bodies.samples / (cpu_seconds() - begin)
    rates = []
    interval = 1
    for _ in range(RUNS):
        batches = [(interval + i, bodies.interval(interval + i)) for i in range(1, INTERVALS_PER_RUN + 1)]
        interval += INTERVALS_PER_RUN
        points: list[int] = []

        def once(batches: list[tuple[int, list[bytes]]] = batches, points: list[int] = points) -> int:
            for at, prepared in batches:
                feed(core, at, prepared, content_type)
            points.append(drain(batches[-1][0]))
            return INTERVALS_PER_RUN * bodies.samples

        rates.append(measure(once, 1))
        found += sum(points)
    expected = interval * TARGETS * (30 + 20 + 4)
    if found != expected:
        raise AssertionError(f"{found} points in rows, {expected} sent")
    return sorted(rates)[len(rates) // 2], first


def main() -> None:
    """Measure and record."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    without_pandas()
    keep_memory()
    rows = []
    for version in (1, 2):
        steady, first = measure_version(version)
        rows.append((f"{version}.0, 106,000 series", f"{steady / 1e6:.2f} M samples per CPU-second"))
        rows.append((f"{version}.0, first scrape, all series new", f"{first / 1e6:.3f} M samples per CPU-second"))
    record("Remote write: unpack + decode + identity + reassembly + aggregation", rows)


if __name__ == "__main__":
    main()
