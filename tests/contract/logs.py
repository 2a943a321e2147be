"""Logs by URL, so that a child process can open the same one: the adapters that the contract suite knows."""

from __future__ import annotations

from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import Log
from catchment.log.sqlite import SqliteLog


async def open_log(url: str) -> Log:
    """Open ``sqlite:<path>`` or ``kafka:<host>:<port>/<prefix>``."""
    adapter, _, rest = url.partition(":")
    if adapter == "sqlite":
        return SqliteLog.open(rest)
    if adapter == "kafka":
        address, _, prefix = rest.partition("/")
        return await KafkaLog.open(KafkaSettings((address,), prefix))
    raise ValueError(f"unknown log adapter {adapter!r}")
