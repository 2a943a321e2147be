"""``catchment readers``: the readers file, and what a ClickHouse server is to be told of it."""

from __future__ import annotations

from pathlib import Path

import click

from catchment.cli.exits import UsageFault
from catchment.cli.options import config_option, read_config
from catchment.cli.store_role import limits_of
from store.grants import text
from store.readers import Readers


@click.group()
def readers() -> None:
    """Check the readers file, or print it as SQL for a ClickHouse server."""


_FILE = click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="The readers file itself.")


@readers.command()
@_FILE
@config_option()
def check(file: Path | None, config_file: Path | None) -> None:
    """Check the file, and show whose rows each reader sees."""
    for name, reader in Readers.load(_path(file, config_file)).by_name.items():
        click.echo(f"{name}: {'all tenants' if reader.tenants is None else ', '.join(reader.tenants)}")


@readers.command()
@_FILE
@config_option()
def grants(file: Path | None, config_file: Path | None) -> None:
    """Print users, roles, profiles, policies and grants for a ClickHouse server, to be run after each change."""
    limits = limits_of(read_config(config_file).limits)
    click.echo(text(Readers.load(_path(file, config_file)), limits), nl=False)


def _path(file: Path | None, config_file: Path | None) -> Path:
    path = file or (read_config(config_file).readers if config_file is not None else None)
    if path is None:
        raise UsageFault("which file? give --file, or --config of a configuration with readers:")
    return path
