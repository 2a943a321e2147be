"""OTLP/HTTP over real sockets: the specification's answers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import http.client
import json
import random
import socket
import time
from collections.abc import Iterator

import pytest
import uvloop
from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from catchment.errors import Bug, CatchmentError, Invalid, Reject, Retry
from catchment.limits import Limits
from collectors.admit import Admit
from collectors.content import TooLarge
from collectors.receive.otlp_http import OtlpHttp, serve_http
from collectors.records import Outcome
from collectors.tenants import Tenants
from tests.integration.receivers import LOCAL, Receivers, RecordingIntake

PROTOBUF = {"content-type": "application/x-protobuf"}
HEAD = b"POST /v1/metrics HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
SMALL = dataclasses.replace(Limits(), request_bytes_max=1000, requests_in_flight_max=2)
TENANTS = Tenants.of(
    [
        {
            "token_sha256": hashlib.sha256(b"s3cret").hexdigest(),
            "tenant": "acme",
            "cluster": "osaka-7",
            "labels": {"kind": "station"},
        }
    ],
    "test",
)


@dataclasses.dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def rpc_status(self) -> status_pb2.Status:
        return status_pb2.Status.FromString(self.body)


def post(
    port: int, body: object, headers: dict[str, str] = PROTOBUF, *, path: str = "/v1/metrics", method: str = "POST"
) -> Answer:
    """Send one request on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, body=body, headers=headers)  # type: ignore[arg-type]
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())


@pytest.fixture
def intake() -> RecordingIntake:
    """An intake that takes all."""
    return RecordingIntake()


@pytest.fixture
def port(intake: RecordingIntake) -> Iterator[int]:
    """The port of a receiver with small limits and one known token."""
    with Receivers(intake, limits=SMALL, tenants=TENANTS, new_loop=uvloop.new_event_loop) as receivers:
        yield receivers.http_port


def test_a_request_is_recorded_as_received(intake: RecordingIntake, port: int) -> None:
    """Body and headers arrive untouched, with what was resolved at that moment; the answer is an empty message."""
    before_ns = time.time_ns()
    answer = post(port, b"\x1f\x8b", {"content-type": "application/x-protobuf; v=1", "content-encoding": "GZIP"})
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"", "application/x-protobuf")
    (received,) = intake.received
    assert (received.signal, received.body, received.content_encoding) == ("metrics", b"\x1f\x8b", "gzip")
    assert received.content_type == "application/x-protobuf"
    assert (received.tenant, received.cluster, received.labels) == (LOCAL.tenant, LOCAL.cluster, LOCAL.labels)
    assert received.policy_version == "policy-1"
    assert before_ns <= received.received_ns <= time.time_ns()


def test_json_is_answered_in_json(intake: RecordingIntake, port: int) -> None:
    """The answer has the request's content type, also for partial success and errors."""
    headers = {"content-type": "application/json; charset=utf-8"}
    intake.answers += [Outcome(), Outcome(3, "too old"), Invalid("no good")]
    assert post(port, b"{}", headers).body == b"{}"
    partial = json_format.Parse(post(port, b"{}", headers).body, ExportMetricsServiceResponse())
    assert partial.partial_success.rejected_data_points == 3
    refused = post(port, b"{}", headers)
    assert (refused.status, refused.headers["content-type"]) == (400, "application/json")
    assert json.loads(refused.body)["message"] == "no good"


