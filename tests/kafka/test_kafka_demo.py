"""The demo over a real Kafka: the same plant, the same proof."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_demo import SMALL, line_of, run
from tests.kafka.broker import Broker


@pytest.mark.slow
def test_a_small_demo_adds_up_over_kafka(tmp_path: Path, kafka_broker: Broker) -> None:
    """Collectors, aggregators and store share nothing but Kafka; all levels agree after a kill −9."""
    done = run(*SMALL, "12s", "--kafka", kafka_broker.plain, temporary=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"their log on Kafka at {kafka_broker.plain}" in done.stdout
    assert "It adds up. Each alone: 40 of 40 stations, 8 of 8 clouds equal." in done.stdout
    told = line_of(done.stdout, "acknowledged to senders").split()
    assert told[3:6] == line_of(done.stdout, "globe").split()[1:4], done.stdout
    assert "0 points lost" in done.stdout
