"""The loader: from the global log into the tables, each message exactly once. The shell around `store.plan`.

Rules:

1. One task per partition; a partition's messages go one at a time, in order, so that its ledger holds one open intent.
   A partition that is added to a topic is taken up within ``look_seconds``.
2. Per message: judge → (intent → insert → done). The ledger alone says where to go on; the log's own position only says
   what it need not keep, so it may follow late and is published once per batch. A folder that is new, or an older copy
   of itself, therefore loads again what it lacks.
3. A message that cannot be read, or that the engine refuses for what it is, is quarantined by name: its bytes in a
   file, its coordinates and reason in the ledger, and a row in `pipeline_drops`. Then the partition goes on.
4. A message newer than this process is *held*: the partition waits for an upgrade, `ready` is false, nothing is lost.
5. Passing trouble (memory, time, disk, broker) is tried again for ever, with backoff, with the same token; `status`
   says why. An intent whose token may be forgotten *halts* its partition: only a person can tell whether it was loaded
   (`store.operations`). So does a position that the log does not hold any more, or a topic that it refuses: that
   partition is looked at again every ``halt_seconds``, and the others go on.
6. Fenced by a younger loader, a partition is left at once.

Limits, however much waits: ``poll_bytes_max`` bytes of messages in memory, shared by the partitions, but one message
for each if there is any; ``poll_messages_max`` messages per partition; ``inserts_max`` inserts at once. Decoded are
those of one partition more, and one of each ahead, while its predecessor is inserted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from catchment.crash import crash_point
from catchment.errors import CatchmentError, Corrupt, Fenced, Invalid, Retry
from catchment.log.port import Log, Message, Source, Writer
from store.engine.port import Engine, EngineError
from store.ledger import Ledger
from store.plan import Insert
from store.position import Position
from store.settle import Halted, Held, Settler, prepare

HOP = "load"
_BACKOFF_SECONDS = (0.1, 5.0)


class State(Enum):
    """How a partition is doing."""

    RUNNING = "running"
    RETRYING = "retrying"
    HELD = "held"
    HALTED = "halted"
    FENCED = "fenced"


@dataclass(frozen=True)
class PartitionStatus:
    """What there is to say of a partition: next offset to load, messages behind the log's end, and why it waits."""

    topic: str
    partition: int
    state: State
    position: int
    lag: int
    reason: str


@dataclass(frozen=True)
class LoaderLimits:
    """Limits of a loader (see the module)."""

    poll_messages_max: int = 16
    poll_bytes_max: int = 64 << 20
    poll_wait_seconds: float = 0.5
    halt_seconds: float = 10.0
    look_seconds: float = 30.0
    inserts_max: int = 2


