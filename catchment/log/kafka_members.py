"""A place in a group of readers: Kafka shares partitions out among the living members of a consumer group.

Rules:

1. The group only says who reads what. Positions are elsewhere, each in the group of its own source (`kafka_writer`);
   moving them needs the source's transactional id, which fences: a member that has not heard of a change yet can
   repeat nothing.
2. The consumer that keeps the place fetches nothing: its partitions are paused before they are used.
3. A member that dies is noticed after ``session_seconds``; one that leaves, at once. Partitions stay where they are as
   far as can be (sticky assignment).
4. A place that is lost for good (the consumer gives up) is taken anew, with a pause, for as long as the process lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from catchment.log.kafka_client import named
from catchment.log.kafka_patience import Patience, patient
from catchment.log.kafka_settings import KafkaSettings, client_arguments
from catchment.log.port import Assignment

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_PAUSE_SECONDS = 1.0
# After this the member that fenced us has heard of the change that gave us the partition.
_DISPUTE_SECONDS = 5.0
# A member is alive while its heartbeats come, however long it has nothing to poll for.
_POLL_INTERVAL_MS_MAX = 2**31 - 1


class KafkaMembership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """A `catchment.log.port.Membership`; make it with `join`."""

    def __init__(self, settings: KafkaSettings, group: str, topics: Sequence[str], patience: Patience) -> None:
        self._settings = settings
        self._patience = patience
        self._group = group
        self._topics = list(topics)
        self._consumer: Any = None
        self._assigned: Assignment = frozenset()
        self._news: asyncio.Queue[Assignment] = asyncio.Queue()
        self._is_closed = False

    @classmethod
    async def join(
        cls, settings: KafkaSettings, group: str, topics: Sequence[str], patience: Patience
    ) -> KafkaMembership:
        """Take a place.

        Raises:
            Retry: no broker answers, or the group does not come to an assignment.
        """
        members = cls(settings, group, topics, patience)
        try:
            await members._start()
        except (KafkaError, OSError, TimeoutError) as error:
            await members.close()
            raise named(error, "cannot join the group", group=group) from error
        return members

    async def changed(self) -> Assignment:
        """The newest assignment, once there is one that was not given yet."""
        while True:
            with suppress(TimeoutError):
                news = await asyncio.wait_for(self._news.get(), _LOOK_SECONDS)
                while not self._news.empty():
                    news = self._news.get_nowait()
                return news
            await self._look()

    def fenced(self, topic: str, partition: int) -> None:
        """Say the assignment anew a little later, if the partition is still ours then."""

        def again() -> None:
            if (topic, partition) in self._assigned:
                self._news.put_nowait(self._assigned)

        asyncio.get_running_loop().call_later(_DISPUTE_SECONDS, again)

    async def close(self) -> None:
        """Leave the group."""
        self._is_closed = True
        await self._stop()

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Work goes on until the next assignment: whoever takes over fences us."""

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Told by the consumer."""
        if assigned and self._consumer is not None:
            self._consumer.pause(*assigned)
        self._assigned = frozenset((place.topic, place.partition) for place in assigned)
        self._news.put_nowait(self._assigned)

    async def _start(self) -> None:
        arguments = await asyncio.to_thread(client_arguments, self._settings)
        self._consumer = AIOKafkaConsumer(
            **arguments,
            client_id="catchment",
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            session_timeout_ms=int(self._settings.session_seconds * 1_000),
            heartbeat_interval_ms=int(self._settings.session_seconds * 1_000 / 4),
            max_poll_interval_ms=_POLL_INTERVAL_MS_MAX,
            # How long a change waits for members that are busy: ours answer at once, or are gone.
            rebalance_timeout_ms=int(self._settings.session_seconds * 1_000),
            # A class of its own: what a member had last is kept in the class, and would be every member's of a process.
            partition_assignment_strategy=(type("Assignor", (StickyPartitionAssignor,), {}),),
        )
        patient(self._consumer._client, self._patience)
        self._consumer.subscribe(self._topics, listener=self)
        async with asyncio.timeout(self._settings.start_seconds):
            await self._consumer.start()

    async def _look(self) -> None:
        """A consumer tells of its end only to whoever asks it for messages."""
        try:
            if self._consumer is None:
                await self._start()
            await self._consumer.getmany(timeout_ms=0)
        except (KafkaError, OSError, TimeoutError) as error:
            _log.warning("the place in group %s is lost, taking a new one: %s", self._group, error)
            await self._stop()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        stopping = asyncio.ensure_future(consumer.stop())
        stopping.add_done_callback(_seen)
        await asyncio.wait([stopping], timeout=self._settings.stop_seconds)
        if not stopping.done():
            stopping.cancel()


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
