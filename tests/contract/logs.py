"""Logs by URL, so that a child process can open the same one: the adapters that the contract suite knows."""

from __future__ import annotations

from catchment.log.port import Log
from catchment.log.sqlite import SqliteLog


async def open_log(url: str) -> Log:
    """Open ``sqlite:<path>``."""
    adapter, _, rest = url.partition(":")
    if adapter == "sqlite":
        return SqliteLog.open(rest)
    raise ValueError(f"unknown log adapter {adapter!r}")
