"""The Kafka adapter of the Log port: topics and transactions of a Kafka cluster (distributed profile).

Who does what: `kafka_settings` names and limits · `kafka_client` one shared connection, errors, times ·
`kafka_patience` when a broker that is away is tried again · `kafka_topics` the log's id, topics, their making and
checking · `kafka_reader` polls · `kafka_members` shares partitions out · `kafka_writer` and `kafka_producer` publishes.

Rules beyond those of the modules:

1. Making a log needs no broker: the first call connects. So a collector takes requests while its Kafka is away.
2. Positions are committed offsets, which brokers forget after ``offsets.retention.minutes`` without a commit, and a
   forgotten position would read as None, "from the beginning". So `kafka_topics` refuses a broker that forgets early.
3. aiokafka is imported here and in the modules above only, and these only where a log of Kafka is opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catchment.errors import Retry
from catchment.log.kafka_client import Client
from catchment.log.kafka_members import KafkaMembership
from catchment.log.kafka_reader import Reader
from catchment.log.kafka_settings import KafkaSettings, client_arguments
from catchment.log.kafka_topics import Topics
from catchment.log.kafka_writer import KafkaWriter
from catchment.log.port import Message, Source


@dataclass(frozen=True)
class TopicState:
    """A topic for people: its configuration is {} where we may not see it."""

    name: str
    topic_id: str
    partitions: int
    configs: Mapping[str, str]


class KafkaLog:
    """A `catchment.log.port.Log` in a Kafka cluster.

    ``may_create``: whether a log that does not exist is born; see `kafka_topics`, rules 1 and 3.
    """

    def __init__(self, settings: KafkaSettings, *, may_create: bool = True) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._topics = Topics(self._client, may_create=may_create)
        self._reader = Reader(self._client, self._topics)
        self._writers: set[KafkaWriter] = set()

    @classmethod
    async def open(cls, settings: KafkaSettings, *, may_create: bool = True) -> KafkaLog:
        """Make one and find the log.

        Raises:
            Retry: no broker answers, or does not allow it.
            Invalid: a file of ``tls`` cannot be used, or the log does not exist and must not be created.
        """
        log = cls(settings, may_create=may_create)
        try:
            await log.find()
        except BaseException:
            await log.close()
            raise
        return log

    async def find(self) -> str:
        """The log's id, once a broker has answered."""
        return await self._topics.open()

    @property
    def log_id(self) -> str:
        """The id that this log was born with; raises `Retry` before any call has reached a broker."""
        if not self._topics.log_id:
            raise Retry("no broker has answered yet", brokers=",".join(self._settings.brokers))
        return self._topics.log_id

    async def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Create the topics that do not exist yet; raises `Invalid` if an existing one takes too small messages."""
        await self._topics.create(partitions)

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has; raises `Invalid` if it does not exist."""
        return (await self._topics.get(topic)).partitions

    async def writer(self, source: Source) -> KafkaWriter:
        """Become the one writer of a source; its predecessor is fenced from here on."""
        arguments = await asyncio.to_thread(client_arguments, self._settings)
        writer = await KafkaWriter.start(self._client, self._topics, arguments, source, self._reader.exists)
        self._writers = {one for one in self._writers if not one.is_closed} | {writer}
        return writer

    async def join(self, group: str, topics: Sequence[str]) -> KafkaMembership:
        """Share the partitions of some topics with the other members of a group."""
        for topic in topics:
            await self._topics.get(topic)
        return await KafkaMembership.join(
            self._settings, self._settings.members_group(group), topics, self._client.patience
        )

    async def poll(
        self, topic: str, partition: int, position: int, *, messages_max: int, bytes_max: int, wait_seconds: float
    ) -> list[Message]:
        """Messages from ``position`` on; raises `Corrupt` if the log does not hold that position any more."""
        return await self._reader.poll(
            topic,
            partition,
            position,
            messages_max=messages_max,
            bytes_max=bytes_max,
            wait_seconds=wait_seconds,
        )

    async def end_offset(self, topic: str, partition: int) -> int:
        """The last stable offset, without markers that follow the last message where that is known."""
        return await self._reader.end_offset(topic, partition)

    async def describe(self) -> list[TopicState]:
        """Every topic of the log."""
        await self.find()
        topics = await self._topics.of_prefix()
        configs = await self._topics.configs([topic.name for topic in topics])
        return [
            TopicState(topic.name, topic.topic_id, topic.partitions, configs.get(topic.name, {})) for topic in topics
        ]

    async def faults(self) -> list[str]:
        """What is wrong with the topics of the log and with the brokers, a line each."""
        names = [topic.name for topic in await self._topics.of_prefix()]
        return [*await self._topics.faults(names), *await self._topics.broker_faults()]

    async def close(self) -> None:
        """Close the writers that are left, and all connections."""
        writers, self._writers = self._writers, set()
        await asyncio.gather(*(writer.close() for writer in writers))
        await self._client.close()
