"""What the tests of the Kafka log share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiokafka.admin import AIOKafkaAdminClient

from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import Source
from tests.contract.log_contract import numbered

Body = Callable[[KafkaLog], Awaitable[None]]


def run(settings: KafkaSettings, body: Body, *, may_create: bool = True) -> None:
    """Open the log, run the body within a time limit, close."""

    async def limited() -> None:
        log = await KafkaLog.open(settings, may_create=may_create)
        try:
            await asyncio.wait_for(body(log), 150)
        finally:
            await log.close()

    asyncio.run(limited())


async def administer(settings: KafkaSettings, work: Callable[[AIOKafkaAdminClient], Awaitable[object]]) -> None:
    """Do what an operator does with Kafka's own tools."""
    admin = AIOKafkaAdminClient(bootstrap_servers=list(settings.brokers))
    await admin.start()
    try:
        await work(admin)
    finally:
        await admin.close()


async def forgotten(log: KafkaLog, topic: str) -> None:
    """Wait until the broker knows that a topic was deleted: the controller has answered before that."""
    async with asyncio.timeout(60):
        while topic in {one.name for one in await log._topics.of_prefix()}:
            pass


async def published(log: KafkaLog, topic: str, *numbers: int) -> None:
    """Publish each number in a transaction of its own."""
    writer = await log.writer(Source("hop"))
    for number in numbers:
        await writer.publish(numbered(topic, number), number)
    await writer.close()
