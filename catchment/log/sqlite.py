"""The SQLite adapter of the Log port: one file, several processes of one machine (embedded profile).

Rules:

1. Whatever changes is one ``BEGIN IMMEDIATE`` transaction in WAL mode with ``synchronous=FULL``: after a crash of any
   process, or of the machine, it is there whole or not at all.
2. A source's *epoch* rises with every writer. A publish compares it inside its transaction: a fenced writer changes
   nothing, and ``writer()`` returns only when no other transaction is under way.
3. The next offset of a partition is a stored number: never reused, not even after everything was trimmed.
4. What all registered sources of a partition have consumed is deleted ``keep_seconds`` later, by their own publishes,
   at most ``_TRIM_MESSAGES`` each. A partition that nobody has consumed from keeps everything.
5. The pages in use are bounded by ``bytes_max``. Beyond it a publish that brings messages from outside (an outbox)
   raises ``Retry("log is full …")``; hops within the log (roll-ups) may use a quarter more, so that what is in can
   move on and be trimmed; a publish without messages is always taken. Before refusing, whatever was consumed is
   trimmed whatever its age. Freed pages are reused, the file does not shrink.

Layout: ``meta`` (log id, format), ``topics``, ``partitions`` (next offset), ``messages``, ``sources`` (epoch,
position). Offsets start at 0. Who writes: any process that has the file open. Who deletes: rule 4 and ``trim``.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import xxhash

from catchment.crash import crash_point
from catchment.errors import Bug, CatchmentError, Corrupt, Fenced, Invalid, Retry
from catchment.log.port import Message, OutMessage, Source
from catchment.log.sole_member import SoleMember
from catchment.log.sqlite_file import Connection, bear, named, transaction

T = TypeVar("T")

_POSITION_MAX = 2**63 - 1
_TRIM_MESSAGES = 1_000
_WATCH_SECONDS = 0.02  # how late a waiting poll may see a message


@dataclass(frozen=True)
class SqliteLimits:
    """Limits of a SQLite log.

    ``bytes_max``: pages in use; beyond it publishers are pushed back (rule 5).
    ``message_bytes_max``: one message's value; a larger one is `Invalid`.
    ``keep_seconds``: how long consumed messages stay readable, for people.
    ``busy_seconds``: how long to wait for another process's transaction before `Retry`.
    """

    bytes_max: int = 8 << 30
    message_bytes_max: int = 64 << 20
    keep_seconds: float = 3_600.0
    busy_seconds: float = 5.0


class SqliteLog:
    """A `catchment.log.port.Log` in one SQLite file. Make it with `open`."""

    def __init__(self, path: Path, limits: SqliteLimits, log_id: str, write: Connection, read: Connection) -> None:
        self._path = path
        self._limits = limits
        self._log_id = log_id
        self._write = write
        self._read = read
        self._ids: dict[tuple[str, int], int] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._waiting = 0
        self._changed = asyncio.Event()

    @classmethod
    def open(cls, path: Path | str, limits: SqliteLimits | None = None) -> SqliteLog:
        """Open the log at ``path``, bearing it if it does not exist. Blocks for at most ``busy_seconds``.

        Raises:
            Retry: the folder or file cannot be opened or written now (missing, read-only, disk full, locked).
            Corrupt: the file is no SQLite database, or damaged.
            Invalid: the file is of a newer format.
        """
        path = Path(path)
        limits = limits or SqliteLimits()
        busy_seconds = limits.busy_seconds
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write, read = Connection(path, busy_seconds), Connection(path, busy_seconds)
        except OSError as error:
            raise Retry(f"the folder of the log cannot be made: {error}", path=path) from error
        except sqlite3.Error as error:
            raise named(error, path) from error
        try:
            log_id = write.call(lambda connection: bear(connection, busy_seconds))
        except CatchmentError:
            write.raw.close()
            read.raw.close()
            raise
        return cls(path, limits, log_id, write, read)

    @property
    def log_id(self) -> str:
        """The random id that this log was born with."""
        return self._log_id

    async def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Create the topics that do not exist yet."""

        def work(connection: sqlite3.Connection) -> None:
            for topic, count in partitions.items():
                added = connection.execute(
                    "INSERT OR IGNORE INTO topics (topic, partitions) VALUES (?, ?)", (topic, count)
                ).rowcount
                if added:
                    rows = [(topic, partition) for partition in range(count)]
                    connection.executemany("INSERT INTO partitions (topic, partition) VALUES (?, ?)", rows)

        await self._write.run(lambda connection: transaction(connection, work))

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        return await self._read.run(lambda connection: _partitions(connection, topic))

    async def writer(self, source: Source) -> SqliteWriter:
        """Become the one writer of a source; its predecessor is fenced from here on."""

        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "INSERT INTO sources (hop, topic, partition, epoch, position) VALUES (?, ?, ?, 1, NULL) "
                "ON CONFLICT (hop, topic, partition) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (source.hop, source.topic, source.partition),
            ).fetchone()
            return int(row[0])

        epoch = await self._write.run(lambda connection: transaction(connection, work))
        return SqliteWriter(self._write, self._limits, source, epoch)

    async def join(self, group: str, topics: Sequence[str]) -> SoleMember:
        """Everything is the newest member's: one process a role reads a log of one machine."""
        counts = {topic: await self.partitions(topic) for topic in topics}
        return SoleMember(frozenset((topic, number) for topic, count in counts.items() for number in range(count)))

    async def poll(
        self, topic: str, partition: int, position: int, *, messages_max: int, bytes_max: int, wait_seconds: float
    ) -> list[Message]:
        """Messages from ``position`` on; sees a new one within about ``_WATCH_SECONDS``."""
        deadline = time.monotonic() + wait_seconds
        while True:
            changed = self._changed
            found = await self._read.run(
                lambda connection: self._select(connection, topic, partition, position, messages_max, bytes_max)
            )
            remaining = deadline - time.monotonic()
            if found or remaining <= 0:
                return found
            await self._wait(changed, remaining)

    async def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the next message will have."""

        def work(connection: sqlite3.Connection) -> int:
            return _next_offset(connection, self._partition_id(connection, topic, partition))

        return await self._read.run(work)

    async def trim(self, topic: str, partition: int, before_offset: int) -> int:
        """Delete the messages below ``before_offset``, consumed or not; returns how many. For operators and tests."""

        def work(connection: sqlite3.Connection) -> int:
            identity = self._partition_id(connection, topic, partition)
            return connection.execute(
                "DELETE FROM messages WHERE partition_id = ? AND offset < ?", (identity, before_offset)
            ).rowcount

        return await self._write.run(lambda connection: transaction(connection, work))

    async def close(self) -> None:
        """Let go of both connections and their threads."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        await self._write.close()
        await self._read.close()

    def _partition_id(self, connection: sqlite3.Connection, topic: str, partition: int) -> int:
        known = self._ids.get((topic, partition))
        if known is None:
            known = self._ids[topic, partition] = _find_partition(connection, topic, partition)[0]
        return known

    def _select(
        self,
        connection: sqlite3.Connection,
        topic: str,
        partition: int,
        position: int,
        messages_max: int,
        bytes_max: int,
    ) -> list[Message]:
        identity = self._partition_id(connection, topic, partition)
        cursor = connection.execute(
            "SELECT offset, key, value, headers FROM messages "
            "WHERE partition_id = ? AND offset >= ? ORDER BY offset LIMIT ?",
            (identity, position, messages_max),
        )
        found: list[Message] = []
        size = 0
        for offset, key, value, headers in cursor:
            size += len(value)
            if found and size > bytes_max:
                break
            found.append(Message(topic, partition, offset, key, value, json.loads(headers)))
        # An unread cursor would hold its snapshot and keep the WAL from being checkpointed.
        cursor.close()
        if found and 0 < position < found[0].offset:
            raise Corrupt(
                f"data is lost: position {position} was deleted before it was read; the log holds {found[0].offset} "
                f"to {_next_offset(connection, identity)}; to go on see 'data is lost' in docs/operate.md",
                topic=topic,
                partition=partition,
            )
        if not found and position > (end := _next_offset(connection, identity)):
            raise Corrupt(
                f"data is lost: position {position} was there, but the log ends at {end}: is it an older copy?",
                topic=topic,
                partition=partition,
            )
        return found

    async def _wait(self, changed: asyncio.Event, seconds: float) -> None:
        self._waiting += 1
        try:
            if self._watcher is None or self._watcher.done():
                self._watcher = asyncio.create_task(self._watch())
            await asyncio.wait_for(changed.wait(), seconds)
        except TimeoutError:
            pass  # the caller looks a last time
        finally:
            self._waiting -= 1

    async def _watch(self) -> None:
        """One look at the file's version serves all polls that wait; ends when none does."""
        seen = None
        while self._waiting:
            try:
                version = await self._read.run(lambda connection: connection.execute("PRAGMA data_version").fetchone())
            except CatchmentError:
                version = None  # wake the polls: each meets the error itself
            if version != seen or version is None:
                seen = version
                waiting, self._changed = self._changed, asyncio.Event()
                waiting.set()
            await asyncio.sleep(_WATCH_SECONDS)


