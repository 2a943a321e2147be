"""The Log port: the only messaging abstraction. Adapters: `catchment.log.sqlite` (embedded), Kafka (distributed).

Obligations of every adapter, pinned by ``tests/contract/log_contract.py``:

1. ``Writer.publish`` is atomic: all its messages and the new position are there, or none is, after any crash.
2. A position is any number up to 2^63 - 1 that only rises. For a source that is a partition it is the offset of the
   next message to read; for an outbox it is the sequence of the last row that was handed over.
3. One writer per source: ``Log.writer`` fences its predecessor, whose next ``publish`` raises `Fenced` and changes
   nothing. It returns only when no publish of the predecessor can still take effect.
4. Readers see only what was published whole, in offset order. Offsets rise; they need not be dense.
5. When ``publish`` raises `Retry` its outcome is unknown: the writer is spoilt. Close it, make a new one, read
   ``committed()``.
6. ``close()`` does not block for long, never raises, and may be called twice.
7. A log has a random id, made at its birth: (log id, topic, partition, offset) names a message for ever.
8. ``join`` shares the partitions of some topics out among the members of a group: each partition is some living
   member's. It is advice, not a lock: for a while two members may both think that one is theirs, and rule 3 decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Source:
    """What a writer consumes: a partition of a topic, or something outside the log such as an outbox.

    ``hop`` names the reading role (``rollup-jp-east``, ``load``, ``forward-<folder id>``): two roles that read the same
    partition have positions of their own. For an outbox, ``topic`` is "" and ``partition`` 0.
    """

    hop: str
    topic: str = ""
    partition: int = 0


@dataclass(frozen=True)
class OutMessage:
    """A message to publish. The adapter chooses the partition from ``key`` unless ``partition`` is given."""

    topic: str
    key: str
    value: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    partition: int | None = None


@dataclass(frozen=True)
class Message:
    """A message as read, with its coordinates."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: Mapping[str, str]


class Writer(Protocol):
    """The one writer of a source."""

    @property
    def source(self) -> Source:
        """What it consumes."""
        ...

    async def committed(self) -> int | None:
        """The position last published for this source, by whomever; None before the first."""
        ...

    async def publish(self, messages: Sequence[OutMessage], consumed: int) -> None:
        """Append ``messages`` and set the source's position to ``consumed``, atomically.

        Raises:
            Fenced: a younger writer owns this source; nothing changed.
            Retry: the outcome is unknown (rule 5).
            Invalid: a message is over the size limit, or the topic does not exist; nothing changed.
            Bug: ``consumed`` is behind the committed position; nothing changed.
        """
        ...

    async def close(self) -> None:
        """Let go of all resources (rule 6)."""
        ...


Assignment = frozenset[tuple[str, int]]
"""(topic, partition) pairs."""


class Membership(Protocol):
    """A place in a group of readers (rule 8)."""

    async def changed(self) -> Assignment:
        """Wait for the next assignment, and return all partitions that are ours by it; the first comes at once or soon.

        What is ours and has no writer at work is to be taken up then. May be cancelled.
        """
        ...

    def fenced(self, topic: str, partition: int) -> None:
        """Say that a partition's writer was fenced. If the partition is ours all the same, `changed` says so anew."""
        ...

    async def close(self) -> None:
        """Leave the group, so that the others take over at once (rule 6)."""
        ...


class Log(Protocol):
    """A log with topics and partitions."""

    @property
    def log_id(self) -> str:
        """The random id that this log was born with."""
        ...

    async def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Create the topics that do not exist yet. An existing one keeps its partitions."""
        ...

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has; raises `Invalid` if it does not exist."""
        ...

    async def writer(self, source: Source) -> Writer:
        """Become the one writer of a source (rule 3)."""
        ...

    async def join(self, group: str, topics: Sequence[str]) -> Membership:
        """Become a member of a group of readers of some topics, which exist."""
        ...

    async def poll(
        self, topic: str, partition: int, position: int, *, messages_max: int, bytes_max: int, wait_seconds: float
    ) -> list[Message]:
        """Messages from ``position`` on, at least one if there is any; [] when none came within ``wait_seconds``.

        ``position`` 0 means the oldest that is kept. ``bytes_max`` may be exceeded by the first message only.

        Raises:
            Corrupt: the log does not reach as far as to ``position``, or does not hold it any more and may have lost it
                unread.
            Invalid: no such topic or partition.
            Retry: the partition cannot be read now.
        """
        ...

    async def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the next message will have: lag is this minus the position."""
        ...

    async def close(self) -> None:
        """Let go of all resources (rule 6)."""
        ...
