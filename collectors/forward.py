"""The forwarder: envelopes from the outbox to the regional log, each exactly once.

One log transaction takes some envelopes and the outbox sequence of the last one; only then they are deleted here. After
a crash in between, the committed position says what the log has already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from catchment.columns import EDGE_LANES, regional_topic
from catchment.crash import crash_point
from catchment.envelope import CONTENT_TYPE
from catchment.errors import Corrupt, Fenced, Invalid, Retry
from catchment.limits import Limits
from catchment.log.port import Log, OutMessage, Source, Writer
from catchment.telemetry import OwnMetric, Telemetry
from collectors.ladder import Ladder
from collectors.state import StateFile
from collectors.state_records import OutboxRow

log = logging.getLogger(__name__)

_BACKOFF_SECONDS_MAX = 5.0
_IDLE_SECONDS = 1.0


class Forwarder:
    """Forwards one outbox.

    Args:
        state: a connection of the forwarder's own.
        ladder: told of what the log has.
        messages: the log.
        folder_id: of the collector's folder: names the source for ever.
        place, prefix: of the topics: the zone that the collector stands in, or its region.
        partitions: of topics that are not there yet.
    """

    def __init__(
        self,
        state: StateFile,
        ladder: Ladder,
        messages: Log,
        *,
        folder_id: str,
        place: str,
        prefix: str,
        partitions: int,
        limits: Limits,
        telemetry: Telemetry,
    ) -> None:
        self._state = state
        self._ladder = ladder
        self._log = messages
        self._source = Source(f"forward-{folder_id}")
        self._place = place
        self._prefix = prefix
        self._partitions = partitions
        self._limits = limits
        self._telemetry = telemetry
        self._flushed = asyncio.Event()
        self._failures = 0
        self.trouble = ""

    def flushed(self) -> None:
        """Say that the outbox has something new."""
        self._flushed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Forward until ``stop`` is set and the outbox is empty, or what is left cannot be sent just then.

        A log that does not answer is asked again and again; senders are served meanwhile, and the outbox fills.

        Raises:
            Corrupt: the log says that more was forwarded than this outbox ever held.
            Fenced: another process forwards this folder.
        """
        if not await self._topics_are_there(stop):
            return
        while True:
            writer: Writer | None = None
            try:
                writer = await self._log.writer(self._source)
                position = await self._start(writer)
                await self._forward(writer, position, stop)
                return
            except Fenced as error:
                raise Fenced("another process forwards this folder", source=self._source.hop) from error
            except (Retry, Invalid) as error:
                self.trouble = f"forwarding fails: {error}"
                backoff_seconds = min(0.1 * 2 ** min(self._failures, 16), _BACKOFF_SECONDS_MAX)
                self._failures += 1
                log.warning(
                    "forwarding fails, trying again", extra={"error": str(error), "in_seconds": backoff_seconds}
                )
                self._telemetry.count(OwnMetric.PUBLISH_RETRIES, 1, "forward")
            finally:
                if writer is not None:
                    await writer.close()
            if stop.is_set():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), backoff_seconds * random.uniform(0.5, 1.0))  # noqa: S311 # jitter

    async def _topics_are_there(self, stop: asyncio.Event) -> bool:
        topics = [regional_topic(self._prefix, self._place, lane) for lane in EDGE_LANES]
        while True:
            try:
                await self._log.create_topics(dict.fromkeys(topics, self._partitions))
                self.trouble = ""
                return True
            except Retry as error:
                self.trouble = f"the log does not answer: {error}"
                log.warning(self.trouble)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1)
            if stop.is_set():
                return False

    async def _start(self, writer: Writer) -> int:
        """The position to go on from: what the log has, which is never more than the outbox ever held."""
        position = await writer.committed() or 0
        last = await asyncio.to_thread(self._state.outbox_last)
        if position > last:
            raise Corrupt(
                f"the log has {position} of this folder's envelopes, but its outbox only ever held {last}: "
                "was the folder restored from a copy?",
                source=self._source.hop,
            )
        await asyncio.to_thread(self._ladder.resume, self._state, position)
        return position

    async def _forward(self, writer: Writer, position: int, stop: asyncio.Event) -> None:
        while True:
            self._flushed.clear()
            rows = await asyncio.to_thread(
                self._state.hand_over,
                position,
                messages_max=self._limits.publish_messages_max,
                bytes_max=self._limits.publish_bytes_max,
            )
            if not rows:
                self._works()
                if stop.is_set():
                    return
                await self._wait(stop)
                continue
            crash_point("forward.read")
            await writer.publish([self._message(row) for row in rows], rows[-1].sequence)
            crash_point("forward.published")
            position = rows[-1].sequence
            self._works()
            await asyncio.to_thread(self._ladder.trim, self._state, rows)
            crash_point("forward.trimmed")
            self._telemetry.count(OwnMetric.FORWARDED_MESSAGES, len(rows))
            self._telemetry.count(OwnMetric.FORWARDED_BYTES, sum(len(row.value) for row in rows))

    def _works(self) -> None:
        """Nothing waits, or the log took some: not before, since one that is full has writers too."""
        self._failures, self.trouble = 0, ""

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until something was flushed, or it is time to stop."""
        waits = [asyncio.create_task(self._flushed.wait()), asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait(waits, timeout=_IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _message(self, row: OutboxRow) -> OutMessage:
        return OutMessage(
            topic=regional_topic(self._prefix, self._place, row.lane),
            key=row.key,
            value=row.value,
            headers={
                "content-type": CONTENT_TYPE,
                "lane": row.lane,
                "producer": self._source.hop.removeprefix("forward-"),
                "sequence": str(row.sequence),
            },
        )
