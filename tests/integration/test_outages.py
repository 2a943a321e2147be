"""Hours of outage with time as an argument: every tier holds its work within its limits, and afterwards all adds up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from aggregators.aggregator import Aggregator, AggregatorConfig
from catchment.algebra.merge import merge
from catchment.columns import EDGE_LANES, GLOBAL_LANES, LANES, Merge, global_topic, regional_topic
from catchment.envelope import Envelope, decode
from catchment.errors import Reject
from catchment.limits import Limits
from catchment.log.sqlite import SqliteLimits, SqliteLog
from collectors.ladder import Waits
from collectors.widen import widened
from store.engine.port import EngineError
from store.loader import Loader
from tests import otlp
from tests.durable_edge import DurableEdge
from tests.integration.store_support import Store
from tests.otlp import ns
from tests.outage import PREFIX, REGION, AwayLog, OutageCollector

_BUCKETS = (0.1, 0.5, 1.0)
LIMITS = Limits(
    outbox_bytes_max=512 << 10, outbox_merge_bytes=48 << 10, publish_bytes_max=128 << 10, retry_after_seconds=7
)
# Senders send, and the collector flushes, every five minutes: as good as each minute, and five times as fast to test.
PERIOD_SECONDS = 300


def steady(at: float, turn: int, series: int = 20) -> bytes:
    """One minute of a service: counters that rise, gauges that move, a histogram."""
    names = [{"route": f"/v1/{number}"} for number in range(series)]
    return otlp.body(
        otlp.counter("hits", *(otlp.number(at, turn * (n + 1), start=1, attributes=a) for n, a in enumerate(names))),
        otlp.gauge("level", *(otlp.number(at, (turn * 7 + n) % 13 / 4, attributes=a) for n, a in enumerate(names))),
        otlp.histogram("took", otlp.explicit(at, [turn, 2 * turn, 0, turn], _BUCKETS, start=1, total=turn / 2)),
    )


def churning(at: float, random: Random, series: int = 600) -> bytes:
    """Series that nobody has ever seen, with names that do not compress: they fill any outbox."""
    points = [otlp.number(at, 1, start=at - 1, attributes={"id": random.randbytes(48).hex()}) for _ in range(series)]
    return otlp.body(otlp.counter("jobs", *points))


def by_hour(envelopes: Sequence[Envelope], lane: str) -> list[dict[str, Any]]:
    """A lane's rows in windows of an hour, which all widths divide: what nothing may change.

    Without ``rows``, which counts partial rows as they were flushed.
    """
    rows = pa.concat_tables([envelope.rows for envelope in envelopes if envelope.header.lane == lane])
    merged = merge(widened(rows, 3600), LANES[lane].columns)
    keys = [column.name for column in LANES[lane].columns if column.merge is Merge.KEY]
    kept = [name for name in merged.column_names if name != "rows"]
    return sorted(merged.select(kept).to_pylist(), key=lambda row: [str(row[key]) for key in keys])


def digest(envelopes: Sequence[Envelope], lane: str) -> int:
    """Σ of a lane's digests."""
    return sum(each.header.totals.digest for each in envelopes if each.header.lane == lane) % 2**64


async def published(log: SqliteLog) -> dict[str, list[Envelope]]:
    """What the regional topics hold, by lane, in order."""
    found = {}
    for lane in EDGE_LANES:
        topic = regional_topic(PREFIX, REGION, lane)
        messages = await log.poll(topic, 0, 0, messages_max=10**6, bytes_max=10**10, wait_seconds=0)
        found[lane] = [decode(message.value) for message in messages]
        outbox = [int(message.headers["sequence"]) for message in messages]
        assert outbox == sorted(set(outbox)), "in the order of the outbox, each once"
    return found


def assert_same(found: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]) -> None:
    """Row by row; sums of fractions within what another order of additions makes of them."""
    assert len(found) == len(wanted)
    for row, other in zip(found, wanted, strict=True):
        for name, value in other.items():
            assert row[name] == value or row[name] == pytest.approx(value, rel=1e-12, abs=1e-12), (name, row, other)


