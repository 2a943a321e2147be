"""Places in a group on a real broker: who has which partitions when members come, leave, die and lose the broker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from catchment.log import kafka_members
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from catchment.log.port import Membership
from tests import stalls
from tests.kafka.broker import Broker

GROUP, TOPIC = "readers", "t"
ALL = {0, 1, 2}
SESSION_SECONDS = 2.0
# For whatever has to happen; a busy machine takes its time.
WAIT_SECONDS = 60.0
TRIALS = 5
Body = Callable[[KafkaLog, str], Awaitable[None]]


@pytest.fixture
def settings(kafka_broker: Broker) -> KafkaSettings:
    """A new log on the broker, whose members are missed soon."""
    return KafkaSettings((kafka_broker.plain,), f"members-{uuid.uuid4().hex[:12]}", session_seconds=SESSION_SECONDS)


class StoodStillError(Exception):
    """A trial failed in a process that stood still meanwhile, which says nothing."""


def run(settings: KafkaSettings, body: Body) -> None:
    """Open the log, create a topic of three partitions, run the body within a time limit, close."""

    async def limited() -> None:
        log = await KafkaLog.open(settings)
        topic = f"{settings.prefix}.{TOPIC}"
        try:
            await log.create_topics({topic: len(ALL)})
            await asyncio.wait_for(body(log, topic), 160)
        finally:
            await log.close()

    asyncio.run(limited())


def run_steadily(settings: KafkaSettings, body: Body) -> None:
    """The same, anew where it failed and the process stood still: heartbeats stood still with it, and members that
    are not heard of for a session are expelled; requests have timed out, too."""

    async def watched(log: KafkaLog, topic: str) -> None:
        async with stalls.watched() as gaps:
            try:
                await body(log, topic)
            except AssertionError as error:
                if gaps.seconds_max() > SESSION_SECONDS / 2:
                    raise StoodStillError(f"for {gaps.seconds_max():.1f} s") from error
                raise

    for trial in range(TRIALS):
        try:
            run(replace(settings, prefix=f"{settings.prefix}-{trial}"), watched)
            return
        except StoodStillError:
            if trial == TRIALS - 1:
                raise


class Member:
    """A member that keeps what it was told last, as an aggregator does."""

    def __init__(self, place: Membership) -> None:
        self.place = place
        self.partitions: set[int] | None = None
        self.told = 0
        self._task = asyncio.create_task(self._listen())

    @classmethod
    async def join(cls, log: KafkaLog, topic: str) -> Member:
        """Take a place."""
        return cls(await log.join(GROUP, [topic]))

    async def leave(self) -> None:
        """Leave the group."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.place.close()

    async def _listen(self) -> None:
        while True:
            self.partitions = {partition for _, partition in await self.place.changed()}
            self.told += 1


