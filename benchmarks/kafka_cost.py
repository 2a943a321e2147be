"""What a transaction costs on Kafka: bytes per second of publishes with one each, as a ratio to the same without any.

    python -m benchmarks.kafka_cost [--publishes N]

One real broker on this machine. A publish is 10 messages of a tenth of its size, of bytes that do not compress, as
ours do not. *With*: our writer, messages and position in one transaction. *Without*: the same library, idempotent, all
replicas, zstd, and waiting for every message; no position is kept. Both in turns, several rounds; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable

from aiokafka import AIOKafkaProducer

from benchmarks.harness import record
from benchmarks.kafka_setting import broker
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import OutMessage, Source

_MESSAGES = 10
_ROUNDS = 5
_MESSAGE_BYTES_MAX = 64 << 20

Publish = Callable[[int, int], Awaitable[None]]


async def _paced(publish: Publish, partitions: int, publishes: int) -> float:
    """Seconds for some publishes to each of some partitions, which go side by side."""

    async def one(partition: int) -> None:
        for number in range(publishes):
            await publish(partition, number)

    started = time.perf_counter()
    await asyncio.gather(*(one(partition) for partition in range(partitions)))
    return time.perf_counter() - started


async def measure(address: str, size: int, partitions: int, publishes: int) -> tuple[float, float]:
    """MB/s with transactions and without."""
    log = KafkaLog(
        KafkaSettings(brokers=(address,), prefix="bench", replication_factor=1, message_bytes_max=_MESSAGE_BYTES_MAX)
    )
    topic = f"bench.jp-east.partitions-{partitions}"
    await log.create_topics({topic: partitions})
    values = [os.urandom(size // _MESSAGES) for _ in range(_MESSAGES)]
    writers = [await log.writer(Source(f"bench-{size}-{partitions}-{number}")) for number in range(partitions)]
    begins = [await writer.committed() or 0 for writer in writers]
    plain = AIOKafkaProducer(
        bootstrap_servers=address,
        enable_idempotence=True,
        compression_type="zstd",
        max_batch_size=1 << 20,
        max_request_size=_MESSAGE_BYTES_MAX,
    )
    await plain.start()

    async def with_one(partition: int, number: int) -> None:
        messages = [OutMessage(topic, "k", value, {}, partition) for value in values]
        begins[partition] += 1
        await writers[partition].publish(messages, begins[partition])
        del number

    async def without(partition: int, number: int) -> None:
        del number
        futures = [await plain.send(topic, value, b"k", partition) for value in values]
        await asyncio.gather(*futures)

    both: tuple[Publish, Publish] = (with_one, without)
    for publish in both:
        await _paced(publish, partitions, 3)
    rates: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for rate, publish in zip(rates, both, strict=True):
            seconds = await _paced(publish, partitions, publishes)
            rate.append(size * publishes * partitions / seconds / 1e6)
    await plain.stop()
    for writer in writers:
        await writer.close()
    await log.close()
    return statistics.median(rates[0]), statistics.median(rates[1])


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishes", type=int, default=30, help="of one round")
    publishes = parser.parse_args().publishes
    rows = []
    with broker() as (_, running):
        for size in (100_000, 1_000_000, 4_000_000):
            for partitions in (1, 4):
                ours, none = asyncio.run(measure(running.plain, size, partitions, publishes))
                what = f"{size / 1e6:g} MB a publish, {partitions} at once"
                rows.append((what, f"{ours:.0f} MB/s of {none:.0f} MB/s without: ratio {ours / none:.2f}"))
    record("Kafka: what a transaction costs", rows)


if __name__ == "__main__":
    main()
