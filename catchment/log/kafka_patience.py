"""How soon a broker that does not answer is tried again.

aiokafka has no backoff: while a cluster is away every client of it connects again and again, dozens of times a second.
Here all clients of a log share their patience:

1. While a broker answers nothing waits, and connections are made side by side.
2. After a failure the broker is tried once at a time for all clients together, with pauses that double from
   ``_PAUSE_SECONDS_MIN`` to ``_PAUSE_SECONDS_MAX``, with jitter, so that a fleet does not come back on one beat. The
   first success ends it for all.
3. Whoever waits here has a time limit of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import NodeNotReadyError

T = TypeVar("T")

_PAUSE_SECONDS_MIN = 0.05
_PAUSE_SECONDS_MAX = 2.0
_BOOTSTRAP = -1


class _Broker:
    """What is known of a broker; ``again`` is when it may be tried next, by the loop's clock."""

    def __init__(self) -> None:
        self.failures = 0
        self.again = 0.0
        self.turn = asyncio.Lock()


class Patience:
    """Of all clients of one log in one process."""

    def __init__(self) -> None:
        self._brokers: dict[int, _Broker] = {}

    async def attempt(self, node: int, connect: Callable[[], Awaitable[T | None]]) -> T | None:
        """Connect, after a pause if that failed before; ``connect`` gives None, or raises, where it fails."""
        broker = self._brokers.setdefault(node, _Broker())
        if not broker.failures:
            return await self._connect(broker, connect)
        async with broker.turn:
            if broker.failures:
                await asyncio.sleep(broker.again - asyncio.get_running_loop().time())
            return await self._connect(broker, connect)

    async def _connect(self, broker: _Broker, connect: Callable[[], Awaitable[T | None]]) -> T | None:
        found = None
        try:
            found = await connect()
        finally:
            # Also where it was cancelled: what takes so long does not answer.
            now = asyncio.get_running_loop().time()
            if found is not None:
                broker.failures = 0
            elif now >= broker.again or not broker.failures:
                # Connections that fail side by side are one failure.
                pause = min(_PAUSE_SECONDS_MIN * 2 ** min(broker.failures, 20), _PAUSE_SECONDS_MAX)
                broker.failures += 1
                broker.again = now + pause * random.uniform(0.5, 1.0)  # noqa: S311
        return found


class PatientClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's client with patience; those that its producers and consumers make for themselves become one."""

    patience: Patience

    async def bootstrap(self) -> None:
        """Find the cluster; raises as aiokafka does."""

        async def connect() -> bool:
            await AIOKafkaClient.bootstrap(self)
            return True

        await self.patience.attempt(_BOOTSTRAP, connect)

    async def coordinator_lookup(self, coordinator_type: Any, coordinator_key: str) -> Any:
        """Where a coordinator is; passing trouble where no broker is known.

        A broker that has just come up may say that there is none, which aiokafka takes for a mistake of its caller.
        """
        if self.get_random_node() is None:
            raise NodeNotReadyError("the cluster names no brokers yet")
        return await super().coordinator_lookup(coordinator_type, coordinator_key)

    async def _get_conn(
        self, node_id: int | str, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False
    ) -> Any:
        known = self._conns.get((node_id, group))
        if known is not None and known.connected():
            return known
        if isinstance(node_id, str):
            # The connection of the bootstrap, which cannot be made anew.
            return await super()._get_conn(node_id, group=group, no_hint=no_hint)

        async def connect() -> Any:
            return await AIOKafkaClient._get_conn(self, node_id, group=group, no_hint=no_hint)

        return await self.patience.attempt(node_id, connect)


def patient(client: Any, patience: Patience) -> Any:
    """Make a client of aiokafka patient; it must not have been used yet."""
    client.__class__ = PatientClient
    client.patience = patience
    return client
