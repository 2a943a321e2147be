"""The query port: how billing and dashboards read. A query is a value, tested as text and then run.

Values never enter the SQL text: they are parameters, written ``{name:Type}`` in the text, as ClickHouse has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from catchment.errors import CatchmentError

Row = dict[str, Any]


class QueryError(CatchmentError):
    """The SQL endpoint refused a query.

    Attributes:
        code: ClickHouse's error code (62 syntax, 159 time limit, 241 memory limit); 0 if the answer had none.
    """

    def __init__(self, reason: str, *, code: int = 0, **coordinates: object) -> None:
        super().__init__(reason, code=code, **coordinates)
        self.code = code


@dataclass(frozen=True)
class Query:
    """One read-only statement, without a FORMAT clause, and its parameters.

    A parameter is str, int, float or bool; a list of them for an Array type.
    """

    sql: str
    params: Mapping[str, object] = field(default_factory=dict)


class Querier(Protocol):
    """Runs queries. Implementations block: an asyncio shell calls them in a thread."""

    def rows(self, query: Query) -> list[Row]:
        """All rows, each a dict by column name. 64-bit and larger integers are exact Python ints.

        Raises:
            QueryError: refused.
            Retry: the endpoint cannot be reached.
        """
        ...


def parameter_text(value: object) -> str:
    """A parameter as the HTTP interface takes it: text escaped like TabSeparated, lists as array literals."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, list | tuple):
        # An array is read by its own quoting, not unescaped as a whole first.
        return "[" + ",".join(_literal(element) for element in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"a parameter is str, int, float, bool or a list of them, not {type(value).__name__}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _literal(value: object) -> str:
    if isinstance(value, str):
        return "'" + _escaped(value).replace("'", "\\'") + "'"
    return parameter_text(value)
