"""The rules of the Kafka log beyond the contract: sizes, topics, security, restarts, zombies, kills."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition

from catchment.errors import Corrupt, Fenced, Invalid, Retry
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSasl, KafkaSettings, KafkaTls
from catchment.log.port import OutMessage, Source
from tests.contract.log_contract import numbered, read_all
from tests.kafka.broker import PASSWORD, USER, Broker

Body = Callable[[KafkaLog], Awaitable[None]]


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"rules-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(kafka_address: str, prefix: str) -> KafkaSettings:
    """A new log on the broker."""
    return KafkaSettings((kafka_address,), prefix)


@pytest.fixture
def own(kafka_broker: Broker, prefix: str) -> KafkaSettings:
    """A new log on the broker that may be killed."""
    return KafkaSettings((kafka_broker.plain,), prefix)


def run(settings: KafkaSettings, body: Body, *, may_create: bool = True) -> None:
    """Open the log, run the body within a time limit, close."""

    async def limited() -> None:
        log = await KafkaLog.open(settings, may_create=may_create)
        try:
            await asyncio.wait_for(body(log), 90)
        finally:
            await log.close()

    asyncio.run(limited())


async def administer(settings: KafkaSettings, work: Callable[[AIOKafkaAdminClient], Awaitable[object]]) -> None:
    """Do what an operator does with Kafka's own tools."""
    admin = AIOKafkaAdminClient(bootstrap_servers=list(settings.brokers))
    await admin.start()
    try:
        await work(admin)
    finally:
        await admin.close()


async def published(log: KafkaLog, topic: str, *numbers: int) -> None:
    """Publish each number in a transaction of its own."""
    writer = await log.writer(Source("hop"))
    for number in numbers:
        await writer.publish(numbered(topic, number), number)
    await writer.close()


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
        found = await log.poll(topic, 0, 0, messages_max=9, bytes_max=1, wait_seconds=5)
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
        position = (await read_all(other, topic, 0))[-1].offset + 1
        assert await other.poll(topic, 0, position, messages_max=1, bytes_max=1, wait_seconds=0.5) == []
        assert await other.end_offset(topic, 0) == position
        await published(log, topic, 4)
        await asyncio.sleep(0.2)
        assert await other.end_offset(topic, 0) > position
        assert [m.value for m in await read_all(other, topic, 0, position)] == [b"4"]
        await other.close()

    run(settings, body)


def test_tls_and_passwords(kafka_broker: Broker, prefix: str) -> None:
    """SASL over TLS and mutual TLS work end to end; a wrong password, a foreign authority and no certificate do not."""
    certificates = kafka_broker.certificates
    trusted = KafkaTls(certificates.ca)
    sasl = KafkaSasl("SCRAM-SHA-512", USER, PASSWORD)
    secret = KafkaSettings((kafka_broker.sasl,), prefix, trusted, sasl, request_seconds=1.5)
    mutual = replace(
        secret,
        brokers=(kafka_broker.mutual,),
        sasl=None,
        tls=KafkaTls(certificates.ca, certificates.client_cert, certificates.client_key),
    )

    async def body(log: KafkaLog) -> None:
        topic = f"{prefix}.t"
        await log.create_topics({topic: 1})
        writer = await log.writer(Source("hop"))
        number = (await writer.committed() or 0) + 1
        await writer.publish(numbered(topic, number), number)
        assert [m.value for m in await read_all(log, topic, 0)] == [str(n + 1).encode() for n in range(number)]

    run(secret, body)
    run(mutual, body)
    wrong = [
        (replace(secret, sasl=replace(sasl, password="wrong")), "Authentication failed"),
        (replace(secret, tls=KafkaTls()), "certificate verify failed"),
        (replace(mutual, tls=trusted), "certificate required|[Cc]onnection"),
        (replace(mutual, tls=None), "[Cc]onnection"),
    ]
    for settings, reason in wrong:
        with pytest.raises(Retry, match=reason):
            run(settings, body)
    with pytest.raises(Invalid, match=r"a file of kafka\.tls cannot be used"):
        run(replace(secret, tls=KafkaTls(Path("absent.pem"))), body)


def test_a_log_without_a_broker_is_retry_and_closes_soon(prefix: str) -> None:
    """With no broker every call is Retry within its time, and closing takes none."""

    async def body() -> None:
        log = KafkaLog(KafkaSettings(("127.0.0.1:1",), prefix, request_seconds=0.5, start_seconds=0.5))
        with pytest.raises(Retry):
            _ = log.log_id
        for call in (log.find(), log.writer(Source("h")), log.end_offset("t", 0), log.create_topics({"t": 1})):
            with pytest.raises(Retry):
                await asyncio.wait_for(call, 5)
        await asyncio.wait_for(log.close(), 1)
        await asyncio.wait_for(log.close(), 1)
        with pytest.raises(Retry, match="closed"):
            await log.find()

    asyncio.run(body())


