"""A child process that publishes numbered batches until it is killed.

    python -m tests.contract.log_publisher URL TOPIC HOP

Batch k is ``BATCH`` messages "k/0" … and the position k + 1, over both partitions. Prints a line once it publishes.
"""

from __future__ import annotations

import asyncio
import sys

from catchment.log.port import OutMessage, Source
from tests.contract.logs import open_log

BATCH = 5


def batch(topic: str, number: int) -> list[OutMessage]:
    """The messages of batch ``number``: 100 kB each, so that a kill has something to tear."""
    return [
        OutMessage(topic, f"key-{index}", f"{number}/{index}".encode().ljust(100_000, b"."), partition=index % 2)
        for index in range(BATCH)
    ]


async def _main(url: str, topic: str, hop: str) -> None:
    log = await open_log(url)
    writer = await log.writer(Source(hop))
    number = await writer.committed() or 0
    while True:
        await writer.publish(batch(topic, number), number + 1)
        number += 1
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
