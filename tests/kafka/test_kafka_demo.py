"""`catchment demo --kafka` as a user runs it: over brokers that run, and over one of its own, which it kills."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from demo.log_choice import on_kafka
from tests.faults.stack import wait_until
from tests.integration.test_demo import SMALL, line_of, processes_of, run
from tests.kafka.broker import Broker


def levels_of(text: str) -> set[tuple[str, ...]]:
    """The figures of the confluences, each once: one if they agree."""
    return {tuple(line_of(text, name).split()[-5:]) for name in ("Σ 40 stations", "Σ 8 zones", "Σ 4 regions", "globe")}


@pytest.mark.proof
@pytest.mark.slow
def test_over_brokers_that_run_one_invented_watt_hour_is_found(tmp_path: Path, kafka_broker: Broker) -> None:
    """All adds up after a collector's kill but a watt-hour that nobody sent, which is named; yours is never killed."""
    pid = kafka_broker.pid
    done = run(*SMALL, "10s", "--tamper", "--kafka", kafka_broker.plain, temporary=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "It does NOT add up. Each alone: 39 of 40 stations, 7 of 8 clouds equal." in done.stdout
    assert "unequal: jp-west-b, osaka-b-0001" in done.stdout
    assert line_of(done.stdout, "globe").endswith("✗") and len(levels_of(done.stdout)) == 1
    assert line_of(done.stdout, "accepted by collectors").endswith("✓"), "points were not tampered with"
    assert "kill -9 of the collector of jp-east-a" in done.stdout and "0 points lost" in done.stdout
    assert "kill -9 of the Kafka broker" not in done.stdout and kafka_broker.pid == pid
    assert f"Kafka: {kafka_broker.plain}" in done.stdout
    shown = re.search(r"(\d+) topics (\S+)\.\*\s+(\S+) messages out of the zones, (\S+) to the globe", done.stdout)
    assert shown is not None, done.stdout
    # 4 regions of 5 lanes and dead letters, 6 global tables, positions.
    assert shown[1] == "31" and f"topics {shown[2]}.*" in line_of(done.stdout, "start 13 processes")
    assert int(shown[3].replace(",", "")) > int(shown[4].replace(",", "")) > 0
    assert list(tmp_path.iterdir()) == [] and processes_of(tmp_path / "catchment-demo-") == []


@pytest.mark.proof
def test_a_demo_with_a_broker_of_its_own(tmp_path: Path) -> None:
    """The broker is killed in the middle, nothing is lost, the cost is shown and drawn, and the broker is gone then."""
    pictures = tmp_path / "pictures"
    # Where cores are overloaded a broker is long in coming back.
    done = run(*SMALL, "10s", "--kafka", "local", "--picture", str(pictures), temporary=tmp_path, seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "It adds up. Each alone: 40 of 40 stations, 8 of 8 clouds equal." in done.stdout
    assert len(levels_of(done.stdout)) == 1
    assert re.search(r"kill -9 +broker at \d+ s: answers after \d+\.\d s, 0 points lost", done.stdout)
    assert re.search(r"SQL had all of the meantime after \d+\.\d s; ", done.stdout)
    assert re.search(r"start a Kafka broker on 127\.0\.0\.1:\d+", done.stdout)
    ElementTree.fromstring((pictures / "demo-kafka.svg").read_text())
    assert [path.name for path in pictures.iterdir()] == ["demo-kafka.svg"]
    assert list(tmp_path.glob("catchment-demo-*")) == []
    assert processes_of(tmp_path / "catchment-demo-") == []


def test_brokers_that_cannot_be_used_are_said_before_anything_starts(tmp_path: Path) -> None:
    """What is no address is usage (2), an address at which nobody answers is not (3); no folder is left."""
    for code, says, brokers in (
        (2, "'nonsense' is no address", "nonsense"),
        (3, "127.0.0.1:1", "127.0.0.1:1"),
    ):
        done = run("demo", "--kafka", brokers, temporary=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done
        assert says in done.stderr
        assert list(tmp_path.iterdir()) == []


def test_every_run_has_topics_of_its_own() -> None:
    """Two runs on one cluster never meet, and topics have as many replicas as brokers are named, at most 3."""
    prefixes = {on_kafka(["a:1"]).log.topic_prefix for _ in range(10)}
    assert len(prefixes) == 10
    factors = [on_kafka([f"kafka-{number}:9092" for number in range(count)]).kafka for count in (1, 2, 3, 5)]
    assert [kafka.replication_factor for kafka in factors] == [1, 2, 3, 3]


def test_a_broker_does_not_outlive_its_starter(tmp_path: Path) -> None:
    """When the process that started it is killed with SIGKILL, the broker is gone within seconds."""
    code = (
        "import sys, time; from pathlib import Path; from demo.local_kafka import LocalKafka;"
        "LocalKafka(Path(sys.argv[1])).start(wait=False); print('started', flush=True); time.sleep(60)"
    )
    folder = tmp_path / "kafka"
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as starter:
        try:
            assert starter.stdout is not None and starter.stdout.readline() == "started\n"
            properties = folder / "server.properties"
            # The shell becomes the broker a little later.
            wait_until(lambda: any("java" in name for name in _running(properties)), "the broker runs")
        finally:
            starter.send_signal(signal.SIGKILL)
    wait_until(lambda: not _running(properties), "the broker is gone")


def _running(folder: Path) -> list[str]:
    """Names of the living processes of a folder."""
    names = []
    for process in processes_of(folder):
        with suppress(psutil.NoSuchProcess):  # gone meanwhile
            names += [process.name()] if process.status() != psutil.STATUS_ZOMBIE else []
    return names
