"""Exactly once through the aggregator, whatever kills it."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from aggregators.aggregator import AggregatorConfig
from catchment.log.sqlite import SqliteLog
from tests.integration.fleet import REGION, counter_row, envelope, global_tables, message, send, sums, totals_row

KILLS = 25


def start(path: Path) -> subprocess.Popen[str]:
    """An aggregator process that is up."""
    command = [sys.executable, "-m", "tests.integration.aggregator_process", str(path), REGION]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    return child


class Feeder(threading.Thread):
    """Publishes envelopes of three clusters until told to stop, and remembers the exact totals."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.done = threading.Event()
        self.sent: Counter[str] = Counter()
        self.digest = 0

    def run(self) -> None:
        """Feed."""
        asyncio.run(self._feed())

    async def _feed(self) -> None:
        log = SqliteLog.open(self._path)
        chance = random.Random(11)
        sequence = 0
        while not self.done.is_set():
            sequence += 1
            values = {f"cluster-{n}": chance.randrange(2**40) for n in range(3)}
            digest = chance.randrange(2**64)
            rows = [counter_row(name, f"metric-{n}", value) for name, value in values.items() for n in range(20)]
            totals = [totals_row("cluster-0", len(rows), len(rows), digest)]
            metrics = envelope("metrics_cluster", rows, sequence=sequence, digest=digest)
            await send(log, [message(metrics), message(envelope("totals", totals, sequence=sequence))], sequence)
            self.sent.update({name: 20 * value for name, value in values.items()})
            self.digest = (self.digest + digest) % 2**64
            await asyncio.sleep(0.004)
        await log.close()


@pytest.mark.proof
def test_totals_are_exact_over_many_kills(tmp_path: Path) -> None:
    """SIGKILL at 25 random moments while data flows: sums per cluster and region, points and digests are exact."""
    path = tmp_path / "log.db"

    async def create() -> None:
        log = SqliteLog.open(path)
        await log.create_topics(AggregatorConfig(REGION).topics)
        await log.close()

    asyncio.run(create())
    feeder = Feeder(path)
    feeder.start()
    chance = random.Random(5)
    try:
        for _ in range(KILLS):
            child = start(path)
            with child:
                try:
                    child.wait(chance.uniform(0.0, 0.3))
                except subprocess.TimeoutExpired:
                    child.kill()
            assert child.returncode == -9, "it died by itself"
    finally:
        feeder.done.set()
        feeder.join()
    with start(path) as child:
        child.communicate("stop\n", timeout=90)
    assert child.returncode == 0

    async def check() -> None:
        log = SqliteLog.open(path)
        tables = await global_tables(log)
        assert sums(tables["metrics_cluster"], "cluster", "sum_int") == feeder.sent
        assert sum(map(int, tables["metrics_region"]["sum_int"].to_pylist())) == sum(feeder.sent.values())
        points = sum(tables["metrics_region"]["points"].to_pylist())
        assert points == sum(tables["metrics_cluster"]["points"].to_pylist()) > 0
        assert sum(tables["totals"]["points"].to_pylist()) == points
        assert sum(tables["totals"]["digest"].to_pylist()) % 2**64 == feeder.digest
        await log.close()

    asyncio.run(check())
