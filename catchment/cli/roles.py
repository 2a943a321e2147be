"""The roles: where the tiers are put together from the configuration. Each imports its tier when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from catchment.cli.open_log import open_log
from catchment.cli.role_process import Role, RoleContext
from catchment.cli.waiting_partitions import Waiting, retrying, standing
from catchment.config import Config, Profile
from catchment.log.traced import traced
from catchment.telemetry import OwnMetric
from catchment.units import Address

if TYPE_CHECKING:
    from aggregators.aggregator import AggregatorConfig


async def run_collector(config: Config, context: RoleContext) -> None:
    """OTLP in → inbox → outbox → the regional log."""
    from collectors.collector import run

    settings = config.for_collector()
    log = traced(open_log(settings), context.tracing)
    try:
        await run(settings, log, context)
    finally:
        await log.close()


def aggregator_of(config: Config) -> AggregatorConfig:
    """What the aggregator of a configuration is told; its topics are those that `catchment topics` makes."""
    from aggregators.aggregator import AggregatorConfig
    from aggregators.destinations import destinations

    settings = config.for_aggregator()
    prefix = settings.log.topic_prefix
    return AggregatorConfig(
        place=settings.place,
        region=settings.region,
        prefix=prefix,
        destinations=destinations(prefix, settings.region, to=settings.to, region_store=settings.region_store),
        partitions=settings.log.partitions,
        linger_seconds=settings.linger_seconds,
        batch_bytes_max=settings.limits.rollup_bytes_max,
        rows_max=settings.limits.rollup_rows_max,
        message_bytes_max=settings.limits.message_bytes_max,
    )


async def run_aggregator(config: Config, context: RoleContext) -> None:
    """The log of a region (or zone) → merged → the global log (or the region's)."""
    from aggregators.aggregator import Aggregator

    log = traced(open_log(config.for_aggregator()), context.tracing)
    aggregator = Aggregator(log, aggregator_of(config))

    def waiting() -> list[Waiting]:
        return [
            Waiting(status.topic, status.partition, status.state, status.reason)
            for status in aggregator.status()
            if status.state != "running"
        ]

    def stalled() -> Sequence[str]:
        return retrying(waiting()) if aggregator.joined else [aggregator.trouble] if aggregator.trouble else []

    def reasons() -> Sequence[str]:
        return [*standing(waiting()), *stalled()] if aggregator.joined else stalled() or ["starting"]

    def record() -> None:
        for status in aggregator.status():
            partition = str(status.partition)
            context.telemetry.set(OwnMetric.LAG_MESSAGES, status.lag, status.topic, partition)
            context.rise(OwnMetric.ROLLUP_MESSAGES_IN, status.messages_in, status.lane, source=partition)
            context.rise(OwnMetric.ROLLUP_MESSAGES_OUT, status.messages_out, status.lane, source=partition)
            context.rise(OwnMetric.ROLLUP_ROWS_IN, status.rows_in, status.lane, source=partition)
            context.rise(OwnMetric.ROLLUP_ROWS_OUT, status.rows_out, status.lane, source=partition)
            context.rise(OwnMetric.DEAD_LETTERS, status.dead_letters, source=f"{status.topic}/{partition}")
        states = [status.state for status in aggregator.status()]
        context.telemetry.set(OwnMetric.HELD_MESSAGES, states.count("held") + states.count("halted"))
        context.telemetry.set(OwnMetric.HALTED_PARTITIONS, states.count("halted"))

    context.watch, context.stalled = reasons, stalled
    context.record = record
    try:
        await aggregator.run(context.stop)
    finally:
        await log.close()


async def run_store(config: Config, context: RoleContext) -> None:
    """The global log → loader → engine → SQL endpoint."""
    from catchment.cli import store_role

    await store_role.run_store(config, context)


def _otlp(config: Config) -> dict[str, Address]:
    return {"listen.otlp_grpc": config.listen.otlp_grpc, "listen.otlp_http": config.listen.otlp_http}


ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role("collector", Profile.COLLECTOR, Config.for_collector, _otlp, run_collector),
        Role("aggregator", Profile.AGGREGATOR, Config.for_aggregator, lambda _: {}, run_aggregator),
        Role("store", Profile.STORE, Config.for_store, lambda config: {"listen.sql": config.listen.sql}, run_store),
    )
}
