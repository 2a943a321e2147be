"""The second half of the read-only guard: the tree that the engine's own parser makes of a statement. Pure.

A tree passes when its root reads, when it names only served databases and system tables, when it calls no function of
`store.sql_guard.DENIED_FUNCTIONS`, and no table function but those of `TABLE_FUNCTIONS`.

``EXPLAIN AST`` prints a node a line, indented by its depth: its kind, its name, ``(alias …)``, ``(children n)``. Names
with a line feed, which would add lines and move those after them, are refused before (`store.sql_guard`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from store.sql_guard import ACCESS_DENIED, READONLY, UNKNOWN_DATABASE, Statement, check_function, refuse, words

TABLE_FUNCTIONS = words("numbers numbers_mt zeros zeros_mt generateseries generate_series primes values null view")
"""Table functions that compute rows and reach nothing outside the query (lower case)."""

SYSTEM_TABLES = words(
    "one numbers numbers_mt zeros zeros_mt databases tables columns settings changed_settings functions formats "
    "table_functions table_engines database_engines data_type_families aggregate_function_combinators collations "
    "time_zones keywords build_options contributors licenses metrics events asynchronous_metrics errors parts "
    "parts_columns merges mutations data_skipping_indices projections dictionaries clusters macros disks "
    "storage_policies processes server_settings merge_tree_settings users roles grants current_roles enabled_roles "
    "quotas quota_usage row_policies settings_profiles settings_profile_elements views"
)
"""Tables of ``system`` that describe and count; those that signal threads or read elsewhere are not served."""

DATABASES = frozenset({"catchment", "system", "information_schema", "INFORMATION_SCHEMA"})
"""What is served. ``default`` is not: chDB resolves its table names as paths of local files."""

_ROOTS = {
    "select": ("SelectWithUnionQuery", "SelectQuery", "SelectIntersectExceptQuery"),
    "describe": ("DescribeQuery",),
    "explain": ("Explain",),
}
_READING_QUERIES = frozenset(sum(_ROOTS.values(), ("TablesInSelectQuery",)))
_NAME_END = re.compile(r"( \(alias .*\))?( \(children \d+\))?$", re.DOTALL)


@dataclass
class _Node:
    """A node on the way from the root: its kind, its name, and how many children were seen."""

    head: str
    name: str
    children: int = 0


class Bounds(Protocol):
    """What else a tree may not name: `store.reader_scope.Scope`, of a reader that sees some tenants only.

    Each method raises `EngineError` 497.
    """

    def check_kind(self, statement: Statement, root: str) -> None:
        """Look at the first line of the tree."""
        ...

    def check_table(self, database: str, table: str) -> None:
        """Look at a table's name."""
        ...

    def check_identifier(self, name: str) -> None:
        """Look at any other name."""
        ...

    def check_function(self, name: str) -> None:
        """Look at a function's name."""
        ...


def check_database(name: str) -> None:
    """Refuse a database that is not served, as one that does not exist.

    Raises:
        EngineError: 81.
    """
    if name not in DATABASES:
        raise refuse(UNKNOWN_DATABASE, f"Database {name} does not exist or is not served to readers.")


def check_tree(
    statement: Statement,
    lines: Iterable[str],
    *,
    database: str = "catchment",
    table_functions: frozenset[str] = frozenset(),
    bounds: Bounds | None = None,
) -> frozenset[str]:
    """Refuse a statement by the tree that the engine's parser makes of it.

    Args:
        statement: as parsed.
        lines: what ``EXPLAIN AST`` of ``statement.sql`` answered: a node a line, indented by its depth.
        database: that unqualified names are looked up in.
        table_functions: every table function that the engine knows, lower case: those not served are refused by name.
        bounds: of a reader that may not reach all that is served.

    Returns:
        The names of all tables in it, with their databases; of what may be a table on the right side of IN, too.

    Raises:
        EngineError: 164 (it would write), 497 (it reaches what is not served).
    """
    path: list[_Node] = []
    tables: set[str] = set()
    clauses = 0
    for line in lines:
        text = line.lstrip(" ")
        depth = len(line) - len(text)
        head, _, rest = text.partition(" ")
        node = _Node(head, _NAME_END.sub("", rest).strip())
        del path[depth:]
        parent = path[-1] if path else _Node("", "")
        grandparent = path[-2] if len(path) > 1 else parent
        _check_kind(statement.kind, head, depth)
        if bounds is not None and depth == 0:
            bounds.check_kind(statement, text)
        if head == "Function":
            _check_call(node.name, parent.head, table_functions)
            if bounds is not None:
                bounds.check_function(node.name)
        elif head == "TableIdentifier":
            tables.add(_check_table(node.name, database, bounds))
        elif head == "Identifier":
            _check_identifier(node.name, bounds)
            if parent.children and grandparent.name.lower().endswith("in"):
                # The right side of IN may be a table.
                tables.add(_check_table(node.name, database, bounds, or_column=True))
        elif head == "Set" and not (statement.kind == "explain" and depth == 1):
            clauses += 1
        parent.children += 1
        path.append(node)
    if clauses > len(statement.inner_settings):
        raise refuse(ACCESS_DENIED, "Settings must be written as SETTINGS name = value.")
    return frozenset(tables)


def _check_kind(kind: str, head: str, depth: int) -> None:
    """Refuse a tree whose root, or any query in it, does not read."""
    if depth == 0:
        allowed = head in _ROOTS.get(kind, ()) or (kind in ("show", "exists") and head.lower().startswith(kind))
    elif depth == 1 and kind == "explain":
        allowed = head in (*_ROOTS["select"], "Set")
    else:
        allowed = not head.endswith("Query") or head in _READING_QUERIES
    if not allowed:
        raise refuse(READONLY, f"Cannot execute query in readonly mode: {head or 'unknown statement'}.")


def _check_call(name: str, parent: str, table_functions: frozenset[str]) -> None:
    lowered = name.lower()
    check_function(name)
    if parent == "TableExpression" and lowered not in TABLE_FUNCTIONS:
        raise refuse(ACCESS_DENIED, f"Table function '{name}' is not allowed for readers.")
    # `format` is an ordinary function, too, and harmless as such.
    if lowered in table_functions and lowered not in TABLE_FUNCTIONS and lowered != "format":
        raise refuse(ACCESS_DENIED, f"Function '{name}' is not allowed for readers.")


def _check_table(name: str, database: str, bounds: Bounds | None, *, or_column: bool = False) -> str:
    """The name of a table with its database, if it is served; ``or_column`` where a column could stand as well."""
    own, dot, table = name.partition(".")
    if not dot:
        own, table = database, name
    if own not in DATABASES and not or_column:
        raise refuse(ACCESS_DENIED, f"Database {own} is not served to readers; use catchment.")
    if own.lower() == "system" and table.lower() not in SYSTEM_TABLES:
        raise refuse(ACCESS_DENIED, f"Table system.{table} is not served to readers.")
    if bounds is not None:
        bounds.check_table(own, table)
    return f"{own}.{table}"


def _check_identifier(name: str, bounds: Bounds | None) -> None:
    """Refuse a column's name that could be a table's in a hidden database."""
    if bounds is not None:
        bounds.check_identifier(name)
    own, dot, _ = name.partition(".")
    if dot and own.lower() in ("default", "_temporary_and_external_tables"):
        raise refuse(ACCESS_DENIED, f"Database {own} is not served to readers; use catchment.")
