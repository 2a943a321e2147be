"""The Kafka log under what happens: brokers and publishers that die, zombies, writers that stand still."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from catchment.errors import Fenced, Retry
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.kafka_topics import Topic, Topics
from catchment.log.port import OutMessage, Source
from tests.contract.log_contract import numbered, read_all
from tests.contract.patience import publishing
from tests.kafka.broker import Broker
from tests.kafka.support import run


@pytest.fixture
def own(kafka_broker: Broker, prefix: str) -> KafkaSettings:
    """A new log on the broker that may be killed."""
    return KafkaSettings((kafka_broker.plain,), prefix)


def test_a_log_without_a_broker_is_retry_and_closes_soon(prefix: str) -> None:
    """With no broker every call is Retry within its time, and closing takes none."""

    async def body() -> None:
        # Whatever closing waited for would take it a minute.
        settings = KafkaSettings(("127.0.0.1:1",), prefix, request_seconds=0.5, start_seconds=0.5, stop_seconds=60)
        log = KafkaLog(settings)
        with pytest.raises(Retry):
            _ = log.log_id
        for call in (log.find(), log.writer(Source("h")), log.end_offset("t", 0), log.create_topics({"t": 1})):
            with pytest.raises(Retry):
                await asyncio.wait_for(call, 20)
        await asyncio.wait_for(log.close(), 20)
        await asyncio.wait_for(log.close(), 20)
        with pytest.raises(Retry, match="closed"):
            await log.find()

    asyncio.run(body())


def test_a_topic_without_a_leader_is_waited_for(
    settings: KafkaSettings, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where brokers name no leader, as after one was killed, writers start and publish; readers wait for one."""
    topic = f"{prefix}.t"
    look, said = Topics._look_with, 0

    async def leaderless(self: Topics, client: Any, names: list[str] | None) -> tuple[str, list[Topic]]:
        nonlocal said
        cluster_id, found = await look(self, client, names)
        if said == 3:
            return cluster_id, found
        said += 1
        return cluster_id, [replace(one, leaders=(-1,) * one.partitions) for one in found]

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        monkeypatch.setattr(Topics, "_look_with", leaderless)
        log._topics.forget(topic)
        writer = await log.writer(Source("hop", topic, 0))
        await writer.publish([OutMessage(topic, "key", b"1", partition=0)], consumed=1)
        assert [message.value for message in await read_all(log, topic, 0)] == [b"1"]
        assert said == 3

    run(settings, body)


def test_a_broker_that_dies_within_publishes(own: KafkaSettings, kafka_broker: Broker, prefix: str) -> None:
    """A broker is killed while messages are published, and started again: each is there exactly once, in order."""
    topic = f"{prefix}.t"

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        # Short times, so that the writer gives up and starts anew instead of waiting for the broker.
        hasty = KafkaLog(replace(own, transaction_seconds=4, request_seconds=2))
        clock = asyncio.get_running_loop().time
        stop = asyncio.Event()
        number = 0

        async def publish() -> None:
            nonlocal number
            while not stop.is_set():
                writer = None
                with suppress(Retry):
                    writer = await hasty.writer(Source("hop"))
                    position = await writer.committed() or 0
                    assert position >= number
                    number = position
                    while not stop.is_set():
                        await writer.publish(numbered(topic, number), number + 1)
                        number += 1
                if writer is not None:
                    started = clock()
                    await writer.close()
                    assert clock() - started < 20

        publishing = asyncio.create_task(publish())

        async def ten_more() -> None:
            enough = number + 10
            while number < enough:
                assert not publishing.done(), publishing
                await asyncio.sleep(0.02)

        for _ in range(2):
            await ten_more()
            try:
                await asyncio.to_thread(kafka_broker.kill)
                await asyncio.sleep(0.3)
            finally:
                await asyncio.to_thread(kafka_broker.start)
        await ten_more()
        stop.set()
        await publishing
        await hasty.close()
        position = await (await log.writer(Source("hop"))).committed()
        values = [int(m.value) for m in await read_all(log, topic, 0)]
        # The last publish may have ended in Retry, and happened.
        assert position is not None and number <= position <= number + 1
        assert values == list(range(position))

    run(own, body)


