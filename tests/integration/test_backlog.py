"""Draining what has piled up: whatever waits, what is in memory at once is bounded, and all of it counts once."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from aggregators.aggregator import Aggregator, AggregatorConfig
from catchment.errors import CatchmentError
from catchment.log.port import Message, OutMessage, Source, Writer
from catchment.log.sqlite import SqliteLog
from store.loader import Loader, LoaderLimits
from store.plan import Insert
from store.position import Position
from store.settle import Settler, prepare
from tests.integration.fleet import REGION, counter_row, envelope, global_tables, message, sums
from tests.integration.store_support import T0, Store, envelope_bytes, metric_row
from tests.outage import AwayLog

PARTITIONS = 4


class CountingLog(AwayLog):
    """Knows how many bytes were polled and are not published past: what a reader may have in memory."""

    def __init__(self, log: SqliteLog) -> None:
        super().__init__(log)
        self._held: dict[tuple[str, int], dict[int, int]] = {}
        self.held_max = self.held_max_each = self.message_max = 0

    async def poll(
        self, topic: str, partition: int, position: int, *, messages_max: int, bytes_max: int, wait_seconds: float
    ) -> list[Message]:
        """See the port."""
        found = await super().poll(
            topic, partition, position, messages_max=messages_max, bytes_max=bytes_max, wait_seconds=wait_seconds
        )
        held = self._held.setdefault((topic, partition), {})
        held |= {message.offset: len(message.value) for message in found}
        self.message_max = max([self.message_max, *held.values()])
        self.held_max_each = max(self.held_max_each, sum(held.values()))
        self.held_max = max(self.held_max, sum(size for each in self._held.values() for size in each.values()))
        return found

    async def writer(self, source: Source) -> Writer:
        """See the port."""
        writer = await super().writer(source)
        publish = writer.publish

        async def published(messages: Sequence[OutMessage], consumed: int) -> None:
            await publish(messages, consumed)
            held = self._held.setdefault((source.topic, source.partition), {})
            for offset in [offset for offset in held if offset < consumed]:
                del held[offset]

        writer.publish = published  # type: ignore[method-assign]
        return writer


class Gauge:
    """How many were in there at once, at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self.most = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """One more, for a while."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        yield
        with self._lock:
            self._now -= 1


def test_an_aggregator_takes_a_backlog_in_batches(tmp_path: Path) -> None:
    """Per partition the bytes of a batch and one message, few batches decoded at once, and every sum exact."""
    config = AggregatorConfig(
        REGION, partitions=PARTITIONS, linger_seconds=0.02, batch_bytes_max=100_000, message_bytes_max=100_000
    )
    gauge = Gauge()

    class Watched(Aggregator):
        def _roll_up(self, *arguments: object) -> object:  # type: ignore[override]
            with gauge.inside():
                return super()._roll_up(*arguments)  # type: ignore[arg-type]

    async def drain() -> None:
        real = SqliteLog.open(tmp_path / "log.db")
        log = CountingLog(real)
        await log.create_topics(config.topics)
        writer = await real.writer(Source("backlog"))
        for flush in range(400):
            rows = [counter_row(f"cluster-{flush % 8}", "requests", 1) for _ in range(3)]
            out = message(envelope("metrics_cluster", rows), flush % PARTITIONS)
            await writer.publish([out], consumed=flush + 1)
        stop = asyncio.Event()
        stop.set()
        await Watched(log, config).run(stop)
        assert config.batch_bytes_max // 2 < log.held_max_each <= config.batch_bytes_max + log.message_max
        assert gauge.most == config.rollups_max
        tables = await global_tables(real)
        assert sums(tables["metrics_cluster"], "cluster", "sum_int") == {f"cluster-{n}": 150 for n in range(8)}
        await real.close()

    asyncio.run(drain())


def test_a_loader_takes_a_backlog_message_by_message(tmp_path: Path) -> None:
    """The partitions share the bytes; only a few messages are decoded at once; every row is there once."""
    limits = LoaderLimits(poll_bytes_max=60_000, poll_messages_max=4)
    opened = Store(tmp_path)
    messages = 40
    decoded: Counter[str] = Counter()
    most = 0
    settle = Settler.settle

    def prepared(value: bytes, token: str) -> object:
        nonlocal most
        decoded[token] += 1
        most = max(most, decoded.total())
        return prepare(value, token)

    def settled(self: Settler, position: Position, value: bytes, insert: Insert | CatchmentError) -> None:
        settle(self, position, value, insert)
        del decoded[position.token]

    async def drain() -> None:
        real = SqliteLog.open(tmp_path / "backlog.db")
        log = CountingLog(real)
        topic = "catchment.global.metrics_cluster"
        await log.create_topics({topic: PARTITIONS})
        writer = await real.writer(Source("backlog"))
        for number in range(messages):
            rows = [metric_row(cluster=f"c{row}", sum_int=1, at=T0 + 60 * number) for row in range(100)]
            value = envelope_bytes("metrics_cluster", rows)
            out = OutMessage(topic, "k", value, partition=number % PARTITIONS)
            await writer.publish([out], consumed=number + 1)
        loader = Loader(log, opened.engine, opened.ledger, [topic], quarantine_folder=opened.quarantine, limits=limits)
        stop = asyncio.Event()
        running = asyncio.create_task(loader.run(stop))
        while sum(status.position for status in loader.status()) < messages:  # noqa: ASYNC110 a status has no event
            await asyncio.sleep(0.01)
        stop.set()
        await running
        loader.close()
        await real.close()
        share = limits.poll_bytes_max // PARTITIONS
        assert share // 2 < log.held_max_each <= max(share, log.message_max)
        assert log.held_max <= PARTITIONS * max(share, log.message_max)

    with (
        mock.patch("store.loader.prepare", prepared),
        mock.patch.object(Settler, "settle", settled),
    ):
        asyncio.run(drain())
    assert limits.inserts_max < most <= 2 * (limits.inserts_max + 1)
    assert int(opened.engine.query("SELECT sum(sum_int) FROM metrics_cluster_1m").data) == 100 * messages
    assert int(opened.engine.query("SELECT sum(points) FROM metrics_cluster_1d").data) == 100 * messages
    opened.engine.close()
    opened.ledger.close()
