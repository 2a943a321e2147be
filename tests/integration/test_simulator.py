"""The simulator's accounts are the truth that the demo's proof compares with: here a plain receiver checks them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from collectors.tenants import Tenants
from demo.fleet import TENANT, clouds, sites, write_tenants
from demo.simulator import Incident, Simulator
from demo.station import FAILED, LATENCY, REQUESTS, Station, bucket_index
from tests import stalls

Stream = tuple[str, str, str]
# Half a period of a station: less does not keep one from its turns.
_GAP_SECONDS_MAX = 0.15


class Receiver:
    """An OTLP/HTTP receiver on a socket that keeps the points by stream and time, and misbehaves now and then.

    ``faults`` are drawn for each request: none, refuse with 503, break off before or after the points are kept, answer
    400 for good.
    """

    def __init__(self, faults: list[str], seed: int = 1) -> None:
        self.points: dict[tuple[Stream, int], object] = {}
        self.bodies: list[bytes] = []
        self.tokens: set[str] = set()
        self._faults = faults
        self._random = random.Random(seed)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2])
                body = await reader.readexactly(int(headers["Content-Length"]))
                assert head.startswith(b"POST /v1/metrics HTTP/1.1\r\n")
                fault = self._random.choice(self._faults)
                if fault == "break before":
                    break
                if fault not in ("503", "400"):
                    self._keep(gzip.decompress(body), headers["Authorization"].removeprefix("Bearer "))
                if fault == "break after":
                    break
                writer.write(_ANSWERS[fault])
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass  # the sender has closed the connection
        finally:
            writer.close()

    def _keep(self, body: bytes, token: str) -> None:
        self.bodies.append(body)
        self.tokens.add(token)
        for resource_metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            service = resource_metrics.resource.attributes[0].value.string_value
            for metric in resource_metrics.scope_metrics[0].metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    self.points[(token, metric.name, service), point.time_unix_nano] = point


_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_PARTIAL = ExportMetricsServiceResponse(
    partial_success=ExportMetricsPartialSuccess(rejected_data_points=2)
).SerializeToString()
_ANSWERS = {
    "none": _OK,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 2\r\n\r\nno",
    "400": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "partial": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_PARTIAL), _PARTIAL),
}


async def _simulate(
    faults: list[str], stations: int, seconds: float, incident: Incident | None = None
) -> tuple[Simulator, Receiver]:
    """A simulation in real time during which this machine did not stand still: one where it did is repeated."""
    for _ in range(10):
        receiver = Receiver(faults)
        async with stalls.watched() as gaps:
            simulator = await _simulate_once(receiver, stations, seconds, incident)
        if gaps.seconds_max() <= _GAP_SECONDS_MAX:
            break
    return simulator, receiver


async def _simulate_once(receiver: Receiver, stations: int, seconds: float, incident: Incident | None) -> Simulator:
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    fleet = clouds(stations)
    simulator = Simulator(
        fleet,
        {cloud.name: ("127.0.0.1", port) for cloud in fleet},
        seed=3,
        incident=incident,
        requests_per_second=40.0,
        period_seconds=0.3,
        request_timeout_seconds=30.0,
    )
    await simulator.run(seconds, drain_seconds=30.0)
    server.close()
    return simulator


def _compare(simulator: Simulator, receiver: Receiver) -> None:
    """Every account is what the receiver's points say."""
    latest: dict[Stream, tuple[int, object]] = {}
    for (stream, time_ns), point in receiver.points.items():
        latest[stream] = max(latest.get(stream, (0, None)), (time_ns, point), key=lambda each: each[0])
    for cloud in clouds(sum(len(each) for each in simulator.accounts().by_cloud.values())):
        for site in sites(cloud, 3):
            account = simulator.accounts().by_cloud[cloud.name][site.cluster]
            assert account.points == sum(stream[0] == site.token for stream, _ in receiver.points)
            for (metric, service), value in account.increments.items():
                assert latest[site.token, metric, service][1].as_int == value  # type: ignore[attr-defined]
            histogram = latest[site.token, LATENCY, "authorisation"][1]
            assert histogram.count == len(account.latencies_seconds)  # type: ignore[attr-defined]
            assert sum(histogram.positive.bucket_counts) == histogram.count  # type: ignore[attr-defined]


