"""The log that the demo's processes share: the embedded one of its folder, or Kafka with a prefix of this run's own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catchment.cli.exits import EnvironmentFault, UsageFault
from catchment.cli.open_log import open_kafka
from catchment.config import Config, LogSettings
from catchment.config_faults import faults_of
from catchment.config_kafka import Kafka
from demo.ports import answers

LOCAL: Final = "local"
# Topics on brokers of the user's are left behind; their messages are not kept for long.
_RETENTION_SECONDS: Final = 86_400.0
_REPLICAS_MAX: Final = 3


@dataclass(frozen=True)
class LogChoice:
    """The part of every process's configuration that says where the log is."""

    log: LogSettings
    kafka: Kafka


def embedded(folder: Path) -> LogChoice:
    """The embedded log, below the demo's folder."""
    return LogChoice(LogSettings(path=folder / "log"), Kafka())


def on_kafka(brokers: Sequence[str]) -> LogChoice:
    """Topics of this run's own on a cluster, with as many replicas as brokers are named, at most 3."""
    replicas = min(len(brokers), _REPLICAS_MAX)
    return LogChoice(
        LogSettings(topic_prefix=f"catchment-demo-{secrets.token_hex(4)}"),
        Kafka(brokers=tuple(brokers), replication_factor=replicas, retention_seconds=_RETENTION_SECONDS),
    )


def brokers_of(text: str) -> tuple[str, ...]:
    """The addresses of ``--kafka``, separated by commas; none for `LOCAL`.

    Raises:
        UsageFault: one is no address.
    """
    if text == LOCAL:
        return ()
    brokers = tuple(part.strip() for part in text.split(","))
    faults = [says for key, says in faults_of(Config(kafka=Kafka(brokers=brokers))) if key.startswith("kafka.brokers")]
    if faults:
        raise UsageFault(f"--kafka: {faults[0]}, or {LOCAL!r} for a broker that the demo starts")
    return brokers


async def check_brokers(choice: LogChoice) -> None:
    """Say now what would keep every process waiting.

    Raises:
        EnvironmentFault: none takes a connection, or the brokers are not configured as they must be.
        Retry: none answers as a broker.
    """
    if not any(await asyncio.gather(*(asyncio.to_thread(answers, broker) for broker in choice.kafka.brokers))):
        raise EnvironmentFault(f"no Kafka broker takes a connection at {', '.join(choice.kafka.brokers)}")
    log = open_kafka(Config(log=choice.log, kafka=choice.kafka))
    try:
        await log.find()
        faults = await log.faults()
    finally:
        await log.close()
    if faults:
        raise EnvironmentFault("; ".join(faults))


async def count_topics(choice: LogChoice) -> int:
    """How many topics this run has."""
    log = open_kafka(Config(log=choice.log, kafka=choice.kafka), may_create=False)
    try:
        return len(await log.describe())
    finally:
        await log.close()
