"""A thousand senders connected at once to one collector process, plain and with TLS and tokens.

    python -m benchmarks.senders

Four phases, in each of which all requests are answered with success in the end: all connect and send at the same
moment; each sends 20 counters every 5 seconds; the collector is killed by SIGKILL amid that and started again; a last
request. Then the sum of all increments in the log is compared with the sum of the counters. Connections are real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.harness import process_cpu_seconds, record
from benchmarks.sender_load import COUNTERS, Log, Senders, Target
from catchment.envelope import decode
from catchment.log.sqlite import SqliteLog
from tests.kafka.certificates import FOR_SERVERS, Authority

PERIOD_SECONDS = 5.0
_DOWN_SECONDS = 2.0
_CONFIG = """
data_dir: {folder}
region: local
flush: 5s
listen: {{otlp_grpc: "127.0.0.1:{ports[0]}", otlp_http: "127.0.0.1:{ports[1]}", status: "127.0.0.1:{ports[2]}"}}
"""


class Process:
    """A collector process that can be killed and started again; notes the most memory and descriptors it ever had."""

    def __init__(self, folder: Path, settings: str) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.ports: list[int] = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        self.descriptors_max = self.resident_bytes_max = 0
        self._config = folder / "catchment.yaml"
        self._config.write_text(_CONFIG.format(folder=folder, ports=self.ports) + settings)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [sys.executable, "-m", "catchment.cli.main", "collector", "--config", str(self._config)]
        self._process = subprocess.Popen(command, env={**os.environ, "POLARS_MAX_THREADS": "1"})
        self._watched = psutil.Process(self._process.pid)
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}/readyz", timeout=1).close()
                return
            time.sleep(0.05)
        raise TimeoutError("the collector did not become ready")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Let it flush and forward."""
        self._process.terminate()
        self._process.wait(60)

    @property
    def cpu_seconds(self) -> float:
        """What the present process has used."""
        return process_cpu_seconds(self._process.pid)

    async def watch(self) -> None:
        """Look several times a second."""
        while True:
            with contextlib.suppress(psutil.Error):
                self.descriptors_max = max(self.descriptors_max, self._watched.num_fds())
                self.resident_bytes_max = max(self.resident_bytes_max, self._watched.memory_info().rss)
            await asyncio.sleep(0.2)


@dataclass(frozen=True)
class Figures:
    """What one run gave; ``storm_seconds``, ``back_seconds``: until all had an answer."""

    storm_seconds: float
    storm: Log
    steady: Log
    steady_cpu_seconds: float
    back_seconds: float
    killed: Log
    descriptors_max: int
    resident_bytes_max: int


async def live(process: Process, senders: Senders, steady_seconds: float) -> Figures:
    """The phases up to the last request."""
    watching = asyncio.create_task(process.watch())
    begin = time.monotonic()
    storm = await senders.at_once()
    storm_seconds = time.monotonic() - begin
    begin_cpu = process.cpu_seconds
    steady = await senders.steadily(steady_seconds, PERIOD_SECONDS)
    used = process.cpu_seconds - begin_cpu
    sending = asyncio.create_task(senders.steadily(6 * PERIOD_SECONDS, PERIOD_SECONDS))
    await asyncio.sleep(PERIOD_SECONDS)
    process.kill()
    await asyncio.sleep(_DOWN_SECONDS)
    await asyncio.to_thread(process.start)
    ready = time.monotonic()
    killed = await sending
    killed.failed.update((await senders.at_once()).failed)
    back_seconds = senders.all_answered_since(ready) - ready
    watching.cancel()
    return Figures(
        *(storm_seconds, storm, steady, used, back_seconds, killed),
        *(process.descriptors_max, process.resident_bytes_max),
    )


