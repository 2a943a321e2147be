"""The aggregator on a real SQLite log: what goes in comes out once, summed; what cannot be read waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from aggregators.aggregator import Aggregator, AggregatorConfig
from aggregators.dead_letters import discard, find, open_letters, replay
from aggregators.destinations import destinations, to_place
from catchment.columns import EDGE_LANES, dead_letter_topic, global_topic, regional_topic, store_topic
from catchment.config import GLOBE
from catchment.envelope import Envelope, decode, encode
from catchment.errors import Bug, Fenced, Invalid
from catchment.log.port import OutMessage, Source
from catchment.log.sqlite import SqliteLimits, SqliteLog
from catchment.reach import Reach
from tests.golden.versions import newer
from tests.integration.fleet import (
    PREFIX,
    REGION,
    counter_row,
    envelope,
    global_tables,
    message,
    read_all,
    send,
    sums,
    totals_row,
    until,
)

CONFIG = AggregatorConfig(REGION, linger_seconds=0.02)
TOTALS = totals_row("c", 1, 1, 0)
METRICS = regional_topic(PREFIX, REGION, "metrics_cluster")


def on_log(tmp_path: Path, body: Callable[[SqliteLog], Awaitable[None]], limits: SqliteLimits | None = None) -> None:
    """Run a test on a new log with all topics."""

    async def run() -> None:
        log = SqliteLog.open(tmp_path / "log.db", limits)
        await log.create_topics(CONFIG.topics)
        await asyncio.wait_for(body(log), 60)
        await log.close()

    asyncio.run(run())


async def drain(log: SqliteLog, config: AggregatorConfig = CONFIG) -> Aggregator:
    """Aggregate what is there and stop."""
    stop = asyncio.Event()
    stop.set()
    aggregator = Aggregator(log, config)
    await aggregator.run(stop)
    return aggregator


def test_clusters_add_up_to_the_region(tmp_path: Path) -> None:
    """Partials of several flushes and clusters: cluster rows per cluster, one region row, points and digests equal."""

    async def body(log: SqliteLog) -> None:
        for flush in range(3):
            rows = [counter_row(f"cluster-{c}", "requests", 10 * c + flush) for c in range(4)]
            totals = [totals_row(f"cluster-{c}", 1, 1, 2**63 + flush) for c in range(4)]
            await send(log, [message(envelope("metrics_cluster", rows, digest=2**63 + flush))], 2 * flush)
            await send(log, [message(envelope("totals", totals))], 2 * flush + 1)
        aggregator = await drain(log)
        tables = await global_tables(log)
        assert sums(tables["metrics_cluster"], "cluster", "sum_int") == {f"cluster-{c}": 30 * c + 3 for c in range(4)}
        assert tables["metrics_region"]["sum_int"].to_pylist() == [sum(30 * c + 3 for c in range(4))]
        assert tables["metrics_region"]["histogram"].to_pylist() == [[(1, 12)]]
        assert sums(tables["totals"], "lane", "points") == {"metrics_cluster": 12}
        assert sum(tables["totals"]["digest"].to_pylist()) % 2**64 == (4 * (3 * 2**63 + 3)) % 2**64
        (region,) = await read_all(log, f"{PREFIX}.global.metrics_region")
        header = decode(region.value).header
        assert header.totals.digest == (3 * 2**63 + 3) % 2**64 and header.totals.points == 12
        assert (header.producer, header.sequence) == (f"{log.log_id}/{METRICS}/0", 3)
        assert (region.headers["lane"], region.headers["sequence"]) == ("metrics_region", "3")
        assert all(status.lag == 0 and status.state == "stopped" for status in aggregator.status())
        await drain(log)
        assert (await global_tables(log))["metrics_region"].num_rows == 1

    on_log(tmp_path, body)


def test_tenants_never_share_an_envelope(tmp_path: Path) -> None:
    """Two tenants' rows in one partition go out as two messages each, with their own sums."""

    async def body(log: SqliteLog) -> None:
        for sequence, tenant in enumerate(("acme", "zeta")):
            rows = [counter_row("c", "requests", 5 + sequence, tenant)]
            await send(log, [message(envelope("metrics_cluster", rows, tenant=tenant), 0)], sequence)
        await drain(log)
        found = [decode(m.value) for m in await read_all(log, f"{PREFIX}.global.metrics_region")]
        assert {e.header.tenant: e.rows["sum_int"].to_pylist() for e in found} == {"acme": [5], "zeta": [6]}

    on_log(tmp_path, body)


