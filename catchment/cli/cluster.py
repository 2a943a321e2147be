"""``catchment cluster``: the clusters that ever reported, and those of which nothing is expected any more."""

from __future__ import annotations

from pathlib import Path

import click

from catchment.cli.endpoints import Endpoint, sql_options, status_options
from catchment.cli.options import config_option, data_dir_option, json_option, read_config
from catchment.cli.sql import ask
from catchment.cli.store_client import ask_store
from catchment.sql_client import SqlClient

_LIST = "SELECT * FROM clusters ORDER BY tenant, region, cluster"


@click.group()
def cluster() -> None:
    """List clusters, or retire one."""


@cluster.command(name="list")
@sql_options
@json_option
def list_clusters(client: SqlClient, as_json: bool) -> None:
    """List every cluster that ever reported."""
    answer = ask(client, _LIST, "JSONEachRow" if as_json else "PrettyCompactMonoBlock")
    click.echo(answer.decode(), nl=False)


@cluster.command()
@click.argument("name")
@click.option("--tenant", default="default", show_default=True)
@click.option("--region", "region_name", help="Region of the cluster; the configuration's unless given.")
@click.option("--back", is_flag=True, help="Expect it again.")
@click.option("--from", "from_time", help="Since when, such as 2026-11-26T12:00:00Z; now unless given.")
@status_options
@config_option()
@data_dir_option
def retire(
    name: str,
    tenant: str,
    region_name: str | None,
    back: bool,
    from_time: str | None,
    endpoint: Endpoint,
    config_file: Path | None,
    data_dir: Path | None,
) -> None:
    """Expect nothing of cluster NAME from now on: its silence is no outage any more. Its rows stay.

    The windows of the time before count as they did, also when it comes back later and is retired again. With --back
    and the time from which it was retired, the retirement never was.
    """
    config = read_config(config_file, data_dir)
    action = "cluster-reinstate" if back else "cluster-retire"
    names = {"tenant": tenant, "region": region_name or config.region, "cluster": name}
    since = {} if from_time is None else {"from": from_time}
    click.echo(ask_store(config, endpoint, action, {**names, **since}))