def test_partial_success_says_how_many_and_why(intake: RecordingIntake, port: int) -> None:
    """Rejected points are told with their number and the reason, in a 200."""
    intake.answers.append(Outcome(2, "2 points without a name"))
    answer = post(port, b"x")
    assert answer.status == 200
    response = ExportMetricsServiceResponse.FromString(answer.body)
    assert response.partial_success.rejected_data_points == 2
    assert response.partial_success.error_message == "2 points without a name"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Invalid("truncated protobuf", offset=7), 400, code_pb2.INVALID_ARGUMENT),
        (TooLarge("a bomb"), 413, code_pb2.INVALID_ARGUMENT),
        (Reject("inbox is full", retry_after_seconds=7), 503, code_pb2.UNAVAILABLE),
        (Retry("disk sleeps"), 503, code_pb2.UNAVAILABLE),
        (Bug("secret detail"), 500, code_pb2.INTERNAL),
    ],
)
def test_each_error_has_its_answer(
    intake: RecordingIntake, port: int, error: CatchmentError, status: int, code: int
) -> None:
    """An error says by its status what the sender shall do, and in a google.rpc.Status why."""
    intake.answers.append(error)
    answer = post(port, b"x")
    assert answer.status == status
    assert answer.rpc_status.code == code
    assert ("secret" in answer.rpc_status.message) is False
    retry_after = {7: "7"}.get(getattr(error, "retry_after_seconds", 0), "5" if status == 503 else None)
    assert answer.headers["retry-after"] == retry_after
    if status == 503:
        info = error_details_pb2.RetryInfo()
        assert answer.rpc_status.details[0].Unpack(info)
        assert str(info.retry_delay.seconds) == retry_after


@pytest.mark.parametrize(
    ("status", "headers", "path", "method"),
    [
        (404, PROTOBUF, "/v1/traces", "POST"),
        (404, PROTOBUF, "/", "POST"),
        (405, PROTOBUF, "/v1/metrics", "GET"),
        (415, {"content-type": "text/plain"}, "/v1/metrics", "POST"),
        (415, {}, "/v1/metrics", "POST"),
        (415, PROTOBUF | {"content-encoding": "br"}, "/v1/metrics", "POST"),
        (415, PROTOBUF | {"content-encoding": "gzip, gzip"}, "/v1/metrics", "POST"),
        (401, PROTOBUF | {"authorization": "Bearer wrong"}, "/v1/metrics", "POST"),
        (401, PROTOBUF | {"x-forwarded-for": "127.0.0.1"}, "/v1/metrics", "POST"),
        (401, PROTOBUF | {"X-Real-IP": "127.0.0.1"}, "/v1/metrics", "POST"),
        (413, PROTOBUF | {"content-length": "1001"}, "/v1/metrics", "POST"),
    ],
)
def test_what_is_not_served_is_refused(
    intake: RecordingIntake, port: int, status: int, headers: dict[str, str], path: str, method: str
) -> None:
    """Wrong paths, methods, types, codings, senders and sizes get their status and reach no intake."""
    body = bytes(1001) if status == 413 else b"x"
    answer = post(port, body, headers, path=path, method=method)
    assert answer.status == status
    assert answer.rpc_status.message
    assert intake.received == []


def test_a_token_names_the_tenant(intake: RecordingIntake, port: int) -> None:
    """What a token stands for is recorded with the request."""
    assert post(port, b"x", PROTOBUF | {"authorization": "Bearer s3cret"}).status == 200
    (received,) = intake.received
    assert (received.tenant, received.cluster, received.labels) == ("acme", "osaka-7", '{"kind":"station"}')


