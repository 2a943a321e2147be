"""``catchment topics``: the topics of a log on Kafka."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from catchment.cli.exits import CheckFailed, UsageFault
from catchment.cli.open_log import open_kafka
from catchment.cli.options import config_option, json_option, read_config
from catchment.cli.roles import aggregator_of
from catchment.config import Config

if TYPE_CHECKING:
    from catchment.log.kafka import KafkaLog

T = TypeVar("T")
_SHOWN = ("retention.ms", "max.message.bytes", "min.insync.replicas")


@click.group()
def topics() -> None:
    """Create the topics on Kafka, or describe and check them."""


@topics.command()
@config_option(required=True)
@json_option
def create(config_file: Path, as_json: bool) -> None:
    """Create the topics of the configured place and of those it sends to that do not exist yet; check those that do."""

    async def work(log: KafkaLog, config: Config) -> list[str]:
        before = {state.name for state in await log.describe()}
        await log.create_topics(topics_of(config))
        return sorted({state.name for state in await log.describe()} - before)

    created = _with_log(read_config(config_file), work, may_create=True)
    if as_json:
        click.echo(json.dumps({"created": created}))
        return
    for name in created:
        click.echo(f"created {name}")
    click.echo(f"{len(created)} created")


@topics.command()
@config_option(required=True)
@json_option
def describe(config_file: Path, as_json: bool) -> None:
    """Describe every topic of the log; exit code 1 if one, or a broker, is not as the configuration needs it."""

    async def work(log: KafkaLog, config: Config) -> tuple[str, list[dict[str, object]], list[str]]:
        states = await log.describe()
        table: list[dict[str, object]] = [
            {
                "topic": state.name,
                "id": state.topic_id,
                "partitions": state.partitions,
                "ends": [await log.end_offset(state.name, number) for number in range(state.partitions)],
                **{key: state.configs.get(key) for key in _SHOWN},
            }
            for state in states
        ]
        missing = sorted(set(topics_of(config)) - {state.name for state in states})
        faults = [*await log.faults(), *(f"topic {name} is missing: catchment topics create" for name in missing)]
        return log.log_id, table, faults

    log_id, table, faults = _with_log(read_config(config_file), work, may_create=False)
    if as_json:
        click.echo(json.dumps({"log_id": log_id, "topics": table, "faults": faults}))
    else:
        click.echo(f"log {log_id}")
        for row in table:
            click.echo("  ".join(f"{key}={value}" if key != "topic" else str(value) for key, value in row.items()))
        for fault in faults:
            click.echo(f"fault: {fault}")
    if faults:
        raise CheckFailed(f"{len(faults)} of topics and brokers: {faults[0]}")


def topics_of(config: Config) -> dict[str, int]:
    """Every topic that the aggregator of the configured place reads or writes, with the partitions of a new one."""
    return aggregator_of(config).topics


def _with_log(config: Config, work: Callable[[KafkaLog, Config], Awaitable[T]], *, may_create: bool) -> T:
    if not config.kafka.brokers:
        raise UsageFault("the configuration names no kafka.brokers: the embedded log makes its topics itself")

    async def run() -> T:
        log = open_kafka(config, may_create=may_create)
        try:
            return await work(log, config)
        finally:
            await log.close()

    return asyncio.run(run())