def test_what_cannot_be_read_is_kept_counted_and_replayed_once(tmp_path: Path) -> None:
    """Garbage between good messages: the good go on, the garbage is a dead letter, a drops row, and can be replayed."""

    async def body(log: SqliteLog) -> None:
        good = message(envelope("metrics_cluster", [counter_row("c", "requests", 1)]))
        broken = replace(good, key="acme/c", value=good.value[:-1] + bytes([good.value[-1] ^ 1]))
        await send(log, [good, broken, OutMessage(METRICS, "acme/c", b"garbage"), good], 1)
        aggregator = await drain(log)
        tables = await global_tables(log)
        assert tables["metrics_region"]["sum_int"].to_pylist() == [2]
        drop = tables["drops"].to_pylist()[0]
        assert (drop["tier"], drop["lane"], drop["reason"], drop["unit"], drop["count"], drop["cluster"]) == (
            "aggregator",
            "metrics_cluster",
            "undecodable",
            "messages",
            2,
            "c",
        )
        assert sum(status.dead_letters for status in aggregator.status()) == 2
        letters = await open_letters(log, PREFIX, REGION)
        assert [(x.topic, x.offset, x.key, x.value) for x in letters] == [
            (METRICS, 1, "acme/c", broken.value),
            (METRICS, 2, "acme/c", b"garbage"),
        ]
        assert "checksum" in letters[0].reason and letters[0].headers == {"lane": "metrics_cluster"}
        first, second = (letter.number for letter in letters)
        await replay(log, PREFIX, REGION, first)
        with pytest.raises(Invalid, match="no open dead letter"):
            await replay(log, PREFIX, REGION, first)
        await discard(log, PREFIX, REGION, second)
        assert await open_letters(log, PREFIX, REGION) == []
        replayed = (await read_all(log, METRICS))[4:]
        assert [(m.key, m.value, dict(m.headers)) for m in replayed] == [
            ("acme/c", broken.value, {"lane": "metrics_cluster"})
        ]
        await drain(log)  # still unreadable: it comes back as a new letter
        (again,) = await open_letters(log, PREFIX, REGION)
        assert (await find(log, PREFIX, REGION, again.number)).offset == 4

    on_log(tmp_path, body)


