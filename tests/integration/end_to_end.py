"""What the end-to-end tests share: a tenants file, services with a real OpenTelemetry SDK, and requests by hand."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from catchment.cli.http_client import Answer, request
from tests import otlp
from tests.faults.sdk_client import DELTAS, Insistent, grpc_exporter, http_exporter
from tests.faults.stack import UP, Stack

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROTOBUF = {"content-type": "application/x-protobuf"}
# (tenant, cluster) of each token, and the labels of the clusters.
TOKENS = {
    "token-acme-tokyo": ("acme", "tokyo"),
    "token-acme-osaka": ("acme", "osaka"),
    "token-beta-tokyo": ("beta", "tokyo"),
    "token-beta-oslo": ("beta", "oslo"),
}
LABELS = {
    ("acme", "tokyo"): {"zone": "a", "kind": "station"},
    ("acme", "osaka"): {"zone": "b", "kind": "station"},
    ("beta", "tokyo"): {"zone": "c"},
    ("beta", "oslo"): {"zone": "c"},
}
TRANSPORTS = ("http", "http-gzip", "grpc-gzip", "json", "json-gzip")


def write_tenants(path: Path, tokens: Mapping[str, tuple[str, str]]) -> None:
    """Write a tenants file and put it in its place at once."""
    entries = [
        {
            "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
            "tenant": tenant,
            "cluster": cluster,
            "labels": LABELS.get((tenant, cluster), {}),
        }
        for token, (tenant, cluster) in tokens.items()
    ]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(entries))
    partial.replace(path)


def start_up(stack: Stack, tenants: Path, **changes: str) -> None:
    """Run `catchment up` and wait until it is ready."""
    stack.start(UP, flush="300ms", tenants=str(tenants), **changes)
    stack.wait_ready(UP)


def exporter(stack: Stack, transport: str, token: str, *, deltas: bool = False) -> MetricExporter:
    """An exporter of one of `TRANSPORTS`."""
    kind, _, compression = transport.partition("-")
    if kind == "grpc":
        return grpc_exporter(stack.ports["otlp_grpc"], deltas=deltas, token=token, timeout_seconds=20)
    is_gzip = compression == "gzip"
    if kind == "http":
        return http_exporter(stack.ports["otlp_http"], gzip=is_gzip, deltas=deltas, token=token, timeout_seconds=20)
    return JsonExporter(stack, token, is_gzip=is_gzip, deltas=deltas)


class JsonExporter(MetricExporter):
    """OTLP/JSON over HTTP, which the Python SDK does not have, as OTLP maps it: ids in hex, enums as integers."""

    def __init__(self, stack: Stack, token: str, *, is_gzip: bool, deltas: bool) -> None:
        super().__init__(DELTAS if deltas else None)
        self._stack = stack
        self._token = token
        self._is_gzip = is_gzip

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Post once."""
        body = otlp_json(encode_metrics(metrics_data))
        headers = {"content-type": "application/json"}
        if self._is_gzip:
            body, headers["content-encoding"] = gzip.compress(body), "gzip"
        answer = post(self._stack, body, self._token, headers)
        return MetricExportResult.SUCCESS if answer.status == 200 else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is held back."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing to end."""


def otlp_json(message: ExportMetricsServiceRequest) -> bytes:
    """A request as OTLP/JSON."""
    content = json_format.MessageToDict(message, use_integers_for_enums=True)

    def with_hex_ids(node: Any) -> None:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        for child in children:
            with_hex_ids(child)
        for name in ("traceId", "spanId"):
            if isinstance(node, dict) and name in node:
                node[name] = base64.b64decode(node[name]).hex()

    with_hex_ids(content)
    return json.dumps(content).encode()


class Service:
    """An application with an SDK that exports when the test says so, and once more at its end.

    Args:
        name: ``service.name``; unique among the tests.
        inner: where it exports to.
        resource: further attributes of its resource.
    """

    def __init__(self, name: str, inner: MetricExporter, resource: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._exporter = Insistent(inner, insists=False)
        reader = PeriodicExportingMetricReader(self._exporter, 3_600_000, 60_000)
        exponential = ExponentialBucketHistogramAggregation()
        views = [View(instrument_name=instrument, aggregation=exponential) for instrument in ("size", "http.*")]
        attributes = {"service.name": name, **(resource or {})}
        self._provider = MeterProvider([reader], resource=Resource(attributes), views=views, shutdown_on_exit=False)
        self.meter = self._provider.get_meter("end-to-end")

    def export(self) -> None:
        """Export once; fails when that is not acknowledged."""
        before = self._exporter.acknowledged
        self._provider.force_flush(60_000)
        assert self._exporter.acknowledged == before + 1, f"{self.name}: not acknowledged"

    def end(self) -> None:
        """Export a last time and end."""
        before = self._exporter.acknowledged
        self._provider.shutdown(60_000)
        assert self._exporter.acknowledged == before + 1, f"{self.name}: the last export was not acknowledged"


def post(stack: Stack, body: bytes, token: str = "", headers: Mapping[str, str] = PROTOBUF) -> Answer:
    """One request to OTLP/HTTP."""
    authorization = {"authorization": f"Bearer {token}"} if token else {}
    return request(
        f"http://127.0.0.1:{stack.ports['otlp_http']}/v1/metrics", body=body, headers={**headers, **authorization}
    )


def send(stack: Stack, token: str, *metrics: pb.Metric, resource: Mapping[str, Any]) -> None:
    """One protobuf request of one resource, all of which has to be accepted."""
    answer = post(stack, otlp.body(*metrics, resource=resource), token)
    assert (answer.status, answer.body) == (200, b""), answer


def now() -> int:
    """The present in whole seconds, as `tests.otlp` counts them."""
    return int(time.time()) - otlp.T0_NS // otlp.SECOND_NS


def unix(seconds: float) -> int:
    """A time of `tests.otlp` in unix seconds."""
    return round(seconds) + otlp.T0_NS // otlp.SECOND_NS


def eventually(stack: Stack, sql: str, expected: object, seconds: float = 30.0) -> None:
    """Wait until a query of one value has the expected answer."""
    found: object = None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(IndexError):
            found = next(iter(stack.rows(sql)[0].values()))
        if found == expected:
            return
        time.sleep(0.2)
    raise AssertionError(f"{sql}: {found!r} is not {expected!r}")


def blocks(page: str, language: str) -> list[str]:
    """The code of a page of the docs."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def cookbook_data(stack: Stack, token: str) -> None:
    """What docs/sql-cookbook.md asks about: a shop, with traces, and a point that is refused."""
    service = Service("shop", exporter(stack, "http-gzip", token))
    duration = service.meter.create_histogram("http.server.request.duration", "s")
    orders = service.meter.create_counter("orders.placed", "{order}")
    memory = service.meter.create_gauge("memory.usage", "By")
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("cookbook")
    for route, status, seconds in (
        ("/cart", 200, 0.05),
        ("/cart", 200, 0.3),
        ("/cart", 500, 2.0),
        ("/pay", 200, 0.2),
    ):
        with tracer.start_as_current_span("request"):
            duration.record(seconds, {"http.route": route, "http.response.status_code": status})
        orders.add(1, {"channel": "web"})
        memory.set(2**30, {"state": "used"})
        service.export()
    service.end()
    nan = otlp.body(otlp.gauge("bad", otlp.number(now(), float("nan"))), resource={"service.name": "shop"})
    assert post(stack, nan, token).status == 200