class Day:
    """A collector, the log that it forwards to, and a twin with the same requests whose outbox has room for all."""

    def __init__(self, one: OutageCollector, folder: Path) -> None:
        self.one = one
        folder.mkdir()
        self.twin = DurableEdge(folder, Limits())
        self.steps: list[str] = []
        self.flush_bytes_max = 0

    async def period(self, body: bytes | None) -> None:
        """A request and a flush, and the bounds that hold after it."""
        one = self.one
        one.now += PERIOD_SECONDS
        before = one.ladder.waits.size_bytes
        if body is not None:
            await one.submit(body)
            self.twin.send(body, one.now)
        await one.flush()
        if one.now % 14_400 == 0:
            self.twin.flush(one.now)
        waits = one.ladder.waits
        assert (waits.messages, waits.size_bytes, waits.oldest_ns) == one.state.outbox_size()
        self.flush_bytes_max = max(self.flush_bytes_max, waits.size_bytes - before)
        assert waits.size_bytes <= LIMITS.outbox_bytes_max + self.flush_bytes_max
        step = "push back" if one.ladder.pressure() else str(waits.merged_seconds)
        if self.steps[-1:] != [step]:
            self.steps.append(step)

    async def end(self, log: SqliteLog) -> dict[str, list[Envelope]]:
        """What the log holds, after comparing it with the twin."""
        found = await published(log)
        self.twin.flush(self.one.now)
        wanted = [decode(row.value) for row in self.twin.outbox()]
        for lane in ("metrics_cluster", "totals"):
            assert_same(by_hour(found[lane], lane), by_hour(wanted, lane))
            accepted = self.one.state.acknowledged()["acme", "metrics"]
            assert (accepted[1], accepted) == (
                digest(found[lane], lane),
                self.twin.state.acknowledged()["acme", "metrics"],
            )
        self.twin.state.close()
        return found


def windows(envelopes: Sequence[Envelope]) -> set[tuple[int, int]]:
    """(start in ns, width in s) of all rows."""
    rows = pa.concat_tables([envelope.rows for envelope in envelopes])
    return set(zip(rows["window_start_ns"].to_pylist(), rows["window_seconds"].to_pylist(), strict=True))


def on_log(tmp_path: Path, work: Callable[[Day, SqliteLog, AwayLog], Awaitable[None]], **limits: int) -> None:
    """Run a day with a new log."""

    async def run() -> None:
        real = SqliteLog.open(tmp_path / "log.db", SqliteLimits(**limits))
        log = AwayLog(real)
        async with OutageCollector.running(tmp_path, log, LIMITS) as one:
            await work(Day(one, tmp_path / "twin"), real, log)
        await real.close()

    asyncio.run(run())


