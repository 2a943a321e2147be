"""A tenant that sends more than it may is pushed back, and nobody else."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.sdk.metrics.export import MetricExportResult

from catchment.config_rates import Rate
from collectors.rates import Rates
from collectors.records import Outcome
from collectors.tenants import Tenants
from tests.integration.receivers import Receivers, RecordingIntake
from tests.integration.test_receive_grpc import METHOD, export, status_of
from tests.integration.test_receive_tls import recorded
from tests.unit.test_tenants import digest

TENANTS = Tenants.of(
    [{"token_sha256": digest(name), "tenant": name, "cluster": f"{name}-1"} for name in ("busy", "quiet")], "tenants"
)

RULE = Rate("busy", requests_per_second=1, points_per_second=10, burst_seconds=2)


@pytest.fixture
def intake() -> RecordingIntake:
    """What arrives."""
    return RecordingIntake()


@pytest.fixture
def receivers(intake: RecordingIntake) -> Iterator[Receivers]:
    """Receivers that let tenant ``busy`` send a request and 10 points a second, while their clock stands still."""
    with Receivers(intake, tenants=TENANTS, rates=Rates((RULE,), lambda: 0.0)) as running:
        yield running


def post(receivers: Receivers, tenant: str) -> tuple[int, str]:
    """Status and Retry-After of an empty request over HTTP."""
    headers = {"content-type": "application/x-protobuf", "authorization": f"Bearer {tenant}"}
    request = urllib.request.Request(f"http://127.0.0.1:{receivers.http_port}/v1/metrics", b"", headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("retry-after", "")


def test_requests_beyond_the_rate_get_429_and_when_to_come_back(receivers: Receivers, intake: RecordingIntake) -> None:
    """After its burst a tenant gets 429 with Retry-After, another tenant 200; what was refused reached no intake."""
    assert [post(receivers, "busy")[0] for _ in range(2)] == [200, 200]
    status, seconds = post(receivers, "busy")
    assert (status, seconds) == (429, "1")
    assert [post(receivers, "quiet")[0] for _ in range(5)] == [200] * 5
    assert [received.tenant for received in intake.received] == ["busy"] * 2 + ["quiet"] * 5


def test_points_are_paid_for_when_they_are_known(receivers: Receivers, intake: RecordingIntake) -> None:
    """A request of 55 points gets in; 20 were the burst, so the next is told to come back after the other 35."""
    intake.answers.append(Outcome(points=55))
    assert post(receivers, "busy")[0] == 200
    status, seconds = post(receivers, "busy")
    assert (status, seconds) == (429, "4")


def test_grpc_says_unavailable_with_retry_info(receivers: Receivers, intake: RecordingIntake) -> None:
    """Over gRPC the answer is UNAVAILABLE with RetryInfo, which every SDK tries again."""
    intake.answers.append(Outcome(points=55))
    with grpc.insecure_channel(f"127.0.0.1:{receivers.grpc_port}") as channel:
        metadata = (("authorization", "Bearer busy"),)
        assert export(channel, b"", metadata=metadata) == b""
        with pytest.raises(grpc.RpcError) as raised:
            export(channel, b"", metadata=metadata)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    info = error_details_pb2.RetryInfo()
    assert status_of(raised.value).details[0].Unpack(info) and info.retry_delay.seconds == 4


@pytest.mark.parametrize("gone", ["cancelled", "out of time", "hung up"])
def test_what_becomes_durable_is_paid_for_though_its_sender_is_gone(
    receivers: Receivers, intake: RecordingIntake, gone: str
) -> None:
    """A client that cancels, runs out of time or hangs up pays for the points that were taken in all the same."""
    intake.answers.append(Outcome(points=55))
    # It is durable only after its sender has gone, and that was noticed.
    intake.released.clear()
    intake.seconds = 0.5
    if gone == "hung up":
        head = b"POST /v1/metrics HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
        with socket.create_connection(("127.0.0.1", receivers.http_port)) as connection:
            connection.sendall(head + b"authorization: Bearer busy\r\ncontent-length: 0\r\n\r\n")
            assert intake.started.wait(60)
    else:
        with grpc.insecure_channel(f"127.0.0.1:{receivers.grpc_port}") as channel:
            grpc.channel_ready_future(channel).result(60)
            timeout = 2 if gone == "out of time" else 60
            metadata = (("authorization", "Bearer busy"),)
            call = channel.unary_unary(METHOD).future(b"", timeout=timeout, metadata=metadata)
            assert intake.started.wait(60)
            if gone == "cancelled":
                call.cancel()
            with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
                call.result()
    intake.released.set()
    deadline = time.monotonic() + 60
    while not intake.received:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert post(receivers, "busy") == (429, "4")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_sdk_comes_back_and_loses_nothing(intake: RecordingIntake, protocol: str) -> None:
    """A real SDK that is over its rate comes back by itself: each of its exports arrives."""
    headers = {"authorization": "Bearer busy"}
    with Receivers(intake, tenants=TENANTS, rates=Rates((RULE,), time.monotonic)) as receivers:
        exporter: HttpExporter | GrpcExporter
        if protocol == "http":
            exporter = HttpExporter(f"http://127.0.0.1:{receivers.http_port}/v1/metrics", headers=headers)
        else:
            exporter = GrpcExporter(f"http://127.0.0.1:{receivers.grpc_port}", insecure=True, headers=headers)
        assert [exporter.export(recorded()) for _ in range(4)] == [MetricExportResult.SUCCESS] * 4
        exporter.shutdown()
    assert len(intake.received) == 4
