"""What all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from demo.ports import SHARE
from demo.ports import free_port as a_free_port
from tests.kafka.broker import Broker

# Machines that run the tests are shared: a slow example is no failure, and a slow generator none either.
settings.register_profile("catchment", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("catchment")

# Workers of pytest-xdist run side by side; each has ports of its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    _worker = os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")
    os.environ[SHARE] = f"{_worker}/{os.environ['PYTEST_XDIST_WORKER_COUNT']}"


@pytest.fixture(autouse=True, scope="module")
def _collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tasks that a module on Kafka leaves to the garbage collection are collected with it.

    What asyncio has to say of one is formatted by parsing code. Where that comes in the midst of other parsing, which
    Hypothesis does of its tests, Python 3.11 fails.
    """
    yield
    if "kafka" in request.path.name:
        gc.collect()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a TCP port of this machine that was free just now, another one at each call."""
    return a_free_port


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of our own, which a test may kill if it starts it again."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def kafka_address(request: pytest.FixtureRequest) -> str:
    """A broker without TLS: that of ``CATCHMENT_TEST_KAFKA``, else our own."""
    given = os.environ.get("CATCHMENT_TEST_KAFKA")
    if given:
        return given
    broker: Broker = request.getfixturevalue("kafka_broker")
    return broker.plain