class _Full(Retry):
    """The log is over its limit."""


class SqliteWriter:
    """The one writer of a source in a SQLite log."""

    def __init__(self, connection: Connection, limits: SqliteLimits, source: Source, epoch: int) -> None:
        self._connection = connection
        self._limits = limits
        self._source = source
        self._epoch = epoch
        self._spoilt = ""

    @property
    def source(self) -> Source:
        """What it consumes."""
        return self._source

    async def committed(self) -> int | None:
        """The position last published for this source."""
        return await self._connection.run(lambda connection: self._state(connection)[1])

    async def publish(self, messages: Sequence[OutMessage], consumed: int) -> None:
        """Append and advance in one transaction.

        Raises:
            Retry: also ``log is full`` (rule 5 of the module), disk full, locked too long, or an earlier Retry.
        """
        if self._spoilt:
            raise Retry(f"this writer is spoilt: {self._spoilt}", source=self._source)
        rows = [(m, json.dumps(dict(m.headers), separators=(",", ":"))) for m in messages]

        def work(connection: sqlite3.Connection) -> None:
            try:
                transaction(connection, lambda inner: self._publish(inner, rows, consumed))
            except _Full:
                transaction(connection, _trim_all_consumed)
                transaction(connection, lambda inner: self._publish(inner, rows, consumed))

        try:
            await self._connection.run(work)
            crash_point("log.committed")
        except (Fenced, Invalid, Bug):
            raise
        except BaseException as error:
            self._spoilt = str(error) or type(error).__name__
            raise

    async def close(self) -> None:
        """Nothing of its own to let go: the connection is the log's."""
        self._spoilt = self._spoilt or "closed"

    def _state(self, connection: sqlite3.Connection) -> tuple[int, int | None]:
        epoch, position = connection.execute(
            "SELECT epoch, position FROM sources WHERE hop = ? AND topic = ? AND partition = ?",
            (self._source.hop, self._source.topic, self._source.partition),
        ).fetchone()
        return epoch, position

    def _publish(self, connection: sqlite3.Connection, rows: list[tuple[OutMessage, str]], consumed: int) -> None:
        source = self._source
        epoch, position = self._state(connection)
        if epoch != self._epoch:
            raise Fenced("a younger writer owns this source", source=source, epoch=self._epoch, owner=epoch)
        if not (position or 0) <= consumed <= _POSITION_MAX:
            raise Bug(f"position {consumed} after {position}", source=source)
        now_ns = time.time_ns()
        for message, headers in rows:
            self._append(connection, message, headers, now_ns)
        connection.execute(
            "UPDATE sources SET position = ? WHERE hop = ? AND topic = ? AND partition = ?",
            (consumed, source.hop, source.topic, source.partition),
        )
        if source.topic:
            _trim_consumed(connection, source.topic, source.partition, now_ns - int(self._limits.keep_seconds * 1e9))
        crash_point("log.appended")
        limit = self._limits.bytes_max
        used = _bytes_in_use(connection)
        if rows and used > limit + (limit // 4 if source.topic else 0):
            raise _Full(f"log is full: {used} bytes in use with this publish, limit {limit}", source=source)

    def _append(self, connection: sqlite3.Connection, message: OutMessage, headers: str, now_ns: int) -> None:
        where = {"topic": message.topic, "key": message.key}
        if len(message.value) > self._limits.message_bytes_max:
            limit = self._limits.message_bytes_max
            raise Invalid(f"a message of {len(message.value)} bytes is over the limit of {limit}", **where)
        partition = message.partition
        if partition is None:
            partition = xxhash.xxh3_64_intdigest(message.key.encode()) % _partitions(connection, message.topic)
        identity, offset = _find_partition(connection, message.topic, partition)
        connection.execute("UPDATE partitions SET next_offset = next_offset + 1 WHERE id = ?", (identity,))
        connection.execute(
            "INSERT INTO messages (partition_id, offset, published_ns, key, headers, value) VALUES (?, ?, ?, ?, ?, ?)",
            (identity, offset, now_ns, message.key, headers, message.value),
        )


def _partitions(connection: sqlite3.Connection, topic: str) -> int:
    row = connection.execute("SELECT partitions FROM topics WHERE topic = ?", (topic,)).fetchone()
    if row is None:
        raise Invalid("no such topic", topic=topic)
    return int(row[0])


def _find_partition(connection: sqlite3.Connection, topic: str, partition: int) -> tuple[int, int]:
    """The row id and the next offset of a partition."""
    row = connection.execute(
        "SELECT id, next_offset FROM partitions WHERE topic = ? AND partition = ?", (topic, partition)
    ).fetchone()
    if row is None:
        raise Invalid("no such topic or partition", topic=topic, partition=partition)
    return int(row[0]), int(row[1])


def _next_offset(connection: sqlite3.Connection, identity: int) -> int:
    row = connection.execute("SELECT next_offset FROM partitions WHERE id = ?", (identity,)).fetchone()
    return int(row[0])


def _bytes_in_use(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int(pages - free) * int(size)


def _trim_all_consumed(connection: sqlite3.Connection) -> None:
    for topic, partition in connection.execute("SELECT DISTINCT topic, partition FROM sources").fetchall():
        _trim_consumed(connection, topic, partition, time.time_ns())


def _trim_consumed(connection: sqlite3.Connection, topic: str, partition: int, published_before_ns: int) -> None:
    connection.execute(
        "DELETE FROM messages WHERE rowid IN ("
        "SELECT m.rowid FROM messages m JOIN partitions p ON p.id = m.partition_id "
        "WHERE p.topic = ?1 AND p.partition = ?2 AND m.published_ns <= ?3 AND m.offset < ("
        "SELECT min(coalesce(position, 0)) FROM sources WHERE topic = ?1 AND partition = ?2) "
        "ORDER BY m.offset LIMIT ?4)",
        (topic, partition, published_before_ns, _TRIM_MESSAGES),
    )
