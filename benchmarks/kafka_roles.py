"""What each role does through a real Kafka on this machine: rows per second, and per CPU-second of its process.

    python -m benchmarks.kafka_roles [--repeats N]

Each role by itself. Aggregator and loader are started, then stand still (SIGSTOP) while their topics are filled, and
are timed from the moment they go on until the last row is published or in the tables. The collector gets bodies of
10,000 points over four connections and is timed until the log has the last of them. The broker takes its part of the
same two cores; nothing else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import kafka_setting, loader, rollup
from benchmarks.edge import post_all
from benchmarks.harness import process_cpu_seconds, record
from benchmarks.load import Load, Shape
from catchment.columns import global_topic, regional_topic
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import OutMessage, Source
from tests.faults.stack import REGION, Stack, wait_until

_FLUSHES = 4
# Standing still while the topics are filled must not look like death.
_SESSION_SECONDS = 120


def _fill(address: str, prefix: str, topic: str, values: list[bytes]) -> None:
    """Publish messages to partition 0, some 8 MB a transaction."""

    async def run() -> None:
        log = KafkaLog(KafkaSettings(brokers=(address,), prefix=prefix, replication_factor=1))
        writer = await log.writer(Source("bench"))
        position = await writer.committed() or 0
        for first in range(0, len(values), 8):
            position += 1
            await writer.publish(
                [OutMessage(topic, "k", value, {}, 0) for value in values[first : first + 8]], position
            )
        await writer.close()
        await log.close()

    asyncio.run(run())


def _work_off(stack: Stack, role: str, metric: str, rows: int, fill: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds that a role takes for ``rows`` which are there when it wakes up."""
    stack.start(role)
    stack.wait_ready(role)
    before = stack.metric(role, metric)
    with stack.paused(role):
        fill()
    cpu, wall = process_cpu_seconds(stack.pid(role)), time.perf_counter()
    wait_until(lambda: stack.metric(role, metric) - before >= rows, f"{rows} rows of {role}", 300)
    wall, cpu = time.perf_counter() - wall, process_cpu_seconds(stack.pid(role)) - cpu
    found = stack.metric(role, metric) - before
    if found != rows:
        raise SystemExit(f"{role}: {found} rows, not {rows}")
    stack.stop(role)
    return wall, cpu


def _figure(rows: int, wall: float, cpu: float, unit: str = "rows") -> str:
    return f"{rows / wall / 1e6:.2f} M {unit}/s, {rows / cpu / 1e6:.2f} M a CPU-second"


def measure_aggregator(folder: Path, address: str, repeats: int) -> str:
    """Cluster rows in, four flushes of each series, until cluster and region rows are published."""
    values = rollup.make_envelopes(100_000, _FLUSHES, 10_000) * repeats
    rows = 100_000 * _FLUSHES * repeats
    with kafka_setting.stack(folder, address, "aggregator", session_seconds=_SESSION_SECONDS) as stack:
        topic = regional_topic("aggregator", REGION, "metrics_cluster")
        fill = lambda: _fill(address, "aggregator", topic, values)  # noqa: E731
        return _figure(rows, *_work_off(stack, "aggregator", "catchment_rollup_rows_in_total", rows, fill))


def measure_loader(folder: Path, address: str, messages: int) -> str:
    """Global messages of 100,000 rows, until they are in the minute, hour and day tables."""
    values = [loader.message(minute) for minute in range(messages)]
    rows = messages * loader.ROWS
    with kafka_setting.stack(folder, address, "loader", session_seconds=_SESSION_SECONDS) as stack:
        topic = global_topic("loader", "metrics_cluster")
        fill = lambda: _fill(address, "loader", topic, values)  # noqa: E731
        return _figure(rows, *_work_off(stack, "store", "catchment_loaded_rows_total", rows, fill))


def measure_collector(folder: Path, address: str, intervals: int) -> str:
    """Points in over HTTP, until all their rows are in the regional log."""
    with kafka_setting.stack(folder, address, "collector", session_seconds=_SESSION_SECONDS) as stack:
        stack.start("collector", flush="5s")
        stack.wait_ready("collector")
        load = Load(Shape(points_per_body=10_000, interval_seconds=1, start_ns=time.time_ns()))
        asyncio.run(post_all(stack.ports["otlp_http"], load.bodies(1), "", 4))
        stack.drain_collectors()
        prepared = [load.bodies(interval) for interval in range(2, 2 + intervals)]
        cpu, wall = process_cpu_seconds(stack.pid("collector")), time.perf_counter()
        for bodies in prepared:
            asyncio.run(post_all(stack.ports["otlp_http"], bodies, "", 4))
        stack.drain_collectors()
        wall, cpu = time.perf_counter() - wall, process_cpu_seconds(stack.pid("collector")) - cpu
        stack.stop("collector")
        return _figure(intervals * load.points_per_interval, wall, cpu, "points")


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each role's work")
    repeats = parser.parse_args().repeats
    with kafka_setting.broker() as (folder, running):
        rows = [
            ("collector: points in, 10,000-point bodies", measure_collector(folder, running.plain, 4 * repeats)),
            ("aggregator: cluster rows in", measure_aggregator(folder, running.plain, repeats)),
            ("loader: rows into the tables", measure_loader(folder, running.plain, 3 * repeats)),
        ]
    record("Kafka: what each role does, a process each, one broker, all on two cores", rows)


if __name__ == "__main__":
    main()
