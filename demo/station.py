"""One simulated station: what happens at it, and the OTLP request that its SDK would send. Pure: time is an argument.

A station runs three services. Each counts its requests and the failed ones; ``charging`` also has energy, sessions,
power and temperature, ``authorisation`` a latency histogram at scale 5. All sums and histograms are cumulative since
the station's start, so that what was acknowledged last covers all before it.
"""

from __future__ import annotations

import bisect
import math
import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
    ScopeMetrics,
)

from catchment.histogram.table import BOUNDS_PER_OCTAVE, FINEST_SCALE, MANTISSAS
from demo.fleet import Site

SERVICES: Final = ("authorisation", "charging", "payment")
REQUESTS: Final = "station.requests"
FAILED: Final = "station.requests.failed"
ENERGY: Final = "station.energy"
SESSIONS: Final = "station.sessions"
POWER: Final = "station.power"
TEMPERATURE: Final = "station.temperature"
LATENCY: Final = "station.authorisation.duration"

# A factor of 30 is what an SDK's 160 buckets hold at scale 5.
_LATENCY_SECONDS_MIN: Final = 0.02
_LATENCY_SECONDS_MAX: Final = 0.6
_NORMAL_FAILURES: Final = 0.0004
_CONNECTOR_WATTS: Final = 50_000


def bucket_index(value: float) -> int:
    """The exponential bucket (2**(i/32), 2**((i+1)/32)] of a positive value at scale 5, exactly."""
    mantissa, exponent = math.frexp(value)
    return (exponent - 1) * BOUNDS_PER_OCTAVE + bisect.bisect_left(MANTISSAS, mantissa * 2) - 1


_FIRST_BUCKET: Final = bucket_index(_LATENCY_SECONDS_MIN)
_BUCKETS: Final = bucket_index(_LATENCY_SECONDS_MAX) - _FIRST_BUCKET + 1


@dataclass(frozen=True)
class Report:
    """One request and what its acknowledgement would mean.

    ``increments`` are the counters' cumulative values by (metric, service); ``latencies_seconds`` the observations that
    are in this request and were in none before it.
    """

    body: bytes
    points: int
    increments: Mapping[tuple[str, str], int]
    latencies_seconds: array[float]


class Station:
    """The counters of one station since ``start_ns`` (UTC). ``requests_per_second`` is of each of its services."""

    def __init__(self, site: Site, start_ns: int, seed: int, requests_per_second: float = 0.7) -> None:
        self.site = site
        self._random = random.Random(f"{seed}/{site.cluster}")  # reproducible, not secret
        self._requests_per_second = requests_per_second
        self._collected_ns = start_ns
        self._values = {(metric, service): 0 for service in SERVICES for metric in (REQUESTS, FAILED)}
        self._values |= {(ENERGY, "charging"): 0, (SESSIONS, "charging"): 0}
        self._buckets = [0] * _BUCKETS
        self._latency_sum = 0.0
        self._request = ExportMetricsServiceRequest()
        self._counters: dict[tuple[str, str], NumberDataPoint] = {}
        self._gauges: dict[str, NumberDataPoint] = {}
        self._latency = self._describe(start_ns)

    def collect(self, now_ns: int, failure_shares: Mapping[str, float] | None = None) -> Report:
        """Live through the time since the last collection, then report.

        Args:
            now_ns: the time of the points; later than at the last call.
            failure_shares: by service, the share of requests that fail; others fail as they normally do.
        """
        elapsed_seconds = (now_ns - self._collected_ns) / 1e9
        self._collected_ns = now_ns
        latencies = array("d")
        for service in SERVICES:
            share = (failure_shares or {}).get(service, _NORMAL_FAILURES)
            mean = elapsed_seconds * self._requests_per_second * self._random.uniform(0.6, 1.4)
            requests = int(mean + self._random.random())
            failed = sum(self._random.random() < share for _ in range(requests))
            self._values[REQUESTS, service] += requests
            self._values[FAILED, service] += failed
            if service == "authorisation":
                latencies.extend(self._observe() for _ in range(requests))
        load = self._random.random()
        self._values[ENERGY, "charging"] += round(load * _CONNECTOR_WATTS * elapsed_seconds / 3_600)
        self._values[SESSIONS, "charging"] += self._random.random() < elapsed_seconds / 300
        self._gauges[POWER].as_double = round(load * _CONNECTOR_WATTS, 1)
        self._gauges[TEMPERATURE].as_double = round(18 + 30 * load + self._random.random(), 1)
        return Report(self._encode(now_ns), self._points, dict(self._values), latencies)

    @property
    def _points(self) -> int:
        return len(self._counters) + len(self._gauges) + 1

    def _observe(self) -> float:
        seconds = self._random.lognormvariate(-2.6, 0.55)
        seconds = min(max(seconds, _LATENCY_SECONDS_MIN), _LATENCY_SECONDS_MAX)
        self._buckets[bucket_index(seconds) - _FIRST_BUCKET] += 1
        self._latency_sum += seconds
        return seconds

    def _encode(self, now_ns: int) -> bytes:
        for key, point in self._counters.items():
            point.time_unix_nano = now_ns
            point.as_int = self._values[key]
        for point in self._gauges.values():
            point.time_unix_nano = now_ns
        filled = [place for place, count in enumerate(self._buckets) if count]
        first, end = (filled[0], filled[-1] + 1) if filled else (0, 0)
        latency = self._latency
        latency.time_unix_nano = now_ns
        latency.count = sum(self._buckets)
        latency.sum = self._latency_sum
        latency.positive.offset = _FIRST_BUCKET + first
        del latency.positive.bucket_counts[:]
        latency.positive.bucket_counts.extend(self._buckets[first:end])
        body: bytes = self._request.SerializeToString()
        return body

    def _describe(self, start_ns: int) -> ExponentialHistogramDataPoint:
        """Build the message once; a collection only writes numbers into it."""
        scopes = {}
        for service in SERVICES:
            resource_metrics = self._request.resource_metrics.add()
            for key, value in (("service.name", service), ("service.instance.id", f"{self.site.cluster}/{service}")):
                resource_metrics.resource.attributes.add(key=key).value.string_value = value
            scopes[service] = resource_metrics.scope_metrics.add()
            scopes[service].scope.name = "demo.station"
        for name, service in self._values:
            metric = _metric(scopes[service], name, {ENERGY: "Wh", SESSIONS: "{session}"}.get(name, "{request}"))
            metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            metric.sum.is_monotonic = True
            self._counters[name, service] = metric.sum.data_points.add(start_time_unix_nano=start_ns)
        for name, unit in ((POWER, "W"), (TEMPERATURE, "Cel")):
            self._gauges[name] = _metric(scopes["charging"], name, unit).gauge.data_points.add()
        histogram = _metric(scopes["authorisation"], LATENCY, "s").exponential_histogram
        histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        point: ExponentialHistogramDataPoint = histogram.data_points.add(
            start_time_unix_nano=start_ns, scale=FINEST_SCALE
        )
        return point


def _metric(scope: ScopeMetrics, name: str, unit: str) -> Metric:
    metric: Metric = scope.metrics.add(name=name, unit=unit)
    return metric
