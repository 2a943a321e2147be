"""What a reader of some tenants may reach, and the settings that keep it there. Pure.

The embedded engine has no row policies. What it has is a filter on every table that it reads in a query
(``additional_table_filters``), through views, subqueries and joins alike. By itself that hides rows, not their traces:
the optimiser merges a reader's own conditions with the filter and may compute them first, on rows of others, so that
``WHERE intDiv(1, cluster != 'x')`` tells by its error whether somebody has a cluster x. So:

1. Filters are never merged nor moved into the reading of columns (`LOCKED`): a reader's condition is computed on what
   the filter lets through.
2. The index is looked at with the reader's conditions too, on values of others. They get there only if none of their
   functions can fail (`store.leakproof`); else nothing is pushed below the views, which all aggregate.
3. Only views that are made of filtered tables are served, and system tables that tell nothing of anybody's data. The
   rest of `system` is filtered to nothing, should a way to it be found.
4. What tells how much was read (summary, statistics, progress, EXPLAIN of plans, limits on what is read) is not told,
   no cache is shared, and joins are done as written: which side the planner takes first, by how many rows it would read
   of everybody's, shows in the order of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from store.ddl import TABLES_DATABASE, VIEWS_DATABASE, quoted, tenant_tables
from store.sql_guard import ACCESS_DENIED, Statement, refuse, tokenize, words
from store.views import views

SYSTEM_TABLES = words(
    "one numbers numbers_mt zeros zeros_mt databases tables columns settings functions formats table_functions "
    "table_engines data_type_families aggregate_function_combinators collations time_zones keywords contributors "
    "licenses"
)
"""Tables of ``system`` that clients need and that tell nothing of data; databases, tables, columns are filtered."""

LOCKED = {
    "enable_analyzer": "1",
    "query_plan_merge_filters": "0",
    "query_plan_optimize_prewhere": "0",
    "optimize_move_to_prewhere": "0",
    "optimize_prewhere_after_pushdown": "0",
    "query_plan_filter_push_down": "0",
    "enable_join_runtime_filters": "0",
    "use_top_k_dynamic_filtering": "0",
    "query_plan_join_swap_table": "false",
    "query_plan_optimize_join_order_limit": "0",
    "collect_hash_table_stats_during_aggregation": "0",
    "collect_hash_table_stats_during_joins": "0",
    "use_hash_table_stats_for_join_reordering": "0",
    "optimize_trivial_count_query": "0",
    "optimize_use_projections": "0",
    "optimize_use_implicit_projections": "0",
    "use_query_cache": "0",
    "use_query_condition_cache": "0",
    "output_format_write_statistics": "0",
    "output_format_arrow_low_cardinality_as_dictionary": "0",
}

REFUSED_SETTINGS = (
    words(
        "max_memory_usage max_rows_to_read max_bytes_to_read read_overflow_mode use_uncompressed_cache final priority "
        "use_skip_indexes allow_experimental_analyzer optimize_read_in_order optimize_aggregation_in_order "
        "force_primary_key force_index_by_date date_time_overflow_behavior"
    )
    | LOCKED.keys()
)
"""Settings that other readers may send and these may not: they change how rows are found, or tell how many were."""

_DENIED_FUNCTIONS = words(
    "lowcardinalitykeys lowcardinalityindices filesystemavailable filesystemcapacity filesystemunreserved"
)
_SHOWN = words("tables databases create columns fields full extended functions settings setting")
_EXPLAINED = ("EXPLAIN AST", "EXPLAIN SYNTAX")
_INFORMATION_SCHEMA = "information_schema"


@dataclass(frozen=True)
class Inventory:
    """What the engine holds: all its databases, tables of the views' database, those that have a tenant, ``system``."""

    databases: frozenset[str]
    beside_views: frozenset[str]
    with_tenant: frozenset[str]
    system: frozenset[str]


