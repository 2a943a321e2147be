"""The plant: the processes of the demo, the very roles of `catchment collector`, `aggregator` and `loader`.

One collector a cloud, one aggregator a region, one store; all share one log, which is all that they share. Below the
data folder:

    run/            the configuration of every process, the tenants files, ``processes.log`` (what they say)
    log/            the embedded log, unless the log is Kafka
    kafka/          the broker's folder, if it is ours
    <cloud>/        a collector's folder
    store/          engine and ledger
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catchment import logs
from catchment.cli import http_get
from catchment.cli.exits import EnvironmentFault
from catchment.cli.supervisor import Child, ChildSpec, Supervisor, role_child
from catchment.config import Aggregator, Cluster, Config, Listen
from catchment.config_load import write
from catchment.telemetry import Telemetry
from catchment.units import Address
from demo.figures import Effort, Kill
from demo.fleet import TENANT, Cloud, sites, write_tenants
from demo.log_choice import LogChoice
from demo.ports import HOST, free_ports

_READY_SECONDS_MAX: Final = 120.0


@dataclass(frozen=True)
class Pace:
    """How fast things move: short windows, so that two minutes show what else takes an hour.

    The resolution is longer than the stations' period, so that a healthy station is heard in every window even if one
    of its reports is some seconds late; a flush and a linger are what a point waits before it can be queried.
    """

    resolution_seconds: int = 15
    flush_seconds: float = 5.0
    linger_seconds: float = 2.0


class Plant:
    """All processes. Start with `start`, which returns when every one is ready; end with `stop` or `kill_all`.

    Args:
        folder: of all data; must exist.
        clouds: one collector each.
        seed: of the stations' tokens.
        pace: windows and delays.
        log: of all processes.
    """

    def __init__(self, folder: Path, clouds: Sequence[Cloud], seed: int, pace: Pace, log: LogChoice) -> None:
        self.folder = folder
        self.clouds = tuple(clouds)
        self.log_file = folder / "run" / "processes.log"
        self._pace = pace
        self._log = log
        ports = iter(free_ports(2 * len(clouds) + 1))
        self.endpoints = {cloud.name: (HOST, next(ports)) for cloud in clouds}
        self._grpc = {cloud.name: Address(HOST, next(ports)) for cloud in clouds}
        self._sql = Address(HOST, next(ports))
        self.supervisor = Supervisor(
            self._write_files(seed), folder / "run", Telemetry(), stop_seconds=30, log_file=self.log_file
        )
        self._running: asyncio.Task[int] | None = None

    @property
    def sql_url(self) -> str:
        """Of the SQL endpoint."""
        return f"http://{self._sql}"

    def take_logs(self) -> None:
        """Send what this process logs to where the others' logs go, away from the screen."""
        logs.configure("demo", stream=self.log_file.open("a", encoding="utf-8"))

    async def start(self) -> None:
        """Start all processes and wait until they are ready.

        Raises:
            EnvironmentFault: one cannot start; its last words are in the message.
        """
        ready = asyncio.Event()
        self._running = asyncio.create_task(self.supervisor.run(ready))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait(
                {self._running, waiting}, timeout=_READY_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED
            )
            if not ready.is_set():
                raise EnvironmentFault(f"the processes do not start: {await self._why()}")
        finally:
            waiting.cancel()

    async def stop(self) -> None:
        """Stop all in the order of the path: what was acknowledged flows down."""
        await self._end(self.supervisor.stop)

    async def kill_all(self) -> None:
        """Stop all at once; for data that nobody wants any more."""
        await self._end(self.supervisor.kill)

    async def kill_collector(self, cloud: str, began: float) -> Kill:
        """SIGKILL a collector and wait until its successor is ready; ``began`` (monotonic) is when traffic did."""
        child = next(child for child in self.supervisor.children if child.spec.name == f"collector-{cloud}")
        restarts = child.restarts
        assert child.process is not None
        killed = time.monotonic()
        child.process.send_signal(signal.SIGKILL)
        while child.restarts == restarts or not await _is_ready(child):  # noqa: ASYNC110 # it tells by a file and a port
            await asyncio.sleep(0.02)
        return Kill(cloud, killed - began, time.monotonic() - killed, self._replayed(child.spec.name))

    def effort(self, others: Sequence[int] = ()) -> Effort:
        """What all processes take now and took so far: this one with its simulator, and ``others`` (pids), included."""
        pids = [child.process.pid for child in self.supervisor.children if child.process is not None]
        usages = [_usage(pid) for pid in (os.getpid(), *pids, *others)]
        memory, cpu = sum(usage[0] for usage in usages), sum(usage[1] for usage in usages)
        return Effort(len(usages), memory, cpu, 0.0)

    def edge_totals(self) -> tuple[int, int]:
        """What all collectors flushed: points and digest (mod 2^64) of the fleet, from their own state, not by SQL."""
        points = digest = 0
        for cloud in self.clouds:
            file = self.folder / cloud.name / "collector" / "state.db"
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=10)) as state:
                for some, one in state.execute(
                    "SELECT points, digest FROM acknowledged WHERE tenant = ?", (TENANT,)
                ).fetchall():
                    points += some
                    digest += one
        return points, digest % 2**64

    def _write_files(self, seed: int) -> list[ChildSpec]:
        """Configure every process; in the order in which they are stopped: collectors first."""
        run_dir = self.folder / "run"
        run_dir.mkdir(parents=True, exist_ok=True)
        children = []
        for cloud in self.clouds:
            tenants = run_dir / f"tenants-{cloud.name}.json"
            write_tenants(tenants, sites(cloud, seed))
            host, port = self.endpoints[cloud.name]
            config = Config(
                data_dir=self.folder / cloud.name,
                region=cloud.region,
                cluster=Cluster(cloud.name, {"kind": "zone", "zone": cloud.zone}),
                resolution_seconds=self._pace.resolution_seconds,
                flush_seconds=self._pace.flush_seconds,
                listen=Listen(otlp_http=Address(host, port), otlp_grpc=self._grpc[cloud.name]),
                tenants=tenants,
                log=self._log.log,
                kafka=self._log.kafka,
            )
            children.append(self._child(f"collector-{cloud.name}", "collector", config))
        for region in dict.fromkeys(cloud.region for cloud in self.clouds):
            config = Config(
                data_dir=self.folder / region,
                region=region,
                aggregator=Aggregator(linger_seconds=self._pace.linger_seconds),
                log=self._log.log,
                kafka=self._log.kafka,
            )
            children.append(self._child(f"aggregator-{region}", "aggregator", config))
        config = Config(data_dir=self.folder, listen=Listen(sql=self._sql), log=self._log.log, kafka=self._log.kafka)
        children.append(self._child("store", "store", config))
        return children

    def _child(self, name: str, role: str, config: Config) -> ChildSpec:
        file = self.folder / "run" / f"{name}.yaml"
        write(config, file)
        return role_child(name, role, file)

    async def _end(self, how: object) -> None:
        assert callable(how)
        if self._running is not None:
            how()
            await self._running
            self._running = None

    async def _why(self) -> str:
        """The last error that a process told, else who is not ready."""
        lines = self.log_file.read_text("utf-8", "replace").splitlines()
        told = [line for line in lines if line.startswith("catchment: ")]
        if told:
            return told[-1].removeprefix("catchment: ")
        return "; ".join(await self.supervisor.not_ready()) or "they ended"

    def _replayed(self, name: str) -> int:
        """How many requests the process found in its inbox when it last started, as it logged."""
        for line in reversed(self.log_file.read_text("utf-8", "replace").splitlines()):
            try:
                record = json.loads(line)
            except ValueError:
                continue  # not a line of a log: a message of the interpreter's, for example
            if record.get("role") == name and record.get("message") == "inbox replayed":
                return int(record["requests"])
        return 0


async def _is_ready(child: Child) -> bool:
    try:
        port = int(json.loads(child.state_file.read_text("utf-8"))["status_port"])
        return (await http_get.request(HOST, port, "/readyz"))[0] == 200
    except (OSError, ValueError, KeyError):
        return False


def _usage(pid: int) -> tuple[int, float]:
    """Memory (bytes, a shared page counted in parts) and processor time (seconds) of a process; 0 if it has gone."""
    try:
        memory = Path(f"/proc/{pid}/smaps_rollup").read_text()
        # The name, in brackets, may contain anything.
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0.0
    kib = sum(int(line.split()[1]) for line in memory.splitlines() if line.startswith("Pss:"))
    return kib * 1024, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
