"""Groups of readers on Kafka: partitions are shared out, handed over, taken over."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from catchment.log import kafka_members
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import Assignment, Membership
from tests.kafka.broker import Broker

PARTITIONS = 6
TOPIC = "shared"
ALL = {(TOPIC, number) for number in range(PARTITIONS)}
Body = Callable[[KafkaLog, KafkaLog], Awaitable[None]]


@pytest.fixture
def settings(kafka_broker: Broker) -> KafkaSettings:
    """A new log whose members are missed soon."""
    return KafkaSettings((kafka_broker.plain,), f"members-{uuid.uuid4().hex[:12]}", session_seconds=2.0)


def run(settings: KafkaSettings, body: Body) -> None:
    """Two processes' views of one log with a topic, within a time limit."""

    async def limited() -> None:
        logs = [KafkaLog(settings), KafkaLog(settings)]
        try:
            await logs[0].create_topics({TOPIC: PARTITIONS})
            await asyncio.wait_for(body(*logs), 60)
        finally:
            for log in logs:
                await log.close()

    asyncio.run(limited())


class Watched:
    """A membership, and the newest assignment that it told of."""

    def __init__(self, members: Membership) -> None:
        self.members = members
        self.mine: Assignment = frozenset()
        self.told = 0
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            self.mine = await self.members.changed()
            self.told += 1

    async def leave(self) -> None:
        """Leave the group."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.members.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something; the test's time limit ends it."""
    while not condition():  # noqa: ASYNC110 two memberships, no common event
        await asyncio.sleep(0.05)


def test_two_members_share_and_the_one_that_is_left_has_all(settings: KafkaSettings) -> None:
    """Each has some, together they have all without overlap; who leaves is followed at once."""

    async def body(one: KafkaLog, other: KafkaLog) -> None:
        first = Watched(await one.join("g", [TOPIC]))
        await until(lambda: first.mine == ALL)
        second = Watched(await other.join("g", [TOPIC]))
        await until(lambda: bool(second.mine) and first.mine | second.mine == ALL and not first.mine & second.mine)
        assert len(first.mine) == len(second.mine) == PARTITIONS // 2
        await first.leave()
        await until(lambda: second.mine == ALL)
        await second.leave()

    run(settings, body)


_MEMBER = """
import asyncio, sys
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings

async def main():
    log = KafkaLog(KafkaSettings((sys.argv[1],), sys.argv[2], session_seconds=2.0))
    members = await log.join("g", ["shared"])
    while True:
        print(len(await members.changed()), flush=True)

asyncio.run(main())
"""


def test_a_member_that_dies_is_taken_over(settings: KafkaSettings) -> None:
    """After SIGKILL nobody says goodbye: the session's end does."""

    async def body(one: KafkaLog, _: KafkaLog) -> None:
        command = [sys.executable, "-c", _MEMBER, settings.brokers[0], settings.prefix]
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        try:
            assert await child.stdout.readline() == b"6\n"
            first = Watched(await one.join("g", [TOPIC]))
            await until(lambda: len(first.mine) == PARTITIONS // 2)
            child.kill()
            await until(lambda: first.mine == ALL)
            await first.leave()
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()

    run(settings, body)


def test_a_dispute_is_settled_by_the_assignment(settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was fenced on a partition that is its own is told so again; of one that is not, nothing."""
    monkeypatch.setattr(kafka_members, "_DISPUTE_SECONDS", 0.1)

    async def body(one: KafkaLog, _: KafkaLog) -> None:
        first = Watched(await one.join("g", [TOPIC]))
        await until(lambda: first.told == 1)
        first.members.fenced(TOPIC, 99)
        await asyncio.sleep(0.5)
        assert first.told == 1
        first.members.fenced(TOPIC, 3)
        await until(lambda: first.told == 2)
        assert first.mine == ALL
        await first.leave()

    run(settings, body)


def test_a_place_outlives_the_broker(settings: KafkaSettings, kafka_broker: Broker) -> None:
    """The broker dies and comes back: a second member still gets its share of the first one's partitions."""

    async def body(one: KafkaLog, other: KafkaLog) -> None:
        first = Watched(await one.join("g", [TOPIC]))
        await until(lambda: first.mine == ALL)
        await asyncio.to_thread(kafka_broker.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(kafka_broker.start)
        second = Watched(await other.join("g", [TOPIC]))
        await until(lambda: len(first.mine) == len(second.mine) == PARTITIONS // 2)
        assert first.mine | second.mine == ALL
        await first.leave()
        await second.leave()

    run(settings, body)
