from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from catchment.columns import LANES
from catchment.envelope import decode, encode, seal
from catchment.errors import Retry, TooNew
from catchment.log.port import OutMessage, Source
from catchment.log.sqlite import SqliteLog
from store.decisions import Action, Decision
from store.engine.port import EngineError
from store.loader import HOP, LoaderLimits, PartitionStatus, State
from store.migrate import VERSION, migrate
from store.plan import plan
from store.position import Position
from tests.integration.fleet import until
from tests.integration.store_support import NS, PREFIX, T0, Store, envelope_bytes, metric_row, opened, table_of

LANE, OTHER = "metrics_cluster", "metrics_region"
TABLES = (LANE, f"{LANE}_1h", f"{LANE}_1d")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty, migrated store."""
    with opened(tmp_path) as found:
        yield found


def totals(store: Store) -> list[int]:
    """The sum of points in the finest, hour and day table."""
    return [store.one(f"SELECT sum(points) FROM catchment_data.{table}") for table in TABLES]


def test_the_same_token_twice_adds_nothing_anywhere(store: Store) -> None:
    """A replayed insert changes neither the table nor the hour and day tables; another token adds to all three."""
    envelope = decode(envelope_bytes(LANE, [metric_row(points=5), metric_row(points=7, at=T0 + 86400 * 40)]))
    insert = plan(envelope, LANES[LANE], "log/topic/0/1")
    for _ in range(3):
        store.engine.insert(insert.table, insert.columns, token=insert.token)
    assert totals(store) == [12, 12, 12]
    store.engine.insert(insert.table, insert.columns, token="log/topic/0/2")
    assert totals(store) == [24, 24, 24]


def test_messages_load_once_however_often_the_loader_runs(store: Store) -> None:
    """A drained log stays drained, and the ledger's sums are those of the messages."""
    store.publish(LANE, *(envelope_bytes(LANE, [metric_row(points=i)]) for i in (1, 2, 4)))
    assert store.load() == 3
    assert store.load() == 0
    assert totals(store) == [7, 7, 7]


def test_an_insert_whose_done_was_lost_is_replayed_without_adding(store: Store) -> None:
    """An open intent with its rows already in the tables adds nothing; one without them adds them once."""

    async def log_id(log: SqliteLog) -> str:
        return log.log_id

    value = envelope_bytes(LANE, [metric_row(points=3)])
    store.publish(LANE, value, value)
    position = Position(store.with_log(log_id), PREFIX + LANE, 0, 0)
    insert = plan(decode(value), LANES[LANE], position.token)
    store.ledger.intend(position, insert.table, insert.blocks)
    store.engine.insert(insert.table, insert.columns, token=insert.token)
    assert len(store.ledger.open_intents()) == 1
    assert store.load(LANE) == 2
    assert totals(store) == [6, 6, 6]
    assert store.ledger.open_intents() == []


def test_an_intent_beyond_the_window_halts_its_partition(tmp_path: Path) -> None:
    """When more blocks came since than tokens are remembered, the loader stops there and says so."""
    with opened(tmp_path, deduplication_window=4) as store:
        store.publish(LANE, envelope_bytes(LANE, [metric_row(points=3)]))

        async def work(log: SqliteLog) -> tuple[int, list[PartitionStatus], bool]:
            position = Position(log.log_id, PREFIX + LANE, 0, 0)
            store.ledger.intend(position, f"catchment_data.{LANE}", 2)
            store.ledger.count_blocks(f"catchment_data.{LANE}", 3)
            loader = store.loader(log, LANE)
            taken = await loader.drain_once()
            loader.close()
            return taken, loader.status(), loader.ready

        taken, (status,), ready = store.with_log(work)
        assert (taken, status.state, status.position, status.lag, ready) == (0, State.HALTED, 0, 1, False)
        assert "may or may not be loaded" in status.reason
        assert totals(store) == [0, 0, 0]


def test_a_bad_message_is_quarantined_by_name_and_the_next_one_loads(store: Store) -> None:
    """Bytes that are no envelope are kept in a file, listed, counted as a drop, and block nothing."""
    good = envelope_bytes(LANE, [metric_row(points=3)])
    broken = bytearray(envelope_bytes(LANE, [metric_row(points=9)]))
    broken[-1] ^= 1
    store.publish(LANE, b"garbage", bytes(broken), good)
    assert store.load(LANE) == 3
    assert totals(store) == [3, 3, 3]
    listed = store.ledger.quarantined()
    assert [(entry.position.topic, entry.position.offset) for entry in listed] == [
        (PREFIX + LANE, 0),
        (PREFIX + LANE, 1),
    ]
    assert (store.quarantine / listed[0].file).read_bytes() == b"garbage"
    assert "checksum differs" in listed[1].reason
    drops = store.rows(
        "SELECT tenant, tier, lane, reason, unit, sum(count) AS n FROM pipeline_drops GROUP BY ALL ORDER BY ALL"
    )
    # Nothing in a message whose checksum differs is believed, its tenant included.
    assert drops == [
        {"tenant": "", "tier": "store", "lane": LANE, "reason": "invalid_message", "unit": "messages", "n": 2}
    ]


