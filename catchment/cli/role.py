"""``catchment collector``, ``aggregator``, ``loader``: a role as a process; ``_role``: the same under a supervisor."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from catchment.cli.options import config_option
from catchment.cli.role_process import Role, RoleProcess, exit_with_parent
from catchment.config import Config
from catchment.config_load import load
from catchment.units import Address


@click.command()
@config_option(required=True)
def collector(config_file: Path) -> None:
    """Run a collector: one cluster, or many small ones."""
    _run_alone("collector", config_file)


@click.command()
@config_option(required=True)
def aggregator(config_file: Path) -> None:
    """Run the aggregator of a region."""
    _run_alone("aggregator", config_file)


@click.command()
@config_option(required=True)
def loader(config_file: Path) -> None:
    """Run the store: loader, engine and SQL endpoint."""
    _run_alone("store", config_file)


@click.command(hidden=True)
@click.argument("role_name", metavar="ROLE")
@config_option(required=True)
@click.option("--name", required=True)
@click.option("--state", "state_file", type=click.Path(path_type=Path), required=True)
def child(role_name: str, config_file: Path, name: str, state_file: Path) -> None:
    """Run ROLE under a supervisor."""
    exit_with_parent()
    # The supervisor wrote the file with every default resolved: the profile no longer matters.
    _run(RoleProcess(_role(role_name), name, lambda: load(config_file), Address("127.0.0.1", 0), state_file))


def _run_alone(name: str, config_file: Path) -> None:
    role = _role(name)

    def read() -> Config:
        return load(config_file, role.profile)

    _run(RoleProcess(role, name, read, read().listen.status, None))


def _role(name: str) -> Role:
    from catchment.cli.roles import ROLES  # imports Arrow, which the overview of commands need not wait for

    if name not in ROLES:
        raise click.UsageError(f"no role {name}; there is {', '.join(ROLES)}")
    return ROLES[name]


def _run(process: RoleProcess) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process.run())
