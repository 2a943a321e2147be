"""The load that every figure is measured with: that of "Peers" in the measurements of comparable systems.

1,000 resources × 100 streams: 50 cumulative sums (40 integer, 10 double), 30 gauges, 10 explicit histograms of 12
buckets and 10 exponential ones of 20 buckets at scale 5. Five attributes a point, of which policy drops
``k8s.pod.name``, whose 5 values fold 100,000 streams into 20,000 series. OTLP/HTTP protobuf bodies of whole resources,
about 220 bytes a point.

Deterministic from a seed. The bodies of the first interval are encoded once; those of the others are copies in which
times and values are patched in place (all these fields have a fixed width; bucket counts stay in two varint bytes). All
values are integers or quarters, so that sums are exact in float64 and can be compared without tolerance.

Streams are numbered by resource, metric, method and pod; ``stream // 5`` is the series.

``python -m benchmarks.load --describe`` says what it makes.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks import wire

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

DROPPED_ATTRIBUTE: Final = "k8s.pod.name"
PODS: Final = 5
METHODS: Final = ("GET", "POST")
STREAMS_PER_METRIC: Final = len(METHODS) * PODS
EXPLICIT_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
EXPONENTIAL_BUCKETS: Final = 20
EXPONENTIAL_SCALE: Final = 5
EXPONENTIAL_OFFSET: Final = -128
# Of the observations, all representable: sums are exact.
EXPLICIT_MEAN: Final = 0.25
EXPONENTIAL_MEAN: Final = 0.078125
# Two-byte varints hold 128 to 16,383.
INTERVALS_MAX: Final = 2_500


@dataclass(frozen=True)
class Metric:
    """A metric of every resource. ``value`` is int, double, gauge, histogram or exponential."""

    name: str
    unit: str
    value: str


METRICS: Final = (
    Metric("http.server.requests", "{request}", "int"),
    Metric("http.server.request.size", "By", "int"),
    Metric("http.server.response.size", "By", "int"),
    Metric("rpc.client.retries", "{retry}", "int"),
    Metric("process.cpu.time", "s", "double"),
    Metric("process.memory.usage", "By", "gauge"),
    Metric("http.server.active_requests", "{request}", "gauge"),
    Metric("queue.depth", "{item}", "gauge"),
    Metric("http.server.request.duration", "s", "histogram"),
    Metric("db.client.operation.duration", "s", "exponential"),
)
STREAMS_PER_RESOURCE: Final = len(METRICS) * STREAMS_PER_METRIC
_KINDS: Final = {"int": "counter", "double": "counter", "gauge": "gauge"}


@dataclass(frozen=True)
class Shape:
    """What to make.

    ``points_per_body`` is a multiple of 100, since a body holds whole resources; ``start_ns`` is the start time of all
    cumulative streams (UTC); interval k (from 1) has points at ``start_ns + k × interval_seconds``.
    """

    resources: int = 1_000
    points_per_body: int = 10_000
    interval_seconds: int = 60
    start_ns: int = 1_767_225_600_000_000_000
    seed: int = 1


@dataclass(frozen=True)
class Expected:
    """Exact totals after some intervals, one element per series (``Load.series``).

    ``count`` is samples of gauges, points of counters and observations of histograms; ``sum`` is the increase of
    counters and histograms and the sum of a gauge's samples; ``buckets`` are increases by series of the histograms'
    metrics only, in order of series, 12 or 20 of them.
    """

    points: Int64s
    count: Int64s
    sum: Float64s
    explicit_buckets: Int64s
    exponential_buckets: Int64s


@dataclass
class _Places:
    """Byte offsets of the patched fields within one body."""

    time: list[int] = field(default_factory=list)
    value: list[int] = field(default_factory=list)
    explicit: list[int] = field(default_factory=list)  # of the count; sum and buckets follow at fixed distances
    exponential: list[int] = field(default_factory=list)


class Load:
    """The streams, their bodies per interval and the totals that must come out."""

    def __init__(self, shape: Shape | None = None) -> None:
        self.shape = shape or Shape()
        if self.shape.points_per_body % STREAMS_PER_RESOURCE:
            raise ValueError(f"points_per_body must be a multiple of {STREAMS_PER_RESOURCE}")
        random = np.random.default_rng(self.shape.seed)
        streams = self.shape.resources * STREAMS_PER_RESOURCE
        self.metric_of = np.arange(streams) // STREAMS_PER_METRIC % len(METRICS)
        self._first = random.integers(1_000_000, 2_000_000, streams)
        self._step = random.integers(1, 100, streams)
        histograms = self.shape.resources * STREAMS_PER_METRIC
        self._explicit_first = random.integers(0, 1_000, (histograms, len(EXPLICIT_BOUNDS) + 1))
        self._explicit_step = random.integers(0, 6, self._explicit_first.shape)
        self._exponential_first = random.integers(200, 1_000, (histograms, EXPONENTIAL_BUCKETS))
        self._exponential_step = random.integers(0, 6, self._exponential_first.shape)
        resources_per_body = self.shape.points_per_body // STREAMS_PER_RESOURCE
        starts = range(0, self.shape.resources, resources_per_body)
        self._templates = [
            _template(range(start, min(start + resources_per_body, self.shape.resources)), self.shape.start_ns)
            for start in starts
        ]

    @property
    def streams(self) -> int:
        """How many streams send a point in each interval."""
        return len(self.metric_of)

    @property
    def points_per_interval(self) -> int:
        """Points in the bodies of one interval."""
        return self.streams

    def series(self) -> list[tuple[str, Metric, str]]:
        """(service, metric, method) of each series, in the order of ``Expected``."""
        return [
            (service_name(resource), metric, method)
            for resource in range(self.shape.resources)
            for metric in METRICS
            for method in METHODS
        ]

    def time_ns(self, interval: int) -> int:
        """The time of every point of an interval; the first interval is 1."""
        return self.shape.start_ns + interval * self.shape.interval_seconds * 1_000_000_000

    def bodies(self, interval: int) -> list[bytes]:
        """The uncompressed OTLP bodies of one interval, 1 to ``INTERVALS_MAX``; about 22 MB for the full load."""
        if not 1 <= interval <= INTERVALS_MAX:
            raise ValueError(f"interval must be 1 to {INTERVALS_MAX}")
        bodies = []
        values = self._values(interval)
        explicit = self._explicit_first + self._explicit_step * interval
        exponential = self._exponential_first + self._exponential_step * interval
        stream = histogram = 0
        for template, places in self._templates:
            body = template.copy()
            points, histograms = len(places.time), len(places.explicit)
            _patch(body, places.time, np.full((points, 1), self.time_ns(interval)))
            is_value = np.isin(self.metric_of[stream : stream + points], _VALUE_METRICS)
            _patch(body, places.value, values[stream : stream + points][is_value][:, None])
            _patch_explicit(body, places.explicit, explicit[histogram : histogram + histograms])
            _patch_exponential(body, places.exponential, exponential[histogram : histogram + histograms])
            bodies.append(body.tobytes())
            stream, histogram = stream + points, histogram + histograms
        return bodies

    def expected(self, intervals: int, *, counts_from_zero: bool) -> Expected:
        """The exact totals of intervals 1 to ``intervals``.

        ``counts_from_zero``: whether a stream's first point is an increase since its start or only a baseline.
        """
        streams, covered = self.streams, intervals if counts_from_zero else intervals - 1
        points = np.full(streams, intervals)
        count, total = points.copy(), np.zeros(streams)
        kind = np.array([metric.value for metric in METRICS])[self.metric_of]
        first = self._first * counts_from_zero
        increase = (first + self._step * covered).astype(np.float64)
        total[kind == "int"] = increase[kind == "int"]
        total[kind == "double"] = increase[kind == "double"] / 4
        is_gauge = kind == "gauge"
        for interval in range(1, intervals + 1):
            total[is_gauge] += self._values(interval)[is_gauge].view(np.float64)
        explicit = self._explicit_first * counts_from_zero + self._explicit_step * covered
        exponential = self._exponential_first * counts_from_zero + self._exponential_step * covered
        for name, buckets, mean in (
            ("histogram", explicit, EXPLICIT_MEAN),
            ("exponential", exponential, EXPONENTIAL_MEAN),
        ):
            count[kind == name] = buckets.sum(axis=1)
            total[kind == name] = buckets.sum(axis=1) * mean
        return Expected(
            points=points.reshape(-1, PODS).sum(axis=1),
            count=count.reshape(-1, PODS).sum(axis=1),
            sum=total.reshape(-1, PODS).sum(axis=1),
            explicit_buckets=explicit.reshape(-1, PODS, explicit.shape[1]).sum(axis=1),
            exponential_buckets=exponential.reshape(-1, PODS, EXPONENTIAL_BUCKETS).sum(axis=1),
        )

    def _values(self, interval: int) -> Int64s:
        """The 8 bytes of each stream's value: sfixed64 or double, as int64; histograms' are not used."""
        counters = self._first + self._step * interval
        gauges = (self._first + 37 * self._step * interval) % 4_000
        kind = np.array([metric.value for metric in METRICS])[self.metric_of]
        quarters = np.where(kind == "gauge", gauges, counters) / 4
        return np.where(kind == "int", counters, quarters.view(np.int64))


_VALUE_METRICS: Final = [place for place, metric in enumerate(METRICS) if metric.value in _KINDS]


def service_name(resource: int) -> str:
    """The service.name of a resource."""
    return f"service-{resource:04d}"


def kind_of(metric: Metric) -> str:
    """counter, gauge or histogram."""
    return _KINDS.get(metric.value, "histogram")


# ---- encoding


def _template(resources: range, start_ns: int) -> tuple[npt.NDArray[np.uint8], _Places]:
    places = _Places()
    parts: list[bytes] = []
    length = 0
    for resource in resources:
        encoded, own = _resource_metrics(resource, start_ns)
        for name in ("time", "value", "explicit", "exponential"):
            getattr(places, name).extend(place + length for place in getattr(own, name))
        parts.append(encoded)
        length += len(encoded)
    return np.frombuffer(b"".join(parts), np.uint8), places


def _resource_metrics(number: int, start_ns: int) -> tuple[bytes, _Places]:
    resource = b"".join(
        wire.attribute(1, key, value)
        for key, value in (
            ("service.name", service_name(number)),
            ("service.namespace", "shop"),
            ("deployment.environment.name", "production"),
            ("host.name", f"node-{number % 97:03d}.internal"),
        )
    )
    attributes = [
        [
            ("http.request.method", method),
            ("http.route", "/v1/stations"),
            ("http.response.status_code", 200),
            ("url.scheme", "https"),
            (DROPPED_ATTRIBUTE, f"api-{number:04d}-7d9f8b6c5d-{pod}"),
        ]
        for method in METHODS
        for pod in range(PODS)
    ]
    places = _Places()
    metrics: list[bytes] = []
    scope = wire.delimited(1, wire.text(1, "io.example.instrumentation") + wire.text(2, "1.4.2"))
    head = wire.delimited(1, resource)
    at = len(scope)
    for metric in METRICS:
        encoded = _metric(metric, attributes, start_ns, at, places)
        metrics.append(encoded)
        at += len(encoded)
    scope_metrics = scope + b"".join(metrics)
    inner = head + wire.delimited(2, scope_metrics)
    whole = wire.delimited(1, inner)
    shift = len(whole) - len(scope_metrics)
    for name in ("time", "value", "explicit", "exponential"):
        own = getattr(places, name)
        own[:] = [place + shift for place in own]
    return whole, places


_DATA_FIELD: Final = {"gauge": 5, "int": 7, "double": 7, "histogram": 9, "exponential": 10}
_EXPLICIT_ENDS: Final = wire.double(11, 0.001) + wire.double(12, 12.0)
_EXPONENTIAL_ENDS: Final = wire.double(12, 0.0626) + wire.double(13, 0.096)
_CUMULATIVE: Final = wire.number(2, 2)
_MONOTONIC: Final = wire.number(3, 1)
_SUFFIX: Final = {
    "gauge": b"",
    "int": _CUMULATIVE + _MONOTONIC,
    "double": _CUMULATIVE + _MONOTONIC,
    "histogram": _CUMULATIVE,
    "exponential": _CUMULATIVE,
}


def _metric(
    metric: Metric, attributes: list[list[tuple[str, str | int]]], start_ns: int, at: int, places: _Places
) -> bytes:
    """One metric of 10 points; ``at`` is where it begins within its scope, for the places of the patched fields."""
    points: list[bytes] = []
    local = _Places()
    length = 0
    for each in attributes:
        point = _point(metric.value, each, start_ns, local, length)
        points.append(point)
        length += len(point)
    data = b"".join(points) + _SUFFIX[metric.value]
    names = wire.text(1, metric.name) + wire.text(3, metric.unit)
    encoded = wire.delimited(2, names + wire.delimited(_DATA_FIELD[metric.value], data))
    shift = at + len(encoded) - len(data)
    for name in ("time", "value", "explicit", "exponential"):
        getattr(places, name).extend(place + shift for place in getattr(local, name))
    return encoded


def _point(value: str, attributes: list[tuple[str, str | int]], start_ns: int, local: _Places, at: int) -> bytes:
    times = wire.fixed64(2, start_ns) + wire.fixed64(3)
    if value in _KINDS:
        encoded = b"".join(wire.attribute(7, *each) for each in attributes)
        measured = wire.fixed64(6) if value == "int" else wire.double(4)
        point = wire.delimited(1, times + measured + encoded)
        begin = at + len(point) - len(times) - len(measured) - len(encoded)
        local.value.append(begin + len(times) + 1)
    elif value == "histogram":
        encoded = b"".join(wire.attribute(9, *each) for each in attributes)
        buckets = wire.delimited(6, bytes(8 * (len(EXPLICIT_BOUNDS) + 1)))
        bounds = wire.delimited(7, np.array(EXPLICIT_BOUNDS, np.float64).tobytes())
        rest = wire.fixed64(4) + wire.double(5) + buckets + bounds + encoded + _EXPLICIT_ENDS
        point = wire.delimited(1, times + rest)
        begin = at + len(point) - len(times) - len(rest)
        local.explicit.append(begin + len(times) + 1)
    else:
        encoded = b"".join(wire.attribute(1, *each) for each in attributes)
        counts = wire.delimited(2, b"\x80\x01" * EXPONENTIAL_BUCKETS)
        buckets = wire.delimited(8, wire.zigzag(1, EXPONENTIAL_OFFSET) + counts)
        rest = wire.fixed64(4) + wire.double(5) + wire.zigzag(6, EXPONENTIAL_SCALE) + buckets + _EXPONENTIAL_ENDS
        point = wire.delimited(1, encoded + times + rest)
        begin = at + len(point) - len(times) - len(rest)
        local.exponential.append(begin + len(times) + 1)
    local.time.append(begin + 10)
    return point


# From the count of a point to its first bucket count: count, sum, (scale,) headers.
_TO_EXPLICIT_BUCKETS: Final = (
    8 + 9 + len(wire.delimited(6, bytes(8 * (len(EXPLICIT_BOUNDS) + 1)))) - 8 * (len(EXPLICIT_BOUNDS) + 1)
)
_TO_EXPONENTIAL_BUCKETS: Final = (
    8
    + 9
    + len(wire.zigzag(6, EXPONENTIAL_SCALE))
    + 2  # tag and length of the buckets
    + len(wire.zigzag(1, EXPONENTIAL_OFFSET))
    + 2  # tag and length of the packed counts
)


def _patch(body: npt.NDArray[np.uint8], places: list[int], values: npt.NDArray[np.int64]) -> None:
    """Write rows of 8-byte values at places."""
    flat = np.ascontiguousarray(values).view(np.uint8)
    body[np.array(places, np.int64)[:, None] + np.arange(flat.shape[1])] = flat


def _patch_explicit(body: npt.NDArray[np.uint8], places: list[int], buckets: Int64s) -> None:
    count = buckets.sum(axis=1)
    at = np.array(places, np.int64)
    _patch(body, places, count[:, None])
    _patch(body, (at + 9).tolist(), (count * EXPLICIT_MEAN).view(np.int64)[:, None])
    _patch(body, (at + _TO_EXPLICIT_BUCKETS).tolist(), buckets)


def _patch_exponential(body: npt.NDArray[np.uint8], places: list[int], buckets: Int64s) -> None:
    count = buckets.sum(axis=1)
    at = np.array(places, np.int64)
    _patch(body, places, count[:, None])
    _patch(body, (at + 9).tolist(), (count * EXPONENTIAL_MEAN).view(np.int64)[:, None])
    varints = np.stack((buckets & 0x7F | 0x80, buckets >> 7), axis=2).astype(np.uint8).reshape(len(buckets), -1)
    body[(at + _TO_EXPONENTIAL_BUCKETS)[:, None] + np.arange(varints.shape[1])] = varints


def describe(load: Load) -> str:
    """What the load is, for people."""
    bodies = load.bodies(1)
    points = min(load.shape.points_per_body, load.streams)
    plain, zipped = len(bodies[0]) / points, len(gzip.compress(bodies[0], 6)) / points
    lines = [
        f"{load.shape.resources:,} resources x {STREAMS_PER_RESOURCE} streams = {load.streams:,} points an interval",
        f"{load.streams // PODS:,} series after dropping {DROPPED_ATTRIBUTE}",
        f"{len(bodies):,} bodies of {points:,} points, {plain:.0f} bytes a point, {zipped:.1f} gzipped",
    ]
    lines += [f"  {STREAMS_PER_METRIC} x {metric.name} [{metric.unit}] {metric.value}" for metric in METRICS]
    return "\n".join(lines)


def main() -> None:
    """Describe the load."""
    parser = argparse.ArgumentParser(description="The load of the benchmarks.")
    parser.add_argument("--describe", action="store_true", help="say what it consists of")
    parser.add_argument("--points-per-body", type=int, default=10_000)
    arguments = parser.parse_args()
    if not arguments.describe:
        parser.error("nothing to do: --describe says what the load is")
    print(describe(Load(Shape(points_per_body=arguments.points_per_body))))


if __name__ == "__main__":
    main()
