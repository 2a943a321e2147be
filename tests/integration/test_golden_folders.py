"""Data folders that other versions left: this program goes on with them, and everything counts once.

The archives are written by ``tests.golden.make_folder``; the first is of the program before its collector noted what it
hands over and merges, before its ledger kept decisions, and before inbox segments were used again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tarfile
from pathlib import Path

import pytest

from aggregators.aggregator import Aggregator, AggregatorConfig
from catchment.columns import GLOBAL_LANES, global_topic
from catchment.log.sqlite import SqliteLog
from collectors.state import StateFile
from store.loader import Loader
from tests.faults.stack import REGION, Stack
from tests.golden.make_folder import FOLDER, PREFIX, TOTALS, post, request
from tests.integration.store_support import Store

ARCHIVES = sorted(FOLDER.glob("folder_*.tar.xz"))
AGE_SECONDS_MAX = 100 * 365 * 86_400
DATABASES = ("collector/state.db", "log/log.db", "store/ledger.db")
SUMS = "SELECT metric, sum(c.sum_int) AS found FROM metrics_{}_1{} AS c GROUP BY metric ORDER BY metric"


def unpacked(archive: Path, folder: Path) -> Stack:
    """A stack on the folder of an archive, where nothing runs."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return Stack(folder)


def extend(path: Path) -> dict[str, int]:
    """Add to a database what the next minor version may: a table, and a column to each; returns rows by table."""
    database = sqlite3.connect(path)
    try:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]
        tables = [name for name in names if not name.startswith("sqlite_")]
        for table in tables:
            database.execute(f"ALTER TABLE {table} ADD COLUMN later TEXT NOT NULL DEFAULT 'blue'")
        database.execute("CREATE TABLE later (key TEXT PRIMARY KEY, value TEXT)")
        database.execute("INSERT INTO later VALUES ('colour', 'blue')")
        if "meta" in tables and "key" in [row[1] for row in database.execute("PRAGMA table_info(meta)")]:
            database.execute("INSERT INTO meta (key, value) VALUES ('colour', 'blue')")
        database.commit()
        return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    finally:
        database.close()


def take_over(stack: Stack) -> None:
    """Let every role go on with the folder: the collector serves two more requests, the others drain."""
    born_ns = int((stack.data / "born_ns").read_text())
    with stack:
        # No flush before the requests: after months the first one forgets streams that went silent. Nor is a point
        # refused for its age: an archive is older every day.
        stack.start("collector", flush="1h", limits=f"{{past_seconds_max: {AGE_SECONDS_MAX}}}")
        stack.wait_ready("collector")
        post(stack, request(len(TOTALS), born_ns))  # a repeat
        post(stack, request(len(TOTALS) + 1, born_ns))
        stack.stop("collector")

    async def aggregate() -> None:
        log = SqliteLog.open(stack.data / "log" / "log.db")
        stop = asyncio.Event()
        stop.set()
        await Aggregator(log, AggregatorConfig(REGION, PREFIX)).run(stop)
        await log.close()

    asyncio.run(aggregate())


def check(stack: Stack) -> None:
    """Load the rest and compare every sum at every level."""
    total = 2 * TOTALS[-1] + 10

    async def load(store: Store) -> None:
        log = SqliteLog.open(stack.data / "log" / "log.db")
        topics = [global_topic(PREFIX, lane) for lane in GLOBAL_LANES]
        loader = Loader(log, store.engine, store.ledger, topics, quarantine_folder=stack.data / "quarantine")
        await loader.drain_once()
        loader.close()
        await log.close()

    store = Store(stack.data, deduplication_window=10_000)
    try:
        asyncio.run(load(store))
        for place in ("cluster", "region"):
            for width in "mhd":
                rows = store.rows(SUMS.format(place, width))
                assert rows == [{"metric": "orders", "found": total}, {"metric": "parcels", "found": total}], (
                    place,
                    width,
                )
        assert store.one("SELECT count() FROM control_totals AS t WHERE t.points != t.stored_points") == 0
        assert store.one("SELECT sum(t.points) FROM control_totals AS t WHERE level = 'globe'") == 2 * len(TOTALS) + 2
        reasons = "SELECT reason, toUInt32(sum(d.count)) AS found FROM pipeline_drops AS d GROUP BY reason"
        assert store.rows(reasons) == [{"reason": "repeated", "found": 2}]
        assert store.ledger.quarantined() == []
    finally:
        store.close()


@pytest.mark.parametrize("archive", ARCHIVES[:-1], ids=lambda path: path.name.split(".")[0])
def test_the_folder_of_a_former_version_goes_on(archive: Path, tmp_path: Path) -> None:
    """What an earlier program was killed with at each stage of the path arrives once; its streams go on."""
    stack = unpacked(archive, tmp_path)
    take_over(stack)
    check(stack)


def test_the_folder_of_the_next_minor_version_goes_on(tmp_path: Path) -> None:
    """The newest folder with more in it: tables and columns of a later program are left alone, all arrives once."""
    stack = unpacked(ARCHIVES[-1], tmp_path)
    before = {name: extend(stack.data / name) for name in DATABASES}
    take_over(stack)
    check(stack)
    for name, tables in before.items():
        database = sqlite3.connect(stack.data / name)
        try:
            assert database.execute("SELECT * FROM later").fetchall() == [("colour", "blue")]
            for table in tables:
                assert database.execute(f"SELECT DISTINCT later FROM {table}").fetchall() in ([], [("blue",)])
        finally:
            database.close()


def test_what_the_first_program_handed_over_is_not_merged(tmp_path: Path) -> None:
    """It noted nothing of it, so all that it left in the outbox may be in the log already."""
    unpacked(ARCHIVES[0], tmp_path)
    state = StateFile(tmp_path / "data" / "collector" / "state.db")
    inbox_id = (tmp_path / "data" / "collector" / "inbox" / "id").read_text().split()[-1]
    state.meta(inbox_id=inbox_id, now_ns=0)
    assert state.waiting() and state.handed() == state.waiting()[-1].sequence
    state.close()
