"""OTLP/gRPC over real sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import queue
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import uvloop
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from catchment.errors import Bug, CatchmentError, Invalid, Reject
from catchment.limits import Limits
from collectors.admit import Admit
from collectors.receive.otlp_grpc import OtlpGrpc, peer_address, serve_grpc
from collectors.records import Outcome
from collectors.tenants import Sender, Tenants
from tests.integration.receivers import LOCAL, Receivers, RecordingIntake

METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
SMALL = dataclasses.replace(Limits(), request_bytes_max=100_000, requests_in_flight_max=2)
TENANTS = Tenants.of(
    [{"token_sha256": hashlib.sha256(b"s3cret").hexdigest(), "tenant": "acme", "cluster": "osaka-7"}], "test"
)


@pytest.fixture
def intake() -> RecordingIntake:
    """An intake that takes all."""
    return RecordingIntake()


@pytest.fixture
def channel(intake: RecordingIntake) -> Iterator[grpc.Channel]:
    """A channel to a receiver with small limits and one known token."""
    with (
        Receivers(intake, limits=SMALL, tenants=TENANTS, new_loop=uvloop.new_event_loop) as receivers,
        grpc.insecure_channel(f"127.0.0.1:{receivers.grpc_port}") as channel,
    ):
        yield channel


def export(channel: grpc.Channel, body: bytes, **options: object) -> bytes:
    """Call Export with raw bytes."""
    answer: bytes = channel.unary_unary(METHOD)(body, timeout=20, **options)
    return answer


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status in the trailers of an error."""
    trailers = dict(error.trailing_metadata())
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_is_recorded_as_bytes(
    intake: RecordingIntake, channel: grpc.Channel, compression: grpc.Compression
) -> None:
    """The message arrives plain and untouched, whatever the transport's compression; the answer is empty."""
    body = random.Random(1).randbytes(5000) + bytes(50_000)
    assert export(channel, body, compression=compression) == b""
    (received,) = intake.received
    assert (received.body, received.content_encoding, received.signal) == (body, "", "metrics")
    assert (received.tenant, received.labels, received.policy_version) == (LOCAL.tenant, LOCAL.labels, "policy-1")


async def _silence() -> AsyncIterator[bytes]:
    """The messages of a client that sends none."""
    await asyncio.sleep(20)
    yield b""


def test_partial_success_says_how_many_and_why(intake: RecordingIntake, channel: grpc.Channel) -> None:
    """Rejected points are told in an OK answer."""
    intake.answers.append(Outcome(2, "too old"))
    response = ExportMetricsServiceResponse.FromString(export(channel, b"x"))
    assert response.partial_success.rejected_data_points == 2
    assert response.partial_success.error_message == "too old"


def test_backpressure_is_unavailable_with_a_hint(intake: RecordingIntake, channel: grpc.Channel) -> None:
    """Reject becomes UNAVAILABLE with RetryInfo."""
    intake.answers.append(Reject("inbox is full", retry_after_seconds=7))
    with pytest.raises(grpc.RpcError) as raised:
        export(channel, b"x")
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    info = error_details_pb2.RetryInfo()
    assert status_of(raised.value).details[0].Unpack(info)
    assert info.retry_delay.seconds == 7


def test_a_bad_payload_is_invalid_argument_with_details(intake: RecordingIntake, channel: grpc.Channel) -> None:
    """Invalid becomes INVALID_ARGUMENT with BadRequest, which no client sends again."""
    intake.answers.append(Invalid("truncated protobuf"))
    with pytest.raises(grpc.RpcError) as raised:
        export(channel, b"x")
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    request = error_details_pb2.BadRequest()
    assert status_of(raised.value).details[0].Unpack(request)
    assert request.field_violations[0].description == "truncated protobuf"


def test_trouble_of_our_own_is_internal_and_tells_nothing(intake: RecordingIntake, channel: grpc.Channel) -> None:
    """An error of ours is INTERNAL, without its details."""
    intake.answers.append(Bug("secret detail"))
    with pytest.raises(grpc.RpcError) as raised:
        export(channel, b"x")
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in raised.value.details()


def test_tokens_name_the_tenant_and_wrong_ones_are_refused(intake: RecordingIntake, channel: grpc.Channel) -> None:
    """Metadata carries the token; an unknown one is UNAUTHENTICATED."""
    export(channel, b"x", metadata=(("authorization", "Bearer s3cret"),))
    assert (intake.received[0].tenant, intake.received[0].cluster) == ("acme", "osaka-7")
    with pytest.raises(grpc.RpcError) as raised:
        export(channel, b"x", metadata=(("authorization", "Bearer wrong"),))
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as raised:
        export(channel, b"x", metadata=(("authorization", "Bearer wrong"), ("authorization", "Bearer s3cret")))
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as raised:
        export(channel, b"x", metadata=(("x-forwarded-proto", "https"),))
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert len(intake.received) == 1


def test_unknown_senders_take_no_room_by_messages_that_do_not_come(
    intake: RecordingIntake, channel: grpc.Channel
) -> None:
    """Who is not known is refused before the message is there, so that many of them keep nobody out."""
    silent, rest = threading.Event(), iter(lambda: silent.wait(20) and b"", b"")
    calls = [
        channel.stream_unary(METHOD).future(rest, timeout=20, metadata=(("authorization", "Bearer wrong"),))
        for _ in range(3 * SMALL.requests_in_flight_max)
    ]
    try:
        codes = {error.code() for call in calls if (error := call.exception(10)) is not None}
        assert codes == {grpc.StatusCode.UNAUTHENTICATED}
        assert export(channel, b"x") == b""
    finally:
        silent.set()


