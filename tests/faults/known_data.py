"""Requests whose sums are known, sent without an SDK: one HTTP exchange at a time, so that a test sees each answer."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from catchment.histogram import pack
from tests.faults.totals import Key, Totals

_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
_DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
# Dropped by the default policy: only there to make a request large.
_BALLAST = {f"process.ballast_{number}": "x" * 4000 for number in range(8)}
_ONE_TO_TWO = int(pack(1.0, 2.0)[0])
_UP_TO_FIVE = int(pack(float("-inf"), 5.0)[0])


class KnownData:
    """A sender with cumulative and delta streams of every kind.

    Args:
        service: unique among the senders of a folder; created after the collector's folder was born.
        port: of OTLP/HTTP.
    """

    def __init__(self, service: str, port: int) -> None:
        self.service = service
        self._url = f"http://127.0.0.1:{port}/v1/metrics"
        self._start_ns = self._before_ns = time.time_ns()
        self._requests = 0

    def request(self) -> bytes:
        """The next request: from now on expected, once."""
        self._requests += 1
        now_ns, turn = time.time_ns(), self._requests
        message = ExportMetricsServiceRequest()
        resource = message.resource_metrics.add()
        for key, value in {"service.name": self.service, **_BALLAST}.items():
            resource.resource.attributes.append(KeyValue(key=key, value=AnyValue(string_value=value)))
        metrics = resource.scope_metrics.add().metrics
        orders = metrics.add(name="orders", unit="1")
        orders.sum.aggregation_temporality, orders.sum.is_monotonic = _CUMULATIVE, True
        orders.sum.data_points.add(as_int=1000 * turn)
        parcels = metrics.add(name="parcels", unit="1")
        parcels.sum.aggregation_temporality, parcels.sum.is_monotonic = _DELTA, True
        parcels.sum.data_points.add(as_double=turn / 4)
        metrics.add(name="load", unit="1").gauge.data_points.add(as_double=turn / 2)
        size = metrics.add(name="size", unit="1")
        size.exponential_histogram.aggregation_temporality = _CUMULATIVE
        point = size.exponential_histogram.data_points.add(scale=0, count=3 * turn, sum=4.5 * turn)
        point.positive.bucket_counts.append(3 * turn)
        duration = metrics.add(name="duration", unit="s")
        duration.histogram.aggregation_temporality = _DELTA
        duration.histogram.data_points.add(count=2, sum=5.0, explicit_bounds=[5.0], bucket_counts=[2, 0])
        for metric in metrics:
            self._stamp(metric, now_ns)
        self._before_ns = now_ns
        return bytes(message.SerializeToString())

    def offer(self, body: bytes) -> int:
        """Send a request; returns the HTTP status, 0 when the answer never came."""
        request = urllib.request.Request(self._url, data=body, headers={"content-type": "application/x-protobuf"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def send(self, body: bytes | None = None, seconds: float = 60.0) -> None:
        """Send a request, by default the next one, until it is acknowledged."""
        body = body or self.request()
        deadline = time.monotonic() + seconds
        while (status := self.offer(body)) != 200:
            assert status in (0, 503), f"HTTP {status}"
            assert time.monotonic() < deadline, f"not acknowledged after {seconds:g} s: HTTP {status}"
            time.sleep(0.1)

    @property
    def expected(self) -> dict[Key, Totals]:
        """What all requests so far add up to."""
        turns = self._requests
        if not turns:
            return {}
        totals = {
            "orders": Totals(turns, 1000 * turns, 0.0),
            "parcels": Totals(turns, 0, turns * (turns + 1) / 8),
            "load": Totals(turns, 0, turns * (turns + 1) / 4, last=turns / 2),
            "size": Totals(3 * turns, 0, 4.5 * turns, histogram={_ONE_TO_TWO: 3 * turns}),
            "duration": Totals(2 * turns, 0, 5.0 * turns, histogram={_UP_TO_FIVE: 2 * turns}),
        }
        return {(self.service, metric, "a"): each for metric, each in totals.items()}

    def _stamp(self, metric: Metric, now_ns: int) -> None:
        data = getattr(metric, str(metric.WhichOneof("data")))
        is_delta = getattr(data, "aggregation_temporality", _CUMULATIVE) == _DELTA
        for point in data.data_points:
            point.start_time_unix_nano = self._before_ns if is_delta else self._start_ns
            point.time_unix_nano = now_ns
            point.attributes.append(KeyValue(key="key", value=AnyValue(string_value="a")))


def of_sender(sender: KnownData, found: Mapping[Key, Totals]) -> dict[Key, Totals]:
    """The part of what was found that is this sender's."""
    return {key: totals for key, totals in found.items() if key[0] == sender.service}
