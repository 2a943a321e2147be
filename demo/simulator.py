"""The simulator: thousands of stations that send real OTLP/HTTP to one collector per cloud, and keep exact accounts.

Rules:

1. A station has at most one request under way. While that is not acknowledged it is sent again, the same bytes, for as
   long as it takes, as an SDK does; the station's counters go on and are in the next request.
2. Only an answer of success is booked (``accounts``). Since values are cumulative and a station's requests are in
   order, what was acknowledged last is the increase since the start.
3. A cloud's stations share a few keep-alive connections, in order of their phases, so that load is even.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from demo.accounts import Account, Accounts
from demo.connection import RETRYABLE, Connection
from demo.fleet import Cloud, sites
from demo.station import Report, Station

_PATH: Final = "/v1/metrics"
_TICK_SECONDS: Final = (
    0.2  # stations report in small crowds, which share a commit in the collector, as in a large fleet
)
_RETRY_SECONDS_MIN: Final = 0.2
_RETRY_SECONDS_MAX: Final = 2.0


@dataclass(frozen=True)
class Incident:
    """What goes wrong: some stations of one cloud lose a service, and one station goes dark.

    Times are seconds since the start of ``run``; ``end_seconds`` None means that it lasts. ``dark`` is the number of
    the station, from 0, within the cloud, that sends nothing meanwhile.
    """

    cloud: str
    service: str = "payment"
    begin_seconds: float = 20.0
    end_seconds: float | None = None
    share_of_stations: float = 0.2
    failure_share: float = 0.9
    dark: int | None = 7

    def is_on(self, elapsed_seconds: float) -> bool:
        """Whether it goes on at this time."""
        return self.begin_seconds <= elapsed_seconds and (
            self.end_seconds is None or elapsed_seconds < self.end_seconds
        )


@dataclass
class _Lane:
    """A cloud at work: its stations in order of phase, and those whose request waits for a connection."""

    cloud: Cloud
    host: str
    port: int
    stations: list[Station]
    due: asyncio.Queue[int]
    busy: set[int]
    released: int = 0


class Simulator:
    """The fleet.

    Args:
        clouds: which stations there are.
        endpoints: (host, port) of the OTLP/HTTP receiver, by cloud name.
        seed: of tokens and of everything that happens.
        incident: what goes wrong, if anything.
        requests_per_second: what each service of a station serves.
        period_seconds: how often a station sends; 3,000 stations at 12 s are 250 requests a second.
        connections_per_cloud: how many requests of a cloud may be under way at once.
        request_timeout_seconds: after which an unanswered request is sent again.
        clock_ns: the wall clock, UTC.
    """

    def __init__(
        self,
        clouds: Sequence[Cloud],
        endpoints: Mapping[str, tuple[str, int]],
        seed: int,
        *,
        incident: Incident | None = None,
        requests_per_second: float = 0.7,
        period_seconds: float = 12.0,
        connections_per_cloud: int = 12,
        request_timeout_seconds: float = 10.0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._incident = incident
        self._requests_per_second = requests_per_second
        self._period_seconds = period_seconds
        self._connections = connections_per_cloud
        self._request_timeout_seconds = request_timeout_seconds
        self._clock_ns = clock_ns
        self._random = random.Random(seed)
        self._begin = 0.0
        self._clouds = tuple(clouds)
        self._endpoints = dict(endpoints)
        self._seed = seed
        self._lanes: list[_Lane] = []
        self._accounts = Accounts(
            {cloud.name: {site.cluster: Account() for site in sites(cloud, seed)} for cloud in clouds}
        )

    def accounts(self) -> Accounts:
        """What was acknowledged so far; it goes on changing while ``run`` does."""
        return self._accounts

    @property
    def unacknowledged(self) -> int:
        """Requests under way: sent and not answered, or waiting for a connection."""
        return sum(len(lane.busy) for lane in self._lanes)

    def affected(self) -> list[str]:
        """The clusters that lose the incident's service."""
        return [
            station.site.cluster
            for lane in self._lanes
            for place, station in enumerate(lane.stations)
            if self._loses_service(lane, place)
        ]

    async def run(self, duration_seconds: float, drain_seconds: float = 60.0) -> None:
        """Send for ``duration_seconds``, then wait until all is acknowledged, at most ``drain_seconds``.

        The stations start now; a second call goes on with them. Afterwards ``unacknowledged`` is 0 unless a collector
        did not come back in time.
        """
        if not self._lanes:
            self._lanes = [self._lane(cloud) for cloud in self._clouds]
        self._begin = time.monotonic()
        senders = [asyncio.create_task(self._send(lane)) for lane in self._lanes for _ in range(self._connections)]
        try:
            for lane in self._lanes:
                lane.released = 0
            while (elapsed := time.monotonic() - self._begin) < duration_seconds:
                for lane in self._lanes:
                    self._release(lane, elapsed)
                await self._sleep(senders, _TICK_SECONDS)
            end = time.monotonic() + drain_seconds
            while self.unacknowledged and time.monotonic() < end:
                await self._sleep(senders, _TICK_SECONDS)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    async def _sleep(self, senders: Sequence[asyncio.Task[None]], seconds: float) -> None:
        """Sleep, unless a sender died of a bug: then raise it."""
        done, _ = await asyncio.wait(senders, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for sender in done:
            sender.result()

    def _lane(self, cloud: Cloud) -> _Lane:
        start_ns = self._clock_ns()
        stations = [Station(site, start_ns, self._seed, self._requests_per_second) for site in sites(cloud, self._seed)]
        host, port = self._endpoints[cloud.name]
        return _Lane(cloud, host, port, stations, asyncio.Queue(), set())

    def _release(self, lane: _Lane, elapsed_seconds: float) -> None:
        """Queue the stations whose turn it is, except those whose last request is not acknowledged yet."""
        count = len(lane.stations)
        while lane.released < elapsed_seconds / self._period_seconds * count:
            place = lane.released % count
            lane.released += 1
            if place not in lane.busy and not self._is_dark(lane, place, elapsed_seconds):
                lane.busy.add(place)
                lane.due.put_nowait(place)

    def _is_dark(self, lane: _Lane, place: int, elapsed_seconds: float) -> bool:
        incident = self._incident
        return (
            incident is not None
            and incident.cloud == lane.cloud.name
            and incident.dark == place
            and incident.is_on(elapsed_seconds)
        )

    def _loses_service(self, lane: _Lane, place: int) -> bool:
        incident = self._incident
        if incident is None or incident.cloud != lane.cloud.name:
            return False
        return place < incident.share_of_stations * len(lane.stations)

    async def _send(self, lane: _Lane) -> None:
        """One connection of a cloud: take the next station, send its request until it is answered for good."""
        connection = Connection(lane.host, lane.port)
        try:
            while True:
                place = await lane.due.get()
                station = lane.stations[place]
                shares = None
                if self._loses_service(lane, place) and self._incident is not None:
                    on = self._incident.is_on(time.monotonic() - self._begin)
                    shares = {self._incident.service: self._incident.failure_share} if on else None
                report = station.collect(self._clock_ns(), shares)
                account = self._accounts.by_cloud[lane.cloud.name][station.site.cluster]
                await self._deliver(connection, station.site.token, report, account)
                lane.busy.discard(place)
        finally:
            connection.close()

    async def _deliver(self, connection: Connection, token: str, report: Report, account: Account) -> None:
        sent = gzip.compress(report.body, 1, mtime=0)
        wait = _RETRY_SECONDS_MIN
        while True:
            hint = 0.0
            try:
                answer = await connection.post(_PATH, token, sent, self._request_timeout_seconds)
            except (OSError, EOFError, TimeoutError, ValueError):
                pass  # the collector is away, or its answer is lost: the same bytes again
            else:
                if answer.status == 200:
                    account.acknowledge(report, len(sent), _rejected_points(answer.body))
                    return
                if answer.status not in RETRYABLE:
                    account.refuse(report)
                    return
                hint = answer.retry_after_seconds
            account.retries += 1
            await asyncio.sleep(max(hint, wait * self._random.uniform(0.5, 1.0)))
            wait = min(wait * 2, _RETRY_SECONDS_MAX)


def _rejected_points(body: bytes) -> int:
    """Points that an answer of success says were rejected."""
    if not body:
        return 0
    try:
        return int(ExportMetricsServiceResponse.FromString(body).partial_success.rejected_data_points)
    except DecodeError:
        return 0
