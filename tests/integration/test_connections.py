"""More senders than a collector has files for: those that are connected go on, and what it needs itself is there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import uvloop

from catchment.config_tls import ListenTls
from catchment.limits import Limits
from collectors.open_files import connections_of
from collectors.receive.tls import Certificates
from tests import otlp
from tests.faults.stack import COMMAND, Stack
from tests.integration.receivers import Receivers, RecordingIntake
from tests.integration.test_receive_grpc import METHOD
from tests.integration.test_receive_http import HEAD
from tests.kafka.certificates import FOR_SERVERS, Authority

FEW = dataclasses.replace(Limits(), connections_max=3)


def connected(port: int, count: int) -> list[socket.socket]:
    """Sockets of senders that say nothing yet."""
    return [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(count)]


def is_taken(sender: socket.socket) -> bool:
    """Whether a request on the connection is answered."""
    try:
        sender.sendall(HEAD + b"content-length: 1\r\n\r\nx")
        return sender.recv(4096).startswith(b"HTTP/1.1 200 ")
    except ConnectionError:
        return False


def test_http_connections_beyond_the_limit_are_closed_and_the_others_served() -> None:
    """The first ones are answered, the others hung up on; when one leaves there is room for the next."""
    with Receivers(RecordingIntake(), limits=FEW, new_loop=uvloop.new_event_loop) as receivers:
        senders = connected(receivers.http_port, 5)
        assert [is_taken(sender) for sender in senders] == [True] * 3 + [False] * 2
        senders[0].close()
        deadline = time.monotonic() + 20
        while True:
            (late,) = connected(receivers.http_port, 1)
            with late:
                if is_taken(late):
                    break
            assert time.monotonic() < deadline
        for sender in senders:
            sender.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_connections_count_before_their_tls_handshake(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Who connects to a TLS receiver and says nothing takes a place; beyond the limit it is hung up on at once."""
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("server", FOR_SERVERS)
    certificates = Certificates(ListenTls(pair.cert, pair.key), print)
    with Receivers(RecordingIntake(), limits=FEW, certificates=certificates, new_loop=new_loop) as receivers:
        senders = connected(receivers.http_port, 5)
        for beyond in senders[3:]:
            assert beyond.recv(1) == b""
        context = ssl.create_default_context(cafile=authority.ca)
        with context.wrap_socket(senders[0], server_hostname="127.0.0.1") as first:
            assert is_taken(first)
        for sender in senders:
            sender.close()


def test_grpc_connections_beyond_the_limit_are_closed_and_the_others_served() -> None:
    """Calls on connections within the limit are answered, and those beyond it are UNAVAILABLE until there is room."""
    with (
        Receivers(RecordingIntake(), limits=FEW, new_loop=uvloop.new_event_loop) as receivers,
        contextlib.ExitStack() as up,
    ):
        options = (("grpc.use_local_subchannel_pool", 1),)
        address = f"127.0.0.1:{receivers.grpc_port}"
        channels = [up.enter_context(grpc.insecure_channel(address, options)) for _ in range(4)]
        for channel in channels[:3]:
            assert channel.unary_unary(METHOD)(b"x", timeout=20) == b""
        with pytest.raises(grpc.RpcError) as raised:
            channels[3].unary_unary(METHOD)(b"x", timeout=5)
        assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        channels[0].close()
        assert channels[3].unary_unary(METHOD)(b"x", timeout=30, wait_for_ready=True) == b""
        assert channels[1].unary_unary(METHOD)(b"x", timeout=20) == b""


def test_a_collector_lifts_the_soft_limit_and_says_when_the_hard_one_is_low() -> None:
    """A soft limit of 200 becomes the hard one; a hard one that is low is a warning with how many senders it is for."""
    code = (
        "import resource, logging; from collectors.open_files import lift_open_files; "
        "logging.basicConfig(format='%(message)s'); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard})); print(lift_open_files())"
    )

    def said(hard: int) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", code.format(hard=hard)], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip(), done.stderr

    assert said(5_000) == ("5000", "")
    limit, warning = said(500)
    assert limit == "500"
    assert f"{connections_of(500)} connections" in warning and "LimitNOFILE" in warning


def test_a_flood_of_connections_takes_no_file_that_the_collector_needs(tmp_path: Path) -> None:
    """With 400 files and 700 idle connections a sender goes on being answered and flushed, and the stop is clean."""
    low = ("sh", "-c", 'ulimit -n 400 && exec "$@"', "sh", *COMMAND)
    now = time.time() - otlp.T0_NS / otlp.SECOND_NS
    with Stack(tmp_path) as stack, contextlib.ExitStack() as idle:
        stack.start("collector", program=low)
        stack.wait_ready("collector")
        (sender,) = connected(stack.ports["otlp_http"], 1)
        idle.enter_context(sender)
        for port in (stack.ports["otlp_http"], stack.ports["otlp_grpc"]):
            for other in connected(port, 350):
                idle.enter_context(other)
        for second in range(5):
            body = otlp.body(otlp.gauge("level", otlp.number(now + second, 1.0)))
            sender.sendall(HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body)
            assert sender.recv(4096).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.5)
        assert "400 files" in stack.said("collector")
        stack.stop("collector")


def test_grpc_is_given_a_certificate_only_when_it_has_changed(tmp_path: Path) -> None:
    """A handshake brings gRPC the files in force once after they were read anew, and nothing at all other times."""
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("server", FOR_SERVERS)
    certificates = Certificates(ListenTls(pair.cert, pair.key), print)
    changed = certificates.configurations()
    assert changed() is None
    certificates.loaded = dataclasses.replace(certificates.loaded)
    assert changed() is not None
    assert changed() is None


def test_hundreds_of_tls_senders_that_connect_at_once_are_all_answered(tmp_path: Path) -> None:
    """Handshakes at the same moment harm neither each other nor the process, which gRPC's threads once crashed."""
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("server", FOR_SERVERS)
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())

    async def answers(port: int) -> int:
        options = (("grpc.use_local_subchannel_pool", 1),)
        address = f"127.0.0.1:{port}"
        channels = [grpc.aio.secure_channel(address, credentials, options) for _ in range(300)]
        calls = [channel.unary_unary(METHOD)(b"", timeout=90, wait_for_ready=True) for channel in channels]
        try:
            return sum(answer == b"" for answer in await asyncio.gather(*calls))
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))

    with Stack(tmp_path / "stack") as stack:
        stack.start("collector", tls=f"{{cert: {pair.cert}, key: {pair.key}}}")
        stack.wait_ready("collector")
        for _ in range(2):
            assert asyncio.run(answers(stack.ports["otlp_grpc"])) == 300
        stack.stop("collector")
