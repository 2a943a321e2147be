"""What a collector's folder says of itself, read beside a collector that runs."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from collectors.inbox_format import Valid, scan, seed_of


class EdgeFolder:
    """One collector's folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def inbox_end(self) -> int:
        """The position after the last record in the inbox; meaningful while no sender sends."""
        folder = self._path / "inbox"
        newest = max(folder.glob("[0-9]*.log"))
        base, data = int(newest.stem), newest.read_bytes()
        seed = seed_of((folder / "id").read_text("utf-8").split()[-1])

        def read(position: int, length: int) -> bytes:
            return data[position - base : position - base + length]

        # Behind the last record stands what the file's former life left.
        return max(
            [found.end for found in scan(read, base, base + len(data), seed) if isinstance(found, Valid)] or [base]
        )

    def consumed(self) -> int:
        """The inbox position before which everything has been flushed."""
        return self._number("SELECT consumed FROM meta")

    def outbox_last(self) -> int:
        """The highest sequence that the outbox ever had."""
        return self._number("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'")

    def waiting(self, last: int) -> int:
        """Envelopes up to a sequence that the log does not have yet, or that were not removed yet."""
        return self._number(f"SELECT count(*) FROM outbox WHERE sequence <= {last}")

    def acknowledged(self) -> dict[str, tuple[int, int]]:
        """Points and digest that the collector acknowledged and flushed, by tenant."""
        with self._database() as database:
            rows = database.execute("SELECT tenant, points, digest FROM acknowledged WHERE lane = 'metrics'").fetchall()
        return {tenant: (points, digest % 2**64) for tenant, points, digest in rows}

    def _number(self, sql: str) -> int:
        with self._database() as database:
            return int(database.execute(sql).fetchone()[0])

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path / "state.db", timeout=10)
        try:
            yield database
        finally:
            database.close()
