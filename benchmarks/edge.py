"""A whole collector through its real HTTP socket, per CPU-second of the whole process.

    python -m benchmarks.edge

A collector process (`catchment collector`) receives the load of `benchmarks.load` from this process over a few
keep-alive connections: fsynced before the answer, decoded, aggregated, flushed to the outbox and forwarded to the
embedded log. One warm-up interval makes all streams known. At the end the points that the log holds are compared with
the points sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import process_cpu_seconds, record, resident_mebibytes
from benchmarks.load import Load, Shape
from catchment.envelope import decode
from catchment.log.sqlite import SqliteLog

_CONFIG = """
data_dir: {folder}
region: local
flush: 5s
listen: {{otlp_grpc: "127.0.0.1:{grpc}", otlp_http: "127.0.0.1:{http}", status: "127.0.0.1:{status}"}}
"""


@dataclass(frozen=True)
class Collector:
    """A collector process under measurement."""

    pid: int
    port: int
    folder: Path


@contextlib.contextmanager
def collector(settings: str = "") -> Iterator[Collector]:
    """A fresh collector in a folder of its own, ready; stopped gracefully at the end. ``settings``: further lines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grpc, http, status = (_free_port() for _ in range(3))
        config = folder / "catchment.yaml"
        config.write_text(_CONFIG.format(folder=folder, grpc=grpc, http=http, status=status) + settings)
        command = [sys.executable, "-m", "catchment.cli.main", "collector", "--config", str(config)]
        process = subprocess.Popen(command, env={**os.environ, "POLARS_MAX_THREADS": "1"})
        try:
            _wait_ready(f"http://127.0.0.1:{status}/readyz")
            yield Collector(process.pid, http, folder)
            process.terminate()
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_ready(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 # our own loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(f"{url} did not become ready")


async def post_all(
    port: int, bodies: list[bytes], encoding: str, connections: int, *, may_reject: bool = False
) -> None:
    """Send bodies over a few keep-alive connections.

    Any answer but 200 is an error, and so is a partial success unless it ``may_reject``.
    """
    pending = list(reversed(bodies))

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while pending:
                body = pending.pop()
                head = (
                    "POST /v1/metrics HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n"
                    f"{f'content-encoding: {encoding}' if encoding else 'accept: */*'}\r\n"
                    f"content-length: {len(body)}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
                answer = await reader.readuntil(b"\r\n\r\n")
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise AssertionError(answer.decode("latin-1"))
                length = next(
                    int(line.split(b":")[1])
                    for line in answer.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                said = await reader.readexactly(length)
                if said and not may_reject:
                    raise AssertionError(f"not all accepted: {said!r}")
        finally:
            writer.close()

    await asyncio.gather(*(work() for _ in range(connections)))


def _points_in_log(folder: Path) -> int:
    async def count() -> int:
        log = SqliteLog.open(folder / "log" / "log.db")
        topic, position, points = "catchment.local.metrics_cluster", 0, 0
        while messages := await log.poll(topic, 0, position, messages_max=100, bytes_max=1 << 26, wait_seconds=0.1):
            points += sum(decode(message.value).header.totals.points for message in messages)
            position = messages[-1].offset + 1
        await log.close()
        return points

    return asyncio.run(count())


@dataclass(frozen=True)
class Figures:
    """What one run gave."""

    points_per_cpu_second: float
    idle_mebibytes: float
    loaded_mebibytes: float
    cpu_share: float


def measure(points_per_body: int, encoding: str, connections: int, intervals: int) -> Figures:
    """Send ``intervals`` of the load after one warm-up interval."""
    with collector() as target:
        time.sleep(2)
        idle = resident_mebibytes(target.pid)
        # Starts after the collector's folder was born, so that the first points count too.
        now_ns = time.time_ns()
        load = Load(Shape(points_per_body=points_per_body, interval_seconds=1, start_ns=now_ns))

        def bodies(interval: int) -> list[bytes]:
            plain = load.bodies(interval)
            return [gzip.compress(body, 6) for body in plain] if encoding == "gzip" else plain

        asyncio.run(post_all(target.port, bodies(1), encoding, connections))
        time.sleep(6)
        prepared = [bodies(interval) for interval in range(2, 2 + intervals)]
        begin_cpu, begin = process_cpu_seconds(target.pid), time.monotonic()
        highest = 0.0
        for batch in prepared:
            asyncio.run(post_all(target.port, batch, encoding, connections))
            highest = max(highest, resident_mebibytes(target.pid))
        # The last flush belongs to what is measured.
        time.sleep(5.5)
        seconds = time.monotonic() - begin
        used = process_cpu_seconds(target.pid) - begin_cpu
        folder = target.folder
        sent = (intervals + 1) * load.points_per_interval
        _wait_points(folder, sent)
    return Figures(intervals * load.points_per_interval / used, idle, highest, used / seconds)


def _wait_points(folder: Path, sent: int) -> None:
    for _ in range(60):
        found = _points_in_log(folder)
        if found == sent:
            return
        time.sleep(0.5)
    raise AssertionError(f"{found} points in the log, {sent} acknowledged")


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--intervals", type=int, default=40, help="of 100,000 points each")
    intervals = parser.parse_args().intervals
    rows = []
    for what, points_per_body, encoding, connections in (
        ("10,000-point bodies, 4 connections", 10_000, "", 4),
        ("10,000-point bodies, gzip, 4 connections", 10_000, "gzip", 4),
        ("1,000-point bodies, 32 connections", 1_000, "", 32),
        ("1,000-point bodies, gzip, 32 connections", 1_000, "gzip", 32),
        ("1,000-point bodies, 4 connections", 1_000, "", 4),
    ):
        figures = measure(points_per_body, encoding, connections, intervals)
        rows.append((what, f"{figures.points_per_cpu_second / 1e6:.2f} M points per CPU-second"))
        rows.append(
            (
                f"{what}: resident idle / under load",
                f"{figures.idle_mebibytes:.0f} / {figures.loaded_mebibytes:.0f} MiB",
            )
        )
    record("A whole collector: HTTP, fsync, decode, aggregate, flush, forward", rows)


if __name__ == "__main__":
    main()
