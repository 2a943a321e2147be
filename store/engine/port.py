"""The Engine port: the one way to the SQL engine. Adapters: `store.engine.chdb` (embedded), ClickHouse (distributed).

Obligations of every adapter:

1. All methods block and may be called from any thread at once; an asyncio shell calls them through an executor.
2. Every refusal of the engine is an `EngineError` with ClickHouse's own code: 241 memory limit, 159 time limit,
   62 syntax error, 252 too many partitions.
3. ``insert`` is all or nothing and is remembered by its token: the same token again, while the table's deduplication
   window holds it, adds nothing to the table nor to any table that a materialized view fills from it.
4. When ``insert`` returns, the rows are on disk (fsynced), not only in the page cache.
5. A killed process leaves a folder that the next one opens without an operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import pyarrow as pa

from catchment.errors import CatchmentError

NOTHING: Mapping[str, str] = MappingProxyType({})

MEMORY_LIMIT_EXCEEDED = 241
TIMEOUT_EXCEEDED = 159
SYNTAX_ERROR = 62
TOO_MANY_PARTS = 252

# What is the statement's or its data's own fault, and stays so: types, values, names, syntax, arithmetic. Anything else
# (memory, time, disk, locks, a table that is not there yet, what we never saw) may pass: better to wait and say so than
# to set good data aside.
_REFUSED_CODES = frozenset(
    {6, 7, 8, 10, 16, 20, 26, 27, 36, 38, 41, 42, 43, 44, 46, 47, 48, 50, 53, 62, 69, 70, 72, 73, 115, 117, 130, 131}
    | {153, 190, 321, 349, 407, 457, 469, 691}
)


class EngineError(CatchmentError):
    """The engine refused a statement.

    Attributes:
        code: ClickHouse's error code, e.g. 241.
        name: its name, e.g. ``MEMORY_LIMIT_EXCEEDED``.
        message: ClickHouse's own text, as its HTTP interface would send it.
    """

    def __init__(self, code: int, name: str, message: str, **coordinates: object) -> None:
        super().__init__(message, code=code, **coordinates)
        self.code = code
        self.name = name
        self.message = message

    @property
    def retryable(self) -> bool:
        """Whether the same statement may succeed later without anybody changing it."""
        return self.code not in _REFUSED_CODES


@dataclass(frozen=True)
class Result:
    """What a query answered: the bytes in the asked format, and what it cost."""

    data: bytes
    rows: int
    bytes_read: int
    rows_read: int
    elapsed_seconds: float


class Engine(Protocol):
    """A SQL engine with ClickHouse's dialect."""

    def execute(self, sql: str, *, settings: Mapping[str, str] = NOTHING) -> None:
        """Run one statement that answers nothing: DDL, or a small insert.

        Raises:
            EngineError: refused.
        """
        ...

    def query(
        self,
        sql: str,
        *,
        format: str = "TabSeparated",
        params: Mapping[str, str] = NOTHING,
        settings: Mapping[str, str] = NOTHING,
        database: str = "catchment",
    ) -> Result:
        """Run one query.

        Args:
            sql: one statement; its own FORMAT clause wins over ``format``.
            format: ClickHouse's name of the output format.
            params: values of ``{name:Type}`` parameters, as text, as the HTTP interface takes them in ``param_name``.
            settings: query-level settings, e.g. ``max_memory_usage``.
            database: that unqualified names are looked up in.

        Raises:
            EngineError: refused, or a limit was reached.
        """
        ...

    def insert(self, table: str, columns: pa.Table, *, token: str) -> None:
        """Insert all rows of ``columns`` into ``table`` as one block with one deduplication token.

        Columns are matched by name. A token must name its content: the same token with other data vanishes silently.

        Raises:
            EngineError: refused; nothing was added, or ``retryable`` tells that the same token may be tried again.
        """
        ...

    def close(self) -> None:
        """Let go of the folder or connections. May be called twice."""
        ...
