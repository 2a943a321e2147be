"""What Kafka deleted before it was read stops its partition, says so, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from aggregators.aggregator import Aggregator, AggregatorConfig
from catchment.columns import GLOBAL_LANES, global_topic
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import OutMessage, Source
from tests.faults.stack import Stack, wait_until
from tests.integration.fleet import REGION, counter_row, envelope, message, read_all, totals_row, until
from tests.integration.store_support import envelope_bytes, metric_row
from tests.kafka.support import administer, run

STORE = "store"


@pytest.fixture
def stack(tmp_path: Path, settings: KafkaSettings) -> Iterator[Stack]:
    """Roles on that log, two partitions a topic."""
    lines = (
        f"kafka: {{brokers: [{settings.brokers[0]}], replication_factor: 1}}\n"
        f"log: {{topic_prefix: {settings.prefix}, partitions: 2}}\n"
    )
    with Stack(tmp_path, lines) as running:
        yield running


async def delete_all(log: KafkaLog, settings: KafkaSettings, topic: str, partition: int) -> int:
    """What retention does to a partition; returns the first offset that is left."""
    end = await log.end_offset(topic, partition)
    place = TopicPartition(topic, partition)
    await administer(settings, lambda admin: admin.delete_records({place: RecordsToDelete(end)}))
    return end


async def move_position(settings: KafkaSettings, source: Source, offset: int) -> None:
    """What ``kafka-consumer-groups --reset-offsets`` does."""
    place = TopicPartition(source.topic, source.partition)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(settings.brokers), group_id=settings.name_of(source), enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([place])
        await consumer.commit({place: offset})
    finally:
        await consumer.stop()


def test_the_store_answers_queries_while_a_partition_has_lost_data(stack: Stack, settings: KafkaSettings) -> None:
    """The partition is named with what to do, not ready and in the metrics; SQL answers, the others are loaded."""
    topic = global_topic(settings.prefix, "metrics_cluster")
    topics = dict.fromkeys((global_topic(settings.prefix, lane) for lane in GLOBAL_LANES), 2)

    async def send(log: KafkaLog, position: int, points: int) -> None:
        value = envelope_bytes("metrics_cluster", [metric_row(points=points)])
        writer = await log.writer(Source("test"))
        await writer.publish([OutMessage(topic, "k", value, partition=partition) for partition in (0, 1)], position)
        await writer.close()

    async def before(log: KafkaLog) -> None:
        await log.create_topics(topics)
        await send(log, 1, 1)

    async def meanwhile(log: KafkaLog) -> None:
        await send(log, 2, 10)
        await delete_all(log, settings, topic, 1)
        await send(log, 3, 100)

    def points() -> int:
        return int(stack.rows("SELECT sum(c.points) AS found FROM metrics_cluster_1m AS c")[0]["found"])

    run(settings, before)
    stack.start(STORE)
    stack.wait_ready(STORE)
    wait_until(lambda: points() == 2, "the first messages are loaded")
    stack.stop(STORE)
    run(settings, meanwhile)
    stack.start(STORE)
    wait_until(lambda: f"{topic}/1 is halted" in stack.reasons(STORE), "one partition is halted")
    wait_until(lambda: points() == 112, "the other partition is loaded")

    def says_why() -> bool:
        said = stack.reasons(STORE)
        return "was deleted before it was read" in said and "docs/operate.md" in said and said.count("\n") == 0

    wait_until(says_why, "it says why, and nothing else", details=lambda: stack.reasons(STORE))
    for name in ("catchment_held_messages", "catchment_halted_partitions"):
        wait_until(lambda name=name: stack.metric(STORE, name) == 1, name)  # type: ignore[misc]
    stack.stop(STORE)


def test_an_aggregator_goes_on_where_somebody_put_it(settings: KafkaSettings) -> None:
    """Only the partition that lost data stands; once its position was moved it goes on, without a restart."""
    config = AggregatorConfig(REGION, settings.prefix, linger_seconds=0.02, halt_seconds=0.2)
    lanes = config.input_topics
    metrics, totals = lanes["metrics_cluster"], lanes["totals"]

    async def send(log: KafkaLog, position: int, value: int) -> None:
        writer = await log.writer(Source("test"))
        rows = message(envelope("metrics_cluster", [counter_row("c", "requests", value)]))
        sums = message(envelope("totals", [totals_row("c", 1, 1, value)]))
        await writer.publish([replace(rows, topic=metrics), replace(sums, topic=totals)], position)
        await writer.close()

    async def work(log: KafkaLog) -> None:
        await log.create_topics(config.topics)
        source = Source(f"rollup-{REGION}", metrics, 0)
        await send(log, 1, 1)
        (first,) = await read_all(log, metrics)
        writer = await log.writer(source)
        await writer.publish([], first.offset + 1)
        await writer.close()
        await send(log, 2, 10)
        left = await delete_all(log, settings, metrics, 0)
        await send(log, 3, 100)
        stop = asyncio.Event()
        aggregator = Aggregator(log, config)
        running = asyncio.create_task(aggregator.run(stop))
        await until(lambda: any(status.state == "halted" for status in aggregator.status()), 60)
        others = [status for status in aggregator.status() if status.topic != metrics]
        await until(lambda: sum(status.rows_in for status in others) == 3, 60)
        await move_position(settings, source, left)
        await until(aggregator.ready, 60)
        (moved,) = [status for status in aggregator.status() if status.topic == metrics]
        await until(lambda: moved.rows_in == 1, 60)
        stop.set()
        await running

    run(settings, work)
