"""A broker that is away is tried once at a time for all clients of a process, and found soon after it is back."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import NodeNotReadyError

from catchment.log import kafka_patience
from catchment.log.kafka_patience import Patience, patient


class _VirtualTime(selectors.DefaultSelector):
    """Nobody waits: time leaps to whatever is next. So a busy machine changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As the event loop asks for it when it has nothing to do for so long."""
        found = super().select(0)
        assert found or timeout is not None, "waits for ever"
        self.now += 0 if found else max(timeout or 0, 0)
        return found


class _Loop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._virtual = _VirtualTime()
        super().__init__(self._virtual)

    def time(self) -> float:
        """By the virtual clock."""
        return self._virtual.now


def run(body: Coroutine[Any, Any, None]) -> None:
    """Run in virtual time."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(body)


class Broker:
    """A broker that answers or does not, and counts who tries."""

    def __init__(self) -> None:
        self.is_up = False
        self.tries = 0
        self.at_once = self.at_once_max = 0

    async def connect(self) -> bool | None:
        """As aiokafka does: None where it fails."""
        self.tries += 1
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        return True if self.is_up else None


async def insist(patience: Patience, node: int, broker: Broker) -> None:
    """What a loop of aiokafka does: again, at once."""
    while await patience.attempt(node, broker.connect) is None:
        pass


def test_who_insists_waits_together_and_goes_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty clients try as often as one would, with growing pauses; the first success is everybody's."""
    monkeypatch.setattr(kafka_patience, "_PAUSE_SECONDS_MAX", 0.4)

    async def body() -> None:
        patience, broker, other = Patience(), Broker(), Broker()
        other.is_up = True
        clients = [asyncio.create_task(insist(patience, 1, broker)) for _ in range(20)]
        await asyncio.sleep(1.5)
        # Side by side at first, then 50, 100, 200, 400, 400 … ms or half of it.
        assert 20 + 4 <= broker.tries <= 20 + 12
        await asyncio.wait_for(insist(patience, 2, other), 0.1)
        broker.is_up = True
        await asyncio.wait_for(asyncio.gather(*clients), 1.0)
        before = broker.tries
        await asyncio.wait_for(asyncio.gather(*(patience.attempt(1, broker.connect) for _ in range(20))), 0.5)
        assert broker.tries == before + 20 and broker.at_once_max == 20

    run(body())


def test_an_attempt_that_is_given_up_is_one_that_failed() -> None:
    """A broker that takes connections and says nothing is waited for with the same pauses."""

    async def body() -> None:
        patience, broker = Patience(), Broker()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(patience.attempt(1, asyncio.Event().wait), 0.15)
        loop = asyncio.get_running_loop()
        broker.is_up, started = True, loop.time()
        await patience.attempt(1, broker.connect)
        assert loop.time() - started > 0.01

    run(body())


def test_a_cluster_that_names_no_brokers_is_passing_trouble() -> None:
    """What a broker says that has just come up ends nobody: it is an error that is tried again, no assertion."""

    async def ask() -> None:
        client = patient(AIOKafkaClient(bootstrap_servers="127.0.0.1:1"), Patience())
        with pytest.raises(NodeNotReadyError):
            await client.coordinator_lookup(CoordinationType.TRANSACTION, "a-writer")

    asyncio.run(ask())
