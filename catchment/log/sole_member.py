"""The group of a log that one process a role reads: its only member has everything."""

from __future__ import annotations

import asyncio

from catchment.log.port import Assignment


class SoleMember:
    """A `catchment.log.port.Membership` whose assignment is everything, and never changes."""

    def __init__(self, everything: Assignment) -> None:
        self._everything: Assignment | None = everything

    async def changed(self) -> Assignment:
        """Everything, once."""
        if self._everything is None:
            await asyncio.Event().wait()
        everything, self._everything = self._everything, None
        assert everything is not None
        return everything

    def fenced(self, topic: str, partition: int) -> None:
        """A younger process of this role has come: it stays."""

    async def close(self) -> None:
        """There is nobody to tell."""
