"""A child process that aggregates until it is told to stop by a line on stdin, or killed.

python -m tests.integration.aggregator_process LOG_PATH REGION
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aggregators.aggregator import Aggregator, AggregatorConfig
from catchment.log.sqlite import SqliteLog


async def _main(path: str, region: str) -> None:
    log = SqliteLog.open(Path(path))
    stop = asyncio.Event()
    # Told to stop, it rolls up all that is there, however much that is on a busy machine.
    config = AggregatorConfig(region, linger_seconds=0.02, batch_bytes_max=40_000, drain_seconds=60)
    aggregator = Aggregator(log, config)
    running = asyncio.create_task(aggregator.run(stop))
    print("up", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    stop.set()
    await running
    await log.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
