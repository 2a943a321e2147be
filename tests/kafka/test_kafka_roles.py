"""The roles and commands on Kafka: the whole path, with the broker away and processes killed in between."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catchment.cli.main import run
from tests import otlp
from tests.faults.stack import REGION, Stack, wait_until
from tests.faults.totals import disagreements
from tests.integration.end_to_end import eventually, now, send
from tests.kafka.broker import Broker

COLLECTOR, AGGREGATOR, STORE = "collector", "aggregator", "store"
SENT = "SELECT sum(t.points) FROM control_totals AS t WHERE lane = 'metrics' AND level = 'globe'"


@pytest.fixture
def stack(tmp_path: Path, kafka_broker: Broker) -> Iterator[Stack]:
    """Roles that share no file but a new log on Kafka."""
    prefix = f"roles-{uuid.uuid4().hex[:12]}"
    kafka = f"kafka: {{brokers: [{kafka_broker.plain}], replication_factor: 1}}\nlog: {{topic_prefix: {prefix}}}\n"
    with Stack(tmp_path, settings=kafka) as running:
        yield running


def sent(stack: Stack, count: int, *, seconds_ago: int) -> None:
    """One request of ``count`` points; requests of one time would be repeats of each other."""
    points = [otlp.number(now() - seconds_ago, number, attributes={"key": str(number)}) for number in range(count)]
    send(stack, "", otlp.gauge("m", *points), resource={"service.name": "s"})


def what_each_says_without_a_log(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """Who serves is ready and says what is stalled, and for how long; who cannot work is not ready and says why."""

    def status(role: str) -> tuple[int, dict[str, Any]]:
        code = run(["status", "--json", "--interval", "0.1", "--url", f"http://{stack.status_address(role)}"])
        return code, json.loads(capsys.readouterr().out)

    for role in (COLLECTOR, STORE):
        wait_until(lambda role=role: stack.reasons(role).startswith("ok\nstalled for"), f"{role} is ready")  # type: ignore[misc]
        code, said = status(role)
        assert code == 0 and said["ready"] and said["reasons"] == []
        (stalled,) = said["stalled"]
        assert re.match(r"for \d+ s: the log does not answer: ", stalled)
        assert said["tiers"]["process"]["stalled_seconds"] > 0
    assert stack.rows("SELECT count() AS n FROM metrics_cluster_1m")[0]["n"] == 0
    wait_until(lambda: "the log does not answer" in stack.reasons(AGGREGATOR), "the aggregator says why")
    code, said = status(AGGREGATOR)
    assert code == 1 and "the log does not answer" in said["reasons"][0] and said["stalled"] == []

    def waits() -> bool:
        tier, said = status(COLLECTOR)[1]["tiers"]["process"], stack.reasons(COLLECTOR)
        seen = tier["outbox_bytes"] > 0 and tier["outbox_oldest_seconds"] > 0 and 0 < tier["outbox_used_ratio"] < 0.01
        return seen and bool(re.search(r"; [\d.]+ KiB wait, 0% of the limit, the oldest for \d+ s", said))

    wait_until(waits, "the collector says how much waits and for how long", details=lambda: stack.reasons(COLLECTOR))
    tier = status(COLLECTOR)[1]["tiers"]["process"]
    assert (tier["outbox_window_seconds"], tier["pushing_back_seconds"]) == (0, 0)


def test_the_whole_path_on_kafka(stack: Stack, kafka_broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """Senders are answered while Kafka is away; after it came up and every role was killed, all places agree."""
    kafka_broker.kill()
    try:
        stack.start(COLLECTOR, AGGREGATOR, STORE)
        wait_until(lambda: "the log does not answer" in stack.reasons(COLLECTOR), "the collector serves")
        sent(stack, 10, seconds_ago=40)
        what_each_says_without_a_log(stack, capsys)
    finally:
        kafka_broker.start()
    stack.wait_ready(COLLECTOR, AGGREGATOR, STORE)
    eventually(stack, SENT, 10, seconds=60)
    for index, role in enumerate((AGGREGATOR, STORE, COLLECTOR)):
        sent(stack, 20, seconds_ago=30 - 10 * index)
        stack.kill(role)
        stack.start(role)
        stack.wait_ready(role)
    eventually(stack, SENT, 70, seconds=60)
    eventually(stack, "SELECT sum(c.points) FROM metrics_cluster_1m AS c", 70, seconds=60)
    wait_until(lambda: not disagreements(stack), "all places agree", details=lambda: "\n".join(disagreements(stack)))
    stack.stop(COLLECTOR, AGGREGATOR, STORE)


def test_topics_are_created_and_described(
    tmp_path: Path, kafka_broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """``topics create`` makes all topics once; ``describe`` says no before and yes after; dlq works on the log."""
    prefix = f"topics-{uuid.uuid4().hex[:12]}"
    file = tmp_path / "catchment.yaml"
    file.write_text(
        f"region: {REGION}\nlog: {{topic_prefix: {prefix}, partitions: 3}}\n"
        f"kafka: {{brokers: ['{kafka_broker.plain}'], replication_factor: 1}}\n"
    )
    arguments = ["--config", str(file)]
    assert run(["topics", "describe", *arguments]) == 3
    assert "there is no log" in capsys.readouterr().err
    assert run(["topics", "create", "--json", *arguments]) == 0
    created = json.loads(capsys.readouterr().out)["created"]
    assert f"{prefix}.{REGION}.dead-letter" in created and f"{prefix}.global.totals" in created
    assert run(["topics", "create", "--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["created"] == []
    assert run(["topics", "describe", "--json", *arguments]) == 0
    described = json.loads(capsys.readouterr().out)
    partitions = {row["topic"]: row["partitions"] for row in described["topics"]}
    assert described["faults"] == []
    assert partitions.pop(f"{prefix}.positions") == partitions.pop(f"{prefix}.{REGION}.dead-letter") == 1
    assert set(partitions.values()) == {3}
    assert run(["dlq", "list", *arguments]) == 0
    assert "0 open" in capsys.readouterr().out
    # Another configuration allows larger messages than these topics take.
    file.write_text(file.read_text() + "limits: {message_bytes_max: 40MiB}\n")
    assert run(["topics", "describe", *arguments]) == 1
    assert "fault: topic" in capsys.readouterr().out


def test_an_embedded_log_leaves_kafka_alone(tmp_path: Path) -> None:
    """Neither aiokafka nor our adapter is imported by roles whose log is the embedded one: it costs memory."""
    code = (
        "import sys, catchment.cli.roles, catchment.cli.store_role, collectors.collector, catchment.cli.dlq;"
        "from catchment.cli.open_log import open_log; from catchment.config import Config, LogSettings;"
        "from pathlib import Path; open_log(Config(log=LogSettings(path=Path(sys.argv[1]))));"
        "sys.exit([name for name in sys.modules if name.startswith(('aiokafka', 'catchment.log.kafka'))] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_a_log_on_kafka_needs_brokers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``topics`` with an embedded log is a fault of usage."""
    file = tmp_path / "catchment.yaml"
    file.write_text("region: local\n")
    assert run(["topics", "create", "--config", str(file)]) == 2
    assert "kafka.brokers" in capsys.readouterr().err