async def until(done: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until something holds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not done():
        assert clock() < deadline, f"not after {seconds:g} s: {what}"
        await asyncio.sleep(0.02)


def share(*members: Member) -> bool:
    """Whether the members have all partitions together, none of them twice, and nobody has none."""
    held = [partition for member in members for partition in member.partitions or ()]
    return sorted(held) == sorted(ALL) and all(member.partitions for member in members)


@contextmanager
def child(settings: KafkaSettings, topic: str) -> Iterator[subprocess.Popen[str]]:
    """A member in a process of its own."""
    prefix = topic.removesuffix(f".{TOPIC}")
    arguments = (settings.brokers[0], prefix, GROUP, topic, str(settings.session_seconds))
    command = [sys.executable, "-m", "tests.kafka.member", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_sole_member_has_all_partitions(settings: KafkaSettings) -> None:
    """Who is alone is told of every partition once, and of nothing else while nothing changes."""

    async def body(log: KafkaLog, topic: str) -> None:
        one = await Member.join(log, topic)
        await until(lambda: one.partitions == ALL, "all are its own")
        try:
            await asyncio.sleep(1.5 * SESSION_SECONDS)
            assert one.told == 1
        finally:
            await one.leave()
        await one.place.close()

    run_steadily(settings, body)


def test_two_members_share_and_one_that_leaves_hands_over(settings: KafkaSettings) -> None:
    """Two members have all partitions together and none twice; the one that stays has all, sooner than a session."""
    # A member hears of a change with its next heartbeat, a quarter of a session later at most.
    settings = replace(settings, session_seconds=20.0)

    async def body(log: KafkaLog, topic: str) -> None:
        one = await Member.join(log, topic)
        await until(lambda: one.partitions == ALL, "the first has all")
        other = await Member.join(log, topic)
        try:
            await until(lambda: share(one, other), "both share")
            kept = one.partitions
            assert kept is not None and kept <= ALL
            await one.leave()
            await until(lambda: other.partitions == ALL, "the other has all", 0.75 * settings.session_seconds)
        finally:
            await asyncio.gather(one.leave(), other.leave())

    run_steadily(settings, body)


def test_a_member_that_is_killed_is_taken_over(settings: KafkaSettings) -> None:
    """The partitions of a process that dies by SIGKILL are the other's after the session, not before."""

    async def body(log: KafkaLog, topic: str) -> None:
        with child(settings, topic) as process:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "0 1 2\n"
            one = await Member.join(log, topic)
            await until(lambda: len(one.partitions or ()) in (1, 2), "both share")
            clock = asyncio.get_running_loop().time
            killed = clock()
            process.kill()
            try:
                await until(lambda: one.partitions == ALL, "the other has all")
                assert clock() - killed > SESSION_SECONDS / 2
            finally:
                await one.leave()

    run_steadily(settings, body)


def test_what_was_fenced_is_said_anew_while_it_is_ours(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the assignment comes again; a partition that is not ours any more is not worth saying."""
    monkeypatch.setattr(kafka_members, "_DISPUTE_SECONDS", 0.3)
    # Longer than the test may stand still: who is expelled is told that, too.
    settings = replace(settings, session_seconds=30.0)

    async def body(log: KafkaLog, topic: str) -> None:
        one = await Member.join(log, topic)
        await until(lambda: one.partitions == ALL, "all are its own")
        one.place.fenced(topic, 1)
        assert one.told == 1
        await until(lambda: one.told == 2, "it is said anew")
        assert one.partitions == ALL
        one.place.fenced(topic, 99)
        await asyncio.sleep(1)
        assert one.told == 2
        await one.leave()

    run(settings, body)


def test_places_survive_the_broker(settings: KafkaSettings, kafka_broker: Broker) -> None:
    """While the broker is away nobody is told anything; once it is back both share again, and one that comes joins."""

    async def body(log: KafkaLog, topic: str) -> None:
        one, other = await Member.join(log, topic), await Member.join(log, topic)
        await until(lambda: share(one, other), "both share")
        before = (one.partitions, other.partitions)
        kafka_broker.kill()
        try:
            await asyncio.sleep(2 * SESSION_SECONDS)
            assert (one.partitions, other.partitions) == before
        finally:
            await asyncio.to_thread(kafka_broker.start)
        await until(lambda: share(one, other), "both share again")
        await other.leave()
        await until(lambda: one.partitions == ALL, "the place is alive")
        third = await Member.join(log, topic)
        await until(lambda: share(one, third), "there is room for another")
        await asyncio.gather(one.leave(), third.leave())

    run(settings, body)


def test_a_place_that_is_lost_for_good_is_taken_anew(settings: KafkaSettings) -> None:
    """When the consumer has given up, a new one takes a place, and says what is ours."""

    async def body(log: KafkaLog, topic: str) -> None:
        one = await Member.join(log, topic)
        await until(lambda: one.partitions == ALL, "all are its own")
        coordinator = one.place._consumer._coordinator  # type: ignore[attr-defined]

        async def break_down(*_: object) -> None:
            raise RuntimeError("a fault of the library")

        coordinator.ensure_active_group = break_down
        coordinator.request_rejoin()
        await until(lambda: one.told >= 2, "it is said anew")
        await until(lambda: one.partitions == ALL, "all are its own again")
        other = await Member.join(log, topic)
        await until(lambda: share(one, other), "both share")
        await asyncio.gather(one.leave(), other.leave())

    run(settings, body)
