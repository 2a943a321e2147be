"""``catchment version``."""

from __future__ import annotations

import json
from importlib import metadata

import click

from catchment.cli.options import json_option
from catchment.version import PROGRAM, envelope_versions


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the versions of program, engine and envelopes."""
    versions = {
        "program": PROGRAM,
        "engine": f"chDB {metadata.version('chdb')} (ClickHouse {metadata.version('chdb-core')})",
        "envelopes": envelope_versions(),
    }
    if as_json:
        click.echo(json.dumps(versions))
        return
    click.echo(f"catchment {PROGRAM}")
    click.echo(f"engine    {versions['engine']}")
    click.echo("envelopes " + ", ".join(f"{lane} v{number}" for lane, number in envelope_versions().items()))
