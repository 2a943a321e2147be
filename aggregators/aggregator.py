"""The aggregator: reads a region's topics, rolls up, publishes with its position. Stateless.

Rules:

1. The unit of work is one input partition: one task, one writer, one position. What a linger collects is one publish:
   roll-ups, dead letters, drops and the new position, all or nothing. The aggregators of a region share its partitions
   out among themselves (`Log.join`); one that goes away is taken over by the others.
2. After a `Retry` the outcome is unknown: the writer is closed, and after a backoff a new one reads where we are.
3. After `Fenced` the partition belongs to somebody else and is left, until an assignment names it again.
4. A message that is `Invalid` is dead-lettered and counted. One that is `TooNew` stops its partition there: it is held
   (`PartitionStatus.state` is ``held``: not ready, alert) until a newer program reads it. What came before it goes out.
5. A partition whose log is `Corrupt` (its position was deleted before it was read) or refuses it (`Invalid`) is
   ``halted``: not ready, alert, the others go on. It is looked at again every ``halt_seconds``.
6. A `Bug` ends the process loudly: nothing that does not add up is published.
7. Memory, however much waits: per partition at most ``batch_bytes_max`` of encoded input, plus one message; decoded
   and merged are the batches of ``rollups_max`` partitions at once, each some 15 times its encoded size.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aggregators.dead_letters import bury, dropped
from aggregators.destinations import Destination, to_globe
from aggregators.rollup import ROWS_MAX, encode_bounded, roll_up
from catchment.columns import EDGE_LANES, dead_letter_topic, regional_topic
from catchment.crash import crash_point
from catchment.envelope import CONTENT_TYPE, Envelope, decode
from catchment.errors import Bug, Corrupt, Fenced, Invalid, Retry, TooNew
from catchment.log.port import Assignment, Log, Membership, Message, OutMessage, Source, Writer
from catchment.reach import Reach

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.5  # how long a stop may go unnoticed by a poll that waits


@dataclass(frozen=True)
class AggregatorConfig:
    """One aggregator.

    ``place``: a region or a zone: whose log is read. Names the positions (hop ``rollup-<place>``) and the dead letters.
    ``destinations``: who gets the roll-ups; the globe unless given. All that one publish brings goes to all of them.
    ``region``: of drops that are counted here; the place unless given.
    ``partitions``: of topics that do not exist yet.
    ``linger_seconds``: how long a first message waits for more; longer means larger and fewer global messages.
    ``batch_bytes_max``: encoded input of one roll-up (8 MiB is about 150,000 rows).
    ``rollups_max``: partitions rolled up at once; more takes more memory, and more processors hardly help one process.
    ``message_bytes_max``: an output over it is split; must be within the log's own limit.
    ``retry_seconds_max``: the longest backoff.
    ``halt_seconds``: how often a halted partition is looked at again: somebody may have mended its log.
    ``drain_seconds``: how long a stop may go on rolling up what is there.
    """

    place: str
    prefix: str = "catchment"
    destinations: tuple[Destination, ...] = ()
    region: str = ""
    partitions: int = 1
    linger_seconds: float = 1.0
    batch_bytes_max: int = 8 << 20
    batch_messages_max: int = 10_000
    rollups_max: int = 2
    rows_max: int = ROWS_MAX
    message_bytes_max: int = 32 << 20
    retry_seconds_max: float = 5.0
    halt_seconds: float = 10.0
    drain_seconds: float = 10.0

    @property
    def input_topics(self) -> Mapping[str, str]:
        """Lane → topic read."""
        return {lane: regional_topic(self.prefix, self.place, lane) for lane in EDGE_LANES}

    @property
    def outputs(self) -> tuple[Destination, ...]:
        """The destinations in force."""
        return self.destinations or (to_globe(self.prefix),)

    @property
    def lanes(self) -> frozenset[str]:
        """The tables that some destination takes."""
        return frozenset(lane for output in self.outputs for lane in output.topics)

    @property
    def reach(self) -> Reach:
        """Cluster rows that do not get so far go nowhere from here."""
        return next(reach for reach in Reach if any(output.reach is reach for output in self.outputs))

    @property
    def dead_letters(self) -> str:
        """The topic of what cannot be read."""
        return dead_letter_topic(self.prefix, self.place)

    @property
    def topics(self) -> dict[str, int]:
        """Every topic that is needed, with its partitions if it has to be created."""
        names = [*self.input_topics.values(), *(topic for to in self.outputs for topic in to.topics.values())]
        return {**dict.fromkeys(names, self.partitions), self.dead_letters: 1}


@dataclass
class PartitionStatus:
    """Where one input partition is.

    ``state`` is starting, running, retrying, held, halted, fenced or stopped; ``reason`` says why where it waits.
    """

    topic: str
    lane: str
    partition: int
    state: str = "starting"
    reason: str = ""
    position: int = 0
    end_offset: int = 0
    messages_in: int = 0
    messages_out: int = 0
    rows_in: int = 0
    rows_out: int = 0
    dead_letters: int = 0

    @property
    def lag(self) -> int:
        """Messages not yet rolled up, as of the last look."""
        return max(self.end_offset - self.position, 0)


@dataclass(frozen=True)
class _Batch:
    """What one publish brings, up to and without ``held``."""

    messages: list[OutMessage]
    position: int
    rows_in: int
    rows_out: int
    dead_letters: int
    held: TooNew | None


class Aggregator:
    """Runs every input partition of one config on one log. ``trouble``: why it could not join yet, the last time."""

    def __init__(self, log: Log, config: AggregatorConfig) -> None:
        self._log = log
        self._config = config
        self._status: dict[tuple[str, int], PartitionStatus] = {}
        self._joined = False
        self._executor = ThreadPoolExecutor(config.rollups_max, "rollup")
        self.trouble = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then drain, leave the group and return.

        Raises:
            Bug: something does not add up; nothing of it was published.
        """
        members = await self._join(stop)
        running: dict[tuple[str, int], asyncio.Task[None]] = {}
        assigning = asyncio.create_task(members.changed())
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await asyncio.wait([stopping, assigning, *running.values()], return_when=asyncio.FIRST_COMPLETED)
                self._forget_ended(running, members)
                if assigning.done():
                    await self._take(assigning.result(), running, stop)
                    assigning = asyncio.create_task(members.changed())
            if not self._joined:
                with contextlib.suppress(TimeoutError):
                    await self._take(await asyncio.wait_for(assigning, self._config.drain_seconds), running, stop)
            while running:
                await asyncio.wait(running.values(), return_when=asyncio.FIRST_COMPLETED)
                self._forget_ended(running, members)
        finally:
            tasks = [stopping, assigning, *running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._executor.shutdown(wait=False)
            await members.close()

    @property
    def _hop(self) -> str:
        """What this aggregator's positions are kept under, and its group."""
        return f"rollup-{self._config.place}"

    async def _take(
        self, assigned: Assignment, running: dict[tuple[str, int], asyncio.Task[None]], stop: asyncio.Event
    ) -> None:
        """Let go of what is another member's now, and take up what is ours."""
        left = {key: running.pop(key) for key in [*running] if key not in assigned}
        for task in left.values():
            task.cancel()  # what was under way may still be published: whoever takes over waits for it
        await asyncio.gather(*left.values(), return_exceptions=True)
        self._status = {key: status for key, status in self._status.items() if key in assigned}
        lanes = {topic: lane for lane, topic in self._config.input_topics.items()}
        for topic, partition in sorted(assigned - running.keys()):
            status = self._status[topic, partition] = PartitionStatus(topic, lanes[topic], partition)
            running[topic, partition] = asyncio.create_task(self._run_partition(status, stop))
        self._joined = True

    def _forget_ended(self, running: dict[tuple[str, int], asyncio.Task[None]], members: Membership) -> None:
        """Partitions that ended by themselves; what one of them raised ends all."""
        for key in [key for key, task in running.items() if task.done()]:
            running.pop(key).result()
            if self._status[key].state == "fenced":
                members.fenced(*key)

    def status(self) -> list[PartitionStatus]:
        """Every partition, by topic and partition."""
        return [self._status[key] for key in sorted(self._status)]

    def ready(self) -> bool:
        """Whether it has a place in the group and every partition runs, which none does that waits, whatever for."""
        return self._joined and all(status.state == "running" for status in self._status.values())

    @property
    def joined(self) -> bool:
        """Whether it knows which partitions are its own; these may be none where others have them all."""
        return self._joined

    async def _join(self, stop: asyncio.Event) -> Membership:
        for attempt in itertools.count():
            try:
                await self._log.create_topics(self._config.topics)
                return await self._log.join(self._hop, sorted(self._config.input_topics.values()))
            except Retry as error:
                self.trouble = f"the log does not answer: {error}"
                _log.warning("cannot create topics and join yet: %s", error)
                if await self._pause(attempt, stop):
                    raise
        raise AssertionError("counting ends")

    async def _run_partition(self, status: PartitionStatus, stop: asyncio.Event) -> None:
        attempt = 0
        while status.state not in ("stopped", "held", "fenced"):
            before = status.position
            try:
                await self._work(status, stop)
            except (Retry, OSError, TimeoutError) as error:
                attempt = 0 if status.position > before else attempt + 1
                status.state, status.reason = "retrying", str(error)
                _log.warning("%s/%d: starting over: %s", status.topic, status.partition, error)
                if await self._pause(attempt, stop):
                    return
            except (Corrupt, Invalid) as error:
                if status.state != "halted":
                    _log.error("%s/%d: halted: %s", status.topic, status.partition, error)
                status.state, status.reason = "halted", str(error)
                if await _stopped(stop, self._config.halt_seconds):
                    return
            except Fenced as error:
                status.state, status.reason = "fenced", str(error)
                _log.warning("%s/%d: taken over: %s", status.topic, status.partition, error)
        if status.state == "held":
            await stop.wait()

    async def _work(self, status: PartitionStatus, stop: asyncio.Event) -> None:
        """Roll up until stopped or held, with one writer."""
        source = Source(self._hop, status.topic, status.partition)
        writer = await self._log.writer(source)
        try:
            status.position = await writer.committed() or 0
            if status.state != "halted":
                status.state, status.reason = "running", ""
            drain_until = float("inf")
            while time.monotonic() < drain_until:
                if stop.is_set() and drain_until == float("inf"):
                    drain_until = time.monotonic() + self._config.drain_seconds
                messages = await self._collect(status, stop)
                status.state, status.reason = "running", ""
                status.end_offset = await self._log.end_offset(status.topic, status.partition)
                if status.position > status.end_offset:
                    raise Bug(
                        f"position {status.position} is ahead of the log's end {status.end_offset}",
                        topic=status.topic,
                        partition=status.partition,
                    )
                if messages:
                    crash_point("rollup.polled")
                    now_ns = time.time_ns()
                    batch = await asyncio.get_running_loop().run_in_executor(
                        self._executor, self._roll_up, status.lane, messages, now_ns
                    )
                    await self._publish(writer, status, batch)
                    messages.clear()  # what is published need not wait in memory for what comes next
                    if batch.held is not None:
                        status.state, status.reason = "held", str(batch.held)
                        _log.error("%s/%d: held: %s", status.topic, status.partition, batch.held)
                        return
                    del batch
                elif stop.is_set():
                    break
            status.state = "stopped"
        finally:
            await writer.close()

    async def _collect(self, status: PartitionStatus, stop: asyncio.Event) -> list[Message]:
        """What a linger, the byte limit or a stop lets through."""
        config = self._config
        messages: list[Message] = []
        size, position, deadline = 0, status.position, 0.0
        while size < config.batch_bytes_max and len(messages) < config.batch_messages_max:
            wait = _IDLE_SECONDS if not messages else min(deadline - time.monotonic(), _IDLE_SECONDS)
            found = await self._log.poll(
                status.topic,
                status.partition,
                position,
                messages_max=config.batch_messages_max - len(messages),
                bytes_max=config.batch_bytes_max - size,
                wait_seconds=0.0 if stop.is_set() else max(wait, 0.0),
            )
            if found and not messages:
                deadline = time.monotonic() + config.linger_seconds
            messages += found
            size += sum(len(message.value) for message in found)
            position = messages[-1].offset + 1 if messages else position
            if not found and (stop.is_set() or not messages or time.monotonic() >= deadline):
                break
            if stop.is_set() and messages:
                break
        return messages

    def _roll_up(self, lane: str, messages: list[Message], now_ns: int) -> _Batch:
        """The CPU work of one publish; runs in a thread."""
        config = self._config
        first = messages[0]
        producer = f"{self._log.log_id}/{first.topic}/{first.partition}"
        envelopes: list[Envelope] = []
        letters: list[OutMessage] = []
        position, held = first.offset, None
        for message in messages:
            try:
                envelopes.append(decode(message.value))
            except Invalid as error:
                _log.error("dead letter: %s/%d@%d: %s", message.topic, message.partition, message.offset, error)
                topic = config.dead_letters
                letters.append(bury(message, error, log_id=self._log.log_id, topic=topic, now_ns=now_ns))
                region = config.region or config.place
                envelopes.append(dropped(message, lane=lane, region=region, producer=producer, now_ns=now_ns))
            except TooNew as error:
                held = error
                break
            position = message.offset + 1
        rolled = roll_up(
            envelopes,
            producer=producer,
            sequence=position,
            lanes=config.lanes,
            reach=config.reach,
            rows_max=config.rows_max,
        )
        encoded = [pair for output in rolled for pair in encode_bounded(output, config.message_bytes_max)]
        return _Batch(
            messages=[*(each for envelope, data in encoded for each in self._messages(envelope, data)), *letters],
            position=position,
            rows_in=sum(envelope.rows.num_rows for envelope in envelopes),
            rows_out=sum(envelope.rows.num_rows for envelope, _ in encoded),
            dead_letters=len(letters),
            held=held,
        )

    def _messages(self, envelope: Envelope, data: bytes) -> list[OutMessage]:
        """The envelope as a message to each destination that takes it."""
        header = envelope.header
        headers = {
            "content-type": CONTENT_TYPE,
            "lane": header.lane,
            "version": str(header.version),
            "producer": header.producer,
            "sequence": str(header.sequence),
        }
        topics = [topic for to in self._config.outputs if (topic := to.topic_of(header)) is not None]
        return [OutMessage(topic, f"{header.tenant}/{self._config.place}", data, headers) for topic in topics]

    async def _publish(self, writer: Writer, status: PartitionStatus, batch: _Batch) -> None:
        if batch.position == status.position and not batch.messages:
            return
        crash_point("rollup.merged")
        await writer.publish(batch.messages, batch.position)
        crash_point("rollup.published")
        status.messages_in += batch.position - status.position
        status.position = batch.position
        status.messages_out += len(batch.messages)
        status.rows_in += batch.rows_in
        status.rows_out += batch.rows_out
        status.dead_letters += batch.dead_letters

    async def _pause(self, attempt: int, stop: asyncio.Event) -> bool:
        """Back off, with jitter so that partitions do not come back together; True when stopped meanwhile."""
        seconds = min(0.05 * 2 ** min(attempt, 10), self._config.retry_seconds_max) * random.uniform(0.5, 1.0)  # noqa: S311
        return await _stopped(stop, seconds)


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait; True when stopped meanwhile."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
