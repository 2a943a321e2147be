"""The one writer of a source in a Kafka log.

Rules:

1. A publish is one transaction: its messages and the position, as the committed offset of the source's consumer group.
2. Each source has a transactional id of its own. Kafka fences by transactional id, so one for each process would let a
   paused process publish what its successor has published already.
3. In this order: the producer starts, which fences its predecessor and waits until the transaction of that one has
   ended; only then is the committed position read.
4. What is wrong with a publish of itself (size, topic, partition, position) is found before anything is sent.
5. After any error, timeout or cancellation the outcome is unknown and the producer in no state to go on: the writer is
   spoilt. `Fenced` is said where Kafka says so, unless the publish took longer than it may: then the process stood
   still, the broker may have ended the transaction without any successor, and says the same. That is `Retry`, so that a
   partition never ends up without an owner; if there is a successor after all, it is fenced in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import xxhash
from aiokafka import errors
from aiokafka.errors import KafkaError

from catchment.errors import Bug, CatchmentError, Fenced, Invalid, Retry
from catchment.log.kafka_client import Client, named
from catchment.log.kafka_producer import Producer, Record
from catchment.log.kafka_topics import Topics
from catchment.log.port import OutMessage, Source

_POSITION_MAX = 2**63 - 1


class KafkaWriter:
    """A `catchment.log.port.Writer`; make it with `start`."""

    def __init__(
        self,
        client: Client,
        topics: Topics,
        source: Source,
        producer: Producer,
        written: Callable[[str, int, int], None],
    ) -> None:
        self._client = client
        self._topics = topics
        self._written = written
        self._source = source
        self._producer = producer
        self._group = client.settings.name_of(source)
        self._place = client.settings.place_of(source)
        self._position: int | None = None
        self._is_open = False
        self._spoilt = ""
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        client: Client,
        topics: Topics,
        arguments: dict[str, Any],
        source: Source,
        written: Callable[[str, int, int], None],
    ) -> KafkaWriter:
        """Become the one writer of a source. ``written`` is told topic, partition and end of what was published.

        Raises:
            Retry: no broker answers, or the predecessor's transaction does not come to an end.
            Invalid: the source is a partition that does not exist: its position could not be kept.
        """
        settings = client.settings
        if source.topic:
            # A leader is not asked for: a broker that just came back has none yet, and the producer waits for it.
            await topics.having(source.topic, source.partition)
        else:
            await topics.open()
        try:
            producer = await Producer.start(settings, arguments, settings.name_of(source), client.patience)
        except (KafkaError, OSError, TimeoutError) as error:
            raise named(error, "cannot become the writer", source=source) from error
        writer = cls(client, topics, source, producer, written)
        try:
            # Now, not at the first publish: by then a successor may have moved it, and we are fenced, not mistaken.
            writer._position = await writer.committed()
        except BaseException:
            await writer.close()
            raise
        return writer

    @property
    def source(self) -> Source:
        """What it consumes."""
        return self._source

    @property
    def is_closed(self) -> bool:
        """Whether `close` has let go of everything."""
        return self._closing is not None and self._closing.done()

    async def committed(self) -> int | None:
        """The position last published for this source."""
        found = await self._client.committed(self._group, *self._place)
        return None if found is None else found[0]

    async def publish(self, messages: Sequence[OutMessage], consumed: int) -> None:
        """Append and advance in one transaction.

        Raises:
            Fenced, Retry, Invalid, Bug: see `catchment.log.port.Writer.publish`.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._client.settings.publish_seconds
        if self._spoilt:
            raise Retry(f"this writer is spoilt: {self._spoilt}", source=self._source)
        try:
            records = [await self._record(message) for message in messages]
            self._check(consumed)
            self._is_open = True
            async with asyncio.timeout_at(deadline):
                ends = await self._producer.transact(records, self._group, self._place, consumed)
            self._is_open = False
            for place, end in ends.items():
                self._written(*place, end)
            self._position = consumed
        except (Invalid, Bug):
            raise
        except errors.ProducerFenced as error:
            self._spoilt = "fenced"
            if clock() > deadline:
                raise self._named(error) from error
            raise Fenced("a younger writer owns this source", source=self._source) from error
        except BaseException as error:
            self._spoilt = str(error) or type(error).__name__
            if isinstance(error, KafkaError | OSError | AssertionError | TimeoutError):
                raise self._named(error) from error
            raise

    async def close(self) -> None:
        """Let go of the producer; a transaction that is open is ended first, for its readers' sake."""
        self._spoilt = self._spoilt or "closed"
        if self._closing is None:
            self._closing = asyncio.create_task(self._stop())
        await asyncio.shield(self._closing)

    async def _stop(self) -> None:
        if self._is_open and self._spoilt != "fenced":
            await self._producer.abort()
        await self._producer.stop()

    async def _record(self, message: OutMessage) -> Record:
        partition = message.partition
        if partition is None:
            topic = await self._topics.get(message.topic)
            partition = xxhash.xxh3_64_intdigest(message.key.encode()) % topic.partitions
        else:
            await self._topics.having(message.topic, partition)
        headers = tuple((key, value.encode()) for key, value in message.headers.items())
        record = Record(message.topic, partition, message.key.encode(), message.value, headers)
        limit = self._client.settings.message_bytes_max
        if record.size > limit:
            raise Invalid(
                f"a message of {record.size} bytes is over the limit of {limit}", topic=message.topic, key=message.key
            )
        return record

    def _check(self, consumed: int) -> None:
        if not (self._position or 0) <= consumed <= _POSITION_MAX:
            raise Bug(f"position {consumed} after {self._position}", source=self._source)

    def _named(self, error: BaseException) -> CatchmentError:
        # Invalid is said before anything is sent; a broker that refuses a size later has a topic that was altered.
        what = "whether the publish happened is unknown"
        needs = "Write (and Read of what it consumes)"
        found = named(self._producer.reason(error), what, needs=needs, source=self._source, topic=self._place[0])
        return found if isinstance(found, Retry) else Retry(f"{what}: {error}", source=self._source)
