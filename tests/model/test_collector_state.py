"""Model of the collector's state: flushes that fail anywhere, crashes between, a forwarder that trims."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from catchment.envelope import decode
from catchment.errors import Retry
from catchment.limits import Limits
from collectors.state import StateFile
from collectors.state_records import OutboxRow
from tests import otlp
from tests.durable_edge import INBOX_ID, DurableEdge, metric_rows
from tests.edge_harness import total
from tests.otlp import ns


class _FailingConnection:
    """A connection whose statements work until a number of them have run, then fail as a full disk does."""

    def __init__(self, real: sqlite3.Connection, statements: int) -> None:
        self._real = real
        self._left = statements

    def _count(self, sql: str) -> None:
        if sql == "ROLLBACK":
            return
        if self._left == 0:
            raise sqlite3.OperationalError("database or disk is full")
        self._left -= 1

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
        self._count(sql)
        return self._real.execute(sql, *args)  # type: ignore[arg-type]

    def executemany(self, sql: str, rows: object) -> sqlite3.Cursor:
        self._count(sql)
        return self._real.executemany(sql, rows)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@contextmanager
def failing_after(state: StateFile, statements: int) -> Iterator[None]:
    """Let the state's database fail after some statements."""
    real = state._db
    state._db = _FailingConnection(real, statements)  # type: ignore[assignment]
    try:
        yield
    finally:
        state._db = real


