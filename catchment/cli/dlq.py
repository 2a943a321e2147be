"""``catchment dlq``: dead letters, which are messages that a region could not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click

from aggregators import dead_letters
from aggregators.dead_letters import DeadLetter
from catchment.cli.exits import UsageFault
from catchment.cli.open_log import open_log
from catchment.cli.options import config_option, data_dir_option, json_option, read_config
from catchment.columns import dead_letter_topic
from catchment.config import Config
from catchment.errors import Invalid
from catchment.log.port import Log

T = TypeVar("T")
_NUMBERS = click.argument("numbers", type=int, nargs=-1, metavar="NUMBER...")
_ALL = click.option("--all", "every", is_flag=True, help="All open dead letters of the region.")


@click.group()
def dlq() -> None:
    """List, show, replay or discard dead letters."""


@dlq.command(name="list")
@config_option()
@data_dir_option
@json_option
def list_letters(config_file: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """List the open dead letters of the region, oldest first."""
    letters = _with_log(read_config(config_file, data_dir), _open_letters)
    if as_json:
        click.echo(json.dumps([_described(letter) for letter in letters]))
        return
    for letter in letters:
        where = f"{letter.topic}/{letter.partition}@{letter.offset}"
        click.echo(f"{letter.number:>6}  {_time(letter)}  {len(letter.value):>10} bytes  {where}  {letter.reason}")
    click.echo(f"{len(letters)} open")


@dlq.command()
@click.argument("number", type=int)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the message's bytes here.")
@config_option()
@data_dir_option
def show(number: int, output: Path | None, config_file: Path | None, data_dir: Path | None) -> None:
    """Show one dead letter as JSON: its coordinates, reason and headers."""
    letter = _with_log(
        read_config(config_file, data_dir),
        lambda log, config: dead_letters.find(log, config.log.topic_prefix, config.place, number),
    )
    click.echo(json.dumps(_described(letter), indent=2))
    if output is not None:
        output.write_bytes(letter.value)


@dlq.command()
@_NUMBERS
@_ALL
@config_option()
@data_dir_option
def replay(numbers: tuple[int, ...], every: bool, config_file: Path | None, data_dir: Path | None) -> None:
    """Put dead letters back where they came from, each exactly once."""
    _resolve(numbers, every, read_config(config_file, data_dir), dead_letters.replay, "replayed")


@dlq.command()
@_NUMBERS
@_ALL
@config_option()
@data_dir_option
def discard(numbers: tuple[int, ...], every: bool, config_file: Path | None, data_dir: Path | None) -> None:
    """Close dead letters for good; they stay counted as drops."""
    _resolve(numbers, every, read_config(config_file, data_dir), dead_letters.discard, "discarded")


def _resolve(
    numbers: tuple[int, ...],
    every: bool,
    config: Config,
    act: Callable[[Log, str, str, int], Awaitable[DeadLetter]],
    done: str,
) -> None:
    if bool(numbers) == every:
        raise click.UsageError("give the numbers of dead letters, or --all")

    async def work(log: Log, config: Config) -> None:
        chosen = [letter.number for letter in await _open_letters(log, config)] if every else numbers
        for number in chosen:
            letter = await act(log, config.log.topic_prefix, config.place, number)
            click.echo(f"{done} {number}: {letter.topic}/{letter.partition}@{letter.offset}")

    _with_log(config, work)


async def _open_letters(log: Log, config: Config) -> list[DeadLetter]:
    try:
        await log.partitions(dead_letter_topic(config.log.topic_prefix, config.place))
    except Invalid:
        raise UsageFault(f"{config.place} has no dead-letter topic in this log; are region: and zone: right?") from None
    return await dead_letters.open_letters(log, config.log.topic_prefix, config.place)


def _with_log(config: Config, work: Callable[[Log, Config], Awaitable[T]]) -> T:
    async def run() -> T:
        log = open_log(config, must_exist=True)
        try:
            return await work(log, config)
        except Invalid as error:
            raise UsageFault(str(error)) from error
        finally:
            await log.close()

    return asyncio.run(run())


def _described(letter: DeadLetter) -> dict[str, object]:
    return {
        "number": letter.number,
        "time": _time(letter),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "log_id": letter.log_id,
        "key": letter.key,
        "reason": letter.reason,
        "bytes": len(letter.value),
        "headers": dict(letter.headers),
    }


def _time(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.time_ns / 1e9, UTC).isoformat(timespec="seconds")