def increments_in_log(folder: Path) -> int:
    """The sum of all counters' increases, exact."""

    async def add() -> int:
        log = SqliteLog.open(folder / "log" / "log.db")
        topic, position, total = "catchment.local.metrics_cluster", 0, 0
        while messages := await log.poll(topic, 0, position, messages_max=100, bytes_max=1 << 26, wait_seconds=0.1):
            for message in messages:
                total += sum(int(value) for value in decode(message.value).rows["sum_int"].to_pylist())
            position = messages[-1].offset + 1
        await log.close()
        return total

    return asyncio.run(add())


def run_once(count: int, steady_seconds: float, *, is_secured: bool) -> Figures:
    """One run, with a collector and a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings, ca, tokens = _secured(folder, count) if is_secured else ("", None, [])
        process = Process(folder, settings)
        try:
            target = Target(process.ports[0], process.ports[1], ca, tokens)

            async def phases() -> tuple[Figures, int]:
                # Since after the collector's folder was born, so that first points count too.
                senders = Senders(count, target, time.time_ns())
                try:
                    return await live(process, senders, steady_seconds), senders.total
                finally:
                    await senders.close()

            figures, total = asyncio.run(phases())
            process.stop()
        finally:
            process.kill()
        found = increments_in_log(folder)
    if found != total:
        raise AssertionError(f"{found} counted in the log, {total} acknowledged")
    return figures


def _secured(folder: Path, count: int) -> tuple[str, Path, list[str]]:
    """Settings of TLS and a tenants file, the authority, and a token for each sender."""
    authority = Authority(folder / "authority")
    pair = authority.issue("server", FOR_SERVERS)
    tokens = [f"token-of-sender-{number}" for number in range(count)]
    entries = [
        {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), "tenant": "bench", "cluster": f"site-{number}"}
        for number, token in enumerate(tokens)
    ]
    (folder / "tenants.json").write_text(json.dumps(entries))
    settings = f"tenants: {folder / 'tenants.json'}\ntls: {{cert: {pair.cert}, key: {pair.key}}}\n"
    return settings, authority.ca, tokens


def percentiles(seconds: Sequence[float]) -> str:
    """p50 and p99 in milliseconds."""
    low, high = np.percentile(seconds, (50, 99)) * 1e3
    return f"{low:,.0f} / {high:,.0f} ms"


def described(failed: Mapping[str, int]) -> str:
    """Attempts in vain."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(failed.items())) or "none"


def rows_of(what: str, figures: Figures) -> list[tuple[str, str]]:
    """A run's rows of the results."""
    requests = len(figures.steady.answered_seconds)
    rate = requests / figures.steady_cpu_seconds
    storm, killed = figures.storm, figures.killed
    return [
        (f"{what}: per CPU-second of the collector", f"{rate:,.0f} requests, {rate * COUNTERS:,.0f} points"),
        (f"{what}: answer, p50 / p99", f"{percentiles(figures.steady.answered_seconds)}"),
        (f"{what}: attempts in vain while all goes well", described(figures.steady.failed)),
        (
            f"{what}: all connect and send at once",
            f"{figures.storm_seconds:.1f} s, {percentiles(storm.answered_seconds)}; in vain: {described(storm.failed)}",
        ),
        (
            f"{what}: SIGKILL, away for {_DOWN_SECONDS:.0f} s and its start",
            f"all had an answer {figures.back_seconds:.1f} s after it was ready; in vain: {described(killed.failed)}",
        ),
        (f"{what}: resident at most", f"{figures.resident_bytes_max / 2**20:.0f} MiB"),
        (f"{what}: open file descriptors at most", f"{figures.descriptors_max:,}"),
    ]


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--senders", type=int, default=1_000, help="connected at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="of steady sending")
    arguments = parser.parse_args()
    count = arguments.senders
    # The senders' own descriptors.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows = []
    for what, is_secured in (("plain", False), ("TLS and tokens", True)):
        rows += rows_of(what, run_once(count, arguments.seconds, is_secured=is_secured))
    rows.append(("all acknowledged, sums in the end", "exact in every run"))
    record(f"{count:,} senders connected at once, {COUNTERS} points each every {PERIOD_SECONDS:.0f} s", rows)


if __name__ == "__main__":
    main()
