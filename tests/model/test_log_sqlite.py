"""A state machine of the SQLite log against the simplest model: lists of messages, a number per source, an owner."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from catchment.errors import Bug, Corrupt, Fenced, Invalid
from catchment.log.port import OutMessage, Source, Writer
from catchment.log.sqlite import SqliteLimits, SqliteLog

T = TypeVar("T")

TOPIC = "t"
PARTITIONS = 2
SOURCES = (Source("forward"), Source("rollup", TOPIC, 0), Source("rollup", TOPIC, 1), Source("load", TOPIC, 0))

sources = st.sampled_from(range(len(SOURCES)))
slots = st.sampled_from(("left", "right"))


class LogMachine(RuleBasedStateMachine):
    """Two processes ("left" and "right", each with a log object of its own) take the sources from each other."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._logs: dict[str, SqliteLog] = {}
        self._writers: dict[tuple[str, int], Writer] = {}
        self._owner: dict[int, str] = {}
        self._position: dict[int, int | None] = dict.fromkeys(range(len(SOURCES)))
        self._messages: dict[int, list[tuple[int, bytes]]] = {partition: [] for partition in range(PARTITIONS)}
        self._next_offset = dict.fromkeys(range(PARTITIONS), 0)
        self._number = 0
        self._log_id = ""
        for slot in ("left", "right"):
            self._open(slot)
        self._do(self._logs["left"].create_topics({TOPIC: PARTITIONS}))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def _open(self, slot: str) -> None:
        self._logs[slot] = SqliteLog.open(Path(self._folder.name) / "log.db", SqliteLimits(keep_seconds=3_600))
        self._log_id = self._log_id or self._logs[slot].log_id
        assert self._logs[slot].log_id == self._log_id

    @rule(slot=slots, source=sources)
    def take(self, slot: str, source: int) -> None:
        """Become the writer of a source: its position is the one last published by whomever."""
        writer = self._do(self._logs[slot].writer(SOURCES[source]))
        self._writers[slot, source] = writer
        self._owner[source] = slot
        assert self._do(writer.committed()) == self._position[source]

    @precondition(lambda self: self._writers)
    @rule(data=st.data(), counts=st.tuples(st.integers(0, 3), st.integers(0, 3)), step=st.sampled_from([-1, 0, 1, 7]))
    def publish(self, data: st.DataObject, counts: tuple[int, int], step: int) -> None:
        """Publish to both partitions: whole if we own the source and the position does not fall, else nothing."""
        slot, source = data.draw(st.sampled_from(sorted(self._writers)))
        writer = self._writers[slot, source]
        batch = []
        for partition, count in enumerate(counts):
            for _ in range(count):
                self._number += 1
                batch.append(OutMessage(TOPIC, "k", str(self._number).encode(), partition=partition))
        consumed = (self._position[source] or 0) + step
        if self._owner[source] != slot:
            with pytest.raises(Fenced):
                self._do(writer.publish(batch, consumed))
            return
        if consumed < (self._position[source] or 0):
            with pytest.raises(Bug):
                self._do(writer.publish(batch, consumed))
            return
        self._do(writer.publish(batch, consumed))
        self._position[source] = consumed
        for message in batch:
            partition = message.partition or 0
            self._messages[partition].append((self._next_offset[partition], message.value))
            self._next_offset[partition] += 1

    @precondition(lambda self: self._writers)
    @rule(data=st.data())
    def publish_one_bad_message(self, data: st.DataObject) -> None:
        """A batch whose last message has no partition changes nothing."""
        slot, source = data.draw(st.sampled_from(sorted(self._writers)))
        batch = [OutMessage(TOPIC, "k", b"never", partition=partition) for partition in (0, 1, PARTITIONS)]
        with pytest.raises((Invalid, Fenced)):
            self._do(self._writers[slot, source].publish(batch, 2**40))

    @rule(partition=st.integers(0, PARTITIONS - 1), before=st.integers(0, 10))
    def trim(self, partition: int, before: int) -> None:
        """Trimmed messages are gone; offsets go on."""
        self._do(self._logs["left"].trim(TOPIC, partition, before))
        self._messages[partition] = [m for m in self._messages[partition] if m[0] >= before]

    @rule(slot=slots)
    def crash(self, slot: str) -> None:
        """A process dies: its objects are dropped unclosed, and it starts again."""
        self._writers = {key: writer for key, writer in self._writers.items() if key[0] != slot}
        # The dead one's connections stay open, as a killed process's do until the system is through with it.
        self._open(slot)

    @rule(slot=slots, partition=st.integers(0, PARTITIONS - 1), position=st.integers(0, 12), most=st.integers(1, 4))
    def poll(self, slot: str, partition: int, position: int, most: int) -> None:
        """A poll from any position gives what the list gives; behind the end, or before what is left, it is Corrupt."""
        poll = self._logs[slot].poll(TOPIC, partition, position, messages_max=most, bytes_max=1 << 20, wait_seconds=0.0)
        left = [offset for offset, _ in self._messages[partition]]
        if position > self._next_offset[partition] or (left and 0 < position < left[0]):
            with pytest.raises(Corrupt):
                self._do(poll)
            return
        found = self._do(poll)
        expected = [m for m in self._messages[partition] if m[0] >= position][:most]
        assert [(m.offset, m.value) for m in found] == expected

    @invariant()
    def offsets_go_on(self) -> None:
        """The end offset counts every message that was ever published."""
        for partition in range(PARTITIONS):
            assert self._do(self._logs["right"].end_offset(TOPIC, partition)) == self._next_offset[partition]

    def teardown(self) -> None:
        """Close what is left."""
        for log in self._logs.values():
            self._do(log.close())
        self._runner.close()
        self._folder.cleanup()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
