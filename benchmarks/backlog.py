"""After an outage: the memory that an aggregator and a store take to drain what has piled up, small and large.

    python -m benchmarks.backlog [MEGABYTES ...] [--partitions 12]

The backlog is on a SQLite log, in as many partitions as given. Regional: envelopes of 10,000 rows, 1,000 clusters of
100 series. Global: messages of 100,000 rows, as a region makes them. Each role drains all its partitions at once in a
process of its own; its peak is what the system says of it (VmHWM). Bounded means: more backlog, not more memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from aggregators.aggregator import Aggregator, AggregatorConfig
from benchmarks.harness import record
from benchmarks.loader import TOPIC as GLOBAL_TOPIC
from benchmarks.loader import message
from benchmarks.rollup import REGION, make_envelopes
from catchment.columns import GLOBAL_LANES, global_topic, regional_topic
from catchment.log.port import OutMessage, Source
from catchment.log.sqlite import SqliteLimits, SqliteLog

ROLES = ("aggregator", "store")
_REGIONAL_TOPIC = regional_topic("catchment", REGION, "metrics_cluster")
_LIMITS = SqliteLimits(bytes_max=8 << 30)


async def fill(path: Path, topic: str, partitions: int, size_bytes: int, values: list[bytes]) -> int:
    """Put about ``size_bytes`` of messages into a log; returns how many."""
    log = SqliteLog.open(path, _LIMITS)
    lanes = dict.fromkeys((global_topic("catchment", lane) for lane in GLOBAL_LANES), partitions)
    await log.create_topics({_REGIONAL_TOPIC: partitions, **lanes})
    writer = await log.writer(Source("backlog"))
    count = max(size_bytes * len(values) // sum(map(len, values)), partitions)
    for number, value in enumerate(islice(cycle(values), count), 1):
        await writer.publish([OutMessage(topic, "k", value, partition=number % partitions)], consumed=number)
    await log.close()
    return count


async def aggregate(folder: Path, partitions: int) -> None:
    """Roll up all that is there."""
    log = SqliteLog.open(folder / "log.db", _LIMITS)
    stop = asyncio.Event()
    aggregator = Aggregator(log, AggregatorConfig(REGION, partitions=partitions))
    running = asyncio.create_task(aggregator.run(stop))
    ends = [await log.end_offset(_REGIONAL_TOPIC, number) for number in range(partitions)]
    while sum(status.messages_in for status in aggregator.status()) < sum(ends):  # noqa: ASYNC110 a status has no event
        await asyncio.sleep(0.05)
    stop.set()
    await running
    await log.close()


async def load(folder: Path, partitions: int) -> None:
    """Load all that is there."""
    from store.engine.chdb import ChdbEngine
    from store.ledger import Ledger
    from store.loader import Loader
    from store.migrate import migrate

    log = SqliteLog.open(folder / "log.db", _LIMITS)
    engine = ChdbEngine(folder / "store")
    ledger = Ledger(folder / "store", deduplication_window=10_000)
    migrate(engine, ledger, now_ns=time.time_ns())
    topics = [global_topic("catchment", lane) for lane in GLOBAL_LANES]
    loader = Loader(log, engine, ledger, topics, quarantine_folder=folder / "quarantine")
    stop = asyncio.Event()
    running = asyncio.create_task(loader.run(stop))
    ends = [await log.end_offset(GLOBAL_TOPIC, number) for number in range(partitions)]
    while sum(status.position for status in loader.status()) < sum(ends):  # noqa: ASYNC110 a status has no event
        await asyncio.sleep(0.05)
    stop.set()
    await running
    loader.close()
    engine.close()
    ledger.close()
    await log.close()


def drain(role: str, folder: Path, partitions: int) -> tuple[float, float]:
    """Drain in a process of its own: peak resident MiB, and seconds."""
    command = [sys.executable, "-m", "benchmarks.backlog", "--role", role, "--partitions", str(partitions)]
    done = subprocess.run([*command, "--folder", str(folder)], check=True, capture_output=True, text=True)
    peak_mebibytes, seconds = json.loads(done.stdout)
    return peak_mebibytes, seconds


def _peak_mebibytes() -> float:
    """Of this process since it began; unlike ``ru_maxrss``, not of who started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Measure and record; or drain, in the child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabytes", type=int, nargs="*", default=[50, 400])
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    partitions: int = arguments.partitions
    if arguments.role:
        began = time.monotonic()
        asyncio.run((aggregate if arguments.role == "aggregator" else load)(arguments.folder, partitions))
        print(json.dumps([_peak_mebibytes(), time.monotonic() - began]))
        return
    rows = []
    values = {"aggregator": make_envelopes(100_000, 4, 10_000), "store": [message(minute) for minute in range(4)]}
    topics = {"aggregator": _REGIONAL_TOPIC, "store": GLOBAL_TOPIC}
    for role in ROLES:
        for megabytes in arguments.megabytes:
            with tempfile.TemporaryDirectory() as name:
                size_bytes = megabytes * 10**6
                count = asyncio.run(fill(Path(name) / "log.db", topics[role], partitions, size_bytes, values[role]))
                peak, seconds = drain(role, Path(name), partitions)
            what = f"{role}: {megabytes} MB in {count:,} messages"
            rows.append((what, f"{peak:.0f} MiB at its peak, {seconds:.0f} s, {megabytes / seconds:.1f} MB/s"))
            print(*rows[-1], flush=True)
    record(f"Draining a backlog of {partitions} partitions: peak resident memory", rows)


if __name__ == "__main__":
    main()
