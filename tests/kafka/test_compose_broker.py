"""The broker of compose.kafka.yaml, without its container: the same settings, on a broker of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from catchment.cli.main import run
from catchment.cli.open_log import open_kafka
from catchment.config_load import load
from catchment.errors import Retry
from catchment.log.port import OutMessage, Source
from demo.local_kafka import PROPERTIES, LocalKafka
from tests.faults.stack import wait_until
from tests.unit.test_compose import parsed

# What is the machine's and not the settings': addresses and folders.
_PLACES = frozenset(
    (
        "controller.quorum.voters",
        "listeners",
        "advertised.listeners",
        "listener.security.protocol.map",
        "log.dirs",
    )
)


def settings() -> dict[str, str]:
    """The broker's properties, made of its environment as its image does it."""
    environment: dict[str, str] = parsed("compose.kafka.yaml")["services"]["kafka"]["environment"]
    return {name.removeprefix("KAFKA_").replace("_", ".").lower(): value for name, value in environment.items()}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalKafka]:
    """A broker that has these settings, and where they say nothing Kafka's own defaults."""
    given = settings()
    assert given.keys() >= _PLACES
    places = {key: value for key, value in given.items() if key not in _PLACES}
    running = LocalKafka(tmp_path / "kafka", properties=places, without=PROPERTIES.keys() - given.keys())
    try:
        running.start()
        yield running
    finally:
        running.stop()


def test_the_broker_of_compose_is_as_it_must_be(
    broker: LocalKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts, takes a transaction, and `catchment topics describe` finds no fault in it."""
    file = tmp_path / "catchment.yaml"
    file.write_text(f"region: east\nkafka: {{brokers: ['{broker.plain}'], replication_factor: 1}}\n")
    # A young broker on overloaded cores answers late, which is to be tried again and no fault.
    wait_until(lambda: run(["topics", "create", "--config", str(file)]) == 0, "the topics are made")
    wait_until(lambda: _published(file), "a transaction is committed")
    capsys.readouterr()
    wait_until(lambda: run(["topics", "describe", "--json", "--config", str(file)]) != 3, "the topics are described")
    assert json.loads(capsys.readouterr().out)["faults"] == []


def _published(file: Path) -> bool:
    async def publish() -> int | None:
        log = open_kafka(load(file))
        try:
            writer = await log.writer(Source("probe"))
            await writer.publish([OutMessage("catchment.east.metrics_cluster", "key", b"value")], 7)
            return await writer.committed()
        finally:
            await log.close()

    with contextlib.suppress(Retry):
        return asyncio.run(publish()) == 7
    return False
