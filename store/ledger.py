"""The ledger: what was loaded, decided before the engine is asked. One SQLite file in the store's folder.

Rules:

1. A partition's messages are loaded in offset order, one at a time: *intent* (durable), insert, *done* (durable). So
   all that is to be known of a partition is the next offset and at most one open intent.
2. ``offset < next`` → skip. Open intent for this offset → replay it with its token, while the deduplication window of
   the tables still holds that; beyond that halt the partition and say so, never guess.
3. The window counts table-partition blocks, not inserts. Per table the ledger counts the blocks of all intents: an
   intent's token is held while the blocks since, its own included, are at most the window.
4. A quarantined message is done, by name: its coordinates, reason and file stay listed.
5. What a person decides about an intent beyond the window, or about a quarantined message, is noted with who, when and
   why, in the same transaction as what it changes. A decision is *finished* once it is carried out.
6. Migrations hold the lock file alone (`exclusive`), loaders share it (`shared`). The kernel lets go of a dead one's.

What it rests on: `synchronous=FULL`, and that the engine's record of a token is there exactly when the rows are. After
a SIGKILL it is, since `store.engine.token_records` revokes records that are ahead of their rows. The engine does not
fsync a record, so after a *power loss* between the part's fsync and the record's write-back, a replayed intent could
add its rows twice: one message at most per partition.

Layout: ``meta``, ``partitions`` (next offset, sums), ``intents``, ``tables`` (blocks), ``quarantine``, ``decisions``.
Who writes: the loader, and `store.operations` in its process. Who deletes: nobody; it has a row per partition, and one
per quarantined message and per decision.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from catchment.errors import Bug, Invalid, Retry, TooNew
from store.decisions import Action, Decision
from store.position import Position

_FORMAT = 1
_BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS partitions (
    log_id TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    messages INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0, points INTEGER NOT NULL DEFAULT 0,
    quarantined INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (log_id, topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS intents (
    log_id TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    table_name TEXT NOT NULL, token TEXT NOT NULL, blocks_before INTEGER NOT NULL,
    PRIMARY KEY (log_id, topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tables (table_name TEXT PRIMARY KEY, blocks INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine (
    log_id TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    reason TEXT NOT NULL, file TEXT NOT NULL, quarantined_ns INTEGER NOT NULL,
    PRIMARY KEY (log_id, topic, partition, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, action TEXT NOT NULL, log_id TEXT NOT NULL, topic TEXT NOT NULL,
    partition INTEGER NOT NULL, offset INTEGER NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL,
    decided_ns INTEGER NOT NULL, finished INTEGER NOT NULL);
"""


class Verdict(Enum):
    """What to do with a message (rule 2)."""

    SKIP = "skip"
    LOAD = "load"
    REPLAY = "replay"
    HALT = "halt"


@dataclass(frozen=True)
class Intent:
    """An insert that was announced and not confirmed."""

    position: Position
    table: str
    blocks_since: int


@dataclass(frozen=True)
class Loaded:
    """The sums of a partition: messages, rows and points that are in the tables; messages that were quarantined."""

    messages: int = 0
    rows: int = 0
    points: int = 0
    quarantined: int = 0


@dataclass(frozen=True)
class Quarantined:
    """A message that was set aside; ``file`` (below the quarantine folder) holds its bytes."""

    position: Position
    reason: str
    file: str
    quarantined_ns: int


def judge(position: Position, next_offset: int, intent: Intent | None, window: int) -> Verdict:
    """Rule 2, on what the ledger knows; ``window`` is the tables' deduplication window in blocks.

    Raises:
        Bug: an open intent is for another message than the one that comes next.
    """
    if position.offset < next_offset:
        return Verdict.SKIP
    if intent is None:
        return Verdict.LOAD
    if intent.position.offset != position.offset:
        raise Bug(
            f"open intent for offset {intent.position.offset}, but the log goes on with {position.offset}",
            topic=position.topic,
            partition=position.partition,
        )
    return Verdict.REPLAY if intent.blocks_since <= window else Verdict.HALT


