"""The Kafka log passes the contract on a real broker."""

from __future__ import annotations

import uuid

import pytest

from tests.contract.log_contract import LogContract


class TestKafkaLog(LogContract):
    """The contract suite on Kafka."""

    @pytest.fixture
    def log_url(self, kafka_address: str) -> str:
        """A new log, by its prefix."""
        return f"kafka:{kafka_address}/{uuid.uuid4().hex[:12]}"