@dataclass(frozen=True)
class Scope:
    """What one reader of some tenants may reach."""

    tenants: tuple[str, ...]
    inventory: Inventory

    def settings(self) -> dict[str, str]:
        """The settings that its queries run with, and that it cannot change."""
        condition = tenant_condition(self.tenants)
        # What must be there is filtered whatever the inventory says; besides, what it has found.
        behind = {*tenant_tables(), *(f"{TABLES_DATABASE}.{table}" for table in self.inventory.with_tenant)}
        filters = dict.fromkeys(behind, condition)
        filters |= {f"system.{table}": "0" for table in self.inventory.system - SYSTEM_TABLES}
        shown = ", ".join(quoted(name) for name in sorted(VIEWS))
        systems = ", ".join(quoted(name) for name in sorted(SYSTEM_TABLES))
        for table, name in (("tables", "name"), ("columns", "table")):
            filters[f"system.{table}"] = (
                f"(database = '{VIEWS_DATABASE}' AND {name} IN ({shown})) OR (database = 'system' AND {name} IN "
                f"({systems})) OR lower(database) = '{_INFORMATION_SCHEMA}'"
            )
        filters["system.databases"] = f"name IN ('{VIEWS_DATABASE}', 'system') OR lower(name) = '{_INFORMATION_SCHEMA}'"
        pairs = ", ".join(f"{quoted(table)}: {quoted(filters[table])}" for table in sorted(filters))
        return {**LOCKED, "additional_table_filters": "{" + pairs + "}"}

    def check_table(self, database: str, table: str) -> None:
        """Refuse a table that this reader must not name; a name that no table has may be a CTE's or an alias.

        Raises:
            EngineError: 497.
        """
        if database == VIEWS_DATABASE:
            is_good = table in VIEWS or table not in self.inventory.beside_views
        elif database == "system":
            is_good = table.lower() in SYSTEM_TABLES
        elif database.lower() == _INFORMATION_SCHEMA:
            is_good = True
        else:
            is_good = database not in self.inventory.databases
        if not is_good:
            raise refuse(ACCESS_DENIED, f"Table {database}.{table} is not served to readers of some tenants.")

    def check_identifier(self, name: str) -> None:
        """Refuse a name that begins with a database which is not served.

        Raises:
            EngineError: 497.
        """
        own = name.partition(".")[0]
        served = (VIEWS_DATABASE, "system", _INFORMATION_SCHEMA)
        if own in self.inventory.databases and own.lower() not in served:
            raise refuse(ACCESS_DENIED, f"Database {own} is not served to readers of some tenants.")

    def check_function(self, name: str) -> None:
        """Refuse a function that looks past the rows.

        Raises:
            EngineError: 497.
        """
        if name.lower() in _DENIED_FUNCTIONS:
            raise refuse(ACCESS_DENIED, f"Function '{name}' is not allowed for readers of some tenants.")

    def check_kind(self, statement: Statement, root: str) -> None:
        """Refuse a SHOW or EXPLAIN that tells more than names and syntax; ``root`` is the tree's first line.

        Raises:
            EngineError: 497.
        """
        if statement.kind == "explain" and not root.removeprefix("Explain ").startswith(_EXPLAINED):
            raise refuse(ACCESS_DENIED, "Readers of some tenants may EXPLAIN AST and EXPLAIN SYNTAX only.")
        if statement.kind == "show":
            second = [token.text.lower() for token in tokenize(statement.sql)][1:2]
            if not second or second[0] not in _SHOWN:
                raise refuse(ACCESS_DENIED, "Readers of some tenants may SHOW tables, columns and what creates them.")


VIEWS = frozenset(view.name for view in views())


def tenant_condition(tenants: Iterable[str]) -> str:
    """The SQL condition on ``tenant`` of names and globs."""
    globs = sorted({tenant for tenant in tenants if "*" in tenant or "?" in tenant})
    names = sorted(set(tenants) - set(globs))
    parts = [f"tenant IN ({', '.join(quoted(name) for name in names)})"] if names else []
    parts += [f"tenant LIKE {quoted(like_pattern(glob))}" for glob in globs]
    return " OR ".join(parts)


def like_pattern(glob: str) -> str:
    """A glob as a LIKE pattern."""
    plain = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return plain.replace("*", "%").replace("?", "_")
