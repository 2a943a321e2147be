"""``catchment``: the command line. Every group of commands is a file beside this one, imported when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from catchment.cli.exits import guarded
from catchment.version import PROGRAM

# Command → (module, attribute, help in the overview). Modules are imported when used: Arrow alone takes 0.2 s.
_COMMANDS = {
    "up": ("catchment.cli.up", "up", "Run all tiers on this machine, in one folder."),
    "demo": ("catchment.cli.demo", "demo", "Run `up` with a simulated fleet and an incident, and prove the numbers."),
    "collector": ("catchment.cli.role", "collector", "Run a collector: one cluster, or many small ones."),
    "aggregator": ("catchment.cli.role", "aggregator", "Run the aggregator of a region."),
    "loader": ("catchment.cli.role", "loader", "Run the store: loader, engine and SQL endpoint."),
    "sql": ("catchment.cli.sql", "sql", "Ask a question in SQL, read-only."),
    "send": ("catchment.cli.send", "send", "Send one data point through the front door."),
    "status": ("catchment.cli.status", "status", "Show rates, lag, disk and drops of every tier."),
    "config": ("catchment.cli.config", "config", "Check a configuration, or show what is in force."),
    "topics": ("catchment.cli.topics", "topics", "Create the topics on Kafka, or describe and check them."),
    "dlq": ("catchment.cli.dlq", "dlq", "List, show, replay or discard dead letters."),
    "cluster": ("catchment.cli.cluster", "cluster", "List clusters, or retire one."),
    "tenant": ("catchment.cli.tenant", "tenant", "Add, rotate or remove the credentials of a tenant's cluster."),
    "readers": ("catchment.cli.readers", "readers", "Check who may read, or print it as SQL for a ClickHouse server."),
    "policy": ("catchment.cli.policy", "policy", "See what policies do to series and bytes, before they do it."),
    "store": ("catchment.cli.store", "store", "Let a halted partition go on; list or replay what is in quarantine."),
    "version": ("catchment.cli.version", "version", "Show the versions of program, engine and envelopes."),
    "_role": ("catchment.cli.role", "child", ""),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if not name.startswith("_")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import every command for its help; the overview has it here.
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(PROGRAM, prog_name="catchment")
def cli() -> None:
    """Hierarchical observability for fleets of clusters: the data shrinks on the way, the sums don't."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    return guarded(lambda: cli.main(list(arguments), prog_name="catchment", standalone_mode=False))


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
