"""Full disks, read-only folders, folders in use and taken ports: a clear error or backpressure, and nothing lost."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

from demo.ports import SHARE, free_ports
from tests.faults.known_data import KnownData
from tests.faults.sdk_client import Application, http_exporter, sample_faults
from tests.faults.small_disk import SmallDisk
from tests.faults.stack import COMMAND, ROLES, Stack, wait_until
from tests.faults.totals import differences, disagreements, stored

# Folder → the role that is in trouble when its disk is full, and what it says on the status port.
_TROUBLE = {
    "collector": ("collector", "flushing fails"),
    "log": ("collector", "forwarding fails"),
    "store": ("store", "retrying"),
}
# Folder → the same where nothing can be mounted, so that one process alone may not write.
_LIMITED = {**_TROUBLE, "log": ("aggregator", "retrying")}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack where nothing runs yet."""
    with Stack(tmp_path) as stack:
        yield stack


def check(stack: Stack, sender: KnownData, *applications: Application) -> None:
    """Drain, and compare every sum and digest."""
    stack.drain()
    found = stored(stack, "metrics_cluster_1m")
    expected = dict(sender.expected)
    for application in applications:
        expected |= application.expected
    faults = [*differences(expected, found), *sample_faults(applications, found), *disagreements(stack)]
    assert faults == [], "\n".join(faults)


def refused(*command: str) -> str:
    """The line on stderr of a command that must exit with 3."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, len(lines)) == (3, 1), f"{done.returncode}\n{done.stderr}"
    return lines[0]


def role_command(stack: Stack, role: str, **changes: str) -> list[str]:
    """The command that runs a role of a stack."""
    name = "loader" if role == "store" else role
    return [*COMMAND, name, "--config", str(stack.config("collector" if role == "up" else role, **changes))]


@pytest.mark.parametrize("part", _TROUBLE)
def test_a_full_disk_pushes_back_and_heals_by_itself(stack: Stack, part: str, caplog: pytest.LogCaptureFixture) -> None:
    """While a disk is full senders are pushed back or the tier before keeps it; once freed all is there, no restart."""
    caplog.set_level("CRITICAL", "opentelemetry")
    with SmallDisk(stack.data / part, 64 << 20, lambda: [stack.pid(_LIMITED[part][0])]) as disk:
        stack.start(*ROLES)
        stack.wait_ready(*ROLES)
        pids = [stack.pid(role) for role in ROLES]
        sender = KnownData("full", stack.ports["otlp_http"])
        sender.send()
        exporter = http_exporter(stack.ports["otlp_http"], gzip=True)
        with contextlib.closing(Application("sdk", exporter, insists=False, seed=1)) as application:
            wait_until(lambda: application.exporter.acknowledged > 0, "the SDK exports")
            disk.fill()
            body = sender.request()
            if part == "collector":
                wait_until(lambda: sender.offer(body) == 503, "HTTP answers 503")
                # A flush may have made room for this one meanwhile, which counts once however often it is sent.
                says_no = grpc.StatusCode.UNAVAILABLE
                wait_until(lambda: grpc_code(stack.ports["otlp_grpc"], body) is says_no, "gRPC answers UNAVAILABLE")
            else:
                sender.send(body)
            role, reason = (_TROUBLE if disk.is_mounted else _LIMITED)[part]
            says = partial(stack.reasons, role)
            wait_until(lambda: reason in says(), f"{role} says {reason}", 60, says)
            disk.free()
            sender.send(body)
            application.shutdown()
        stack.wait_ready(*ROLES)
        check(stack, sender, application)
        assert [stack.pid(role) for role in ROLES] == pids
        stack.kill(*ROLES)


def grpc_code(port: int, body: bytes) -> grpc.StatusCode:
    """The status that a request gets over gRPC."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            stub = MetricsServiceStub(channel)  # type: ignore[no-untyped-call] # generated without types
            stub.Export(ExportMetricsServiceRequest.FromString(body), timeout=30)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("role", [*ROLES, "up"])
def test_a_read_only_folder_is_said_in_one_line(stack: Stack, role: str) -> None:
    """A new or an existing folder that cannot be written: exit code 3 and a line that names it."""
    command = [sys.executable, "-m", "tests.faults.unprivileged", *role_command(stack, role)]
    stack.data.mkdir()
    stack.data.chmod(0o555)
    try:
        assert str(stack.data) in refused(*command)
    finally:
        stack.data.chmod(0o755)


def test_a_folder_that_became_read_only_keeps_what_it_has(stack: Stack) -> None:
    """Roles refuse to start on a folder of which all is read-only; once it is writable again nothing is missing."""
    stack.start("collector")
    stack.wait_ready("collector")
    sender = KnownData("read-only", stack.ports["otlp_http"])
    sender.send()
    stack.kill("collector")
    paths = [stack.data, *stack.data.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    try:
        for role in ROLES:
            command = [sys.executable, "-m", "tests.faults.unprivileged", *role_command(stack, role)]
            assert str(stack.data) in refused(*command)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    stack.start(*ROLES)
    stack.wait_ready(*ROLES)
    check(stack, sender)


def test_a_second_process_on_a_folder_is_refused(stack: Stack, tmp_path: Path) -> None:
    """Who comes second to a collector's or store's folder exits with 3 and leaves the first one alone."""
    stack.start(*ROLES)
    stack.wait_ready(*ROLES)
    sender = KnownData("first", stack.ports["otlp_http"])
    sender.send()
    other = Stack(tmp_path / "other")
    for role in ("collector", "store"):
        line = refused(*role_command(other, role, data_dir=str(stack.data)))
        assert "another process" in line and str(stack.data) in line
    sender.send()
    check(stack, sender)


@pytest.mark.parametrize(
    ("role", "address"),
    [("collector", "otlp_http"), ("collector", "otlp_grpc"), ("store", "sql"), ("aggregator", "status")],
)
def test_a_taken_port_is_named(stack: Stack, role: str, address: str) -> None:
    """A port that somebody else listens on: exit code 3 and the key in the configuration; it starts once it is free."""
    port = dict(stack.addresses(role))[address]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        line = refused(*role_command(stack, role))
        assert f"listen.{address} 127.0.0.1:{port} is taken" in line
    stack.start(role)
    stack.wait_ready(role)


def test_ports_are_below_those_that_clients_get() -> None:
    """The ports of these tests are not the system's to give away while a server is down."""
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert all(port < int(first) for port in free_ports(20))


def test_processes_side_by_side_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each share of the ports is another one, so that nobody is given what another has not bound yet."""
    given = []
    for share in range(3):
        monkeypatch.setenv(SHARE, f"{share}/3")
        given.append({port % 3 for port in free_ports(20)})
    assert sorted(given, key=min) == [{0}, {1}, {2}]