def test_a_chunked_body_is_one_body_and_bounded(intake: RecordingIntake, port: int) -> None:
    """A body without a length is joined; it is refused when it grows beyond the limit, before its end."""
    assert post(port, iter([b"one ", b"two"])).status == 200
    assert intake.received[0].body == b"one two"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(
            HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"190\r\n" + bytes(400) + b"\r\n" + b"300\r\n" + bytes(768)
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert len(intake.received) == 1


def test_the_limit_is_exact_and_the_connection_lives_on(intake: RecordingIntake, port: int) -> None:
    """A body of the limit's size is taken, one more byte is refused, and the next request is served all the same."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        for size, status in ((1000, 200), (1001, 413), (1000, 200)):
            connection.request("POST", "/v1/metrics", body=bytes(size), headers=PROTOBUF)
            response = connection.getresponse()
            response.read()
            assert response.status == status


def test_an_oversized_upload_is_answered_although_it_is_not_read() -> None:
    """A client that sends far more than the limit gets its 413 rather than a reset."""
    with Receivers(RecordingIntake()) as receivers:
        answer = post(receivers.http_port, bytes(3 * Limits().request_bytes_max))
        assert answer.status == 413


def test_a_large_body_arrives_whole() -> None:
    """A body of many reads is one bytes object, as sent."""
    intake = RecordingIntake()
    body = random.Random(1).randbytes(10_000_000)
    with Receivers(intake, new_loop=uvloop.new_event_loop) as receivers:
        assert post(receivers.http_port, body).status == 200
    assert intake.received[0].body == body


def test_senders_that_hang_up_leave_nothing(intake: RecordingIntake, port: int) -> None:
    """Half bodies of senders that are gone reach no intake and free their place in flight."""
    head = HEAD + b"content-length: 900\r\n\r\n"
    for _ in range(5):
        for _ in range(SMALL.requests_in_flight_max):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(head + b"half")
        deadline = time.monotonic() + 10
        while post(port, b"x").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert {received.body for received in intake.received} == {b"x"}


def test_too_many_requests_in_flight_are_pushed_back(intake: RecordingIntake, port: int) -> None:
    """Beyond the limit of requests in hand the answer is 503 with a hint; below it again, 200."""
    head = HEAD + b"content-length: 4\r\n\r\n"
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            for _ in range(SMALL.requests_in_flight_max)
        ]
        for connection in slow:
            connection.sendall(head + b"ha")
        deadline = time.monotonic() + 10
        while (answer := post(port, b"x")).status == 200:
            assert time.monotonic() < deadline
        assert answer.status == 503
        assert answer.headers["retry-after"] == str(SMALL.retry_after_seconds)
        for connection in slow:
            connection.sendall(b"lf")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert post(port, b"x").status == 200
    assert [received.body for received in intake.received].count(b"half") == SMALL.requests_in_flight_max


def test_a_sender_that_never_finishes_is_refused() -> None:
    """A body that does not come in time is answered with 408 and frees its place."""

    async def scenario() -> tuple[list[int], list[bytes]]:
        sent: list[int] = []
        closed: list[bytes] = []

        async def receive() -> dict[str, object]:
            if not sent:
                sent.append(0)
                return {"type": "http.request", "body": b"half", "more_body": True}
            await asyncio.sleep(60)
            raise AssertionError("the deadline did not come")

        async def send(event: dict[str, object]) -> None:
            if event["type"] == "http.response.start":
                sent.append(int(str(event["status"])))
                closed.extend(value for name, value in event["headers"] if name == b"connection")  # type: ignore[attr-defined]

        app = OtlpHttp(RecordingIntake(), Admit(None, LOCAL), SMALL, body_seconds_max=0.05)
        scope = {
            "type": "http",
            "path": "/v1/metrics",
            "method": "POST",
            "headers": [(b"content-type", b"application/x-protobuf")],
            "client": ("127.0.0.1", 1),
        }
        await app(scope, receive, send)  # type: ignore[arg-type]
        return sent[1:], closed

    assert asyncio.run(scenario()) == ([408], [b"close"])


def test_garbage_on_the_socket_is_refused_and_the_next_is_served(intake: RecordingIntake, port: int) -> None:
    """Bytes that are no HTTP get a 400 or a closed connection; the server lives on."""
    generator = random.Random(7)
    for size in (1, 10, 100, 5000, 100_000):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, contextlib.suppress(OSError):
            connection.sendall(b"\0" + generator.randbytes(size))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert post(port, b"x").status == 200


def test_a_graceful_stop_finishes_what_is_in_hand() -> None:
    """A request that is being taken in when the stop comes is answered with success."""
    intake = RecordingIntake(seconds=0.3)
    receivers = Receivers(intake)
    with receivers, socket.create_connection(("127.0.0.1", receivers.http_port), timeout=20) as connection:
        connection.sendall(HEAD + b"content-length: 1\r\n\r\nx")
        assert intake.started.wait(10)
        receivers.stop()
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert len(intake.received) == 1


def test_a_taken_port_is_a_clear_error() -> None:
    """A port that another process has is said to be taken, with the address."""

    async def scenario(address: str) -> None:
        await serve_http(RecordingIntake(), Admit(None, LOCAL), address, Limits(), asyncio.Event())

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(CatchmentError, match=r"port is taken.*127\.0\.0\.1"),
    ):
        asyncio.run(scenario(f"127.0.0.1:{taken.getsockname()[1]}"))
    with pytest.raises(CatchmentError, match="write host:port"):
        asyncio.run(scenario("4318"))
