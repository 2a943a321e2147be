"""The contract of the Log port: every adapter passes this suite unchanged.

An adapter's test module derives from `LogContract` and overrides the fixture ``log_url`` (see ``tests.contract.logs``).
The numbers in the docstrings are those of the obligations in ``catchment/log/port.py``.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import uuid
from collections.abc import Awaitable, Callable

import pytest

from catchment.errors import Bug, CatchmentError, Corrupt, Fenced, Invalid
from catchment.log.port import Log, Message, OutMessage, Source
from tests.contract.log_publisher import BATCH
from tests.contract.logs import open_log
from tests.contract.patience import patient_writer, publishing

Test = Callable[[Log], Awaitable[None]]


async def read_all(log: Log, topic: str, partition: int, position: int = 0) -> list[Message]:
    """Everything from ``position`` on; what this process has published is waited for."""
    found: list[Message] = []
    while True:
        batch = await log.poll(
            topic, partition, position, messages_max=1_000, bytes_max=64 << 20, wait_seconds=0.0 if found else 0.2
        )
        if not batch and position >= await log.end_offset(topic, partition):
            return found
        found += batch
        position = batch[-1].offset + 1 if batch else position


def numbered(topic: str, *numbers: int, partition: int | None = 0) -> list[OutMessage]:
    """Small messages that say their number."""
    return [OutMessage(topic, f"k{n}", str(n).encode(), {"number": str(n)}, partition) for n in numbers]


class LogContract:
    """Derive, override ``log_url``, and the adapter is held to the port."""

    @pytest.fixture
    def log_url(self) -> str:
        """The URL of a log of this adapter; it need not be empty."""
        raise NotImplementedError  # abstract: a suite without an adapter tests nothing

    @pytest.fixture
    def topic(self) -> str:
        """A topic name that no other test uses."""
        return f"contract.{uuid.uuid4().hex}"

    def run(self, log_url: str, test: Test, topic: str = "", partitions: int = 2) -> None:
        """Open the log, create the topic, run the test and close."""

        async def body() -> None:
            log = await open_log(log_url)
            try:
                if topic:
                    await log.create_topics({topic: partitions})
                await asyncio.wait_for(test(log), 120)
            finally:
                await log.close()

        asyncio.run(body())

    def test_publish_brings_messages_and_position_together(self, log_url: str, topic: str) -> None:
        """(1, 4) What was published is read in order with key, value and headers, and the position is its own."""

        async def test(log: Log) -> None:
            writer = await log.writer(Source(f"hop-{topic}"))
            assert await writer.committed() is None
            await writer.publish(numbered(topic, 1, 2, 3), 41)
            found = await read_all(log, topic, 0)
            assert [(m.key, m.value, dict(m.headers)) for m in found] == [
                (f"k{n}", str(n).encode(), {"number": str(n)}) for n in (1, 2, 3)
            ]
            offsets = [m.offset for m in found]
            assert offsets == sorted(set(offsets))
            assert all((m.topic, m.partition) == (topic, 0) for m in found)
            assert await writer.committed() == 41

        self.run(log_url, test, topic)

    def test_a_sole_member_has_every_partition(self, log_url: str, topic: str) -> None:
        """(8) The partitions of a group's topics are some member's: all of them are the only one's."""

        async def test(log: Log) -> None:
            members = await log.join(f"group-{topic}", [topic])
            assert await members.changed() == {(topic, 0), (topic, 1)}
            await members.close()
            await members.close()

        self.run(log_url, test, topic)

    @pytest.mark.parametrize("fault", ["no such topic", "no such partition", "position behind"])
    def test_a_refused_publish_changes_nothing(self, log_url: str, topic: str, fault: str) -> None:
        """(1) A publish with one bad message or a position that falls leaves neither messages nor position."""

        async def test(log: Log) -> None:
            writer = await log.writer(Source(f"hop-{topic}"))
            await writer.publish(numbered(topic, 1), 10)
            bad = {
                "no such topic": (numbered(f"{topic}.absent", 2), 11, Invalid),
                "no such partition": (numbered(topic, 2, partition=99), 11, Invalid),
                "position behind": ([], 9, Bug),
            }
            messages, consumed, error = bad[fault]
            with pytest.raises(error):
                await writer.publish([*numbered(topic, 7), *messages], consumed)
            await writer.close()
            successor = await log.writer(Source(f"hop-{topic}"))
            assert await successor.committed() == 10
            assert [m.value for m in await read_all(log, topic, 0)] == [b"1"]

        self.run(log_url, test, topic)

    def test_killed_publishers_leave_whole_batches(self, log_url: str, topic: str) -> None:
        """(1, 4) After SIGKILL at random moments the log holds exactly the batches below the position, each whole."""
        hop = f"hop-{topic}"

        async def nothing(log: Log) -> None:
            await log.partitions(topic)

        async def check(log: Log) -> None:
            position = await (await log.writer(Source(hop))).committed()
            assert position
            found = [m for partition in (0, 1) for m in await read_all(log, topic, partition)]
            names = sorted(m.value.rstrip(b".").decode() for m in found)
            assert names == sorted(f"{number}/{index}" for number in range(position) for index in range(BATCH))

        self.run(log_url, nothing, topic)
        chance = random.Random(hop)
        for _ in range(8):
            with publishing(log_url, topic, hop) as (child, _), pytest.raises(subprocess.TimeoutExpired):
                child.wait(chance.uniform(0.0, 0.15))
            self.run(log_url, check)

    def test_positions_are_any_number_and_only_rise(self, log_url: str, topic: str) -> None:
        """(2) A position may jump to 2^63 - 1, may stay, and a publish may bring no message at all."""

        async def test(log: Log) -> None:
            writer = await log.writer(Source(f"hop-{topic}"))
            for position in (0, 0, 5, 2**40, 2**63 - 1):
                await writer.publish([], position)
                assert await writer.committed() == position
            assert await read_all(log, topic, 0) == []

        self.run(log_url, test, topic)

    def test_positions_belong_to_hop_topic_and_partition(self, log_url: str, topic: str) -> None:
        """(2) Two roles that read one partition, and one role's two partitions, have positions of their own."""

        async def test(log: Log) -> None:
            sources = [Source(f"{hop}-{topic}", topic, partition) for hop in ("a", "b") for partition in (0, 1)]
            for number, source in enumerate(sources):
                await (await log.writer(source)).publish([], number + 1)
            found = [await (await log.writer(source)).committed() for source in sources]
            assert found == [1, 2, 3, 4]

        self.run(log_url, test, topic)

    def test_a_successor_fences_its_predecessor(self, log_url: str, topic: str) -> None:
        """(3) Once a second writer exists, the first one's publish raises Fenced and changes nothing."""

        async def test(log: Log) -> None:
            source = Source(f"hop-{topic}")
            first = await log.writer(source)
            await first.publish(numbered(topic, 1), 1)
            second = await log.writer(source)
            assert await second.committed() == 1
            with pytest.raises(Fenced):
                await first.publish(numbered(topic, 2), 2)
            await second.publish(numbered(topic, 3), 3)
            assert await second.committed() == 3
            assert [m.value for m in await read_all(log, topic, 0)] == [b"1", b"3"]

        self.run(log_url, test, topic)

    def test_a_fenced_writer_that_never_published_is_fenced(self, log_url: str, topic: str) -> None:
        """(3) A first publish that comes after the successor's is Fenced, not a Bug, though its position is behind."""

        async def test(log: Log) -> None:
            source = Source(f"hop-{topic}")
            first, second = await log.writer(source), await log.writer(source)
            await second.publish(numbered(topic, 5), 5)
            with pytest.raises(Fenced):
                await first.publish(numbered(topic, 1), 1)
            assert [m.value for m in await read_all(log, topic, 0)] == [b"5"]

        self.run(log_url, test, topic)

    def test_another_process_fences_too(self, log_url: str, topic: str) -> None:
        """(3) A publishing child process is fenced by us and dies; nothing of it appears afterwards."""
        hop = f"hop-{topic}"

        async def nothing(_: Log) -> None:
            pass

        async def test(log: Log) -> None:
            writer = await patient_writer(log, Source(hop))
            position = await writer.committed()
            _, errors = await asyncio.to_thread(child.communicate, None, 30)
            assert b"Fenced" in errors
            assert await writer.committed() == position
            found = [m for partition in (0, 1) for m in await read_all(log, topic, partition)]
            assert len(found) == BATCH * (position or 0)

        self.run(log_url, nothing, topic)
        with publishing(log_url, topic, hop) as (child, _):
            self.run(log_url, test)

    def test_writers_race_and_nothing_is_lost_or_doubled(self, log_url: str, topic: str) -> None:
        """(1, 3) Tasks that take one source from each other again and again publish each number exactly once."""

        async def test(log: Log) -> None:
            async def take_turns() -> None:
                for _ in range(10):
                    writer = await log.writer(Source(f"hop-{topic}"))
                    number = await writer.committed() or 0
                    try:
                        await writer.publish(numbered(topic, number), number + 1)
                    except Fenced:
                        continue
                    finally:
                        await writer.close()

            await asyncio.gather(*(take_turns() for _ in range(4)))
            position = await (await log.writer(Source(f"hop-{topic}"))).committed()
            values = [int(m.value) for m in await read_all(log, topic, 0)]
            assert values == list(range(position or 0)) and values

        self.run(log_url, test, topic)

    def test_poll_is_bounded_by_messages_and_bytes(self, log_url: str, topic: str) -> None:
        """(4) A poll gives at least one message, then no more than its limits, and goes on from any position."""

        async def test(log: Log) -> None:
            writer = await log.writer(Source(f"hop-{topic}"))
            await writer.publish([OutMessage(topic, "k", bytes([n]) * 1_000, partition=1) for n in range(5)], 1)

            async def poll(position: int, messages_max: int, bytes_max: int) -> list[Message]:
                return await log.poll(
                    topic, 1, position, messages_max=messages_max, bytes_max=bytes_max, wait_seconds=5
                )

            assert len(await poll(0, 2, 1 << 20)) == 2
            assert len(await poll(0, 100, 2_500)) == 2
            assert len(await poll(0, 100, 1)) == 1
            second = (await poll(0, 2, 1 << 20))[1]
            assert [m.value[0] for m in await read_all(log, topic, 1, second.offset)] == [1, 2, 3, 4]

        self.run(log_url, test, topic)

    def test_poll_waits_for_a_message_and_no_longer(self, log_url: str, topic: str) -> None:
        """(4) A waiting poll returns soon after a publish, and empty when its time is over."""

        async def test(log: Log) -> None:
            clock = asyncio.get_running_loop().time
            seconds = []
            for _ in range(3):
                started = clock()
                assert await log.poll(topic, 0, 0, messages_max=1, bytes_max=1, wait_seconds=0.2) == []
                seconds.append(clock() - started)
            # The machine may stand still for a while, but not in each of them.
            assert 0.1 < min(seconds) < 5, seconds
            waiting = asyncio.create_task(log.poll(topic, 0, 0, messages_max=9, bytes_max=99, wait_seconds=30))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await (await log.writer(Source(f"hop-{topic}"))).publish(numbered(topic, 1), 1)
            started = clock()
            assert [m.value for m in await waiting] == [b"1"]
            assert clock() - started < 20

        self.run(log_url, test, topic)

    def test_end_offset_is_the_next_message_s(self, log_url: str, topic: str) -> None:
        """(4) The end offset lies beyond every message that can be read, and at or below the next one."""

        async def test(log: Log) -> None:
            writer = await log.writer(Source(f"hop-{topic}"))
            await writer.publish(numbered(topic, 1, 2), 1)
            end = await log.end_offset(topic, 0)
            assert max(m.offset for m in await read_all(log, topic, 0)) < end
            await writer.publish(numbered(topic, 3), 2)
            assert [m.value for m in await read_all(log, topic, 0, end)] == [b"3"]
            assert await log.end_offset(topic, 1) == 0

        self.run(log_url, test, topic)

    def test_keys_decide_the_partition(self, log_url: str, topic: str) -> None:
        """Equal keys meet in one partition in order; many keys use all partitions."""

        async def test(log: Log) -> None:
            writer = await log.writer(Source(f"hop-{topic}"))
            await writer.publish([OutMessage(topic, f"tenant/{n % 20}", str(n).encode()) for n in range(100)], 1)
            places: dict[str, set[int]] = {}
            for partition in range(4):
                messages = await read_all(log, topic, partition)
                assert [int(m.value) for m in messages] == sorted(int(m.value) for m in messages)
                for message in messages:
                    places.setdefault(message.key, set()).add(partition)
            assert len(places) == 20 and all(len(where) == 1 for where in places.values())
            assert set().union(*places.values()) == {0, 1, 2, 3}

        self.run(log_url, test, topic, partitions=4)

    def test_topics_are_created_once(self, log_url: str, topic: str) -> None:
        """An existing topic keeps its partitions; an unknown one is Invalid."""

        async def test(log: Log) -> None:
            await log.create_topics({topic: 7})
            assert await log.partitions(topic) == 3
            with pytest.raises(Invalid):
                await log.partitions(f"{topic}.absent")

        self.run(log_url, test, topic, partitions=3)

    def test_a_spoilt_or_closed_writer_stays_so(self, log_url: str, topic: str) -> None:
        """(5, 6) A writer closed twice does not raise, and publishes nothing any more."""

        async def test(log: Log) -> None:
            writer = await log.writer(Source(f"hop-{topic}"))
            await asyncio.wait_for(writer.close(), 10)
            await asyncio.wait_for(writer.close(), 10)
            with pytest.raises(CatchmentError):
                await writer.publish(numbered(topic, 1), 1)
            assert await read_all(log, topic, 0) == []

        self.run(log_url, test, topic)

    def test_a_cancelled_publish_is_all_or_nothing(self, log_url: str, topic: str) -> None:
        """(1, 5) Whatever moment a publish is cancelled at, a new writer's position tells whether it happened."""

        async def test(log: Log) -> None:
            for attempt in range(20):
                writer = await log.writer(Source(f"hop-{topic}"))
                number = await writer.committed() or 0
                publishing = asyncio.create_task(writer.publish(numbered(topic, number), number + 1))
                await asyncio.sleep(0.0005 * (attempt % 5))
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)
                await writer.close()
            position = await (await log.writer(Source(f"hop-{topic}"))).committed() or 0
            assert [int(m.value) for m in await read_all(log, topic, 0)] == list(range(position))

        self.run(log_url, test, topic)

    def test_a_position_that_was_never_reached_is_corrupt(self, log_url: str, topic: str) -> None:
        """(4) The end is waited at; behind it the log has lost what was read already, and says so."""

        async def test(log: Log) -> None:
            await (await log.writer(Source(f"hop-{topic}"))).publish(numbered(topic, 1), 1)
            (message,) = await read_all(log, topic, 0)
            end = message.offset + 1
            assert await log.poll(topic, 0, end, messages_max=1, bytes_max=1, wait_seconds=0.1) == []
            with pytest.raises(Corrupt, match="data is lost: position 99 was there"):
                await log.poll(topic, 0, 99, messages_max=1, bytes_max=1, wait_seconds=0.1)

        self.run(log_url, test, topic)

    def test_closing_a_log_twice_is_fine(self, log_url: str, topic: str) -> None:
        """(6) close() ends soon, with a poll under way, and may be repeated."""

        async def test(log: Log) -> None:
            waiting = asyncio.create_task(log.poll(topic, 0, 0, messages_max=1, bytes_max=1, wait_seconds=30))
            await asyncio.sleep(0.05)
            await asyncio.wait_for(log.close(), 10)
            await asyncio.wait_for(log.close(), 10)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

        self.run(log_url, test, topic)

    def test_the_log_id_is_for_ever(self, log_url: str) -> None:
        """(7) Opening a log again gives the same id, which is not empty."""
        seen: set[str] = set()

        async def test(log: Log) -> None:
            seen.add(log.log_id)

        self.run(log_url, test)
        self.run(log_url, test)
        assert len(seen) == 1 and len(seen.pop()) >= 16
