"""An insert that died between its token's record and its rows is repeated whole, not taken for a repetition."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from store.engine.chdb import ChdbEngine
from store.engine.token_records import in_force, orphans, revoke_orphans

_TABLE = (
    "(key UInt64, value UInt64) ENGINE = AggregatingMergeTree ORDER BY key "
    "SETTINGS non_replicated_deduplication_window = 100, fsync_after_insert = 1, fsync_part_directory = 1"
)


def _insert(engine: ChdbEngine, number: int) -> None:
    rows = pa.table({"key": pa.array([number], pa.uint64()), "value": pa.array([1], pa.uint64())})
    engine.insert("default.minutes", rows, token=f"token-{number}")


def _counts(engine: ChdbEngine) -> tuple[int, int]:
    one, other = (
        int(engine.query(f"SELECT count() FROM {table}", database="default").data) for table in ("minutes", "hours")
    )
    return one, other


def _parts(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / "engine").glob(f"store/*/*/{name}") if path.is_dir()]


def test_rows_that_a_killed_insert_left_out_come_with_its_replay(tmp_path: Path) -> None:
    """Where a record has no part, in a table or a view's target, the replay adds the rows; elsewhere nothing."""
    with closing(ChdbEngine(tmp_path)) as engine:
        engine.execute(f"CREATE TABLE default.minutes {_TABLE}")
        engine.execute(f"CREATE TABLE default.hours {_TABLE}")
        engine.execute(
            "CREATE MATERIALIZED VIEW default.fill TO default.hours AS SELECT key, value FROM default.minutes"
        )
        for number in (1, 2):
            _insert(engine, number)
    # What SIGKILL between the record and the rename leaves: the part has its temporary name, or none.
    one, _ = _parts(tmp_path, "all_2_2_0")
    shutil.rmtree(one)

    with closing(ChdbEngine(tmp_path)) as engine:
        for number in (1, 2):
            _insert(engine, number)
        assert _counts(engine) == (2, 2)
    assert revoke_orphans(tmp_path / "engine") == 0


def test_a_torn_record_is_cut_and_its_insert_repeated(tmp_path: Path) -> None:
    """A record of which half was written keeps neither the table from opening nor its rows from being replayed."""
    with closing(ChdbEngine(tmp_path)) as engine:
        engine.execute(f"CREATE TABLE default.minutes {_TABLE}")
        engine.execute(f"CREATE TABLE default.hours {_TABLE}")
        for number in (1, 2):
            _insert(engine, number)
    (part,) = _parts(tmp_path, "all_2_2_0")
    shutil.rmtree(part)
    (log,) = (part.parent / "deduplication_logs").glob("*.txt")
    log.write_bytes(log.read_bytes()[:-10])

    with closing(ChdbEngine(tmp_path)) as engine:
        for number in (1, 2):
            _insert(engine, number)
        assert _counts(engine) == (2, 0)


def test_merged_parts_vouch_for_what_they_were_merged_from() -> None:
    """A record is good while its part, or a merged one that covers it in the same partition, is there."""
    records = in_force(
        ["1\tp_1_1_0\ta", "1\tp_2_2_0\tb", "1\tp_9_9_0\tc", "1\tq_2_2_0\td", "2\tp_2_2_0\tb", "1\tp_3_3_0\te"]
    )
    assert records == {"a": "p_1_1_0", "c": "p_9_9_0", "d": "q_2_2_0", "e": "p_3_3_0"}
    assert orphans(records, {"p": [(1, 4)], "q": [(3, 3)]}) == {"c": "p_9_9_0", "d": "q_2_2_0"}
