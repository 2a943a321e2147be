"""``catchment store``: what only a person can decide about a halted partition, or a message in quarantine."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from catchment.cli.endpoints import Endpoint, status_options
from catchment.cli.exits import EnvironmentFault, UsageFault
from catchment.cli.options import config_option, data_dir_option, json_option, read_config
from catchment.cli.store_client import ask_store


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    return config_option()(data_dir_option(status_options(command)))


def _decision(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--why", required=True, help="The reason, which the store keeps for ever.")(command)
    return click.option("--who", default=lambda: f"{getpass.getuser()}@{socket.gethostname()}", help="Who decides.")(
        _where(command)
    )


@click.group()
def store() -> None:
    """Let a halted partition go on; list, show, replay or discard what is in quarantine."""


@store.command()
@click.argument("topic")
@click.argument("partition", type=int)
@click.argument("offset", type=int)
@click.option("--as", "how", type=click.Choice(["loaded", "again", "lost"]), required=True)
@_decision
def resume(
    topic: str,
    partition: int,
    offset: int,
    how: str,
    who: str,
    why: str,
    endpoint: Endpoint,
    config_file: Path | None,
    data_dir: Path | None,
) -> None:
    """Let a partition go on that is halted at OFFSET, once you know whether that message is loaded.

    \b
    --as loaded  its rows are in the tables: step over it. If they were not, they are lost.
    --as again   they are not: load it. If they were, they count twice, unless the engine still knows its token.
    --as lost    the log has lost what was due ("data is lost"): go on at OFFSET, the first that it holds.
    """
    texts = {"topic": topic, "partition": str(partition), "offset": str(offset), "as": how, "who": who, "why": why}
    click.echo(ask_store(read_config(config_file, data_dir), endpoint, "store-resume", texts))


@store.group()
def quarantine() -> None:
    """Messages that the loader could not read, or that the engine refused."""


@quarantine.command(name="list")
@click.option("--all", "every", is_flag=True, help="Also those that were replayed or discarded.")
@_where
@json_option
def list_messages(
    every: bool, endpoint: Endpoint, config_file: Path | None, data_dir: Path | None, as_json: bool
) -> None:
    """List the open messages in quarantine, oldest first."""
    found = [entry for entry in _listed(endpoint, config_file, data_dir) if every or entry["decision"] is None]
    if as_json:
        click.echo(json.dumps(found))
        return
    for entry in found:
        decided = entry["decision"]
        remark = f"  [{decided['action']} by {decided['who']}: {decided['why']}]" if decided else ""
        click.echo(f"{entry['name']}  {entry['time']}  {entry['reason']}{remark}")
    click.echo(f"{sum(entry['decision'] is None for entry in found)} open")


@quarantine.command()
@click.argument("name")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the message's bytes here.")
@_where
def show(name: str, output: Path | None, endpoint: Endpoint, config_file: Path | None, data_dir: Path | None) -> None:
    """Show one message as JSON: its name, reason, file, and what was decided about it."""
    found = [entry for entry in _listed(endpoint, config_file, data_dir) if entry["name"] == name]
    if not found:
        raise UsageFault(f"no message {name!r} is in quarantine; `catchment store quarantine list --all` has the names")
    click.echo(json.dumps(found[0], indent=2))
    if output is not None:
        try:
            shutil.copyfile(found[0]["file"], output)
        except OSError as error:
            raise EnvironmentFault(f"cannot copy {found[0]['file']} to {output}: {error.strerror}") from error


@quarantine.command()
@click.argument("name")
@_decision
def replay(name: str, who: str, why: str, endpoint: Endpoint, config_file: Path | None, data_dir: Path | None) -> None:
    """Publish message NAME again at the end of its partition, exactly once: it is loaded, or set aside once more.

    Its drop stays counted. Of a message that the engine refused, see first that none of its rows are in the tables.
    """
    texts = {"name": name, "who": who, "why": why}
    click.echo(ask_store(read_config(config_file, data_dir), endpoint, "quarantine-replay", texts))


@quarantine.command()
@click.argument("name")
@_decision
def discard(name: str, who: str, why: str, endpoint: Endpoint, config_file: Path | None, data_dir: Path | None) -> None:
    """Close message NAME for good. It stays counted as a drop; its file stays and may be deleted by hand."""
    texts = {"name": name, "who": who, "why": why}
    click.echo(ask_store(read_config(config_file, data_dir), endpoint, "quarantine-discard", texts))


def _listed(endpoint: Endpoint, config_file: Path | None, data_dir: Path | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        ask_store(read_config(config_file, data_dir), endpoint, "quarantine-list", {})
    )
    return found
