"""A real OpenTelemetry SDK against the receivers: all that it recorded arrives, also through backpressure."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from catchment.errors import Reject
from collectors.content import to_protobuf
from tests.integration.receivers import Receivers, RecordingIntake


def _exporter(protocol: str, compressed: bool, receivers: Receivers) -> Any:
    module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.metric_exporter")
    if protocol == "http":
        compression = importlib.import_module("opentelemetry.exporter.otlp.proto.http").Compression
        chosen = compression.Gzip if compressed else compression.NoCompression
        return module.OTLPMetricExporter(f"http://127.0.0.1:{receivers.http_port}/v1/metrics", compression=chosen)
    grpc = importlib.import_module("grpc")
    chosen = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
    return module.OTLPMetricExporter(f"http://127.0.0.1:{receivers.grpc_port}", insecure=True, compression=chosen)


def _counted(intake: RecordingIntake) -> int:
    """The counter's value in the last request."""
    request = ExportMetricsServiceRequest.FromString(to_protobuf(intake.received[-1], 1 << 20))
    metrics = [m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics]
    return next(int(m.sum.data_points[0].as_int) for m in metrics if m.name == "orders")


def _record(exporter: Any, after_each: Callable[[], None] = lambda: None) -> None:
    """Count 1 to 3 with a real SDK, each exported on its own."""
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)])
    try:
        counter = provider.get_meter("test").create_counter("orders")
        histogram = provider.get_meter("test").create_histogram("duration")
        for amount in (1, 2, 3):
            counter.add(amount)
            histogram.record(amount)
            assert provider.force_flush(30_000)
            after_each()
    finally:
        provider.shutdown()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("compressed", [True, False], ids=["gzip", "plain"])
def test_an_sdk_is_understood(protocol: str, compressed: bool) -> None:
    """Every export of an SDK arrives and holds what was counted."""
    intake = RecordingIntake()
    seen: list[int] = []
    with Receivers(intake) as receivers:
        _record(_exporter(protocol, compressed, receivers), lambda: seen.append(_counted(intake)))
    assert seen == [1, 3, 6]
    if protocol == "http":
        assert {received.content_encoding for received in intake.received} == {"gzip" if compressed else ""}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_sdk_honours_backpressure(protocol: str) -> None:
    """A request that was pushed back is sent again by the SDK itself, and nothing is lost."""
    intake = RecordingIntake([Reject("inbox is full", retry_after_seconds=1)])
    with Receivers(intake) as receivers:
        _record(_exporter(protocol, True, receivers))
    assert intake.answers == []
    assert _counted(intake) == 6
    assert len(intake.received) == 4  # three flushes and the one at shutdown