def test_accounts_are_what_a_receiver_got() -> None:
    """Points, increments and latencies that were acknowledged are those that arrived, each once."""
    simulator, receiver = asyncio.run(_simulate(["none"], 40, 1.2))
    fleet = simulator.accounts().fleet()
    assert simulator.unacknowledged == 0
    assert (fleet.stations, fleet.retries, fleet.refused) == (40, 0, 0)
    assert fleet.points == len(receiver.points) == 11 * fleet.requests
    assert 120 <= fleet.requests <= 161
    assert fleet.body_bytes == sum(map(len, receiver.bodies))
    assert fleet.sent_bytes < fleet.body_bytes
    assert len(receiver.tokens) == 40
    _compare(simulator, receiver)


def test_accounts_survive_lost_answers_and_refusals() -> None:
    """Lost answers, broken connections and 503 are sent again, the same bytes, and booked once."""
    faults = ["none", "none", "none", "chunked", "503", "break before", "break after"]
    simulator, receiver = asyncio.run(_simulate(faults, 24, 1.0))
    fleet = simulator.accounts().fleet()
    assert simulator.unacknowledged == 0
    assert fleet.retries > 0
    assert fleet.points == len(receiver.points)
    assert len(receiver.bodies) > len(set(receiver.bodies)) == fleet.requests
    _compare(simulator, receiver)


def test_refused_and_partly_rejected_requests_are_counted() -> None:
    """A request refused for good is not sent again; rejected points are not booked as acknowledged."""
    simulator, _ = asyncio.run(_simulate(["400", "partial"], 8, 0.8))
    fleet = simulator.accounts().fleet()
    assert fleet.refused > 0
    assert fleet.retries == 0
    assert fleet.rejected_points == 2 * fleet.requests
    assert fleet.points == 9 * fleet.requests


def test_incident_is_where_it_should_be() -> None:
    """Only the affected stations of one cloud fail, only in one service, and the dark station is silent."""
    incident = Incident("jp-west-b", begin_seconds=0.0, share_of_stations=0.5, dark=4)
    simulator, _ = asyncio.run(_simulate(["none"], 40, 2.0, incident))
    accounts = simulator.accounts().by_cloud
    dark = [cluster for cluster, account in accounts["jp-west-b"].items() if account.requests == 0]
    assert dark == ["osaka-b-0005"]
    assert simulator.affected() == ["osaka-b-0001", "osaka-b-0002", "osaka-b-0003"]
    for each in accounts.values():
        for cluster, account in each.items():
            failed, requests = (account.increments.get((name, "payment"), 0) for name in (FAILED, REQUESTS))
            if cluster in simulator.affected():
                assert failed > 0
            else:
                assert failed <= max(1, requests / 10)


@pytest.mark.parametrize("seed", [1, 2])
def test_stations_are_reproducible(seed: int) -> None:
    """The same seed makes the same requests, byte for byte."""
    site = sites(clouds(8)[0], seed)[0]
    left, right = (Station(site, 10**18, seed) for _ in range(2))
    for step in range(1, 4):
        now_ns = 10**18 + step * 12 * 10**9
        assert left.collect(now_ns).body == right.collect(now_ns).body


def test_latency_quantile_is_nearest_rank() -> None:
    """The exact quantile is a latency that was acknowledged, and the bucket index brackets it."""
    simulator, _ = asyncio.run(_simulate(["none"], 16, 1.5))
    accounts = simulator.accounts()
    values = sorted(
        value
        for cloud in accounts.by_cloud.values()
        for account in cloud.values()
        for value in account.latencies_seconds
    )
    assert accounts.latency_quantile_seconds(1.0) == values[-1]
    assert accounts.latency_quantile_seconds(0.5) == values[(len(values) + 1) // 2 - 1]
    index = bucket_index(values[0])
    assert 2 ** (index / 32) < values[0] <= 2 ** ((index + 1) / 32)


def test_tenants_file_is_what_a_collector_reads(tmp_path: Path) -> None:
    """The collector resolves every station's token to its cluster and labels."""
    cloud = clouds()[3]
    fleet = sites(cloud, 1)
    write_tenants(tmp_path / "tenants.json", fleet)
    tenants = Tenants.load(tmp_path / "tenants.json")
    sender = tenants.by_digest[hashlib.sha256(fleet[-1].token.encode()).digest()]
    assert (sender.tenant, sender.cluster) == (TENANT, "osaka-b-0375")
    assert sender.labels == '{"city":"osaka","kind":"station","zone":"b"}'
    assert sum(each.stations for each in clouds()) == 3_000
