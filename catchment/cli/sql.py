"""``catchment sql``: a query over the ClickHouse HTTP interface."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from catchment.cli.exits import EnvironmentFault, UsageFault
from catchment.cli.options import config_option, read_config
from catchment.errors import Retry
from catchment.query import Query, QueryError
from catchment.sql_client import SqlClient

_FORMATS = {
    "table": "PrettyCompactMonoBlock",
    "csv": "CSVWithNames",
    "json": "JSON",
    "jsonl": "JSONEachRow",
    "parquet": "Parquet",
}
_SECONDS_MAX = 300.0
# Time, memory, result size, too many queries: the query may be right and is too much now.
_TOO_MUCH = frozenset({159, 202, 241, 396})


@click.command()
@click.argument("query")
@click.option("--format", "output_format", type=click.Choice(list(_FORMATS)), default="table", show_default=True)
@click.option("--url", help="Address of the SQL endpoint; from the configuration unless given.")
@click.option("--user", help="User, or the environment's CATCHMENT_SQL_USER.")
@click.option("--token-file", type=click.Path(path_type=Path, exists=True), help="File with the password or token.")
@config_option()
def sql(
    query: str, output_format: str, url: str | None, user: str | None, token_file: Path | None, config_file: Path | None
) -> None:
    """Ask QUERY, read-only; "-" reads it from stdin."""
    text = sys.stdin.read() if query == "-" else query
    password = token_file.read_text("utf-8").strip() if token_file else ""
    name = user or os.environ.get("CATCHMENT_SQL_USER", "")
    client = SqlClient(url_of(url, config_file), user=name, password=password, timeout_seconds=_SECONDS_MAX)
    sys.stdout.buffer.write(ask(client, text, _FORMATS[output_format]))
    sys.stdout.buffer.flush()


def url_of(url: str | None, config_file: Path | None) -> str:
    """The SQL endpoint's address: as given, else the configuration's."""
    return url or f"http://{read_config(config_file).listen.sql}"


def ask(client: SqlClient, query: str, output_format: str) -> bytes:
    """The answer of one query in ClickHouse's ``output_format``.

    Raises:
        UsageFault: the engine refuses the query.
        EnvironmentFault: nobody answers there, or the query is too much for the engine.
    """
    try:
        return client.raw(Query(query), format=output_format, settings={"output_format_pretty_color": "0"})
    except QueryError as error:
        says = error.reason.splitlines()[0]
        raise EnvironmentFault(says) if error.code in _TOO_MUCH else UsageFault(says) from error
    except Retry as error:
        raise EnvironmentFault(f"{error.reason}; is `catchment up` running there?", **error.coordinates) from error
