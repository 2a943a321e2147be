"""``catchment dlq`` on a real log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aggregators.dead_letters import bury
from catchment.cli.main import run
from catchment.columns import dead_letter_topic, regional_topic
from catchment.errors import Invalid
from catchment.log.port import Message, Source
from catchment.log.sqlite import SqliteLog

TOPIC = regional_topic("catchment", "jp-east", "totals")
LETTERS = dead_letter_topic("catchment", "jp-east")


async def _bury(path: Path, count: int) -> None:
    log = SqliteLog.open(path)
    await log.create_topics({TOPIC: 1, LETTERS: 1})
    writer = await log.writer(Source("test"))
    letters = []
    for offset in range(count):
        message = Message(TOPIC, 0, offset, "acme/tokyo-1", b"garbage", {"lane": "totals"})
        letters.append(bury(message, Invalid("not an envelope"), log_id=log.log_id, topic=LETTERS, now_ns=10**18))
    await writer.publish(letters, 1)
    await writer.close()
    await log.close()


async def _replayed(path: Path) -> list[bytes]:
    log = SqliteLog.open(path)
    try:
        messages = await log.poll(TOPIC, 0, 0, messages_max=100, bytes_max=10**6, wait_seconds=0)
        return [message.value for message in messages]
    finally:
        await log.close()


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Options that name a log with three dead letters."""
    file = tmp_path / "catchment.yaml"
    file.write_text(f"data_dir: {tmp_path}\nregion: jp-east\n")
    asyncio.run(_bury(tmp_path / "log" / "log.db", 3))
    return ["--config", str(file)]


def test_letters_are_listed_shown_replayed_and_discarded(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A replayed letter is back in its topic and closed, a discarded one only closed; none can be closed twice."""
    assert run(["dlq", "list", "--json", *arguments]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [letter["offset"] for letter in listed] == [0, 1, 2]
    assert run(["dlq", "show", "1", "--output", str(tmp_path / "message"), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "not an envelope"
    assert (tmp_path / "message").read_bytes() == b"garbage"
    assert run(["dlq", "replay", "1", *arguments]) == 0
    assert run(["dlq", "discard", "0", *arguments]) == 0
    assert asyncio.run(_replayed(tmp_path / "log" / "log.db")) == [b"garbage"]
    assert run(["dlq", "replay", "1", *arguments]) == 2
    assert run(["dlq", "replay", "--all", *arguments]) == 0
    capsys.readouterr()
    assert run(["dlq", "list", *arguments]) == 0
    assert capsys.readouterr().out == "0 open\n"


def test_the_numbers_or_all_must_be_given(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither nothing nor both is taken for everything."""
    assert run(["dlq", "discard", *arguments]) == 2
    assert run(["dlq", "discard", "1", "--all", *arguments]) == 2
    assert "give the numbers of dead letters, or --all" in capsys.readouterr().err


def test_a_wrong_folder_or_region_is_told(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without a log exits with 3 and makes none; a region that the log does not know exits with 2."""
    assert run(["dlq", "list", *arguments, "--data-dir", str(tmp_path / "nowhere")]) == 3
    assert not (tmp_path / "nowhere").exists()
    other = tmp_path / "other.yaml"
    other.write_text(f"data_dir: {tmp_path}\nregion: eu-west\n")
    assert run(["dlq", "list", "--config", str(other)]) == 2
    assert "eu-west has no dead-letter topic" in capsys.readouterr().err
