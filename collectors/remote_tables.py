"""What remote write keeps in the collector's state: written by a flush in its transaction, read at start.

metric_types     the type of each family, by tenant and cluster
held_samples     one row: the samples that wait for the others of their point, as Arrow IPC
histogram_parts  segments of parts that changed, as Arrow IPC; later ones override; rewritten whole when segments
                 outweigh them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from collectors.part_index import SavedParts

if TYPE_CHECKING:
    import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS metric_types (
    tenant TEXT NOT NULL, cluster TEXT NOT NULL, family TEXT NOT NULL, type INTEGER NOT NULL,
    PRIMARY KEY (tenant, cluster, family));
CREATE TABLE IF NOT EXISTS held_samples (only INTEGER PRIMARY KEY CHECK (only = 1), data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS histogram_parts (
    segment INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER NOT NULL, data BLOB NOT NULL);
"""
_PART_COLUMNS = ("group", "part", "is_sum", "is_part")


@dataclass(frozen=True)
class SavedWrites:
    """The state of remote write, or what changed of it.

    Attributes:
        types: (tenant, cluster, family, type)
        held: samples, all there are
        parts: oldest first
    """

    types: Sequence[tuple[str, str, str, int]]
    held: pa.Table
    parts: Sequence[SavedParts]


def write(db: sqlite3.Connection, saved: SavedWrites) -> None:
    """Add changes; within the transaction of a flush."""
    db.executemany(
        "INSERT OR REPLACE INTO metric_types (tenant, cluster, family, type) VALUES (?, ?, ?, ?)", saved.types
    )
    db.execute("INSERT OR REPLACE INTO held_samples (only, data) VALUES (1, ?)", (ipc_bytes(saved.held),))
    for parts in saved.parts:
        if parts.whole:
            db.execute("DELETE FROM histogram_parts")
        if len(parts.group):
            db.execute(
                "INSERT INTO histogram_parts (rows, data) VALUES (?, ?)", (len(parts.group), ipc_bytes(_table(parts)))
            )


def read(db: sqlite3.Connection) -> SavedWrites | None:
    """All that was written; None if nothing ever was."""
    held = db.execute("SELECT data FROM held_samples").fetchone()
    if held is None:
        return None
    types = db.execute("SELECT tenant, cluster, family, type FROM metric_types").fetchall()
    segments = db.execute("SELECT data FROM histogram_parts ORDER BY segment").fetchall()
    return SavedWrites(types, _read(held[0]), [_parts(_read(data)) for (data,) in segments])


def _table(parts: SavedParts) -> pa.Table:
    return pa.table({name: getattr(parts, name) for name in _PART_COLUMNS})


def _parts(table: pa.Table) -> SavedParts:
    group, part, is_sum, is_part = (table[name].to_numpy() for name in _PART_COLUMNS)
    return SavedParts(group, part, is_sum, is_part, whole=False)


def _read(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def ipc_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data