def test_a_message_that_does_not_come_is_pushed_back(intake: RecordingIntake) -> None:
    """Who begins a call and sends no message in time is told to come back, and is in flight no more."""

    observed: list[str] = []

    async def scenario() -> None:
        def observe(protocol: str, answer: str, size_bytes: int, sender: Sender | None) -> None:
            observed.append(answer)

        handler = OtlpGrpc(intake, Admit(None, LOCAL), SMALL, observe, message_seconds_max=0.1)
        server = grpc.aio.server()
        methods = {"Export": grpc.stream_unary_rpc_method_handler(handler.export)}
        service = METHOD.split("/")[1]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for _ in range(SMALL.requests_in_flight_max + 1):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await channel.stream_unary(METHOD)(_silence(), timeout=20)
                assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
                assert "not complete" in str(raised.value.details())
            # The limit is not what is to be seen of these.
            handler._message_seconds_max = 60
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.stream_unary(METHOD)(iter(()), timeout=20)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert await channel.unary_unary(METHOD)(b"x", timeout=20) == b""
        await server.stop(0)

    asyncio.run(scenario())
    assert observed == ["pushed_back"] * (SMALL.requests_in_flight_max + 1) + ["accepted"]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_beyond_the_limit_is_refused(
    intake: RecordingIntake, channel: grpc.Channel, compression: grpc.Compression
) -> None:
    """Too large a message, or a bomb that unpacks to one, is RESOURCE_EXHAUSTED and reaches no intake."""
    with pytest.raises(grpc.RpcError) as raised:
        export(channel, bytes(50_000_000), compression=compression)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert intake.received == []
    export(channel, b"x")


def test_other_methods_are_unimplemented(channel: grpc.Channel) -> None:
    """A signal that is not served yet is UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(b"", timeout=20)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_too_many_requests_in_flight_are_pushed_back(intake: RecordingIntake, channel: grpc.Channel) -> None:
    """Beyond the limit of requests in hand the answer is UNAVAILABLE with RetryInfo, and the others are served."""
    ended: queue.SimpleQueue[grpc.Future] = queue.SimpleQueue()
    intake.released.clear()
    try:
        calls = [channel.unary_unary(METHOD).future(b"x", timeout=60) for _ in range(3)]
        for call in calls:
            call.add_done_callback(ended.put)
        ended.get(timeout=60)
    finally:
        intake.released.set()
    outcomes = [call.exception() for call in calls]
    refused = [error for error in outcomes if error is not None]
    assert len(refused) == 1
    assert refused[0].code() == grpc.StatusCode.UNAVAILABLE
    assert status_of(refused[0]).details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    assert len(intake.received) == 2


def test_clients_that_cancel_stay_in_flight_until_their_requests_are_done(
    intake: RecordingIntake, channel: grpc.Channel
) -> None:
    """Whoever sends and cancels in a loop has no more requests taken in at once than one who waits."""
    intake.released.clear()
    try:
        for _ in range(SMALL.requests_in_flight_max):
            intake.started.clear()
            call = channel.unary_unary(METHOD).future(b"cancelled", timeout=60)
            assert intake.started.wait(60)
            call.cancel()
        with pytest.raises(grpc.RpcError) as raised:
            export(channel, b"one too many")
    finally:
        intake.released.set()
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_client_that_cancels_changes_nothing(intake: RecordingIntake, channel: grpc.Channel) -> None:
    """A request that is being taken in is finished though its client is gone."""
    intake.seconds = 0.3
    call = channel.unary_unary(METHOD).future(b"cancelled", timeout=20)
    assert intake.started.wait(10)
    call.cancel()
    intake.seconds = 0.4
    export(channel, b"next")
    assert [received.body for received in intake.received] == [b"cancelled", b"next"]


def test_a_graceful_stop_finishes_what_is_in_hand() -> None:
    """A request that is being taken in when the stop comes is answered with success."""
    intake = RecordingIntake(seconds=0.3)
    with Receivers(intake) as receivers, grpc.insecure_channel(f"127.0.0.1:{receivers.grpc_port}") as channel:
        call = channel.unary_unary(METHOD).future(b"x", timeout=20)
        assert intake.started.wait(10)
        receivers.stop()
        assert call.result() == b""


def test_a_taken_port_is_a_clear_error() -> None:
    """A port that another process has is said to be taken."""

    async def scenario(address: str) -> None:
        await serve_grpc(RecordingIntake(), Admit(None, LOCAL), address, Limits(), asyncio.Event())

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(CatchmentError, match="port is taken"),
    ):
        asyncio.run(scenario(f"127.0.0.1:{taken.getsockname()[1]}"))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:50321", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50321", "::1"),
        ("ipv6:[::ffff:10.0.0.1]:50321", "::ffff:10.0.0.1"),
        ("unix:", ""),
        ("unix:/tmp/x", ""),
    ],
)
def test_the_address_is_read_from_the_peer(peer: str, address: str) -> None:
    """A peer's name gives its IP address; what has none is not loopback."""
    assert peer_address(peer) == address