class Ledger:
    """The ledger of one store. Thread-safe; one process at a time writes it.

    Args:
        folder: the store's folder.
        deduplication_window: blocks whose tokens each table remembers.

    Raises:
        TooNew: written by a newer version.
    """

    def __init__(self, folder: Path, *, deduplication_window: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.deduplication_window = deduplication_window
        self._guard = threading.Lock()
        self._database = sqlite3.connect(
            folder / "ledger.db", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)
        self._database.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('format', ?)", (str(_FORMAT),))
        self._database.execute(
            "INSERT OR IGNORE INTO meta (key, value) VALUES ('ledger_id', ?)", (secrets.token_hex(8),)
        )
        (self.ledger_id,) = self._database.execute("SELECT value FROM meta WHERE key = 'ledger_id'").fetchone()
        (found,) = self._database.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        if int(found) > _FORMAT:
            self._database.close()
            raise TooNew(f"ledger format {found}; this process reads up to {_FORMAT}", folder=str(folder))

    def next_offset(self, log_id: str, topic: str, partition: int) -> int:
        """The offset below which everything is done."""
        with self._guard:
            return self._next_offset(log_id, topic, partition)

    def judge(self, position: Position) -> Verdict:
        """What to do with a message (rule 2)."""
        with self._guard:
            key = (position.log_id, position.topic, position.partition)
            return judge(position, self._next_offset(*key), self._intent(*key), self.deduplication_window)

    def intend(self, position: Position, table: str, blocks: int) -> None:
        """Announce an insert, durably, with the blocks it will add.

        Raises:
            Bug: the partition has an open intent, or the message is done.
        """
        with self._transaction():
            key = (position.log_id, position.topic, position.partition)
            if self._intent(*key) is not None or position.offset < self._next_offset(*key):
                raise Bug("the partition's last insert is not settled, or this one is", token=position.token)
            before = self._blocks(table)
            self._count_blocks(table, blocks)
            self._database.execute(
                "INSERT INTO intents (log_id, topic, partition, offset, table_name, token, blocks_before) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*key, position.offset, table, position.token, before),
            )

    def count_blocks(self, table: str, blocks: int) -> None:
        """Count blocks that enter a table beside the messages (rule 3)."""
        with self._transaction():
            self._count_blocks(table, blocks)

    def done(self, position: Position, *, rows: int, points: int) -> None:
        """The message is in the tables: close its intent and step on, in one transaction."""
        with self._transaction():
            self._step(position, Loaded(messages=1, rows=rows, points=points))

    def quarantine(self, position: Position, *, reason: str, file: str, now_ns: int) -> None:
        """The message was set aside: list it and step on, in one transaction (rule 4)."""
        with self._transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO quarantine "
                "(log_id, topic, partition, offset, reason, file, quarantined_ns) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (position.log_id, position.topic, position.partition, position.offset, reason, file, now_ns),
            )
            self._step(position, Loaded(quarantined=1))

    def quarantined(self) -> list[Quarantined]:
        """All messages that were set aside, oldest first."""
        with self._guard:
            found = self._database.execute(
                "SELECT log_id, topic, partition, offset, reason, file, quarantined_ns FROM quarantine "
                "ORDER BY quarantined_ns, topic, partition, offset"
            ).fetchall()
        return [Quarantined(Position(*row[:4]), *row[4:]) for row in found]

    def decide(self, decision: Decision) -> int:
        """Note a decision and do what it means for the ledger, in one transaction; returns its number.

        Raises:
            Invalid: there is nothing of that name to decide; nothing changed.
        """
        with self._transaction():
            self._check(decision)
            position = decision.position
            key = (position.log_id, position.topic, position.partition)
            if decision.action is Action.RESUME_LOADED:
                # How many rows and points it had, nobody counted: the sums know of the message only.
                self._step(position, Loaded(messages=1))
            elif decision.action is Action.RESUME_LOST:
                # To go on with the message of that offset: all before it counts as done, and no sum knows of it.
                self._step(replace(position, offset=position.offset - 1), Loaded())
            elif decision.action is Action.RESUME_AGAIN:
                self._database.execute("DELETE FROM intents WHERE log_id = ? AND topic = ? AND partition = ?", key)
            values = (decision.who, decision.why, decision.decided_ns, decision.finished)
            added = self._database.execute(
                "INSERT INTO decisions (action, log_id, topic, partition, offset, who, why, decided_ns, finished) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (decision.action.value, *key, position.offset, *values),
            )
            assert added.lastrowid is not None
            return added.lastrowid

    def finish(self, number: int) -> None:
        """The decision is carried out."""
        with self._transaction():
            self._database.execute("UPDATE decisions SET finished = 1 WHERE number = ?", (number,))

    def withdraw(self, number: int) -> None:
        """Forget a decision that cannot be carried out and was not: its message is open again."""
        with self._transaction():
            self._database.execute("DELETE FROM decisions WHERE number = ? AND NOT finished", (number,))

    def decisions(self) -> list[Decision]:
        """Everything that was ever decided, in order."""
        with self._guard:
            return self._decisions()

    def open_intents(self) -> list[Intent]:
        """The inserts that were announced and not confirmed."""
        with self._guard:
            keys = self._database.execute("SELECT log_id, topic, partition FROM intents").fetchall()
            return [intent for key in keys if (intent := self._intent(*key)) is not None]

    def loaded(self, log_id: str, topic: str, partition: int) -> Loaded:
        """The sums of a partition."""
        with self._guard:
            found = self._database.execute(
                "SELECT messages, rows, points, quarantined FROM partitions "
                "WHERE log_id = ? AND topic = ? AND partition = ?",
                (log_id, topic, partition),
            ).fetchone()
        return Loaded(*found) if found else Loaded()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold off migrations while loading (rule 6). Raises `Retry` while one runs."""
        with self._locked(fcntl.LOCK_SH, "a migration runs"):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold off loaders while migrating (rule 6). Raises `Retry` while one runs."""
        with self._locked(fcntl.LOCK_EX, "a loader or another migration runs"):
            yield

    def close(self) -> None:
        """Close the file. May be called twice."""
        with self._guard:
            self._database.close()

    @contextmanager
    def _locked(self, kind: int, refusal: str) -> Iterator[None]:
        descriptor = os.open(self._folder / "ledger.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except OSError as error:
                raise Retry(refusal, folder=str(self._folder)) from error
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._guard:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield
                self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    # Disk full, busy, I/O error: nothing was written, and the reason may pass.
                    raise Retry(f"ledger: {error}", folder=str(self._folder)) from error
                raise

    def _check(self, decision: Decision) -> None:
        position = decision.position
        if decision.action in (Action.RESUME_LOADED, Action.RESUME_AGAIN):
            intent = self._intent(position.log_id, position.topic, position.partition)
            if intent is None or intent.position != position or intent.blocks_since <= self.deduplication_window:
                raise Invalid("the partition is not halted at that offset", token=position.token)
            return
        if decision.action is Action.RESUME_LOST:
            if position.offset <= self._next_offset(position.log_id, position.topic, position.partition):
                raise Invalid("the partition has come as far as that already", token=position.token)
            return
        known = "SELECT 1 FROM quarantine WHERE log_id = ? AND topic = ? AND partition = ? AND offset = ?"
        key = (position.log_id, position.topic, position.partition, position.offset)
        if self._database.execute(known, key).fetchone() is None:
            raise Invalid("no message of that name is in quarantine", token=position.token)
        for earlier in self._decisions():
            if earlier.position == position and earlier.action in (Action.REPLAY, Action.DISCARD):
                raise Invalid(f"{earlier.action.value} was decided by {earlier.who}", token=position.token)

    def _decisions(self) -> list[Decision]:
        found = self._database.execute(
            "SELECT action, log_id, topic, partition, offset, who, why, decided_ns, finished, number FROM decisions "
            "ORDER BY number"
        ).fetchall()
        return [
            Decision(Action(action), Position(*position), who, why, decided_ns, bool(finished), number)
            for action, *position, who, why, decided_ns, finished, number in found
        ]

    def _next_offset(self, log_id: str, topic: str, partition: int) -> int:
        found = self._database.execute(
            "SELECT next_offset FROM partitions WHERE log_id = ? AND topic = ? AND partition = ?",
            (log_id, topic, partition),
        ).fetchone()
        return int(found[0]) if found else 0

    def _intent(self, log_id: str, topic: str, partition: int) -> Intent | None:
        found = self._database.execute(
            "SELECT offset, table_name, blocks_before FROM intents WHERE log_id = ? AND topic = ? AND partition = ?",
            (log_id, topic, partition),
        ).fetchone()
        if found is None:
            return None
        offset, table, before = found
        return Intent(Position(log_id, topic, partition, offset), table, self._blocks(table) - before)

    def _blocks(self, table: str) -> int:
        found = self._database.execute("SELECT blocks FROM tables WHERE table_name = ?", (table,)).fetchone()
        return int(found[0]) if found else 0

    def _count_blocks(self, table: str, blocks: int) -> None:
        self._database.execute(
            "INSERT INTO tables (table_name, blocks) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET blocks = blocks + excluded.blocks",
            (table, blocks),
        )

    def _step(self, position: Position, sums: Loaded) -> None:
        key = (position.log_id, position.topic, position.partition)
        self._database.execute("DELETE FROM intents WHERE log_id = ? AND topic = ? AND partition = ?", key)
        self._database.execute(
            "INSERT INTO partitions (log_id, topic, partition, next_offset, messages, rows, points, quarantined) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "next_offset = excluded.next_offset, messages = messages + excluded.messages, rows = rows + excluded.rows, "
            "points = points + excluded.points, quarantined = quarantined + excluded.quarantined",
            (*key, position.offset + 1, sums.messages, sums.rows, sums.points, sums.quarantined),
        )
