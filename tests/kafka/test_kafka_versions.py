"""A rollout on Kafka in the wrong order: what a newer program writes waits for its readers, and nothing else does."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

import pytest
import xxhash

from catchment.columns import dead_letter_topic
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from tests.faults.next_version import NEXT_PROGRAM
from tests.faults.stack import REGION, Stack, wait_until
from tests.integration.end_to_end import eventually
from tests.kafka.broker import Broker
from tests.kafka.test_kafka_roles import AGGREGATOR, COLLECTOR, STORE, sent

NEXT = (sys.executable, "-m", "tests.faults.next_version", "metrics_cluster")
OLD = "tokyo-1"
CLUSTERS = "SELECT groupArray((cluster, found)) FROM ({}) AS each"
STORED = CLUSTERS.format(
    "SELECT cluster, sum(c.points) AS found FROM metrics_cluster_1m AS c GROUP BY cluster ORDER BY cluster"
)
ACCEPTED = CLUSTERS.format(
    "SELECT substring(place, 9) AS cluster, sum(t.points) AS found FROM control_totals AS t "
    "WHERE lane = 'metrics' AND level = 'cluster' GROUP BY place ORDER BY place"
)
IN_REGION = "SELECT sum(r.points) FROM metrics_region_1m AS r"
DISAGREE = "SELECT count() FROM control_totals AS t WHERE t.points != t.stored_points"


def partition_of(cluster: str) -> int:
    """Where a collector's messages are, of two partitions."""
    return int(xxhash.xxh3_64_intdigest(f"default/{cluster}".encode()) % 2)


async def dead_letters(settings: KafkaSettings) -> int:
    """How many there are."""
    log = KafkaLog(settings)
    try:
        return await log.end_offset(dead_letter_topic(settings.prefix, REGION), 0)
    finally:
        await log.close()


@pytest.mark.proof
def test_what_a_newer_version_writes_is_held_and_counts_once_after_the_upgrade(
    tmp_path: Path, kafka_broker: Broker
) -> None:
    """Collector first, then aggregator, then store: each reader holds what it cannot read, all else flows on."""
    new = next(name for name in map("osaka-{}".format, range(99)) if partition_of(name) != partition_of(OLD))
    settings = KafkaSettings((kafka_broker.plain,), f"versions-{uuid.uuid4().hex[:12]}")
    lines = (
        f"kafka: {{brokers: [{kafka_broker.plain}], replication_factor: 1}}\n"
        f"log: {{topic_prefix: {settings.prefix}, partitions: 2}}\n"
    )
    with Stack(tmp_path / "first", lines) as stack, Stack(tmp_path / "second", lines) as second:
        stack.start(COLLECTOR, AGGREGATOR, STORE)
        second.start(COLLECTOR, cluster=f"{{name: {new}}}")
        stack.wait_ready(COLLECTOR, AGGREGATOR, STORE)
        second.wait_ready(COLLECTOR)
        sent(stack, 10, seconds_ago=60)
        sent(second, 10, seconds_ago=60)
        eventually(stack, STORED, [[new, 10], [OLD, 10]], seconds=60)

        second.stop(COLLECTOR)
        second.start(COLLECTOR, program=NEXT, cluster=f"{{name: {new}}}")
        second.wait_ready(COLLECTOR)
        sent(second, 7, seconds_ago=50)
        sent(stack, 5, seconds_ago=50)
        topic = f"{settings.prefix}.{REGION}.metrics_cluster/{partition_of(new)}"
        wait_until(lambda: f"{topic} is held: version 2" in stack.reasons(AGGREGATOR), "the aggregator holds")
        # Of the other partition rows, of the other lanes all: what waits shows as a difference.
        eventually(stack, STORED, [[new, 10], [OLD, 15]], seconds=60)
        eventually(stack, ACCEPTED, [[new, 17], [OLD, 15]], seconds=60)
        wait_until(lambda: stack.metric(AGGREGATOR, "catchment_held_messages") == 1, "the aggregator counts it")
        assert stack.metric(AGGREGATOR, "catchment_halted_partitions") == 0

        stack.stop(AGGREGATOR)
        stack.start(AGGREGATOR, program=NEXT)
        stack.wait_ready(AGGREGATOR)
        topic = f"{settings.prefix}.global.metrics_cluster/"
        wait_until(lambda: f"{topic}" in stack.reasons(STORE) and "is held" in stack.reasons(STORE), "the store holds")
        sent(stack, 3, seconds_ago=40)
        eventually(stack, IN_REGION, 35, seconds=60)
        eventually(stack, STORED, [[new, 10], [OLD, 15]], seconds=60)
        wait_until(lambda: stack.metric(STORE, "catchment_held_messages") == 1, "the store counts it")
        assert stack.metric(STORE, "catchment_halted_partitions") == 0

        stack.stop(STORE)
        stack.start(STORE, program=NEXT)
        stack.wait_ready(STORE)
        eventually(stack, STORED, [[new, 17], [OLD, 18]], seconds=60)
        eventually(stack, IN_REGION, 35, seconds=60)
        eventually(stack, DISAGREE, 0, seconds=60)
        eventually(stack, f"SELECT cluster FROM clusters WHERE version = '{NEXT_PROGRAM}'", new, seconds=60)
        assert asyncio.run(dead_letters(settings)) == 0
        assert stack.metric(STORE, "catchment_dead_letters_total") == 0
