"""The workload of the conformance suite with the Python SDK; see ../README.md."""

from __future__ import annotations

import argparse
import time

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

BOUNDS = [1.0, 2.0, 5.0, 10.0, 20.0]


def exporter(endpoint: str, protocol: str, temporality: str) -> MetricExporter:
    """The exporter of a protocol."""
    chosen = AggregationTemporality.DELTA if temporality == "delta" else AggregationTemporality.CUMULATIVE
    preferred: dict[type, AggregationTemporality] = dict.fromkeys((Counter, Histogram), chosen)
    if protocol == "grpc":
        return GrpcExporter(endpoint, insecure=True, preferred_temporality=preferred)
    url = f"http://{endpoint}/v1/metrics"
    return HttpExporter(url, compression=Compression.Gzip, preferred_temporality=preferred)


def record(provider: MeterProvider, rounds: int) -> None:
    """The workload; exports after each round."""
    meter = provider.get_meter("conformance")
    orders = meter.create_counter("orders", "{order}")
    volume = meter.create_counter("volume", "l")
    queue = meter.create_up_down_counter("queue", "{item}")
    latency = meter.create_histogram("latency", "ms", explicit_bucket_boundaries_advisory=BOUNDS)
    size = meter.create_histogram("size", "By")
    temperature = 20.0

    def observe(_: CallbackOptions) -> list[Observation]:
        return [Observation(temperature)]

    meter.create_observable_gauge("temperature", [observe], "Cel")
    for i in range(1, rounds + 1):
        temperature = 20.0 + i
        orders.add(i, {"key": "a"})
        orders.add(2 * i, {"key": "b"})
        volume.add(0.5 * i, {"key": "a"})
        volume.add(0.25, {"key": "b"})
        queue.add(3)
        queue.add(-1)
        for j in range(10):
            latency.record((7 * i + 3 * j) % 25 + 0.5, {"key": "ab"[j % 2]})
            size.record(1.5 * 2 ** ((i + j) % 12))
        # Remote write has milliseconds: a point that seems to be as old as its stream says nothing of when it began.
        time.sleep(0.005)
        if not provider.force_flush(30_000):
            raise SystemExit("flush failed")


def main() -> None:
    """Record and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("endpoint", "protocol", "temporality", "service"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    reader = PeriodicExportingMetricReader(
        exporter(options.endpoint, options.protocol, options.temporality), export_interval_millis=float("inf")
    )
    provider = MeterProvider(
        [reader],
        resource=Resource({"service.name": options.service}),
        views=[View(instrument_name="size", aggregation=ExponentialBucketHistogramAggregation())],
    )
    record(provider, options.rounds)
    provider.shutdown()


if __name__ == "__main__":
    main()
