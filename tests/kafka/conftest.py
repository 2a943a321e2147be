"""A new log for each test of Kafka."""

from __future__ import annotations

import uuid

import pytest

from catchment.log.kafka_settings import KafkaSettings


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(kafka_address: str, prefix: str) -> KafkaSettings:
    """A new log on the broker."""
    return KafkaSettings((kafka_address,), prefix)
