"""A child process that keeps a place in a group until it is killed, and prints each assignment.

python -m tests.kafka.member BROKER PREFIX GROUP TOPIC SESSION_SECONDS
"""

from __future__ import annotations

import asyncio
import sys

from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings


async def _main(broker: str, prefix: str, group: str, topic: str, session_seconds: str) -> None:
    log = await KafkaLog.open(KafkaSettings((broker,), prefix, session_seconds=float(session_seconds)))
    members = await log.join(group, [topic])
    while True:
        print(*sorted(partition for _, partition in await members.changed()), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
