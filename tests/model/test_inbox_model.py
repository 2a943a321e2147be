"""The inbox against a model: what was acknowledged is replayed, whatever is done to the files' unacknowledged end."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from collectors.inbox import Inbox
from collectors.inbox_format import MAGIC
from collectors.records import Received

SEGMENT_BYTES = 700
BYTES_MAX = 1 << 30
SPARE_BYTES_MAX = 4 * SEGMENT_BYTES

bodies = st.one_of(st.binary(max_size=400), st.builds(lambda n: MAGIC * n, st.integers(1, 20)))
requests = st.builds(
    Received,
    signal=st.just("metrics"),
    tenant=st.sampled_from(["acme", "Ünïcode"]),
    cluster=st.text(max_size=20),
    labels=st.sampled_from(["{}", '{"zone":"a"}']),
    content_type=st.sampled_from(["application/x-protobuf", "application/json"]),
    content_encoding=st.sampled_from(["", "gzip", "zstd"]),
    received_ns=st.integers(0, 2**63 - 1),
    policy_version=st.text(max_size=5),
    body=bodies,
)


class InboxMachine(RuleBasedStateMachine):
    """Appends, crashes, damage, replays and trims in any order."""

    @initialize()
    def found(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="inbox-"))
        self.acknowledged: list[tuple[int, Received]] = []  # (position after it, request), oldest first
        self.damaged: set[int] = set()  # ends of the records that were damaged
        self.starts: dict[int, int] = {}
        self.trimmed = 0
        self.inbox = self.open()

    def open(self) -> Inbox:
        return Inbox.open(
            self.folder, segment_bytes=SEGMENT_BYTES, bytes_max=BYTES_MAX, spare_bytes_max=SPARE_BYTES_MAX
        )

    def teardown(self) -> None:
        if hasattr(self, "inbox"):
            self.inbox.close()
            shutil.rmtree(self.folder)

    @rule(batch=st.lists(requests, max_size=4))
    def append(self, batch: list[Received]) -> None:
        start = self.inbox.end
        ends = self.inbox.append(batch)
        for end, request in zip(ends, batch, strict=True):
            self.starts[end] = start
            self.acknowledged.append((end, request))
            start = end

    @rule(batch=st.lists(requests, min_size=1, max_size=3), data=st.data())
    def crash_while_appending(self, batch: list[Received], data: st.DataObject) -> None:
        """A process dies with any part of an append in the file: whole records of it may survive, halves may not."""
        end_before = self.inbox.end
        ends = self.inbox.append(batch)
        newest = self.inbox._path(self.inbox._bases[-1])
        base = self.inbox._bases[-1]
        written = newest.read_bytes()
        self.inbox.close()
        kept = data.draw(st.integers(end_before, ends[-1]), label="kept up to")
        with newest.open("r+b") as file:
            file.truncate(max(kept - base, 0))
            if data.draw(st.booleans(), label="a file system left zeros"):
                file.truncate(max(ends[-1] - base, 0))
        self.inbox = self.open()
        start = end_before
        for end, request in zip(ends, batch, strict=True):
            if end <= self.inbox.end:
                self.starts[end] = start
                self.acknowledged.append((end, request))
                if newest.read_bytes()[start - base : end - base] != written[start - base : end - base]:
                    self.damaged.add(end)
            start = end
        assert end_before <= self.inbox.end <= ends[-1]

    @precondition(lambda self: len(self.acknowledged) > 1)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """A byte of a record that is not the last one flips on the disk."""
        alive = [end for end, _ in self.acknowledged[:-1] if end > self.inbox.start and end not in self.damaged]
        if not alive or self.acknowledged[-1][0] in self.damaged:
            return
        end = data.draw(st.sampled_from(alive))
        position = data.draw(st.integers(self.starts[end], end - 1))
        base = max(each for each in self.inbox._bases if each <= position)
        with self.inbox._path(base).open("r+b") as file:
            file.seek(position - base)
            byte = file.read(1)[0]
            file.seek(position - base)
            file.write(bytes([byte ^ data.draw(st.integers(1, 255))]))
        self.damaged.add(end)

    @rule()
    def reopen(self) -> None:
        end, folder_id = self.inbox.end, self.inbox.folder_id
        self.inbox.close()
        self.inbox = self.open()
        assert (self.inbox.end, self.inbox.folder_id) == (end, folder_id)

    @precondition(lambda self: bool(self.acknowledged))
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        self.trimmed = max(self.trimmed, data.draw(st.sampled_from([end for end, _ in self.acknowledged])))
        self.inbox.trim(self.trimmed)
        assert self.inbox.start <= self.trimmed
        assert len(list(self.folder.glob("*.log"))) == len(self.inbox._bases)

    @rule(data=st.data())
    def replay_from_any_boundary(self, data: st.DataObject) -> None:
        boundaries = [self.inbox.start] + [end for end, _ in self.acknowledged if end >= self.inbox.start]
        position = data.draw(st.sampled_from(boundaries))
        expected = [(end, request) for end, request in self.readable() if end > position]
        assert list(self.inbox.replay(position)) == expected

    @invariant()
    def all_that_was_acknowledged_is_replayed(self) -> None:
        if hasattr(self, "inbox"):
            assert list(self.inbox.replay(self.inbox.start)) == self.readable()

    def readable(self) -> list[tuple[int, Received]]:
        return [
            (end, request) for end, request in self.acknowledged if end > self.inbox.start and end not in self.damaged
        ]


InboxMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestInbox = InboxMachine.TestCase