def test_a_window_that_no_table_can_hold_is_quarantined(store: Store) -> None:
    """A time before 1970, or not on a whole second, is the message's fault and named as such."""
    rows = [[metric_row(at=-60)], [{**metric_row(), "window_start_ns": T0 * NS + 1}]]
    store.publish(LANE, *(envelope_bytes(LANE, bad) for bad in rows))
    assert store.load(LANE) == 2
    reasons = [entry.reason for entry in store.ledger.quarantined()]
    assert "outside 1970 to 2106" in reasons[0]
    assert "not a whole second" in reasons[1]
    assert store.rows("SELECT tenant, unit, count FROM pipeline_drops ORDER BY unit") == [
        {"tenant": "acme", "unit": "messages", "count": 2},
        {"tenant": "acme", "unit": "points", "count": 2},
    ]


def test_a_message_from_a_newer_version_is_held(store: Store) -> None:
    """The partition waits before it, is not ready, and nothing is quarantined or loaded from behind it."""
    newer = seal("totals", table_of("totals", []), tenant="a", region="r", producer="p", sequence=1)
    future = encode(type(newer)(type(newer.header)(**{**vars(newer.header), "version": 99}), newer.rows))
    store.publish(LANE, envelope_bytes(LANE, [metric_row(points=1)]), future, envelope_bytes(LANE, [metric_row()]))

    async def work(log: SqliteLog) -> tuple[int, PartitionStatus, bool]:
        loader = store.loader(log, LANE)
        taken = await loader.drain_once()
        loader.close()
        return taken, loader.status()[0], loader.ready

    taken, status, ready = store.with_log(work)
    assert (taken, status.state, status.position, status.lag, ready) == (1, State.HELD, 1, 2, False)
    assert "version 99" in status.reason
    assert store.ledger.quarantined() == []
    assert totals(store) == [1, 1, 1]


def test_a_position_that_the_log_does_not_hold_halts_its_partition_only(store: Store) -> None:
    """The others load meanwhile; it is said, and it goes on once the log has the position, without a restart."""

    async def work(log: SqliteLog) -> None:
        ahead = Position(log.log_id, PREFIX + LANE, 0, 2)
        store.ledger.decide(Decision(Action.RESUME_LOST, ahead, "a test", "the log is an older copy", 0))
        loader = store.loader(log, LANE, OTHER, limits=LoaderLimits(halt_seconds=0.05))
        stop = asyncio.Event()
        running = asyncio.create_task(loader.run(stop))

        def lost() -> PartitionStatus:
            return next(status for status in loader.status() if status.topic == PREFIX + LANE)

        async def send(position: int, lane: str, *points: int) -> None:
            cluster = None if lane == OTHER else "c1"
            values = [envelope_bytes(lane, [metric_row(cluster=cluster, points=each)]) for each in points]
            writer = await log.writer(Source("test"))
            await writer.publish([OutMessage(PREFIX + lane, "k", value) for value in values], position)

        await send(1, OTHER, 1)
        await until(lambda: bool(loader.status()) and lost().state is State.HALTED)
        await until(lambda: store.ledger.loaded(log.log_id, PREFIX + OTHER, 0).rows == 1)
        assert "data is lost: position 2 was there" in lost().reason and not loader.ready
        await send(2, LANE, 1, 2, 4)
        await until(lambda: lost().position == 3)
        stop.set()
        await running
        loader.close()

    store.with_log(work)
    assert totals(store) == [4, 4, 4]


def test_a_folder_that_knows_less_than_the_log_loads_what_it_lacks(store: Store) -> None:
    """The ledger alone says where to go on: a new folder, or an older copy of one, skips nothing that the log has."""

    async def another_loader_had_all(log: SqliteLog) -> None:
        await (await log.writer(Source(HOP, PREFIX + LANE, 0))).publish([], 3)

    store.publish(LANE, envelope_bytes(LANE, [metric_row(points=1)]))
    assert store.load(LANE) == 1
    store.publish(LANE, *(envelope_bytes(LANE, [metric_row(points=each)]) for each in (2, 4)))
    store.with_log(another_loader_had_all)
    assert store.load(LANE) == 2
    assert totals(store) == [7, 7, 7]