def test_a_zombie_wakes_and_changes_nothing(settings: KafkaSettings, prefix: str) -> None:
    """A publisher is stopped in the middle, its successor publishes, it wakes: fenced, and nothing is there twice."""
    topic = f"{prefix}.t"
    url = f"kafka:{settings.brokers[0]}/{prefix}"

    run(settings, lambda log: log.create_topics({topic: 2}))

    async def body(log: KafkaLog) -> None:
        assert child.stdout is not None
        for _ in range(2):
            await asyncio.to_thread(child.stdout.readline)
        child.send_signal(signal.SIGSTOP)
        writer = await log.writer(Source("hop"))
        position = await writer.committed()
        assert position
        await writer.publish(numbered(topic, -1), position + 1)
        child.send_signal(signal.SIGCONT)
        _, errors = await asyncio.to_thread(child.communicate, timeout=60)
        assert b"Fenced" in errors
        assert await writer.committed() == position + 1
        values = [m.value.rstrip(b".") for p in (0, 1) for m in await read_all(log, topic, p)]
        expected = [f"{number}/{index}".encode() for number in range(position) for index in range(5)]
        assert sorted(values) == sorted([*expected, b"-1"])

    with publishing(url, topic, "hop") as (child, _):
        run(settings, body)


def test_a_writer_that_stood_still_is_not_fenced_by_nobody(settings: KafkaSettings, prefix: str) -> None:
    """A publish that outlasted its transaction without any successor is Retry, and the same process goes on."""
    topic = f"{prefix}.t"

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        writer = await log.writer(Source("hop"))
        await writer.publish(numbered(topic, 1), 1)
        await writer.close()
        # Only what is to outlast its transaction has a short one.
        hasty = await KafkaLog.open(replace(settings, transaction_seconds=1))
        writer = await hasty.writer(Source("hop"))
        publishing = asyncio.create_task(writer.publish([OutMessage(topic, "", b"x" * 900_000, partition=0)] * 20, 2))
        await asyncio.sleep(0.005)
        # The whole process stands still, as under SIGSTOP; the broker aborts meanwhile.
        time.sleep(4)  # noqa: ASYNC251
        with pytest.raises(Retry):
            await publishing
        await hasty.close()
        writer = await log.writer(Source("hop"))
        assert await writer.committed() == 1
        await writer.publish(numbered(topic, 2), 2)
        assert [m.value for m in await read_all(log, topic, 0)] == [b"1", b"2"]

    run(settings, body)


def test_a_publisher_killed_over_and_over(settings: KafkaSettings, prefix: str) -> None:
    """After 20 SIGKILLs at random moments of a publishing process nothing is lost and nothing is there twice."""
    topic = f"{prefix}.t"
    url = f"kafka:{settings.brokers[0]}/{prefix}"
    run(settings, lambda log: log.create_topics({topic: 2}))
    printed = 0
    for attempt in range(20):
        with publishing(url, topic, "hop") as (child, number):
            assert child.stdout is not None
            printed = max(printed, number)
            time.sleep(0.01 * attempt)
            child.kill()
            for line in child.stdout.read().splitlines():
                printed = max(printed, int(line))

    async def check(log: KafkaLog) -> None:
        position = await (await log.writer(Source("hop"))).committed()
        assert position and position >= printed >= 20
        values = [m.value.rstrip(b".") for p in (0, 1) for m in await read_all(log, topic, p)]
        assert sorted(values) == sorted(f"{n}/{i}".encode() for n in range(position) for i in range(5))

    run(settings, check)


def test_fenced_in_the_middle_of_sending_is_fenced(settings: KafkaSettings, prefix: str) -> None:
    """A writer that is told while it still sends, to topics it must ask for first, is fenced like any other."""
    topics = [f"{prefix}.t{number}" for number in range(8)]

    async def body(log: KafkaLog) -> None:
        await log.create_topics(dict.fromkeys(topics, 1))
        for number in range(5):
            first, second = await log.writer(Source("hop")), await log.writer(Source("hop"))
            with pytest.raises(Fenced):
                await first.publish([OutMessage(topic, "", b"x") for topic in topics], number)
            await second.publish([], number)
            await asyncio.gather(first.close(), second.close())
        assert [len(await read_all(log, topic, 0)) for topic in topics] == [0] * len(topics)

    run(settings, body)


def test_a_fenced_writer_closes_soon(settings: KafkaSettings) -> None:
    """Fenced or not, closing takes less than a second while the broker is there, also the second time."""

    async def body(log: KafkaLog) -> None:
        clock = asyncio.get_running_loop().time

        async def seconds_max() -> float:
            first, second = await log.writer(Source("hop")), await log.writer(Source("hop"))
            with pytest.raises(Fenced):
                await first.publish([], 1)
            seconds = []
            for writer in (first, second, first):
                started = clock()
                await writer.close()
                seconds.append(clock() - started)
            return max(seconds)

        # Three trials, since the machine may be busy: what is waited for in vain takes twice as long each time.
        assert min([await seconds_max() for _ in range(3)]) < 1

    run(settings, body)
