"""Who may run a query now: places, and a share of them for each reader of some tenants.

Rules:

1. ``count`` queries run at once; ``waiting_max`` more wait, each for ``wait_seconds_max``; beyond: `EngineError` 202.
2. A reader of some tenants has at most half of the places and half of the queue, so that by itself it can keep nobody
   else from reading, however long its queries take. Operators, and whoever reads where no readers file is, have all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from store.engine.port import EngineError
from store.readers import Reader

TOO_MANY_SIMULTANEOUS_QUERIES = 202


class _Queue:
    """Places of one kind, and how many wait for them."""

    def __init__(self, count: int, waiting_max: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._waiting_max = waiting_max
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the places; raises `TimeoutError` at once if too many wait."""
        if self._free.locked() and self._waiting >= self._waiting_max:
            raise TimeoutError
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()


class Places:
    """The places of one endpoint.

    Args:
        count: queries at once.
        waiting_max: queries that wait.
        wait_seconds_max: how long one waits.
    """

    def __init__(self, count: int, waiting_max: int, wait_seconds_max: float) -> None:
        self._count = count
        self._waiting_max = waiting_max
        self._wait_seconds_max = wait_seconds_max
        self._all = _Queue(count, waiting_max)
        # One for each name that was admitted: as many as the readers file ever had.
        self._shares: dict[str, _Queue] = {}

    @contextlib.asynccontextmanager
    async def place(self, reader: Reader) -> AsyncIterator[None]:
        """A place for a query of ``reader``, after waiting for it if need be.

        Raises:
            EngineError: 202, there is none in time.
        """
        async with contextlib.AsyncExitStack() as taken:
            try:
                async with asyncio.timeout(self._wait_seconds_max):
                    if reader.tenants is not None:
                        await taken.enter_async_context(self._share(reader.name).place())
                    await taken.enter_async_context(self._all.place())
            except TimeoutError:
                raise EngineError(
                    TOO_MANY_SIMULTANEOUS_QUERIES,
                    "TOO_MANY_SIMULTANEOUS_QUERIES",
                    f"Too many simultaneous queries. Maximum: {self._count}. Try again later.",
                ) from None
            yield

    def _share(self, name: str) -> _Queue:
        if name not in self._shares:
            self._shares[name] = _Queue(max(1, self._count // 2), self._waiting_max // 2)
        return self._shares[name]
