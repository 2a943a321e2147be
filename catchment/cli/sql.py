"""``catchment sql``: a query over the ClickHouse HTTP interface."""

from __future__ import annotations

import sys

import click

from catchment.cli.endpoints import sql_options
from catchment.cli.exits import EnvironmentFault, UsageFault
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
# Time, memory, result size, too many queries: the query may be right and is too much now.
_TOO_MUCH = frozenset({159, 202, 241, 396})


@click.command()
@click.argument("query")
@click.option("--format", "output_format", type=click.Choice(list(_FORMATS)), default="table", show_default=True)
@sql_options
def sql(query: str, output_format: str, client: SqlClient) -> None:
    """Ask QUERY, read-only; "-" reads it from stdin."""
    text = sys.stdin.read() if query == "-" else query
    sys.stdout.buffer.write(ask(client, text, _FORMATS[output_format]))
    sys.stdout.buffer.flush()


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