def test_what_the_engine_refuses_for_itself_is_quarantined_and_passing_trouble_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal of the data sets the message aside; a memory limit leaves it open to be tried again, then it loads."""
    codes = [(53, "TYPE_MISMATCH"), (241, "MEMORY_LIMIT_EXCEEDED")]
    insert = store.engine.insert

    def refuse(table: str, columns: object, *, token: str) -> None:
        if codes and LANE in table:
            code, name = codes.pop(0)
            raise EngineError(code, name, f"Code: {code}. DB::Exception: no. ({name})")
        insert(table, columns, token=token)

    monkeypatch.setattr(store.engine, "insert", refuse)
    store.publish(LANE, *(envelope_bytes(LANE, [metric_row(points=p)]) for p in (1, 2)))
    with pytest.raises(EngineError) as caught:
        store.load(LANE)
    assert caught.value.code == 241
    assert [entry.position.offset for entry in store.ledger.quarantined()] == [0]
    assert len(store.ledger.open_intents()) == 1
    assert store.load(LANE) == 1
    assert totals(store) == [2, 2, 2]


def test_run_loads_until_stopped_and_retries_trouble(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop recovers from passing trouble by itself, becomes ready, publishes its position, and stops when told."""
    failures = [1, 1]
    insert = store.engine.insert

    def flaky(table: str, columns: object, *, token: str) -> None:
        if failures:
            failures.pop()
            raise EngineError(241, "MEMORY_LIMIT_EXCEEDED", "Code: 241. DB::Exception: no. (MEMORY_LIMIT_EXCEEDED)")
        insert(table, columns, token=token)

    monkeypatch.setattr(store.engine, "insert", flaky)
    store.publish(LANE, *(envelope_bytes(LANE, [metric_row(points=p)]) for p in (1, 2)))

    async def work(log: SqliteLog) -> PartitionStatus:
        loader, stop = store.loader(log, LANE), asyncio.Event()
        task = asyncio.create_task(loader.run(stop))
        async with asyncio.timeout(30):
            while not (loader.ready and loader.status()[0].position == 2):  # noqa: ASYNC110 - status() is polled
                await asyncio.sleep(0.02)
            stop.set()
            await task
        loader.close()
        return loader.status()[0]

    status = store.with_log(work)
    assert (status.state, status.lag) == (State.RUNNING, 0)
    assert totals(store) == [3, 3, 3]


def test_migrating_again_does_nothing_and_retention_follows_the_configuration(store: Store) -> None:
    """Migrations are idempotent; a retention appears, changes and goes as the configuration says."""

    def again(**retention: int) -> list[str]:
        return migrate(store.engine, store.ledger, now_ns=T0 * NS, retention_seconds=retention)

    def ttl() -> str:
        return str(
            store.one(
                "SELECT extract(engine_full, 'TTL (.*?) SETTINGS') FROM system.tables WHERE name = 'metrics_cluster'"
            )
        )

    assert again() == []
    assert ttl() == ""
    far = 10**9
    assert len(again(metrics_1m=far)) == 2
    assert again(metrics_1m=far) == []
    assert str(far) in ttl()
    assert len(again()) == 2
    assert ttl() == ""


def test_a_store_from_before_a_lane_gets_its_table_and_keeps_its_version(store: Store) -> None:
    """The table of a lane that a former program did not know is made, and that program may still have the store."""
    store.engine.execute("DROP TABLE catchment_data.cardinality")
    assert migrate(store.engine, store.ledger, now_ns=T0 * NS) == ["table cardinality"]
    store.put("cardinality", [{"window_start_ns": T0 * NS, "attribute": "user", "registers": [(1, 1)]}])
    assert store.one("SELECT count() FROM cardinality_top") == 1
    assert store.one("SELECT max(version) FROM catchment_data.migrations") == VERSION


def test_a_store_of_a_newer_program_and_a_running_loader_refuse_migration(store: Store) -> None:
    """A newer version is TooNew; while a loader holds the lock, migrating is Retry, and the other way round."""
    with store.ledger.shared(), pytest.raises(Retry, match="loader"):
        migrate(store.engine, store.ledger, now_ns=T0)
    with store.ledger.exclusive(), pytest.raises(Retry, match="migration"):
        store.load()
    store.engine.execute(f"INSERT INTO catchment_data.migrations VALUES ({VERSION + 1}, 'future', 1)")
    with pytest.raises(TooNew):
        migrate(store.engine, store.ledger, now_ns=T0)


CHILD = """
import asyncio, sys, time
from pathlib import Path
from tests.integration.fleet import until
from tests.integration.store_support import PREFIX, Store
store = Store(Path(sys.argv[1]))
print("open", flush=True)
print(store.load("metrics_cluster"), flush=True)
"""


@pytest.mark.proof
@pytest.mark.slow
def test_a_loader_that_is_killed_again_and_again_loads_everything_once(tmp_path: Path) -> None:
    """After 12 SIGKILLs at random moments every table has each message exactly once."""
    with opened(tmp_path) as store:
        values = [
            envelope_bytes(LANE, [metric_row(cluster=f"c{c}", at=T0 + 60 * i, points=i + 1) for c in range(200)])
            for i in range(120)
        ]
        store.publish(LANE, *values)
    random_ = random.Random(7)
    kills = 0
    while kills < 12:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        time.sleep(random_.uniform(0.02, 0.25))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        child.stdout.close()
        child.wait()
        assert rest == "", "the child finished before it was killed: too few messages to test anything"
        kills += 1
    with opened(tmp_path) as store:
        store.load(LANE)
        expected = 200 * sum(range(1, 121))
        assert totals(store) == [expected] * 3
        assert store.one(f"SELECT count() FROM {LANE}_1m") == 200 * 120
        assert store.ledger.open_intents() == []
        assert json.loads(json.dumps(store.ledger.quarantined())) == []