def test_a_broker_that_dies_within_publishes(own: KafkaSettings, kafka_broker: Broker, prefix: str) -> None:
    """A broker is killed while messages are published, and started again: each is there exactly once, in order."""
    topic = f"{prefix}.t"

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        clock = asyncio.get_running_loop().time
        stop = asyncio.Event()
        retries = 0

        async def publish() -> int:
            nonlocal retries
            number = 0
            while not stop.is_set():
                try:
                    writer = await log.writer(Source("hop"))
                    number = await writer.committed() or 0
                    while not stop.is_set():
                        await writer.publish(numbered(topic, number), number + 1)
                        number += 1
                except Retry:
                    retries += 1
                started = clock()
                await writer.close()
                assert clock() - started < 8
            return number

        publishing = asyncio.create_task(publish())
        for _ in range(2):
            await asyncio.sleep(0.5)
            await asyncio.to_thread(kafka_broker.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(kafka_broker.start)
            await asyncio.sleep(2)
        stop.set()
        number = await publishing
        position = await (await log.writer(Source("hop"))).committed()
        values = [int(m.value) for m in await read_all(log, topic, 0)]
        assert position == number
        assert values == list(range(number)) and number > 20

    # Short times, so that the writer gives up and starts anew instead of waiting for the broker.
    run(replace(own, transaction_seconds=4, request_seconds=2), body)


def test_a_zombie_wakes_and_changes_nothing(settings: KafkaSettings, prefix: str) -> None:
    """A publisher is stopped in the middle, its successor publishes, it wakes: fenced, and nothing is there twice."""
    topic = f"{prefix}.t"
    url = f"kafka:{settings.brokers[0]}/{prefix}"

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 2})
        command = [sys.executable, "-m", "tests.contract.log_publisher", url, topic, "hop"]
        child = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert child.stdout is not None
            for _ in range(3):
                await child.stdout.readline()
            child.send_signal(signal.SIGSTOP)
            writer = await log.writer(Source("hop"))
            position = await writer.committed()
            assert position
            await writer.publish(numbered(topic, -1), position + 1)
            child.send_signal(signal.SIGCONT)
            _, errors = await asyncio.wait_for(child.communicate(), 30)
            assert b"Fenced" in errors
            assert await writer.committed() == position + 1
            values = [m.value.rstrip(b".") for p in (0, 1) for m in await read_all(log, topic, p)]
            expected = [f"{number}/{index}".encode() for number in range(position) for index in range(5)]
            assert sorted(values) == sorted([*expected, b"-1"])
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()

    run(settings, body)


def test_a_writer_that_stood_still_is_not_fenced_by_nobody(settings: KafkaSettings, prefix: str) -> None:
    """A publish that outlasted its transaction without any successor is Retry, and the same process goes on."""
    topic = f"{prefix}.t"

    async def body(log: KafkaLog) -> None:
        await log.create_topics({topic: 1})
        writer = await log.writer(Source("hop"))
        await writer.publish(numbered(topic, 1), 1)
        publishing = asyncio.create_task(writer.publish([OutMessage(topic, "", b"x" * 900_000, partition=0)] * 20, 2))
        await asyncio.sleep(0.005)
        # The whole process stands still, as under SIGSTOP; the broker aborts meanwhile.
        time.sleep(4)  # noqa: ASYNC251
        with pytest.raises(Retry):
            await publishing
        await writer.close()
        writer = await log.writer(Source("hop"))
        assert await writer.committed() == 1
        await writer.publish(numbered(topic, 2), 2)
        assert [m.value for m in await read_all(log, topic, 0)] == [b"1", b"2"]

    run(replace(settings, transaction_seconds=1), body)


def test_a_publisher_killed_over_and_over(settings: KafkaSettings, prefix: str) -> None:
    """After 20 SIGKILLs at random moments of a publishing process nothing is lost and nothing is there twice."""
    topic = f"{prefix}.t"
    url = f"kafka:{settings.brokers[0]}/{prefix}"
    run(settings, lambda log: log.create_topics({topic: 2}))
    command = [sys.executable, "-m", "tests.contract.log_publisher", url, topic, "hop"]
    printed = 0
    for attempt in range(20):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            printed = max(printed, int(child.stdout.readline()))
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


def test_a_fenced_writer_closes_soon(settings: KafkaSettings) -> None:
    """Fenced or not, closing takes less than a second while the broker is there, also the second time."""

    async def body(log: KafkaLog) -> None:
        clock = asyncio.get_running_loop().time
        first, second = await log.writer(Source("hop")), await log.writer(Source("hop"))
        with pytest.raises(Fenced):
            await first.publish([], 1)
        for writer in (first, second, first):
            started = clock()
            await writer.close()
            assert clock() - started < 1

    run(settings, body)