def test_of_two_operators_one_replays(tmp_path: Path) -> None:
    """Concurrent replays of one letter put it back exactly once."""

    async def body(log: SqliteLog) -> None:
        await send(log, [OutMessage(METRICS, "acme/c", b"garbage")], 1)
        await drain(log)
        (letter,) = await open_letters(log, PREFIX, REGION)
        outcomes = await asyncio.gather(
            *(replay(log, PREFIX, REGION, letter.number) for _ in range(5)), return_exceptions=True
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(errors) == 4 and all(isinstance(error, Fenced | Invalid) for error in errors)
        assert len(await read_all(log, METRICS)) == 2

    on_log(tmp_path, body)


def test_resolved_letters_may_be_trimmed_and_open_ones_never(tmp_path: Path) -> None:
    """The log forgets letters up to the first open one only."""

    async def body(log: SqliteLog) -> None:
        await send(log, [OutMessage(METRICS, "acme/c", bytes([n])) for n in range(4)], 1)
        await drain(log)
        for number in (0, 2):
            await discard(log, PREFIX, REGION, number)
        assert [x.number for x in await open_letters(log, PREFIX, REGION)] == [1, 3]
        kept = await read_all(log, dead_letter_topic(PREFIX, REGION))
        assert [m.offset for m in kept] == [1, 2, 3, 4, 5]

    on_log(tmp_path, body, SqliteLimits(keep_seconds=0))


def test_a_newer_version_is_held_and_never_dead_lettered(tmp_path: Path) -> None:
    """What lies before a newer envelope goes out, the partition stops there, and the aggregator is not ready."""

    async def body(log: SqliteLog) -> None:
        good = message(envelope("metrics_cluster", [counter_row("c", "requests", 1)]))
        await send(log, [good, replace(good, value=newer(good.value, "metrics_cluster")), good], 1)
        stop = asyncio.Event()
        aggregator = Aggregator(log, CONFIG)
        running = asyncio.create_task(aggregator.run(stop))
        await until(lambda: any(status.state == "held" for status in aggregator.status()))
        held = next(status for status in aggregator.status() if status.state == "held")
        assert (held.topic, held.position, held.lag) == (METRICS, 1, 2) and "version 2" in held.reason
        assert not aggregator.ready()
        assert (await global_tables(log))["metrics_region"]["sum_int"].to_pylist() == [1]
        assert await open_letters(log, PREFIX, REGION) == []
        stop.set()
        await running
        assert await (await log.writer(Source(f"rollup-{REGION}", METRICS, 0))).committed() == 1

    on_log(tmp_path, body)


def test_a_second_aggregator_takes_over_and_the_first_leaves(tmp_path: Path) -> None:
    """Two on one region: the younger one works, the older one leaves its partitions, nothing counts twice."""

    async def body(log: SqliteLog) -> None:
        stop = asyncio.Event()
        first, second = Aggregator(log, CONFIG), Aggregator(log, CONFIG)
        running = [asyncio.create_task(first.run(stop))]
        await until(first.ready)
        running.append(asyncio.create_task(second.run(stop)))
        await until(second.ready)
        for number in range(10):
            sealed = envelope("metrics_cluster", [counter_row("c", "requests", 1)])
            await send(log, [message(sealed)], number + 1)
            await asyncio.sleep(0.03)
        stop.set()
        await asyncio.gather(*running)
        assert sum((await global_tables(log))["metrics_region"]["sum_int"].to_pylist()) == 10
        states = {status.topic: status.state for status in first.status()}
        assert states[METRICS] == "fenced"

    on_log(tmp_path, body)


def test_a_locked_log_is_waited_for(tmp_path: Path) -> None:
    """While another process holds the log the aggregator retries, and then goes on without a restart."""

    async def body(log: SqliteLog) -> None:
        await send(log, [message(envelope("metrics_cluster", [counter_row("c", "requests", 7)]))], 1)
        other = SqliteLog.open(tmp_path / "log.db")
        other._write.raw.execute("BEGIN IMMEDIATE")
        stop = asyncio.Event()
        aggregator = Aggregator(log, CONFIG)
        running = asyncio.create_task(aggregator.run(stop))
        await asyncio.sleep(0.5)
        assert not aggregator.ready()
        other._write.raw.execute("ROLLBACK")
        await until(aggregator.ready)
        stop.set()
        await running
        assert (await global_tables(log))["metrics_region"]["sum_int"].to_pylist() == [7]
        await other.close()

    on_log(tmp_path, body, SqliteLimits(busy_seconds=0.1))


def test_tiers_stack(tmp_path: Path) -> None:
    """A zone's aggregator sends cluster rows on to its region's topics; the region makes the global tables of them."""

    async def body(log: SqliteLog) -> None:
        zones = ("jp-east-a", "jp-east-b")
        for number, zone in enumerate(zones):
            config = AggregatorConfig(zone, destinations=(to_place(PREFIX, REGION),), linger_seconds=0.0)
            await log.create_topics(config.topics)
            sealed = message(envelope("metrics_cluster", [counter_row(f"c-{zone}", "requests", 3)]))
            topic = regional_topic(PREFIX, zone, "metrics_cluster")
            await send(log, [replace(sealed, topic=topic), replace(sealed, topic=topic)], number + 1)
            await drain(log, config)
        await drain(log)
        tables = await global_tables(log)
        assert sums(tables["metrics_cluster"], "cluster", "sum_int") == {f"c-{zone}": 6 for zone in zones}
        assert tables["metrics_region"]["sum_int"].to_pylist() == [12]

    on_log(tmp_path, body)


def test_cluster_rows_go_as_far_as_they_reach(tmp_path: Path) -> None:
    """The globe has cluster rows of reach global only, the region's store more; region rows are in both."""

    async def body(log: SqliteLog) -> None:
        config = replace(CONFIG, destinations=destinations(PREFIX, REGION, to=GLOBE, region_store=True))
        await log.create_topics(config.topics)
        for number, reach in enumerate(Reach):
            sealed = envelope("metrics_cluster", [counter_row("c", reach.value, 10 + number)], digest=1 << number)
            header = replace(sealed.header, reach=reach.value)
            await send(log, [message(Envelope(header, sealed.rows)), message(envelope("totals", [TOTALS]))], number + 1)
        await drain(log, config)
        found = {}
        for name, topic in (("globe", global_topic), ("region", partial(store_topic, region=REGION))):
            for lane in ("metrics_cluster", "metrics_region", "totals"):
                envelopes = [decode(m.value) for m in await read_all(log, topic(PREFIX, lane=lane))]
                tables = pa.concat_tables([each.rows for each in envelopes])
                digest = sum(each.header.totals.digest for each in envelopes)
                found[name, lane] = (sums(tables, "lane" if lane == "totals" else "metric", "points"), digest)
        everything = {"cluster": 1, "region": 1, "global": 1}
        assert found["globe", "metrics_cluster"] == ({"global": 1}, 4)
        assert found["region", "metrics_cluster"] == ({"region": 1, "global": 1}, 6)
        assert found["globe", "metrics_region"] == found["region", "metrics_region"] == (everything, 7)
        assert found["globe", "totals"] == found["region", "totals"] == ({"metrics_cluster": 3}, 0)

    on_log(tmp_path, body)


def test_large_outputs_are_split_and_still_add_up(tmp_path: Path) -> None:
    """No output is over its limits of rows and bytes; points and digests add up over the parts."""

    async def body(log: SqliteLog) -> None:
        rows = [counter_row(f"c{n}", "requests", n) for n in range(300)]
        await send(log, [message(envelope("metrics_cluster", rows, digest=77))], 1)
        small = len(encode(envelope("metrics_cluster", rows[:40])))
        await drain(log, replace(CONFIG, rows_max=100, message_bytes_max=small))
        found = await read_all(log, f"{PREFIX}.global.metrics_cluster")
        headers = [decode(m.value).header for m in found]
        assert all(len(m.value) <= small for m in found) and len(found) > 3
        assert sum(h.totals.rows for h in headers) == 300
        assert sum(h.totals.digest for h in headers) == 77
        assert len({h.producer for h in headers}) == len(headers)

    on_log(tmp_path, body)


def test_a_position_that_the_log_does_not_hold_halts_its_partition_only(tmp_path: Path) -> None:
    """The others go on; it is said, nothing is published of it, and it goes on once the log has the position."""

    async def body(log: SqliteLog) -> None:
        sealed = message(envelope("metrics_cluster", [counter_row("c", "requests", 1)]))
        await (await log.writer(Source(f"rollup-{REGION}", METRICS, 0))).publish([], 2)
        stop = asyncio.Event()
        aggregator = Aggregator(log, replace(CONFIG, halt_seconds=0.05))
        running = asyncio.create_task(aggregator.run(stop))
        await until(lambda: [status.state for status in aggregator.status()].count("running") == len(EDGE_LANES) - 1)
        await until(lambda: any(status.state == "halted" for status in aggregator.status()))
        halted = next(status for status in aggregator.status() if status.state == "halted")
        assert halted.topic == METRICS and "data is lost: position 2 was there" in halted.reason
        assert not aggregator.ready()
        await send(log, [message(envelope("totals", [totals_row("c", 1, 1, 5)]))], 1)
        async with asyncio.timeout(30):
            while (tables := await global_tables(log))["totals"].num_rows == 0:  # noqa: ASYNC110 a log is polled
                await asyncio.sleep(0.02)
        assert (tables["totals"].num_rows, tables["metrics_region"].num_rows) == (1, 0)
        await send(log, [sealed, sealed, sealed], 2)
        await until(lambda: halted.position == 3)
        assert aggregator.ready() and halted.reason == ""
        stop.set()
        await running
        assert (await global_tables(log))["metrics_region"]["sum_int"].to_pylist() == [1]

    on_log(tmp_path, body)


def test_what_does_not_add_up_ends_the_aggregator_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end of the log before what was read is a Bug by name, not swallowed and not retried."""

    async def body(log: SqliteLog) -> None:
        async def end_offset(*_: object) -> int:
            return 0

        sealed = message(envelope("metrics_cluster", [counter_row("c", "requests", 1)]))
        await send(log, [sealed, sealed], 1)
        await (await log.writer(Source(f"rollup-{REGION}", METRICS, 0))).publish([], 1)
        monkeypatch.setattr(log, "end_offset", end_offset)
        with pytest.raises(Bug, match="position 1"):
            await drain(log)
        assert (await global_tables(log))["metrics_region"].num_rows == 0

    on_log(tmp_path, body)
