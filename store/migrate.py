"""Migrations: from whatever a store is to what this program needs.

Rules:

1. A new store gets the present schema as a whole and counts as having every step; an older one gets the steps it lacks,
   in order, each recorded when it is through. Steps are idempotent: a killed migration is simply run again.
2. Only under the ledger's exclusive lock, and steps only with no open intent: replaying an insert after a view was
   added would fill that view twice.
3. Functions and views hold no data: they are replaced whenever their text has changed. That of coverage changes with
   the retention of heartbeats.
4. A store that a newer program migrated is `TooNew`.
5. A lane's table that is not there is made, also between versions: nothing fills it but its own messages, and a program
   that does not know it leaves it alone. So is a column that has a default, for the same reason.
6. Retention is set to what the configuration says at every start; without a word nothing expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from catchment.crash import crash_point
from catchment.errors import Retry, TooNew
from catchment.identity import hash_parts
from store.ddl import (
    KEEP_DECISIONS,
    MIGRATIONS_TABLE,
    RETIRED_TABLE,
    TABLES_DATABASE,
    create_all,
    create_table,
    modify_retention,
    tables,
)
from store.engine.port import Engine
from store.functions import FUNCTIONS
from store.ledger import Ledger
from store.views import views


@dataclass(frozen=True)
class Step:
    """One change of the tables; ``version`` rises by one from step to step."""

    version: int
    what: str
    statements: tuple[str, ...]


# Version 1 is the first schema, which `create_all` makes.
STEPS: tuple[Step, ...] = ()
VERSION = 1 + len(STEPS)

DEDUPLICATION_WINDOW_BLOCKS = 10_000


def migrate(
    engine: Engine,
    ledger: Ledger,
    *,
    now_ns: int,
    retention_seconds: Mapping[str, int] | None = None,
) -> list[str]:
    """Bring the store to this program's version; does nothing when it is there.

    Args:
        engine: the store's engine.
        ledger: the store's ledger, with the tables' deduplication window.
        now_ns: recorded as the time of what is applied.
        retention_seconds: per class (`store.ddl.RETENTION_CLASSES`); absent or 0 keeps rows for ever.

    Returns:
        What was applied, for people.

    Raises:
        Retry: a loader runs, or inserts are open that must be settled first.
        TooNew: the store was migrated by a newer program.
        EngineError: a statement was refused.
    """
    with ledger.exclusive():
        applied = _to_version(engine, ledger, now_ns)
        applied += _add_tables(engine, ledger, now_ns)
        retention = retention_seconds or {}
        applied += _add_decisions(engine, now_ns)
        applied += _replace_definitions(engine, now_ns, retention.get("health", 0))
        applied += _set_retention(engine, retention)
        return applied


def _to_version(engine: Engine, ledger: Ledger, now_ns: int) -> list[str]:
    engine.execute(f"CREATE DATABASE IF NOT EXISTS {TABLES_DATABASE}")
    engine.execute(
        f"CREATE TABLE IF NOT EXISTS {MIGRATIONS_TABLE} (\n"
        "    version UInt32 COMMENT 'version of the tables; 0: functions and views',\n"
        "    what String COMMENT 'what was applied',\n"
        "    applied_ns Int64 COMMENT 'when, ns, UTC'\n"
        ") ENGINE = MergeTree ORDER BY (version, applied_ns) SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )
    found = int(_one(engine, f"SELECT max(version) FROM {MIGRATIONS_TABLE}"))
    if found > VERSION:
        raise TooNew(f"the store has version {found}; this program knows up to {VERSION}")
    if found == 0:
        for statement in create_all(deduplication_window=ledger.deduplication_window):
            engine.execute(statement)
            crash_point("migrate.applied")
        _record(engine, VERSION, "tables", now_ns)
        return [f"tables of version {VERSION}"]
    missing = [step for step in STEPS if step.version > found]
    if missing and ledger.open_intents():
        raise Retry("inserts are open: start the former version once more, so that it settles them, then migrate")
    for step in missing:
        for statement in step.statements:
            engine.execute(statement)
            crash_point("migrate.applied")
        _record(engine, step.version, step.what, now_ns)
    return [step.what for step in missing]


def _add_tables(engine: Engine, ledger: Ledger, now_ns: int) -> list[str]:
    there = _one(engine, "SELECT name FROM system.tables WHERE database = {database:String}", database=TABLES_DATABASE)
    added = [table for table in tables() if table.name not in there.split("\n")]
    for table in added:
        engine.execute(create_table(table, deduplication_window=ledger.deduplication_window))
        crash_point("migrate.applied")
        _record(engine, VERSION, f"table {table.name}", now_ns)
    return [f"table {table.name}" for table in added]


def _add_decisions(engine: Engine, now_ns: int) -> list[str]:
    columns = _one(
        engine,
        "SELECT name FROM system.columns WHERE concat(database, '.', table) = {table:String}",
        table=RETIRED_TABLE,
    )
    if "decided_ns" in columns.split("\n"):
        return []
    engine.execute(KEEP_DECISIONS)
    crash_point("migrate.applied")
    what = "every decision about a cluster is kept"
    _record(engine, VERSION, what, now_ns)
    return [what]


def _replace_definitions(engine: Engine, now_ns: int, health_retention_seconds: int) -> list[str]:
    definitions = [
        *(function.sql for function in FUNCTIONS),
        *(view.sql for view in views(health_retention_seconds)),
    ]
    name = f"definitions {hash_parts(*definitions):016x}"
    latest = _one(engine, f"SELECT argMax(what, applied_ns) FROM {MIGRATIONS_TABLE} WHERE version = 0")
    if latest == name:
        return []
    for statement in definitions:
        engine.execute(statement)
        crash_point("migrate.applied")
    _record(engine, 0, name, now_ns)
    return [name]


def _set_retention(engine: Engine, retention_seconds: Mapping[str, int]) -> list[str]:
    applied = []
    for table in tables():
        wanted = retention_seconds.get(table.retention_class, 0) or None
        definition = _one(
            engine,
            "SELECT engine_full FROM system.tables WHERE database = {database:String} AND name = {name:String}",
            database=TABLES_DATABASE,
            name=table.name,
        )
        expires_now = " TTL " in definition
        if wanted is not None and f"toIntervalSecond({wanted})" in definition:
            continue
        statement = modify_retention(table, wanted, expires_now=expires_now)
        if statement is not None:
            engine.execute(statement)
            applied.append(f"retention of {table.name}: {f'{wanted} s' if wanted else 'for ever'}")
    return applied


def _one(engine: Engine, sql: str, **params: str) -> str:
    return engine.query(sql, format="TSVRaw", params=params, database=TABLES_DATABASE).data.decode().rstrip("\n")


def _record(engine: Engine, version: int, what: str, now_ns: int) -> None:
    row = pa.table(
        {
            "version": pa.array([version], pa.uint32()),
            "what": pa.array([what]),
            "applied_ns": pa.array([now_ns], pa.int64()),
        }
    )
    engine.insert(MIGRATIONS_TABLE, row, token=f"migration/{version}/{what}/{now_ns}")
