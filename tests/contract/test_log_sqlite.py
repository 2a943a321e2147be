"""The SQLite log passes the contract, and keeps the rules of its own docstring."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path

import pytest

from catchment.errors import Corrupt, Invalid, Retry
from catchment.log.port import OutMessage, Source
from catchment.log.sqlite import SqliteLimits, SqliteLog
from tests.contract.log_contract import LogContract, numbered, read_all


class TestSqliteLog(LogContract):
    """The contract suite on SQLite."""

    @pytest.fixture
    def log_url(self, tmp_path: Path) -> str:
        """A new file."""
        return f"sqlite:{tmp_path / 'log.db'}"


def run(body: Awaitable[None]) -> None:
    """Run a coroutine within a time limit."""

    async def limited() -> None:
        await asyncio.wait_for(body, 60)

    asyncio.run(limited())


def big(topic: str, count: int) -> list[OutMessage]:
    """Messages of 1 MB."""
    return [OutMessage(topic, "k", b"x" * 1_000_000, partition=0) for _ in range(count)]


def test_many_processes_may_bear_the_log_at_once(tmp_path: Path) -> None:
    """Processes that open a new file at the same moment agree on one id."""
    code = (
        "import sys; from catchment.log.sqlite import SqliteLimits, SqliteLog; "
        "print(SqliteLog.open(sys.argv[1], SqliteLimits(busy_seconds=60)).log_id)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log.db")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(5)]
    ids = {child.communicate(timeout=60)[0] for child in children}
    assert len(ids) == 1 and ids != {b""}


def test_offsets_are_not_reused_after_a_trim_to_empty(tmp_path: Path) -> None:
    """A partition that was trimmed empty goes on where it was, also after a restart."""

    async def body() -> None:
        log = SqliteLog.open(tmp_path / "log.db")
        await log.create_topics({"t": 1})
        await (await log.writer(Source("h"))).publish(numbered("t", 1, 2, 3), 1)
        assert await log.trim("t", 0, 3) == 3
        await log.close()
        log = SqliteLog.open(tmp_path / "log.db")
        await (await log.writer(Source("h"))).publish(numbered("t", 4), 2)
        assert [(m.offset, m.value) for m in await read_all(log, "t", 0)] == [(3, b"4")]
        await log.close()

    run(body())


def test_only_what_every_source_consumed_is_trimmed(tmp_path: Path) -> None:
    """With keep_seconds 0 a message goes when the slowest registered source has passed it, and not before."""

    async def body() -> None:
        log = SqliteLog.open(tmp_path / "log.db", SqliteLimits(keep_seconds=0))
        await log.create_topics({"t": 1})
        await (await log.writer(Source("h"))).publish(numbered("t", 0, 1, 2, 3), 1)
        fast, slow = await log.writer(Source("fast", "t")), await log.writer(Source("slow", "t"))
        await fast.publish([], 4)
        assert len(await read_all(log, "t", 0)) == 4
        await slow.publish([], 2)
        assert [m.offset for m in await read_all(log, "t", 0)] == [2, 3]
        await log.close()

    run(body())


def test_consumed_messages_stay_readable_for_a_while(tmp_path: Path) -> None:
    """Within keep_seconds nothing is trimmed."""

    async def body() -> None:
        log = SqliteLog.open(tmp_path / "log.db", SqliteLimits(keep_seconds=3_600))
        await log.create_topics({"t": 1})
        await (await log.writer(Source("h"))).publish(numbered("t", 0, 1), 1)
        await (await log.writer(Source("load", "t"))).publish([], 2)
        assert len(await read_all(log, "t", 0)) == 2
        await log.close()

    run(body())


def test_a_full_log_pushes_back_and_recovers(tmp_path: Path) -> None:
    """Over bytes_max an outbox gets Retry and nothing changes; once a reader has consumed, it goes on by itself."""

    async def body() -> None:
        log = SqliteLog.open(tmp_path / "log.db", SqliteLimits(bytes_max=5_000_000))
        await log.create_topics({"t": 1, "out": 1})
        outbox = await log.writer(Source("forward"))
        await outbox.publish(big("t", 4), 1)
        with pytest.raises(Retry, match="log is full"):
            await outbox.publish(big("t", 3), 2)
        outbox = await log.writer(Source("forward"))
        assert await outbox.committed() == 1
        assert await log.end_offset("t", 0) == 4
        roll_up = await log.writer(Source("rollup", "t"))
        await roll_up.publish(big("out", 1), 4)  # a hop may use the reserve: else a full log could never move on
        await outbox.publish(big("t", 3), 2)
        assert [m.offset for m in await read_all(log, "t", 0)] == [4, 5, 6]
        await log.close()

    run(body())


def test_a_message_over_the_limit_is_invalid(tmp_path: Path) -> None:
    """It is refused by name before anything is written."""

    async def body() -> None:
        log = SqliteLog.open(tmp_path / "log.db", SqliteLimits(message_bytes_max=999_999))
        await log.create_topics({"t": 1})
        writer = await log.writer(Source("h"))
        with pytest.raises(Invalid, match="over the limit"):
            await writer.publish([*numbered("t", 1), *big("t", 1)], 1)
        assert await log.end_offset("t", 0) == 0
        await log.close()

    run(body())


def test_a_full_disk_is_a_retry_with_nothing_half_done(tmp_path: Path) -> None:
    """When the file system refuses to grow the file, publish raises Retry; with room again the log goes on."""

    async def body() -> None:
        log = SqliteLog.open(tmp_path / "log.db")
        await log.create_topics({"t": 1})
        writer = await log.writer(Source("h"))
        await writer.publish(numbered("t", 1), 1)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
        try:
            with pytest.raises(Retry):
                await writer.publish(big("t", 5), 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        writer = await log.writer(Source("h"))
        assert await writer.committed() == 1
        await writer.publish(numbered("t", 2), 2)
        assert [m.value for m in await read_all(log, "t", 0)] == [b"1", b"2"]
        await log.close()

    run(body())


def test_a_lock_held_too_long_is_a_retry(tmp_path: Path) -> None:
    """Another process's endless transaction makes publish give up after busy_seconds, and spoils the writer."""

    async def body() -> None:
        log = SqliteLog.open(tmp_path / "log.db", SqliteLimits(busy_seconds=0.1))
        await log.create_topics({"t": 1})
        writer = await log.writer(Source("h"))
        other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Retry, match="locked"):
            await writer.publish(numbered("t", 1), 1)
        other.execute("ROLLBACK")
        other.close()
        with pytest.raises(Retry, match="spoilt"):
            await writer.publish(numbered("t", 1), 1)
        assert await log.end_offset("t", 0) == 0
        await log.close()

    run(body())


@pytest.mark.parametrize("path", ["/proc/catchment/log.db", "/proc/log.db"])
def test_a_folder_that_cannot_be_written_is_a_retry(path: str) -> None:
    """Opening a log where nothing can be created says so, in an error that names the path."""
    with pytest.raises(Retry, match="path=/proc"):
        SqliteLog.open(path)


def test_a_damaged_file_is_corrupt_and_left_alone(tmp_path: Path) -> None:
    """A file that is no database is refused, never wiped."""
    path = tmp_path / "log.db"
    path.write_bytes(b"these bytes are somebody's data" * 1_000)
    with pytest.raises(Corrupt):
        SqliteLog.open(path)
    assert path.read_bytes().startswith(b"these bytes")


def test_a_newer_file_format_is_refused(tmp_path: Path) -> None:
    """A file written by a later version is not touched by this one."""
    SqliteLog.open(tmp_path / "log.db")
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    connection.commit()
    connection.close()
    with pytest.raises(Invalid, match="format 99"):
        SqliteLog.open(tmp_path / "log.db")
