"""Applications with a real OpenTelemetry SDK, which remember what they recorded.

One `Application` is one service with one exporter. Its recorder thread adds to every kind of instrument; the SDK
exports many times a second, tries again as SDKs do, and at `shutdown` exports once more.
"""

from __future__ import annotations

import bisect
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from catchment.histogram import pack
from catchment.histogram.table import BOUNDS
from tests.faults.totals import Key, Totals

KEYS = ("a", "b", "c")
BOUNDS_EXPLICIT = (1.0, 2.0, 5.0, 10.0, 20.0)
# Kinds whose points each count by themselves: how many of them arrive depends on which exports got through.
SAMPLED = frozenset({"load", "open"})
_EXPORT_SECONDS = 0.1
_RECORD_SECONDS = 0.004
DELTAS: dict[type, AggregationTemporality] = dict.fromkeys(
    (Counter, Histogram, ObservableCounter), AggregationTemporality.DELTA
)


@dataclass
class Samples:
    """The points of one gauge that an exporter sent.

    ``tried`` and ``acknowledged`` count them; ``latest`` are (time, value) since the last that was acknowledged.
    """

    tried: int = 0
    acknowledged: int = 0
    latest: list[tuple[int, float]] = field(default_factory=list)


class Insistent(MetricExporter):
    """Exports the same batch until it is acknowledged, as a delta exporter with a queue does; counts its tries.

    ``insists`` is false for cumulative streams: their next export says it all again.
    """

    def __init__(self, inner: MetricExporter, *, insists: bool) -> None:
        super().__init__(inner._preferred_temporality, inner._preferred_aggregation)
        self._inner = inner
        self._insists = insists
        self.acknowledged = 0
        self.refused = 0
        self.gives_up = False
        # Set once nothing is left to say.
        self.is_done = False
        self.samples: dict[tuple[str, str], Samples] = {}
        # Held while an export is under way.
        self.busy = threading.Lock()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Export, again and again if need be."""
        with self.busy:
            if self.is_done:
                return MetricExportResult.SUCCESS
            return self._export(metrics_data, timeout_millis, **kwargs)

    def _export(self, metrics_data: MetricsData, timeout_millis: float, **kwargs: Any) -> MetricExportResult:
        batch = list(_samples_in(metrics_data))
        for name, time_ns, value in batch:
            samples = self.samples.setdefault(name, Samples())
            samples.tried += 1
            samples.latest.append((time_ns, value))
        while True:
            result = self._inner.export(metrics_data, timeout_millis, **kwargs)
            if result is MetricExportResult.SUCCESS:
                break
            self.refused += 1
            if not self._insists or self.gives_up:
                return result
            time.sleep(0.05)
        self.acknowledged += 1
        for name, time_ns, _ in batch:
            samples = self.samples[name]
            samples.acknowledged += 1
            samples.latest = [sent for sent in samples.latest if sent[0] >= time_ns]
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is held back."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """End the inner one."""
        self._inner.shutdown(timeout_millis, **kwargs)


def http_exporter(
    port: int, *, gzip: bool, deltas: bool = False, timeout_seconds: int = 1, token: str = ""
) -> MetricExporter:
    """OTLP over HTTP, as an application sets it up."""
    return HttpExporter(
        f"http://127.0.0.1:{port}/v1/metrics",
        headers=_authorization(token),
        timeout=timeout_seconds,
        compression=Compression.Gzip if gzip else Compression.NoCompression,
        preferred_temporality=DELTAS if deltas else None,
    )


def grpc_exporter(port: int, *, deltas: bool = False, timeout_seconds: int = 1, token: str = "") -> MetricExporter:
    """OTLP over gRPC, as an application sets it up."""
    return GrpcExporter(
        f"http://127.0.0.1:{port}",
        headers=_authorization(token),
        insecure=True,
        timeout=timeout_seconds,
        compression=grpc.Compression.Gzip,
        preferred_temporality=DELTAS if deltas else None,
    )


def _authorization(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


class Application:
    """A service that records until it is shut down.

    Args:
        service: its name; unique among the senders of a test.
        exporter: where the SDK exports to.
        insists: see `Insistent`.
        seed: of what it records.
        pace: how many times longer than usual it waits between records and between exports.
    """

    def __init__(self, service: str, exporter: MetricExporter, *, insists: bool, seed: int, pace: float = 1.0) -> None:
        self.service = service
        self.exporter = Insistent(exporter, insists=insists)
        self.expected: dict[Key, Totals] = {}
        self._chance = random.Random(seed)
        reader = PeriodicExportingMetricReader(self.exporter, pace * _EXPORT_SECONDS * 1000, 60_000)
        views = [View(instrument_name="size", aggregation=ExponentialBucketHistogramAggregation())]
        resource = Resource({"service.name": service})
        self._provider = MeterProvider([reader], resource=resource, views=views, shutdown_on_exit=False)
        self._steps = self._instruments()
        self._pace = pace
        self._ended = False
        self._recording = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record, name=service, daemon=True)
        self._thread.start()

    def quiet(self) -> None:
        """Record nothing more; exports go on."""
        self._stop.set()
        self._thread.join()

    @contextlib.contextmanager
    def still(self, seconds: float = 60.0) -> Iterator[None]:
        """Nothing is recorded or sent meanwhile, and all that was recorded has been acknowledged."""
        with self._recording:
            # One may have been collected before; the other was not.
            enough, deadline = self.exporter.acknowledged + 2, time.monotonic() + seconds
            while self.exporter.acknowledged < enough:
                assert time.monotonic() < deadline, f"{self.service}: not acknowledged for {seconds:g} s"
                time.sleep(0.02)
            with self.exporter.busy:
                yield

    def shutdown(self) -> None:
        """Stop recording, export until all that was recorded has been acknowledged, and end."""
        self.quiet()
        with self.still():
            # The SDK's own last export is one try; it would repeat what has been acknowledged, perhaps after all ended.
            self.exporter.is_done = True
        self._ended = True
        self._provider.shutdown(60_000)

    def close(self) -> None:
        """End, whatever arrives; for a test that failed."""
        self.quiet()
        self.exporter.gives_up = True
        if not self._ended:
            self._provider.shutdown(5_000)

    def _record(self) -> None:
        while not self._stop.wait(self._pace * _RECORD_SECONDS):
            with self._recording:
                for step in self._chance.sample(self._steps, 4):
                    step(self._chance.choice(KEYS))

    def _totals(self, metric: str, key: str) -> Totals:
        return self.expected.setdefault((self.service, metric, key), Totals())

    def _instruments(self) -> list[Callable[[str], None]]:
        meter = self._provider.get_meter("faults")
        orders, seconds = meter.create_counter("orders"), meter.create_counter("busy")
        fractions = meter.create_counter("fractions")
        connections, load = meter.create_up_down_counter("open"), meter.create_gauge("load")
        duration = meter.create_histogram("duration", explicit_bucket_boundaries_advisory=BOUNDS_EXPLICIT)
        size = meter.create_histogram("size")
        watched: dict[str, int] = {}
        watch = threading.Lock()

        def observe(_: CallbackOptions) -> list[Observation]:
            with watch:
                return [Observation(value, {"key": key}) for key, value in watched.items()]

        meter.create_observable_counter("watched", [observe])

        def add_int(key: str) -> None:
            amount = self._chance.randrange(2**40)
            orders.add(amount, {"key": key})
            _counted(self._totals("orders", key), amount)

        def add_float(key: str) -> None:
            amount = self._chance.randrange(1, 1000) / 8
            seconds.add(amount, {"key": key})
            _counted(self._totals("busy", key), amount)

        def add_fraction(key: str) -> None:
            amount = self._chance.random()
            fractions.add(amount, {"key": key})
            _counted(self._totals("fractions", key), amount)

        def add_watched(key: str) -> None:
            amount = self._chance.randrange(100)
            with watch:
                watched[key] = watched.get(key, 0) + amount
            _counted(self._totals("watched", key), amount)

        def move(key: str) -> None:
            amount = self._chance.randrange(-50, 60)
            connections.add(amount, {"key": key})
            totals = self.expected.setdefault((self.service, "open", key), Totals(None, None, None))
            totals.last = (totals.last or 0.0) + amount

        def set_load(key: str) -> None:
            value = self._chance.random()
            load.set(value, {"key": key})
            # Which value arrives last depends on which exports get through: see `sample_faults`.
            self.expected.setdefault((self.service, "load", key), Totals(None, None, None))

        def observe_duration(key: str) -> None:
            value = self._chance.randrange(1, 400) / 16
            duration.record(value, {"key": key})
            _observed(self._totals("duration", key), value, _explicit_key(value))

        def observe_size(key: str) -> None:
            # Odd sixteenths between 1 and 30: exact sums, never a bucket's bound, and 160 buckets at scale 5 hold them.
            value = (2 * self._chance.randrange(8, 240) + 1) / 16
            size.record(value, {"key": key})
            _observed(self._totals("size", key), value, _exponential_key(value))

        return [add_int, add_float, add_fraction, add_watched, move, set_load, observe_duration, observe_size]


def _counted(totals: Totals, amount: float) -> None:
    totals.count = None
    if isinstance(amount, int):
        totals.sum_int = (totals.sum_int or 0) + amount
    else:
        totals.sum_float = (totals.sum_float or 0.0) + amount


def _observed(totals: Totals, value: float, key: int) -> None:
    totals.count = (totals.count or 0) + 1
    totals.sum_float = (totals.sum_float or 0.0) + value
    totals.histogram[key] = totals.histogram.get(key, 0) + 1


def _explicit_key(value: float) -> int:
    bounds = (float("-inf"), *BOUNDS_EXPLICIT, float("inf"))
    upper = bisect.bisect_left(bounds, value)
    return int(pack(bounds[upper - 1], bounds[upper])[0])


def _exponential_key(value: float) -> int:
    upper = bisect.bisect_left(BOUNDS, value)
    return int(pack(BOUNDS[upper - 1], BOUNDS[upper])[0])


def _samples_in(data: MetricsData) -> Iterator[tuple[tuple[str, str], int, float]]:
    for metrics in (scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics):
        for metric in metrics:
            if metric.name in SAMPLED:
                for point in metric.data.data_points:
                    assert isinstance(point, NumberDataPoint) and point.attributes is not None
                    yield (metric.name, str(point.attributes["key"])), point.time_unix_nano, float(point.value)


def sample_faults(applications: Sequence[Application], found: Mapping[Key, Totals]) -> list[str]:
    """Where a gauge has fewer samples than were acknowledged or more than were sent, or a last one never sent so late.

    An export whose answer was lost may or may not have arrived: nobody who sends gauges can know.
    """
    said = []
    for application in applications:
        for (metric, key), samples in application.exporter.samples.items():
            name = (application.service, metric, key)
            totals = found.get(name, Totals())
            if not samples.acknowledged <= (totals.count or 0) <= samples.tried:
                sent = f"acknowledged {samples.acknowledged}, sent {samples.tried}"
                said.append(f"{name}: {totals.count} samples, {sent}")
            latest = [value for _, value in samples.latest]
            if totals.last not in latest:
                said.append(f"{name}: last is {totals.last}, sent were {latest}")
    return said
