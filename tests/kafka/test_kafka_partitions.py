"""Partitions that an operator adds to topics while everything runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from aiokafka.admin import NewPartitions

from aggregators.aggregator import Aggregator, AggregatorConfig
from catchment.columns import GLOBAL_LANES, global_topic
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import Source
from store.loader import Loader, LoaderLimits
from tests.integration.fleet import REGION, counter_row, envelope, message, until
from tests.integration.store_support import opened
from tests.kafka.support import administer, run

STORED = "SELECT sum(points) FROM catchment_data.metrics_{}"


def test_added_partitions_are_read_without_a_restart(settings: KafkaSettings, tmp_path: Path) -> None:
    """Of a regional and of a global topic: an aggregator and a store that run take them up, and nothing is lost."""
    settings = replace(settings, metadata_seconds=0.5)
    config = AggregatorConfig(REGION, settings.prefix, linger_seconds=0.02)
    metrics = config.input_topics["metrics_cluster"]
    tables = [global_topic(settings.prefix, lane) for lane in GLOBAL_LANES]

    async def send(log: KafkaLog, position: int, partitions: int) -> None:
        # Clusters of many tenants, so that the roll-ups are in every partition too.
        writer = await log.writer(Source("test"))
        sealed = [
            replace(
                message(envelope("metrics_cluster", [counter_row("c", "hits", 1, tenant)], tenant=tenant)),
                topic=metrics,
                partition=number % partitions,
            )
            for number, tenant in enumerate(f"tenant-{n}" for n in range(12))
        ]
        await writer.publish(sealed, position)
        await writer.close()

    async def work(log: KafkaLog) -> None:
        await log.create_topics(config.topics)
        with opened(tmp_path) as store:
            limits = LoaderLimits(look_seconds=0.2)
            loader = Loader(log, store.engine, store.ledger, tables, quarantine_folder=tmp_path / "q", limits=limits)
            aggregator, stop = Aggregator(log, config), asyncio.Event()
            running = [asyncio.create_task(aggregator.run(stop)), asyncio.create_task(loader.run(stop))]
            await send(log, 1, 1)
            await until(lambda: aggregator.ready() and loader.ready, 60)
            more = {metrics: NewPartitions(3), global_topic(settings.prefix, "metrics_region"): NewPartitions(4)}
            await administer(settings, lambda admin: admin.create_partitions(more))
            other = KafkaLog(settings)
            async with asyncio.timeout(60):  # the controller has answered, the broker may not know yet
                while (await other._topics.get(metrics, fresh=True)).partitions < 3:
                    pass
            await send(other, 2, 3)
            await until(lambda: sum(status.topic == metrics for status in aggregator.status()) == 3, 60)
            await until(lambda: sum(status.topic == tables[1] for status in loader.status()) == 4, 60)
            await until(lambda: aggregator.ready() and loader.ready, 60)
            await send(other, 3, 3)
            for lane in ("cluster", "region"):
                await until(lambda lane=lane: store.one(STORED.format(lane)) == 36, 60)  # type: ignore[misc]
            # Rows are to be seen a little before the ledger says that they were loaded.
            await until(
                lambda: all(store.ledger.loaded(log.log_id, tables[1], number).messages for number in range(4)), 60
            )
            stop.set()
            await asyncio.gather(*running)
            loader.close()
            await other.close()

    run(settings, work)
