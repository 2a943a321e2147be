"""What a view is: its rows, its columns with a comment each, and its statement."""

from __future__ import annotations

from dataclasses import dataclass

from store.ddl import VIEWS_DATABASE, quoted

TEXT = "LowCardinality(String)"
TIME = "DateTime('UTC')"
MAP = "Map(LowCardinality(String), String)"


@dataclass(frozen=True)
class ViewColumn:
    """A column of a view, with the expression that yields it."""

    name: str
    type: str
    comment: str
    expression: str = ""


@dataclass(frozen=True)
class View:
    """A view: ``row`` says what one row is; ``body`` is what follows its column list."""

    name: str
    row: str
    columns: tuple[ViewColumn, ...]
    body: str

    @property
    def sql(self) -> str:
        """CREATE OR REPLACE VIEW."""
        columns = ",\n    ".join(
            f"`{column.name}` {column.type} COMMENT {quoted(column.comment)}" for column in self.columns
        )
        return f"CREATE OR REPLACE VIEW {VIEWS_DATABASE}.{self.name}\n(\n    {columns}\n) AS\n{self.body}"


TENANT = ViewColumn("tenant", TEXT, "whose rows: set at the edge from the sender's identity")
REGION = ViewColumn("region", TEXT, "region that the rows came through")
CLUSTER = ViewColumn("cluster", TEXT, "the cluster that the row describes")
WINDOW_START = ViewColumn("window_start", TIME, "start of the window, UTC, inclusive")
WINDOW_SECONDS = ViewColumn("window_seconds", "UInt32", "length of the window in seconds")


def text_map(column: str) -> str:
    """A Map of text from canonical JSON: strings without quotes, other values as their JSON text."""
    return f"CAST(JSONExtract({column}, 'Map(String, String)'), '{MAP}')"
