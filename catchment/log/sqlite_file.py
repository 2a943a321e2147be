"""The file of a SQLite log: its tables, a connection with a thread of its own, and our names for SQLite's errors."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from catchment.errors import CatchmentError, Corrupt, Invalid, Retry

T = TypeVar("T")

_FORMAT = 1
_CLOSE_SECONDS = 2.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topics (topic TEXT PRIMARY KEY, partitions INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS partitions (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition));
CREATE TABLE IF NOT EXISTS messages (
    partition_id INTEGER NOT NULL, offset INTEGER NOT NULL, published_ns INTEGER NOT NULL, key TEXT NOT NULL,
    headers TEXT NOT NULL, value BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS messages_by_offset ON messages (partition_id, offset);
CREATE TABLE IF NOT EXISTS sources (
    hop TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, epoch INTEGER NOT NULL, position INTEGER,
    PRIMARY KEY (hop, topic, partition)) WITHOUT ROWID;
"""


class Connection:
    """A connection with the one thread that uses it, and our names for its errors."""

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self._path = path
        self.raw = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-log")
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in the connection's thread."""
        if self._closed:
            raise Retry("the log is closed", path=self._path)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.call, work)

    def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in this thread, its errors named."""
        try:
            return work(self.raw)
        except sqlite3.Error as error:
            raise named(error, self._path) from error

    async def close(self) -> None:
        """Close in the thread that may still be using it."""
        if self._closed:
            return
        self._closed = True
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self.raw.close)
        self._thread.shutdown(wait=False)
        # A transaction that waits for a lock may outlast us; its thread closes the connection when it is through.
        with suppress(sqlite3.Error, TimeoutError):
            await asyncio.wait_for(asyncio.shield(closing), _CLOSE_SECONDS)


def named(error: sqlite3.Error, path: Path) -> CatchmentError:
    """The error as what the caller must do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(f"the log file is damaged: {error}", path=path)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR):
        return Retry(f"the log cannot be written now: {error}", path=path)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return Retry(f"the log cannot be opened for writing: {error}; check the folder and its permissions", path=path)
    return Retry(f"sqlite: {error}", path=path)


def transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do ``work`` as one transaction: all of it, or nothing and its error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
        return result
    except BaseException:
        # SQLite has already rolled back after some errors; then there is nothing left to roll back.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def bear(connection: sqlite3.Connection, busy_seconds: float) -> str:
    """Set the connection up; create what is missing. Safe when several processes do so at once."""
    deadline = time.monotonic() + busy_seconds
    connection.execute("PRAGMA page_size = 16384")
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait when two processes change the mode at once.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")

    def work(inner: sqlite3.Connection) -> str:
        for statement in _SCHEMA.split(";"):
            inner.execute(statement)
        inner.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('log_id', ?)", (secrets.token_hex(8),))
        inner.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('format', ?)", (str(_FORMAT),))
        meta = dict(inner.execute("SELECT key, value FROM meta"))
        if int(meta["format"]) > _FORMAT:
            raise Invalid(f"the log file has format {meta['format']}; this process reads up to {_FORMAT}")
        return str(meta["log_id"])

    return transaction(connection, work)