def test_the_log_is_away_for_hours(tmp_path: Path) -> None:
    """Grow, merge, widen, push back, each when its time has come and within its limit; then all drains in order, and
    every value is what it is in a collector that never had to merge.
    """

    async def day_of(day: Day, real: SqliteLog, log: AwayLog) -> None:
        one, random, hours = day.one, Random(4), 8
        await day.period(steady(30, 1))
        # The last publish before the outage: the log has it, and nobody was told.
        log.takes_one = True
        await one.forward()
        assert log.is_away
        for turn in range(2, hours * 3600 // PERIOD_SECONDS):
            await day.period(steady(one.now + 30, turn))
            if turn % 50 == 0:
                await one.forward()
                assert "nobody answers" in one.stalled() and one.reason() == ""
        assert one.ladder.oldest_seconds(ns(one.now)) == one.now - PERIOD_SECONDS
        while not one.ladder.pressure():
            await day.period(churning(one.now + 30, random))
        assert day.steps == ["0", "60", "300", "3600", "push back"]
        full_at, full_bytes = one.now, one.ladder.waits.size_bytes
        for _ in range(2 * 3600 // PERIOD_SECONDS):
            with pytest.raises(Reject, match=r"the outbox is full: .* the limit is 512 KiB") as refused:
                await one.submit(steady(one.now + 30, 10**6))
            assert refused.value.retry_after_seconds == LIMITS.retry_after_seconds
            await day.period(None)
        assert one.ladder.pushing_back_seconds(ns(one.now)) == one.now - full_at
        assert "senders have been pushed back for 2 h" in one.reason()
        # Heartbeats go on: that data are missing does not mean that the cluster is silent.
        assert one.ladder.waits.size_bytes < full_bytes + (16 << 10)
        log.is_away = False
        await one.forward()
        # Senders are let in at once, not only after the next flush.
        assert (one.ladder.waits, one.reason(), one.stalled()) == (Waits(), "", "")
        await day.period(steady(one.now + 30, 10**4))
        await one.forward()
        assert one.state.outbox_size() == (0, 0, 0)
        assert all(count == 1 or size_bytes <= LIMITS.publish_bytes_max for count, size_bytes in log.published)
        found = await day.end(real)
        widths = {seconds for _, seconds in windows(found["metrics_cluster"])}
        assert widths == {seconds for _, seconds in windows(found["totals"])} == {60, 3600}
        assert all(start_ns % (seconds * 10**9) == 0 for start_ns, seconds in windows(found["metrics_cluster"]))
        # Never coarsened, and nothing was dropped.
        beats = windows(found["health"])
        assert {seconds for _, seconds in beats} == {60} and len(beats) >= one.now // PERIOD_SECONDS
        assert found["drops"] == []

    on_log(tmp_path, day_of)


def test_aggregator_and_store_are_away_for_hours(tmp_path: Path) -> None:
    """Without an aggregator, then without a store, the log fills to its limit and the outbox holds the rest; an insert
    whose end nobody saw before all that counts once after it, since only inserts make an engine forget a token.
    """
    store = Store(tmp_path / "store")
    insert, lost = store.engine.insert, EngineError(210, "NETWORK_ERROR", "the answer is lost")

    def insert_unanswered(*arguments: Any, **named: Any) -> None:
        insert(*arguments, **named)
        raise lost

    async def load(log: AwayLog) -> int:
        topics = [global_topic(PREFIX, lane) for lane in GLOBAL_LANES]
        loader = Loader(log, store.engine, store.ledger, topics, quarantine_folder=store.quarantine)
        try:
            return await loader.drain_once()
        finally:
            loader.close()

    async def roll_up(log: AwayLog) -> str:
        # What a roll-up brings must fit into the quarter that hops have for themselves.
        config = AggregatorConfig(REGION, linger_seconds=0.01, batch_bytes_max=64 << 10)
        aggregator, stop = Aggregator(log, config), asyncio.Event()
        stop.set()
        await aggregator.run(stop)
        return "; ".join(status.reason for status in aggregator.status() if status.reason)

    async def day_of(day: Day, real: SqliteLog, log: AwayLog) -> None:
        one, random = day.one, Random(5)
        await day.period(churning(one.now + 30, random))
        await one.forward()
        await roll_up(log)
        with mock.patch.object(store.engine, "insert", insert_unanswered), pytest.raises(EngineError, match="lost"):
            await load(log)
        while one.ladder.waits.size_bytes < LIMITS.outbox_bytes_max * 2 // 3:
            await day.period(churning(one.now + 30, random, series=1_000))
            await one.forward()
        assert one.now > 3600 and "log is full" in one.stalled() and one.reason() == ""
        assert one.ladder.waits.merged_seconds > 0
        # The aggregator is back, the store is not: hops within the log have a quarter more, then they wait too.
        waiting = ""
        for _ in range(20):
            waiting = await roll_up(log)
            if "log is full" in waiting:
                break
            await one.forward()
        assert "log is full" in waiting
        assert await load(log) > 0
        for _ in range(50):
            await one.forward()
            waiting = await roll_up(log)
            if not await load(log) and not one.ladder.waits.messages and not waiting:
                break
        points, checksum = one.state.acknowledged()["acme", "metrics"]
        for table in ("metrics_cluster_1m", "metrics_region_1m", "metrics_cluster_1h", "metrics_region_1d"):
            assert int(store.engine.query(f"SELECT sum(points) FROM {table}").data) == points
        sums = store.engine.query(
            "SELECT level, sum(t.points), sum(t.stored_points), toString(sum(t.digest)) FROM control_totals AS t "
            "WHERE lane = 'metrics' GROUP BY level"
        ).data.decode()
        for line in sums.splitlines():
            _, accepted, stored, found = line.split("\t")
            assert (int(accepted), int(stored), int(found.strip('"')) % 2**64) == (points, points, checksum)
        assert len(sums.splitlines()) == 3
        day.twin.state.close()

    on_log(tmp_path, day_of, bytes_max=1 << 20, keep_seconds=0)
    store.engine.close()
    store.ledger.close()