class Loader:
    """Loads topics into the engine.

    Args:
        log: the global log.
        engine: a migrated engine.
        ledger: the store's ledger.
        topics: topics whose messages are envelopes of global tables.
        quarantine_folder: for the bytes of what cannot be loaded.
        clock: now in ns, UTC; only for naming when something was quarantined.
    """

    def __init__(
        self,
        log: Log,
        engine: Engine,
        ledger: Ledger,
        topics: Sequence[str],
        *,
        quarantine_folder: Path,
        limits: LoaderLimits | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._log = log
        self._topics = tuple(topics)
        self._limits = limits or LoaderLimits()
        self._settler = Settler(engine, ledger, quarantine_folder, clock)
        self._ledger = ledger
        self._partitions: list[_Partition] = []
        self._inserts = asyncio.Semaphore(self._limits.inserts_max)
        # One more than inserts: it decodes meanwhile.
        self._decoded = asyncio.Semaphore(self._limits.inserts_max + 1)
        self._executor = ThreadPoolExecutor(2 * self._limits.inserts_max, thread_name_prefix="load")

    async def run(self, stop: asyncio.Event) -> None:
        """Load until ``stop`` is set; an insert under way is finished and its position published.

        Raises:
            Retry: a migration runs.
            Invalid: a topic does not exist.
            Bug: an invariant does not hold.
        """
        with self._ledger.shared():
            await self._open()
            try:
                async with asyncio.TaskGroup() as tasks:
                    running = {tasks.create_task(partition.run(stop)) for partition in self._partitions}
                    while running:
                        _, running = await asyncio.wait(running, timeout=self._limits.look_seconds)
                        if running and not stop.is_set():
                            running |= {tasks.create_task(partition.run(stop)) for partition in await self._added()}
            finally:
                await self._close()

    async def drain_once(self) -> int:
        """Load everything that is in the log now and return how many messages were taken (loaded or quarantined).

        Stops short at a held or halted message. Raises what `run` raises, and at the first trouble what would halt
        a partition there or passes.
        """
        with self._ledger.shared():
            await self._open()
            try:
                return sum([await partition.drain() for partition in self._partitions])
            finally:
                await self._close()

    def status(self) -> list[PartitionStatus]:
        """Every partition's status, as of its last step."""
        return [partition.status() for partition in self._partitions]

    @property
    def ready(self) -> bool:
        """Whether every partition is loading: none held, halted, fenced or in trouble."""
        return bool(self._partitions) and all(status.state is State.RUNNING for status in self.status())

    def close(self) -> None:
        """Let the threads go, after their last insert. May be called twice."""
        self._executor.shutdown(wait=True)

    async def _open(self) -> None:
        self._partitions = [
            self._partition(topic, number)
            for topic in self._topics
            for number in range(await self._log.partitions(topic))
        ]

    async def _added(self) -> list[_Partition]:
        """Partitions that were added to topics since."""
        known = {(status.topic, status.partition) for status in self.status()}
        added = []
        for topic in self._topics:
            # What is wrong with the log the partitions say themselves.
            with contextlib.suppress(Retry, Corrupt, Invalid):
                numbers = range(await self._log.partitions(topic))
                added += [self._partition(topic, number) for number in numbers if (topic, number) not in known]
        self._partitions += added
        return added

    def _partition(self, topic: str, number: int) -> _Partition:
        return _Partition(
            *(self._log, self._settler, self._ledger, topic, number, self._limits, self._share),
            *(self._executor, self._inserts, self._decoded),
        )

    def _share(self) -> int:
        """The bytes that a partition may poll."""
        return max(1, self._limits.poll_bytes_max // max(1, len(self._partitions)))

    async def _close(self) -> None:
        for partition in self._partitions:
            await partition.close()


class _Partition:
    """One partition: its writer, its position and how it is doing."""

    def __init__(
        self,
        log: Log,
        settler: Settler,
        ledger: Ledger,
        topic: str,
        number: int,
        limits: LoaderLimits,
        share: Callable[[], int],
        executor: ThreadPoolExecutor,
        inserts: asyncio.Semaphore,
        decoded: asyncio.Semaphore,
    ) -> None:
        self._log, self._settler, self._ledger = log, settler, ledger
        self._topic, self._number, self._limits = topic, number, limits
        self._share = share
        self._executor, self._inserts, self._decoded = executor, inserts, decoded
        self._writer: Writer | None = None
        self._position = 0
        self._published = 0
        self._lag = 0
        self._state, self._reason = State.RUNNING, ""

    async def run(self, stop: asyncio.Event) -> None:
        """Load until ``stop`` is set, or a younger loader takes the partition."""
        delay, delay_max = _BACKOFF_SECONDS
        while not stop.is_set():
            try:
                await self._step(self._limits.poll_wait_seconds, stop)
                delay = _BACKOFF_SECONDS[0]
                if self._state in (State.HELD, State.HALTED):
                    await _wait(stop, self._limits.halt_seconds)
            except Fenced as error:
                # Rule 6. The younger loader goes on where the ledger and the log say.
                self._state, self._reason = State.FENCED, str(error)
                return
            except (Corrupt, Invalid) as error:
                # Begun anew the next time, from where the ledger says then: somebody may have decided.
                self._state, self._reason = State.HALTED, str(error)
                await self.close()
                await _wait(stop, self._limits.halt_seconds)
            except (Retry, EngineError) as error:
                self._state, self._reason = State.RETRYING, str(error)
                await self.close()
                await _wait(stop, delay * random.uniform(0.5, 1.0))  # noqa: S311 # jitter
                delay = min(2 * delay, delay_max)

    async def drain(self) -> int:
        """Take what is there now; returns the number of messages."""
        taken = 0
        never = asyncio.Event()
        while count := await self._step(0.0, never):
            taken += count
        return taken

    def status(self) -> PartitionStatus:
        """How it is doing."""
        return PartitionStatus(self._topic, self._number, self._state, self._position, self._lag, self._reason)

    async def close(self) -> None:
        """Let go of the writer."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def _step(self, wait_seconds: float, stop: asyncio.Event) -> int:
        """Poll once and load what came; returns the number of messages that were taken."""
        writer = self._writer or await self._become_writer()
        messages = await self._log.poll(
            self._topic,
            self._number,
            self._position,
            messages_max=self._limits.poll_messages_max,
            bytes_max=self._share(),
            wait_seconds=wait_seconds,
        )
        before = self._position
        taken = 0
        try:
            taken = await self._load(messages, stop)
            self._state, self._reason = State.RUNNING, ""
        except Held as held:
            self._state, self._reason = State.HELD, str(held)
        except Halted as halted:
            self._state, self._reason = State.HALTED, str(halted)
        finally:
            self._lag = max(0, await self._log.end_offset(self._topic, self._number) - self._position)
        if self._position > self._published:
            await writer.publish([], consumed=self._position)
            crash_point("load.published")
            self._published = self._position
        return taken or int(self._position > before)

    async def _become_writer(self) -> Writer:
        self._writer = await self._log.writer(Source(HOP, self._topic, self._number))
        self._published = await self._writer.committed() or 0
        self._position = self._ledger.next_offset(self._log.log_id, self._topic, self._number)
        return self._writer

    async def _load(self, messages: Sequence[Message], stop: asyncio.Event) -> int:
        """Load in order, preparing each message while the one before it is inserted."""
        if not messages:
            return 0
        loop = asyncio.get_running_loop()
        taken = 0
        async with self._decoded:
            ahead: Future[Insert | CatchmentError] | None = self._prepare(messages[0])
            for index, message in enumerate(messages):
                if stop.is_set() or ahead is None:
                    break
                prepared = await asyncio.wrap_future(ahead)
                ahead = self._prepare(messages[index + 1]) if index + 1 < len(messages) else None
                position = self._name(message)
                async with self._inserts:
                    await loop.run_in_executor(self._executor, self._settler.settle, position, message.value, prepared)
                self._position = message.offset + 1
                taken += 1
        return taken

    def _prepare(self, message: Message) -> Future[Insert | CatchmentError]:
        return self._executor.submit(prepare, message.value, self._name(message).token)

    def _name(self, message: Message) -> Position:
        return Position(self._log.log_id, message.topic, message.partition, message.offset)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        pass
