"""The collector's state: one SQLite file that a flush changes in one transaction.

Tables and who writes them (all in ``commit``, but for ``trim``, ``hand_over``, ``replace_outbox``, ``keep_policies``
and ``keep_limits``):

    meta     one row: inbox id, known_since, consumed inbox position, envelope sequence, acknowledged totals
    outbox   envelopes for the log; AUTOINCREMENT: no sequence is used twice; `trim` deletes what is forwarded
    handed   one row: the highest outbox sequence that was ever handed to a publish
    merged   outbox sequences that hold merged flushes (`collectors.coarsen`), and their windows' width
    series   the catalog by slot
    lives    segments of changed lives as Arrow IPC, later ones override; rewritten whole when segments outweigh them
    seen     segments of point hashes
    held     envelopes of rows that leave more seldom than each flush (`collectors.hold`)
    ...      what remote write keeps: see `collectors.remote_tables`
    policies the policies in force and those before that may still matter (`collectors.policy_history`)
    limits   the limits that judge points (`collectors.judging_limits`)

Rules:
1. ``commit`` is the only way that a flush becomes real: outbox, state and consumed position, or nothing.
2. synchronous=FULL with a write-ahead log: what is committed survives a crash of the machine.
3. Two threads use it, each with a connection of its own: the flush (writes) and the forwarder (reads, trims).
4. The next minor version may add tables, and columns that may be left out, so every statement here names its columns.
   What is in them must still be right after this program has worked on the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.crash import crash_point
from catchment.errors import CatchmentError, Corrupt, Retry, TooNew
from collectors import judging_limits, remote_tables
from collectors.remote_tables import ipc_bytes
from collectors.seen import Segment
from collectors.state_records import Flush, HeldPart, Meta, OutboxRow, PolicyRow, SeriesRow
from collectors.waiting import Replacement, Waiting

VERSION = 1
_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS meta (
    only INTEGER PRIMARY KEY CHECK (only = 1), version INTEGER NOT NULL, inbox_id TEXT NOT NULL,
    known_since_ns INTEGER NOT NULL, consumed INTEGER NOT NULL, sequence INTEGER NOT NULL,
    seen_horizon_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, lane TEXT NOT NULL, key TEXT NOT NULL, created_ns INTEGER NOT NULL,
    value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS handed (only INTEGER PRIMARY KEY CHECK (only = 1), sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS merged (sequence INTEGER PRIMARY KEY, seconds INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS series (
    slot INTEGER PRIMARY KEY, tenant TEXT NOT NULL, cluster TEXT NOT NULL, service TEXT NOT NULL, metric TEXT NOT NULL,
    kind TEXT NOT NULL, unit TEXT NOT NULL, attributes TEXT NOT NULL, series_id INTEGER NOT NULL,
    treatment TEXT NOT NULL DEFAULT '', counted INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS lives (segment INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS seen (
    segment INTEGER PRIMARY KEY AUTOINCREMENT, time_ns_max INTEGER NOT NULL, hashes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS acknowledged (
    tenant TEXT NOT NULL, lane TEXT NOT NULL, points INTEGER NOT NULL, digest INTEGER NOT NULL,
    PRIMARY KEY (tenant, lane));
CREATE TABLE IF NOT EXISTS held (
    id INTEGER PRIMARY KEY AUTOINCREMENT, seconds REAL NOT NULL, since_ns INTEGER NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS policies (version TEXT PRIMARY KEY, document TEXT NOT NULL, until_ns INTEGER NOT NULL);
"""
    + remote_tables.SCHEMA
    + judging_limits.SCHEMA
)