class CollectorState(RuleBasedStateMachine):
    """What was acknowledged is in the outbox or was forwarded, once, at every flush."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        # Few rows an envelope, so that a flush makes several; few points remembered, so that segments come and go.
        self.limits = Limits(points_per_chunk_max=3, envelope_rows_max=2, stream_idle_seconds=300)
        self.edge = DurableEdge(self.folder, self.limits)
        self.time = 100.0
        self.value = 0
        self.deltas = 0
        self.streams = 0
        self.expected_at_flush: tuple[int, int, int] | None = None
        self.looked_at: tuple[object, ...] = ()
        self.forwarded: list[OutboxRow] = []
        self.in_flight: list[OutboxRow] = []
        self.position = 0
        self.sequence_max = 0

    def teardown(self) -> None:
        self.edge.state.close()
        shutil.rmtree(self.folder)

    @rule(more=st.integers(1, 2**40), seconds=st.sampled_from([1, 59, 60]))
    def send(self, more: int, seconds: int) -> None:
        """A counter that rises, a delta, a gauge, and a young stream of its own each time."""
        self.time += seconds
        self.value += more
        self.deltas += more
        self.streams += 1
        name = {"n": self.streams}
        young = otlp.number(self.time, 7, start=self.time - 0.5, attributes=name)
        self.edge.send(
            otlp.body(
                otlp.counter("hits", otlp.number(self.time, self.value, start=1), young),
                otlp.counter("sent", otlp.number(self.time, more, start=self.time - 1), temporality=otlp.DELTA),
                otlp.gauge("level", otlp.number(self.time, more)),
            ),
            self.time,
        )

    @rule()
    def send_again(self) -> None:
        """A retry of the last request."""
        if self.edge.inbox:
            body = self.edge.inbox[-1][0]
            self.edge.send(body, self.time)

    def _acknowledged(self) -> tuple[int, int, int]:
        return self.value + 7 * self.streams, self.deltas, self.streams

    @rule()
    def flush(self) -> None:
        self.edge.flush(self.time)
        self.expected_at_flush = self._acknowledged()

    @rule(statements=st.integers(0, 12), crash=st.booleans())
    def flush_that_fails(self, statements: int, crash: bool) -> None:
        """The flush fails at some statement, or just not; the process may die of it."""
        before = len(self.edge.outbox())
        try:
            with failing_after(self.edge.state, statements):
                self.edge.flush(self.time)
            self.expected_at_flush = self._acknowledged()
        except Retry:
            assert len(self.edge.outbox()) == before
        if crash:
            self.edge.crash()

    @rule()
    def crash(self) -> None:
        self.edge.crash()

    @rule(messages=st.integers(1, 50))
    def hand_over(self, messages: int) -> None:
        """Hand some envelopes to a publish."""
        self.in_flight = self.edge.state.hand_over(self.position, messages_max=messages, bytes_max=10**9)

    @rule(succeeds=st.booleans())
    def publish(self, succeeds: bool) -> None:
        """The log has them now, or it has not, and they will be handed over again."""
        if succeeds and self.in_flight:
            self.forwarded += self.in_flight
            self.position = self.in_flight[-1].sequence
        self.in_flight = []

    @rule()
    def trim(self) -> None:
        """What the log has goes, to empty if that was all."""
        self.edge.state.trim(self.position)

    @rule(statements=st.integers(0, 12), crash=st.booleans())
    def merge_what_waits(self, statements: int, crash: bool) -> None:
        """A step down the ladder, which may fail at some statement, and the process may die of it."""
        with contextlib.suppress(Retry), failing_after(self.edge.state, statements):
            self.edge.flusher.coarsen()
        if crash:
            self.edge.crash()

    def _waiting(self) -> list[OutboxRow]:
        return [row for row in self.edge.outbox() if row.sequence > self.position]

    @rule()
    @precondition(lambda self: self.streams > 3)
    def time_passes(self) -> None:
        """Long enough for the idle to be evicted at the next flush, and gauges to go stale; the rest speaks again."""
        self.time += 400
        self.send(more=1, seconds=1)

    @invariant()
    def outbox_sequences_are_never_used_again(self) -> None:
        sequences = [row.sequence for row in (*self.forwarded, *self._waiting())]
        assert sequences == sorted(set(sequences))
        last = self.edge.state.outbox_last()
        assert last >= max([*sequences, self.sequence_max])
        self.sequence_max = last

    @invariant()
    def everything_flushed_is_there_once(self) -> None:
        # Decoding all envelopes at each step would take most of the time: only where something changed.
        seen = (self.expected_at_flush, self.position, self.edge.state.outbox_last())
        if self.expected_at_flush is None or seen == self.looked_at:
            return
        self.looked_at = seen
        headers = [decode(row.value).header for row in (*self.forwarded, *self._waiting())]
        assert len({header.sequence for header in headers}) == len(headers)
        assert {header.producer for header in headers} <= {INBOX_ID}
        rows = metric_rows([*self.forwarded, *self._waiting()])
        counted = (total(rows, "hits", "sum_int"), total(rows, "sent", "sum_int"), total(rows, "level", "count"))
        assert counted == self.expected_at_flush
        points, _ = self.edge.state.acknowledged().get(("acme", "metrics"), (0, 0))
        assert points == sum(row["points"] for row in rows)


CollectorState.TestCase.settings = settings(max_examples=20, stateful_step_count=30)
TestCollectorState = CollectorState.TestCase


def test_a_flush_that_fails_at_any_statement_changes_nothing_and_succeeds_later(tmp_path: Path) -> None:
    """Every single point of failure, one after the other, in a process that lives on."""
    edge = DurableEdge(tmp_path, Limits())
    statements = 0
    for turn in range(60):
        time = 100.0 + turn
        edge.send(otlp.body(otlp.counter("hits", otlp.number(time, turn + 1, start=1))), time)
        try:
            with failing_after(edge.state, statements):
                edge.flush(time)
            break
        except Retry:
            assert edge.outbox() == []
        statements += 1
    assert statements > 5
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == statements + 1
    edge.crash()
    time = 300.0
    edge.send(otlp.body(otlp.counter("hits", otlp.number(time, 1000, start=1))), time)
    edge.flush(time)
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == 1000
    edge.state.close()


def test_a_full_disk_is_a_retry_and_passes(tmp_path: Path) -> None:
    """SQLite at its page limit: the flush is put back, and goes through once there is room."""
    edge = DurableEdge(tmp_path, Limits())
    rng = Random(1)
    (pages,) = edge.state._db.execute("PRAGMA page_count").fetchone()
    edge.state._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    points = [otlp.number(100, i, start=1, attributes={"n": rng.randbytes(40).hex()}) for i in range(2000)]
    edge.send(otlp.body(otlp.counter("hits", *points)), 100)
    for _ in range(3):
        with pytest.raises(Retry, match="full"):
            edge.flush(101)
    assert edge.outbox() == []
    edge.state._db.execute("PRAGMA max_page_count = 1000000")
    edge.flush(102)
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == sum(range(2000))
    assert edge.state.meta(inbox_id=INBOX_ID, now_ns=ns(0)).consumed == 1
    edge.state.close()
