"""The rules of the Kafka log beyond the contract: sizes, topics, ids, positions."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition

from catchment.errors import Corrupt, Invalid
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import OutMessage, Source
from tests.contract.log_contract import read_all
from tests.kafka.support import administer, forgotten, published, run


def test_the_limit_of_a_message_is_exact_on_both_sides(settings: KafkaSettings, prefix: str) -> None:
    """The largest message allowed gets through although it does not compress; one byte more is Invalid, unsent."""
    settings = replace(settings, message_bytes_max=3_000_000)

    async def body(log: KafkaLog) -> None:
        topic = f"{prefix}.t"
        await log.create_topics({topic: 1})
        writer = await log.writer(Source("hop"))
        overhead = 0
        value = os.urandom(3_000_000)
        with pytest.raises(Invalid, match="over the limit of 3000000"):
            await writer.publish([OutMessage(topic, "k", value, partition=0)], 1)
        for overhead in range(50, 200):
            try:
                await writer.publish([OutMessage(topic, "k", value[overhead:], partition=0)], 1)
                break
            except Invalid:
                continue
        assert overhead < 150
        found = await log.poll(topic, 0, 0, messages_max=9, bytes_max=1, wait_seconds=60)
        assert [m.value for m in found] == [value[overhead:]]
        assert await writer.committed() == 1

    run(settings, body)


def test_a_publish_may_be_larger_than_a_request(settings: KafkaSettings, prefix: str) -> None:
    """Messages that together are over the limit of one message go out in several requests, in one transaction."""
    settings = replace(settings, message_bytes_max=400_000)

    async def body(log: KafkaLog) -> None:
        topic = f"{prefix}.t"
        await log.create_topics({topic: 2})
        values = [os.urandom(300_000) for _ in range(12)]
        writer = await log.writer(Source("hop"))
        await writer.publish([OutMessage(topic, "", value, partition=n % 2) for n, value in enumerate(values)], 1)
        for partition in (0, 1):
            assert [m.value for m in await read_all(log, topic, partition)] == values[partition::2]

    run(settings, body)


def test_topics_are_created_as_exactly_once_needs_them(settings: KafkaSettings, prefix: str) -> None:
    """Sizes, retention and replicas are said explicitly; dead letters and positions are kept for ever."""

    async def body(log: KafkaLog) -> None:
        await log.create_topics({f"{prefix}.jp.metrics": 3, f"{prefix}.jp.dead-letter": 1})
        states = {state.name.removeprefix(f"{prefix}."): state for state in await log.describe()}
        assert {name: state.partitions for name, state in states.items()} == {
            "jp.metrics": 3,
            "jp.dead-letter": 1,
            "positions": 1,
        }
        assert {name: state.configs["retention.ms"] for name, state in states.items()} == {
            "jp.metrics": str(7 * 86_400_000),
            "jp.dead-letter": "-1",
            "positions": "-1",
        }
        assert {state.configs["max.message.bytes"] for state in states.values()} == {str(settings.batch_bytes_max)}
        assert await log.faults() == []

    run(settings, body)


def test_a_topic_that_takes_too_small_messages_is_a_clear_fault(settings: KafkaSettings, prefix: str) -> None:
    """An existing topic with a lower limit is named, with the command that mends it, when topics are created."""
    topic = f"{prefix}.t"

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "1000000"})
        await administer(settings, lambda admin: admin.alter_configs([resource]))
        async with asyncio.timeout(60):  # the controller has answered, the broker may not know yet
            while not await log.faults():
                pass
        with pytest.raises(Invalid, match=f"topic {topic} takes batches of 1000000 bytes.*kafka-configs"):
            await log.create_topics({topic: 1})
        assert len(await log.faults()) == 1

    run(settings, body)


def test_a_deleted_position_is_loud(settings: KafkaSettings, prefix: str) -> None:
    """Position 0 is the oldest kept; any other before that is Corrupt with the range."""
    topic = f"{prefix}.t"

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        await published(log, topic, 1, 2, 3)
        place = TopicPartition(topic, 0)
        await administer(settings, lambda admin: admin.delete_records({place: RecordsToDelete(4)}))
        assert [m.value for m in await read_all(log, topic, 0)] == [b"3"]
        with pytest.raises(Corrupt, match=r"position 2 was deleted before it was read; the log holds 4 to 6"):
            await log.poll(topic, 0, 2, messages_max=9, bytes_max=99, wait_seconds=0.5)

    run(settings, body)


def test_a_topic_created_anew_is_refused(settings: KafkaSettings, prefix: str) -> None:
    """After a topic was deleted and created again no process reads or writes it: its offsets would repeat."""
    topic = f"{prefix}.t"

    async def before(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        await published(log, topic, 1)
        await administer(settings, lambda admin: admin.delete_topics([topic]))
        await forgotten(log, topic)

    async def after(log: KafkaLog) -> None:
        with pytest.raises(Invalid, match="deleted and created anew"):
            await log.create_topics({topic: 1})
        with pytest.raises(Invalid, match="deleted and created anew"):
            await log.poll(topic, 0, 0, messages_max=9, bytes_max=99, wait_seconds=0)
        with pytest.raises(Invalid, match="deleted and created anew"):
            await log.writer(Source("hop", topic, 0))
        with pytest.raises(Invalid, match="deleted and created anew"):
            await published(log, topic, 2)

    run(settings, before)
    run(settings, after)


def test_a_log_without_its_positions_is_not_born_again(settings: KafkaSettings, prefix: str) -> None:
    """Where only the topic of positions was deleted, the log is refused instead of getting another id."""
    topic = f"{prefix}.t"

    async def before(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        await administer(settings, lambda admin: admin.delete_topics([f"{prefix}.positions"]))
        await forgotten(log, f"{prefix}.positions")

    async def nothing(_: KafkaLog) -> None:
        raise AssertionError("it was opened")

    run(settings, before)
    with pytest.raises(Invalid, match=f"topic {prefix}.positions is missing, although there is {topic}"):
        run(settings, nothing)


def test_ids_of_logs_differ_and_a_command_bears_none(settings: KafkaSettings, prefix: str) -> None:
    """Each prefix is a log of its own; one that does not exist is not created by who only looks."""
    ids = []

    async def look(log: KafkaLog) -> None:
        ids.append(log.log_id)

    with pytest.raises(Invalid, match="there is no log"):
        run(settings, look, may_create=False)
    run(settings, look)
    run(replace(settings, prefix=f"{prefix}-2"), look)
    assert len(set(ids)) == 2


def test_who_has_read_everything_has_no_lag(settings: KafkaSettings, prefix: str) -> None:
    """Markers behind the last message are no lag once a poll has seen that there is nothing else."""
    topic = f"{prefix}.t"

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        await published(log, topic, 1, 2, 3)
        other = await KafkaLog.open(settings)
        async with asyncio.timeout(60):  # a commit is answered before its marker is written
            while len(found := await read_all(other, topic, 0)) < 3:
                pass
        position = found[-1].offset + 1
        assert await other.poll(topic, 0, position, messages_max=1, bytes_max=1, wait_seconds=0.5) == []
        assert await other.end_offset(topic, 0) == position
        await published(log, topic, 4)
        async with asyncio.timeout(60):
            while await other.end_offset(topic, 0) <= position:
                pass
        assert [m.value for m in await read_all(other, topic, 0, position)] == [b"4"]
        await other.close()

    run(settings, body)


def test_positions_are_never_stale(settings: KafkaSettings, prefix: str) -> None:
    """What a publish has set is what anybody reads at once, 100 times in a row."""

    async def body(log: KafkaLog) -> None:
        other = await KafkaLog.open(settings)
        first = await log.writer(Source("hop"))
        reader = await other.writer(Source("another"))
        assert await reader.committed() is None
        for number in range(100):
            await first.publish([], number)
            found = await other._client.committed(settings.name_of(Source("hop")), settings.positions_topic, 0)
            assert found is not None and found[0] == number
        await other.close()

    run(settings, body)