class StateFile:
    """One connection to the state of a collector's folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._named():
            # Guarded by who uses it: one thread at a time.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            columns = [row[1] for row in self._db.execute("PRAGMA table_info(series)")]
            for column in ("treatment TEXT NOT NULL DEFAULT ''", "counted INTEGER NOT NULL DEFAULT 1"):
                if column.split()[0] not in columns:
                    self._db.execute(f"ALTER TABLE series ADD COLUMN {column}")

    def meta(self, *, inbox_id: str, now_ns: int) -> Meta:
        """The state's head; made at the folder's birth.

        Raises:
            Corrupt: the state belongs to another inbox.
            TooNew: a newer version wrote it.
        """
        with self._named():
            self._db.execute(
                "INSERT OR IGNORE INTO meta "
                "(only, version, inbox_id, known_since_ns, consumed, sequence, seen_horizon_ns) "
                "VALUES (1, ?, ?, ?, 0, 0, ?)",
                (VERSION, inbox_id, now_ns, now_ns),
            )
            # The first program noted nothing of what it handed over: all that it left may have been.
            self._db.execute(
                "INSERT OR IGNORE INTO handed (only, sequence) "
                "SELECT 1, coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'"
            )
            row = self._db.execute(
                "SELECT version, inbox_id, known_since_ns, consumed, sequence, seen_horizon_ns FROM meta"
            ).fetchone()
        if row[0] > VERSION:
            raise TooNew(f"state of version {row[0]}; this process reads up to {VERSION}", file=str(self._path))
        if row[1] != inbox_id:
            raise Corrupt(
                f"state belongs to inbox {row[1]}, not to {inbox_id}: were folders mixed?", file=str(self._path)
            )
        return Meta(*row[1:])

    def series(self) -> Iterator[SeriesRow]:
        """All series, by slot."""
        with self._named():
            for row in self._db.execute(
                "SELECT slot, tenant, cluster, service, metric, kind, unit, attributes, series_id, treatment, counted "
                "FROM series ORDER BY slot"
            ):
                slot, tenant, cluster, service, metric, kind, unit, attributes, key, treatment, counted = row
                texts = (tenant, cluster, service, metric, kind, unit, attributes)
                yield SeriesRow(slot, *texts, key % 2**64, treatment, bool(counted))

    def lives(self) -> list[pa.Table]:
        """Segments of lives, the oldest first."""
        with self._named():
            rows = self._db.execute("SELECT data FROM lives ORDER BY segment").fetchall()
        return [pa.ipc.open_stream(data).read_all() for (data,) in rows]

    def lives_rows(self) -> int:
        """Rows in all segments of lives."""
        with self._named():
            return int(self._db.execute("SELECT coalesce(sum(rows), 0) FROM lives").fetchone()[0])

    def seen(self) -> list[Segment]:
        """Segments of remembered points, the oldest first."""
        with self._named():
            rows = self._db.execute("SELECT hashes, time_ns_max FROM seen ORDER BY segment").fetchall()
        return [Segment(_hashes(data), time_ns_max) for data, time_ns_max in rows]

    def writes(self) -> remote_tables.SavedWrites | None:
        """What was saved of remote write."""
        with self._named():
            return remote_tables.read(self._db)

    def acknowledged(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Points and digest of all that was ever flushed, by (tenant, lane)."""
        with self._named():
            rows = self._db.execute("SELECT tenant, lane, points, digest FROM acknowledged").fetchall()
        return {(tenant, lane): (points, digest % 2**64) for tenant, lane, points, digest in rows}

    def commit(self, flush: Flush) -> None:
        """Make a flush real, in one transaction.

        Raises:
            Retry: nothing changed; the disk is full or does not answer.
        """
        totals = self.acknowledged()
        with self._named(), self._transaction():
            self._db.executemany(
                "INSERT INTO outbox (lane, key, created_ns, value) VALUES (?, ?, ?, ?)",
                [(lane, key, flush.created_ns, value) for lane, key, value in flush.envelopes],
            )
            self._write_state(flush)
            self._db.executemany("DELETE FROM held WHERE id = ?", [(each,) for each in flush.held_gone])
            self._db.executemany(
                "INSERT INTO held (seconds, since_ns, value) VALUES (?, ?, ?)",
                [(row.seconds, row.since_ns, row.value) for row in flush.held],
            )
            if flush.policies is not None:
                self._keep_policies(flush.policies)
            for (tenant, lane), (points, digest) in flush.acknowledged.items():
                points_before, digest_before = totals.get((tenant, lane), (0, 0))
                self._db.execute(
                    "INSERT OR REPLACE INTO acknowledged (tenant, lane, points, digest) VALUES (?, ?, ?, ?)",
                    (tenant, lane, points_before + points, _signed((digest_before + digest) % 2**64)),
                )
            meta = flush.meta
            self._db.execute(
                "UPDATE meta SET known_since_ns = ?, consumed = ?, sequence = ?, seen_horizon_ns = ?",
                (meta.known_since_ns, meta.consumed, meta.sequence, meta.seen_horizon_ns),
            )
            crash_point("flush.written")

    def held(self) -> list[HeldPart]:
        """What is held, the oldest first."""
        with self._named():
            rows = self._db.execute("SELECT id, seconds, since_ns FROM held ORDER BY id").fetchall()
        return [HeldPart(*row) for row in rows]

    def held_values(self, ids: Sequence[int]) -> list[bytes]:
        """The envelopes of some ids."""
        with self._named():
            return [self._db.execute("SELECT value FROM held WHERE id = ?", (each,)).fetchone()[0] for each in ids]

    def policies(self) -> list[PolicyRow]:
        """The policies that are kept, in no order."""
        with self._named():
            rows = self._db.execute("SELECT version, document, until_ns FROM policies").fetchall()
        return [PolicyRow(*row) for row in rows]

    def keep_policies(self, rows: Sequence[PolicyRow], *, series_anew: bool = False) -> None:
        """Keep these policies and no others: before the first request is taken under new ones.

        Args:
            rows: the policies.
            series_anew: no series counts for budgets any more.

        Raises:
            Retry: nothing changed.
        """
        with self._named(), self._transaction():
            self._keep_policies(rows)
            if series_anew:
                self._db.execute("UPDATE series SET counted = 0")

    def _keep_policies(self, rows: Sequence[PolicyRow]) -> None:
        self._db.execute("DELETE FROM policies")
        self._db.executemany(
            "INSERT INTO policies (version, document, until_ns) VALUES (?, ?, ?)",
            [(row.version, row.document, row.until_ns) for row in rows],
        )

    def limits(self) -> dict[str, int]:
        """The limits that the inbox was taken under, by name; see `collectors.judging_limits`."""
        with self._named():
            return judging_limits.read(self._db)

    def keep_limits(self, values: Mapping[str, int]) -> None:
        """Keep those that requests are taken under from now on; before the first is.

        Raises:
            Retry: nothing changed.
        """
        with self._named(), self._transaction():
            judging_limits.write(self._db, values)

    def outbox(self, after: int, *, messages_max: int, bytes_max: int) -> list[OutboxRow]:
        """Envelopes after a sequence, in order; at least one if there is any."""
        rows: list[OutboxRow] = []
        size = 0
        with self._named():
            for row in self._db.execute(
                "SELECT sequence, lane, key, created_ns, value FROM outbox WHERE sequence > ? "
                "ORDER BY sequence LIMIT ?",
                (after, messages_max),
            ):
                size += len(row[4])
                if rows and size > bytes_max:
                    break
                rows.append(OutboxRow(*row))
        return rows

    def hand_over(self, after: int, *, messages_max: int, bytes_max: int) -> list[OutboxRow]:
        """`outbox`, marked as handed to a publish: what that does with them may never be known."""
        with self._named(), self._transaction():
            rows = self.outbox(after, messages_max=messages_max, bytes_max=bytes_max)
            if rows and rows[-1].sequence > self._handed():
                self._db.execute("INSERT OR REPLACE INTO handed (only, sequence) VALUES (1, ?)", (rows[-1].sequence,))
        return rows

    def handed(self) -> int:
        """The highest sequence that was ever handed to a publish; 0 before the first."""
        with self._named():
            return self._handed()

    def _handed(self) -> int:
        row = self._db.execute("SELECT sequence FROM handed").fetchone()
        return int(row[0]) if row else 0

    def waiting(self) -> list[Waiting]:
        """The outbox by sequence, without the envelopes' bytes."""
        with self._named():
            rows = self._db.execute(
                "SELECT sequence, lane, created_ns, length(value), coalesce(seconds, 0) FROM outbox "
                "LEFT JOIN merged USING (sequence) ORDER BY sequence"
            ).fetchall()
        return [Waiting(*row) for row in rows]

    def values(self, sequences: Sequence[int]) -> list[bytes]:
        """The envelopes of some sequences, without those that were forwarded and trimmed meanwhile."""
        with self._named():
            rows = [
                self._db.execute("SELECT value FROM outbox WHERE sequence = ?", (sequence,)).fetchone()
                for sequence in sequences
            ]
        return [row[0] for row in rows if row is not None]

    def replace_outbox(self, replacement: Replacement) -> bool:
        """Put merged envelopes in the place of waiting ones, in one transaction.

        Returns:
            False, and nothing changed, if one of them was handed to a publish meanwhile.

        Raises:
            Retry: nothing changed.
        """
        sequences = replacement.sequences
        with self._named(), self._transaction():
            if self._handed() >= sequences[0]:
                return False
            replaced = [*sequences]
            if replacement.values is not None:
                self._db.executemany("DELETE FROM outbox WHERE sequence = ?", [(each,) for each in sequences])
                self._db.executemany("DELETE FROM merged WHERE sequence = ?", [(each,) for each in sequences])
                replaced = [
                    self._db.execute(
                        "INSERT INTO outbox (lane, key, created_ns, value) VALUES (?, ?, ?, ?) RETURNING sequence",
                        (lane, key, replacement.created_ns, value),
                    ).fetchone()[0]
                    for lane, key, value in replacement.values
                ]
                self._db.execute("UPDATE meta SET sequence = ?", (replacement.sequence,))
            self._db.executemany(
                "INSERT OR REPLACE INTO merged (sequence, seconds) VALUES (?, ?)",
                [(each, replacement.seconds) for each in replaced],
            )
            crash_point("coarsen.written")
        return True

    def outbox_last(self) -> int:
        """The highest sequence that the outbox ever gave; 0 before the first."""
        with self._named():
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return int(row[0]) if row else 0

    def outbox_size(self) -> tuple[int, int, int]:
        """Messages, bytes and the creation time (ns, 0 if empty) of the oldest of what waits."""
        with self._named():
            row = self._db.execute(
                "SELECT count(*), coalesce(sum(length(value)), 0), coalesce(min(created_ns), 0) FROM outbox"
            ).fetchone()
        return int(row[0]), int(row[1]), int(row[2])

    def merged_seconds_max(self) -> int:
        """The width of windows up to which waiting envelopes were merged; 0 if none was."""
        with self._named():
            return int(self._db.execute("SELECT coalesce(max(seconds), 0) FROM merged").fetchone()[0])

    def trim(self, up_to: int) -> None:
        """Delete what was forwarded, up to and including a sequence."""
        with self._named(), self._transaction():
            self._db.execute("DELETE FROM outbox WHERE sequence <= ?", (up_to,))
            self._db.execute("DELETE FROM merged WHERE sequence <= ?", (up_to,))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _write_state(self, flush: Flush) -> None:
        if flush.series_whole:
            self._db.execute("DELETE FROM series")
        elif flush.series_anew:
            self._db.execute("UPDATE series SET counted = 0")
        self._db.executemany(
            "INSERT OR REPLACE INTO series "
            "(slot, tenant, cluster, service, metric, kind, unit, attributes, series_id, treatment, counted) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            _series_tuples(flush.series),
        )
        if flush.lives_whole:
            self._db.execute("DELETE FROM lives")
        for lives in flush.lives:
            self._db.execute("INSERT INTO lives (rows, data) VALUES (?, ?)", (lives.num_rows, ipc_bytes(lives)))
        for segment in flush.seen:
            self._db.execute(
                "INSERT INTO seen (time_ns_max, hashes) VALUES (?, ?)", (segment.time_ns_max, segment.hashes.tobytes())
            )
        remote_tables.write(self._db, flush.writes)
        self._db.execute(
            "DELETE FROM seen WHERE segment IN (SELECT segment FROM seen ORDER BY segment LIMIT ?)",
            (flush.seen_forgotten,),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:
            raise Retry(f"collector state: {error}", file=str(self._path)) from error
        except sqlite3.DatabaseError as error:
            raise CatchmentError(f"collector state cannot be read: {error}", file=str(self._path)) from error


def _series_tuples(rows: Iterable[SeriesRow]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        texts = (row.tenant, row.cluster, row.service, row.metric, row.kind, row.unit, row.attributes)
        yield row.slot, *texts, _signed(row.series_id), row.treatment, row.is_counted


def _signed(value: int) -> int:
    """An unsigned 64-bit number as SQLite stores it."""
    return value - 2**64 if value >= 2**63 else value


def _hashes(data: bytes) -> npt.NDArray[np.uint64]:
    return np.frombuffer(data, np.uint64).copy()
