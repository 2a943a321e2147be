"""Whether the process of a test stood still, by which what is under test fails that is right."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

_TICK_SECONDS = 0.02


class Gaps:
    """How long the event loop stood still at most, since this was made and ticks."""

    def __init__(self) -> None:
        self._longest_seconds = 0.0
        self._ticked = time.monotonic()

    def seconds_max(self) -> float:
        """The longest gap, that which lasts until now included."""
        return max(self._longest_seconds, time.monotonic() - self._ticked)

    async def tick(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._longest_seconds, self._ticked = self.seconds_max(), time.monotonic()


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[Gaps]:
    """The gaps of the event loop while this is entered."""
    gaps = Gaps()
    ticking = asyncio.create_task(gaps.tick())
    try:
        yield gaps
    finally:
        ticking.cancel()
