"""Reading partitions of a Kafka log by position: one fetch request a poll, with no consumer in between.

Rules:

1. A poll is stateless for its caller. It asks the partition's leader for what lies behind ``position``, committed
   messages only, and lets the broker wait until there is some. Nothing is fetched that no poll asked for, so memory is
   bounded by ``bytes_max`` of the polls, and by one batch of a broker where that is larger.
2. A broker answers the requests of a connection one after the other, and a waiting fetch would hold up the others: so
   every poll under way has a connection of its own, which the next poll of that partition uses again. Measured with
   32 partitions of 10 MB, all polled at once in one process: 590 MB/s, 62 MiB at the peak, 2 % of a core when idle. One
   consumer of aiokafka for all: 1,150 MB/s, 101 MiB, 1 %; one for each: 1,500 MB/s, 103 MiB, 3 %. Those read ahead
   whatever the poll's limits are, and move positions by themselves; nothing above here takes 500 MB/s.
3. What a fetch brought beyond the poll's limits is kept for the next one, since batches come whole.
4. Position 0 is the oldest message that is kept. Any other position that the log does not hold is `Corrupt`, with the
   range that it holds: messages were deleted before they were read, or the log lost its end. Never is a position moved.
5. Offsets are not dense: each transaction leaves a marker in every partition it wrote, and aborted messages have
   offsets too. The end offset is the last stable one, before any transaction that is open. Where polls have found
   that only markers lie before it, the end is given as the offset before them: who has read everything has lag 0.
   Further behind, lag counts messages and up to one marker for each transaction. A commit is done before its markers
   are written, and a new leader learns of the end late: the end is never before what this process has read or
   published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import errors
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from catchment.errors import Corrupt
from catchment.log.kafka_client import Client, check
from catchment.log.kafka_topics import Topics
from catchment.log.port import Message

_EARLIEST, _LATEST = -2, -1
_OUT_OF_RANGE = 1
# A cancelled poll leaves its request with the broker for this long at most.
_FETCH_SECONDS_MAX = 2.0
_FETCH_BYTES_MAX = 2**31 - 1  # what the protocol can say


@dataclass
class _Partition:
    """What is kept of a partition between polls.

    ``ahead``: messages that were fetched and not given yet, all there are from ``ahead_from`` on.
    ``empty_from`` to ``empty_to``: offsets between which there are no messages; ``exists_to``: behind the last one that
    is known of (rule 5). ``busy``: the connections on which polls are under way.
    """

    ahead: Sequence[Message] = ()
    ahead_from: int = 0
    empty_from: int = -1
    empty_to: int = -1
    exists_to: int = 0
    busy: set[int] = field(default_factory=set)


class Reader:
    """Polls partitions."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._topics = topics
        self._partitions: dict[tuple[str, int], _Partition] = {}

    async def poll(
        self, topic: str, partition: int, position: int, *, messages_max: int, bytes_max: int, wait_seconds: float
    ) -> list[Message]:
        """See `catchment.log.port.Log.poll`.

        Raises:
            Corrupt: rule 4.
            Invalid: no such topic or partition.
            Retry: the partition cannot be read now.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        state = self._state(topic, partition)
        while True:
            if state.ahead and state.ahead_from <= position <= state.ahead[0].offset:
                found: Sequence[Message] = state.ahead
            else:
                remaining = min(max(0.0, deadline - clock()), _FETCH_SECONDS_MAX)
                found = await self._fetch(state, topic, partition, position, bytes_max, remaining)
            if found:
                count = _within(found, messages_max, bytes_max)
                state.ahead, state.ahead_from = found[count:], found[count - 1].offset + 1
                return list(found[:count])
            if clock() >= deadline:
                return []

    async def end_offset(self, topic: str, partition: int) -> int:
        """See rule 5."""
        end = await self._offset(topic, partition, _LATEST)
        state = self._state(topic, partition)
        if 0 <= state.empty_from <= end <= state.empty_to:
            end = state.empty_from
        return max(end, state.exists_to)

    def exists(self, topic: str, partition: int, end: int) -> None:
        """To be told of messages before ``end`` that were published."""
        state = self._state(topic, partition)
        state.exists_to = max(state.exists_to, end)

    def _state(self, topic: str, partition: int) -> _Partition:
        return self._partitions.setdefault((topic, partition), _Partition())

    async def _fetch(
        self, state: _Partition, topic: str, partition: int, position: int, bytes_max: int, seconds: float
    ) -> list[Message]:
        place = TopicPartition(topic, partition)
        offset = state.empty_to if position == state.empty_from else position
        number = next(number for number in range(len(state.busy) + 1) if number not in state.busy)
        state.busy.add(number)

        async def work(client: Any) -> tuple[list[Message], int] | None:
            try:
                node = await self._topics.leader(topic, partition)
                limit = min(bytes_max, _FETCH_BYTES_MAX)
                request = FetchRequest(
                    int(seconds * 1_000), 1, limit, READ_COMMITTED, [(topic, [(partition, offset, limit)])]
                )
                response = await client.send(node, request, group=("fetch", topic, partition, number))
                check(response.error_code)
                ((_, code, _, _, *rest),) = response.topics[0][1]
                if code == _OUT_OF_RANGE:
                    return None
                check(code)
            except errors.KafkaError:
                self._topics.forget(topic)
                raise
            return _decoded(place, offset, rest)

        try:
            answer = await self._client.run(
                "the partition cannot be read", work, needs="Read", topic=topic, partition=partition, position=position
            )
        finally:
            state.busy.discard(number)
        if answer is None:
            return await self._out_of_range(state, topic, partition, position, bytes_max, seconds)
        found, end = answer
        if found:
            self.exists(topic, partition, found[-1].offset + 1)
        elif end > offset:
            state.empty_from, state.empty_to = position, end
        return found

    async def _out_of_range(
        self, state: _Partition, topic: str, partition: int, position: int, bytes_max: int, seconds: float
    ) -> list[Message]:
        first = await self._offset(topic, partition, _EARLIEST)
        if position == 0 and first > 0:
            return await self._fetch(state, topic, partition, first, bytes_max, seconds)
        end = await self._offset(topic, partition, _LATEST)
        if first <= position <= end:
            return []  # a leader that had not caught up; ask again
        what = "was deleted before it was read" if position < first else "was there, but the log has lost its end"
        raise Corrupt(
            f"data is lost: position {position} {what}; the log holds {first} to {end}; to go on see "
            "'data is lost' in docs/operate.md",
            topic=topic,
            partition=partition,
        )

    async def _offset(self, topic: str, partition: int, which: int) -> int:
        async def work(client: Any) -> int:
            try:
                node = await self._topics.leader(topic, partition)
                request = OffsetRequest(-1, READ_COMMITTED, [(topic, [(partition, which)])])
                response = await client.send(node, request)
                ((_, code, *rest),) = response.topics[0][1]
                check(code)
            except errors.KafkaError:
                self._topics.forget(topic)
                raise
            return int(rest[1])

        return await self._client.run("the partition's end cannot be read", work, topic=topic, partition=partition)


def _decoded(place: TopicPartition, offset: int, rest: Sequence[Any]) -> tuple[list[Message], int]:
    """The messages of a fetch, and the offset behind what was looked at.

    ``rest`` ends, in all versions of the response that know transactions, with the aborted transactions (in version 11
    and above a preferred replica) and the records.
    """
    aborted = next((part for part in rest[:-1] if isinstance(part, list)), None)
    records = PartitionRecords(place, MemoryRecords(rest[-1] or b""), aborted, offset, None, None, True, READ_COMMITTED)
    found = [
        Message(
            place.topic,
            place.partition,
            record.offset,
            (record.key or b"").decode(),
            record.value or b"",
            {key: (value or b"").decode() for key, value in record.headers},
        )
        for record in records
    ]
    return found, records.next_fetch_offset


def _within(found: Sequence[Message], messages_max: int, bytes_max: int) -> int:
    """How many of the first messages are within the limits; at least one."""
    size = 0
    for count, message in enumerate(found[:messages_max]):
        size += len(message.value)
        if count and size > bytes_max:
            return count
    return max(1, min(len(found), messages_max))
