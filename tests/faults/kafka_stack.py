"""The pipeline on Kafka: a collector, two aggregators that share their region's partitions, and a store."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aiokafka.protocol.offset import OffsetRequest

from catchment.log.kafka_client import Client, check
from catchment.log.kafka_reader import Reader
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.kafka_topics import Topics
from catchment.log.port import Source
from tests.faults.stack import ROLES, SECOND_AGGREGATOR, Stack

T = TypeVar("T")

KAFKA_ROLES = (*ROLES, SECOND_AGGREGATOR)
AGGREGATORS = ("aggregator", SECOND_AGGREGATOR)
PARTITIONS = 3
# Short, so that a test can wait for what happens after them.
SESSION_SECONDS = 3
TRANSACTION_SECONDS = 4

_UNCOMMITTED, _COMMITTED = 0, 1
_LATEST = -1


@dataclass(frozen=True)
class _View:
    """A look into the log."""

    client: Client
    topics: Topics
    reader: Reader

    async def committed(self, source: Source) -> int:
        """A source's position."""
        settings = self.client.settings
        found = await self.client.committed(settings.name_of(source), *settings.place_of(source))
        return found[0] if found else 0

    async def end(self, topic: str, partition: int, isolation: int) -> int:
        """The offset behind everything, or behind what has been committed."""

        async def work(client: Any) -> int:
            node = await self.topics.leader(topic, partition)
            request = OffsetRequest(-1, isolation, [(topic, [(partition, _LATEST)])])
            ((_, code, *rest),) = (await client.send(node, request)).topics[0][1]
            check(code)
            return int(rest[1])

        return await self.client.run("the end cannot be read", work)

    async def reached(self, source: Source) -> int:
        """The offset before which a source's reader has nothing left to read: behind its position may be markers."""
        position = await self.committed(source)
        place = (source.topic, source.partition)
        end = await self.end(*place, _COMMITTED)
        found = await self.reader.poll(*place, position, messages_max=1, bytes_max=1, wait_seconds=0.0)
        return found[0].offset if found else end


class KafkaStack(Stack):
    """A `Stack` whose log is on a broker.

    Args:
        folder: for data, configuration and what the processes say.
        address: of the broker.
        tenants: the tenants file.
    """

    def __init__(self, folder: Path, address: str, tenants: Path) -> None:
        prefix = f"chaos-{uuid.uuid4().hex[:12]}"
        settings = (
            f"kafka: {{brokers: ['{address}'], replication_factor: 1, session_timeout: {SESSION_SECONDS}s, "
            f"transaction_timeout: {TRANSACTION_SECONDS}s}}\n"
            f"log: {{topic_prefix: {prefix}, partitions: {PARTITIONS}}}\ntenants: {tenants}\n"
        )
        super().__init__(folder, settings, prefix)
        self._kafka = KafkaSettings((address,), prefix)

    def config(self, role: str, **changes: str) -> Path:
        """As in a `Stack`, with fewer and larger messages: fifteen global partitions are more than one loader's."""
        return super().config(role, **{"flush": "1s", "aggregator": "{linger: 300ms}", **changes})

    def _position(self, hop: str, topics: Iterable[str]) -> dict[str, int]:
        async def look(view: _View) -> dict[str, int]:
            if hop.startswith("forward-"):
                return {"": await view.committed(Source(f"forward-{self.folder_id()}"))}
            return {place: await view.reached(Source(hop, *_topic_partition(place))) for place in topics}

        return self._look(look)

    def _ends(self, topics: Sequence[str]) -> dict[str, int]:
        async def look(view: _View) -> dict[str, int]:
            places = [(topic, partition) for topic in topics for partition in range(PARTITIONS)]
            return {
                f"{topic}/{partition}": await view.end(topic, partition, _UNCOMMITTED) for topic, partition in places
            }

        return self._look(look)

    def _look(self, work: Callable[[_View], Awaitable[T]]) -> T:
        async def body() -> T:
            client = Client(self._kafka)
            topics = Topics(client, may_create=False)
            try:
                await topics.open()
                return await work(_View(client, topics, Reader(client, topics)))
            finally:
                await client.close()

        return asyncio.run(body())


def _topic_partition(place: str) -> tuple[str, int]:
    topic, _, partition = place.rpartition("/")
    return topic, int(partition)
