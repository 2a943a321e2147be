"""Topics of a Kafka log: their ids, partitions and leaders, their making, and whether they are as we need them.

Rules:

1. The log's id is a hash of the cluster's id and of the topic id of ``<prefix>.positions``. Kafka makes both at random,
   the first when the cluster is formatted, the second when the topic is created, and never changes them. So the id is
   born with the log, without any write of ours that could race; another cluster, a cluster made anew or another prefix
   is another log.
2. (log id, topic, partition, offset) must name a message for ever, but a topic that is deleted and created anew begins
   at offset 0 again. So the id of every topic is remembered when it is first used, as the metadata of a committed
   offset on ``<prefix>.positions``, which outlives the topic. One that comes back with another id is refused
   (`Invalid`), by every process, before a message of it is read or written. The way on is another ``topic_prefix``,
   which is another log. (To fold the topics' ids into the log's id instead would give all other messages a new name,
   and the store would load them twice.)
3. For the same reason ``<prefix>.positions`` is never created where other topics of the prefix exist already.
4. Topics are created with all that exactly-once needs said explicitly, whatever the broker's defaults are. What an
   existing topic says, and what the brokers are told of sizes and of keeping positions, is checked when topics are
   created or described, and never changed from here. What we may not see is not judged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash
from aiokafka import errors
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.commit import OffsetCommitRequest

from catchment.errors import Invalid
from catchment.log.kafka_client import Client, check
from catchment.log.kafka_protocol import TopicsRequest

_UNKNOWN_TOPIC, _LEADER_NOT_AVAILABLE, _TOPIC_EXISTS, _UNAUTHORISED = 3, 5, 36, (29, 31)
_TOPIC_RESOURCE, _BROKER_RESOURCE = 2, 4
# A year: longer than any pause after which a process is expected to go on where it was.
_OFFSETS_RETENTION_MINUTES_MIN = 365 * 24 * 60
_REQUEST_OVERHEAD_BYTES = 64 << 10


@dataclass(frozen=True)
class Topic:
    """A topic as a broker described it; ``leaders`` are node ids by partition, -1 where there is none now."""

    name: str
    topic_id: str
    leaders: tuple[int, ...]
    seen: float

    @property
    def partitions(self) -> int:
        """How many."""
        return len(self.leaders)


class Topics:
    """What is known of topics, and how they are made."""

    def __init__(self, client: Client, *, may_create: bool = True) -> None:
        self._client = client
        self._settings = client.settings
        self._may_create = may_create
        self._known: dict[str, Topic] = {}
        self._trusted: set[tuple[str, str]] = set()
        self._opening = asyncio.Lock()
        self.log_id = ""

    async def open(self) -> str:
        """Find the log, bearing it if need be; returns its id.

        Raises:
            Retry: no broker answers, or we may not create the topic.
            Invalid: the log does not exist and may not be created (rule 3).
        """
        async with self._opening:
            if not self.log_id:
                cluster_id, found = await self._look([self._settings.positions_topic])
                if not found:
                    await self._bear()
                    cluster_id, found = await self._look([self._settings.positions_topic])
                identity = f"{cluster_id}/{found[0].topic_id}".encode()
                self._client.found()
                self.log_id = xxhash.xxh3_128_hexdigest(identity)
        return self.log_id

    async def get(self, name: str, *, fresh: bool = False) -> Topic:
        """A topic; asked anew when what is known is old, or ``fresh`` is wanted.

        Raises:
            Invalid: it does not exist, or is not the one that it was (rule 2).
        """
        await self.open()
        topic = self._known.get(name)
        if topic is None or fresh or time.monotonic() - topic.seen > self._settings.metadata_seconds:
            _, found = await self._look([name])
            if not found:
                self._known.pop(name, None)
                raise Invalid("no such topic", topic=name)
            topic = self._known[name] = found[0]
        await self._trust(topic)
        return topic

    async def having(self, name: str, partition: int) -> Topic:
        """A topic that has this partition, whether or not anything leads it now.

        Raises:
            Invalid: no such topic or partition.
        """
        topic = await self.get(name)
        if partition >= topic.partitions:
            topic = await self.get(name, fresh=True)
        if not 0 <= partition < topic.partitions:
            raise Invalid("no such partition", topic=name, partition=partition)
        return topic

    async def leader(self, name: str, partition: int) -> int:
        """The node that leads a partition.

        Raises:
            Invalid: no such topic or partition.
            LeaderNotAvailableError: there is none now; for `Client.run`, which waits until there is.
        """
        topic = await self.having(name, partition)
        if topic.leaders[partition] < 0:
            self.forget(name)
            raise errors.LeaderNotAvailableError(name)
        return topic.leaders[partition]

    def forget(self, name: str) -> None:
        """Ask anew the next time."""
        self._known.pop(name, None)

    async def create(self, partitions: Mapping[str, int]) -> list[str]:
        """Create the topics that do not exist, wait until they can be used, check the others; returns the new ones.

        Raises:
            Invalid: an existing topic, or a broker, is not as needed (rule 4).
        """
        await self.open()
        _, found = await self._look(list(partitions))
        missing = {name: count for name, count in partitions.items() if name not in {topic.name for topic in found}}
        if missing:
            await self._create(missing)
        for name in partitions:
            await self.get(name, fresh=name in missing)
        faults = [*await self.faults([topic.name for topic in found]), *await self.broker_faults()]
        if faults:
            raise Invalid("; ".join(faults))
        return list(missing)

    async def faults(self, names: Sequence[str]) -> list[str]:
        """What is wrong with the sizes of existing topics, a line each."""
        needed = self._settings.batch_bytes_max
        return [
            f"topic {name} takes batches of {size} bytes, but limits.message_bytes_max needs {needed}: "
            f"kafka-configs --alter --topic {name} --add-config max.message.bytes={needed}"
            for name, configs in (await self.configs(names)).items()
            if (size := int(configs.get("max.message.bytes", needed))) < needed
        ]

    async def broker_faults(self) -> list[str]:
        """What is wrong with a broker's configuration, a line each. Brokers of a cluster are configured alike."""

        async def work(client: Any) -> dict[str, str]:
            node = client.get_random_node()
            return (await _described(client, node, [(_BROKER_RESOURCE, str(node), None)]))[str(node)]

        configs = await self._client.run("the brokers' configuration cannot be read", work)
        faults = []
        if "offsets.retention.minutes" in configs:
            minutes = int(configs["offsets.retention.minutes"])
            if minutes < _OFFSETS_RETENTION_MINUTES_MIN:
                faults.append(
                    f"brokers forget positions after {minutes} minutes, and what was read would be read again: "
                    f"set offsets.retention.minutes to {_OFFSETS_RETENTION_MINUTES_MIN} or more in server.properties"
                )
        needed = self._settings.batch_bytes_max + _REQUEST_OVERHEAD_BYTES
        if (size := int(configs.get("socket.request.max.bytes", needed))) < needed:
            faults.append(f"brokers take requests of {size} bytes: set socket.request.max.bytes to {needed} or more")
        return faults

    async def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """The effective configuration of topics; {} of those that we may not see."""
        if not names:
            return {}

        async def work(client: Any) -> dict[str, dict[str, str]]:
            return await _described(client, client.get_random_node(), [(_TOPIC_RESOURCE, name, None) for name in names])

        return await self._client.run("the topics' configuration cannot be read", work)

    async def of_prefix(self) -> list[Topic]:
        """Every topic of the log's prefix that exists, by name."""
        _, found = await self._look(None)
        mine = f"{self._settings.prefix}."
        return sorted((topic for topic in found if topic.name.startswith(mine)), key=lambda topic: topic.name)

    async def _bear(self) -> None:
        name = self._settings.positions_topic
        others = [topic.name for topic in await self.of_prefix()]
        if others:
            raise Invalid(
                f"topic {name} is missing, although there is {others[0]}: the log's id and the positions of collectors "
                "went with it; choose another log.topic_prefix",
                topic=name,
            )
        if not self._may_create:
            raise Invalid(f"there is no log on these brokers: topic {name} is missing", topic=name)
        await self._create({name: 1})

    async def _create(self, partitions: Mapping[str, int]) -> None:
        settings = self._settings
        requests: list[tuple[Any, ...]] = [
            (name, count, settings.replication_factor, [], list(settings.topic_configs(name).items()))
            for name, count in partitions.items()
        ]
        milliseconds = int(settings.request_seconds * 1_000)

        async def work(client: Any) -> None:
            metadata = await client.send(client.get_random_node(), TopicsRequest([]))
            request = CreateTopicsRequest(requests, milliseconds, False)
            response = await client.send(metadata.controller_id, request)
            for name, code, message in response.topic_errors:
                if code == _TOPIC_EXISTS:
                    continue
                error = errors.for_code(code)
                if code and not error.retriable and code not in _UNAUTHORISED:
                    raise Invalid(f"the topic cannot be created: {message or error.__name__}", topic=name)
                check(code)

        async def usable(client: Any) -> None:
            # A broker may not know yet what the controller has created.
            _, found = await self._look_with(client, list(partitions))
            if len(found) < len(partitions) or any(min(topic.leaders, default=-1) < 0 for topic in found):
                raise errors.LeaderNotAvailableError(", ".join(partitions))

        names = ", ".join(partitions)
        await self._client.run("topics cannot be created", work, needs="Create", topics=names)
        await self._client.run("created topics do not come up", usable, topics=names)

    async def _look(self, names: list[str] | None) -> tuple[str, list[Topic]]:
        async def work(client: Any) -> tuple[str, list[Topic]]:
            return await self._look_with(client, names)

        return await self._client.run("topics cannot be read", work, topics=", ".join(names or ()))

    async def _look_with(self, client: Any, names: list[str] | None) -> tuple[str, list[Topic]]:
        response = await client.send(client.get_random_node(), TopicsRequest(names))
        found, now = [], time.monotonic()
        for code, name, topic_id, _, partitions, *_ in response.topics:
            if code == _UNKNOWN_TOPIC:
                continue
            if code != _LEADER_NOT_AVAILABLE:
                check(code)
            leaders = {item[1]: item[2] for item in partitions}
            found.append(Topic(name, topic_id.hex(), tuple(leaders[number] for number in sorted(leaders)), now))
        return response.cluster_id, found

    async def _trust(self, topic: Topic) -> None:
        """Rule 2."""
        if (topic.name, topic.topic_id) in self._trusted or topic.name == self._settings.positions_topic:
            return
        group = self._settings.topic_group(topic.name)
        remembered = await self._client.committed(group, self._settings.positions_topic, 0)
        if remembered is None:
            await self._remember(group, topic.topic_id)
        elif remembered[1] != topic.topic_id:
            raise Invalid(
                "this topic was deleted and created anew, so that its offsets would name other messages than those "
                "that were read already; choose another log.topic_prefix",
                topic=topic.name,
                topic_id=topic.topic_id,
                was=remembered[1],
            )
        self._trusted.add((topic.name, topic.topic_id))

    async def _remember(self, group: str, topic_id: str) -> None:
        async def work(client: Any) -> None:
            places = [(self._settings.positions_topic, [(0, 0, topic_id)])]
            request = OffsetCommitRequest(group, -1, "", -1, places)
            node = await self._client.coordinator(client, group)
            response = await client.send(node, request, group=ConnectionGroup.COORDINATION)
            check(response.topics[0][1][0][1])

        await self._client.run(
            "the topic's id cannot be noted", work, needs="Read", group=group, topic=self._settings.positions_topic
        )


async def _described(client: Any, node: int, resources: list[Any]) -> dict[str, dict[str, str]]:
    response = await client.send(node, DescribeConfigsRequest(resources))
    found: dict[str, dict[str, str]] = {}
    for code, _, _, name, entries in response.resources:
        if code in _UNAUTHORISED:
            found[name] = {}
            continue
        check(code)
        found[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return found
