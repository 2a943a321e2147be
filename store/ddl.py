"""The tables: generated from the lanes of `catchment.columns`, so that Arrow, tables and docs cannot disagree.

Rules:

1. Database ``catchment_data`` holds tables, which only the loader writes; readers use the views of database
   ``catchment`` (`store.views`), which always aggregate. Background merges are an optimisation, never a condition.
2. A table is AggregatingMergeTree; each value column names its merge. So rows may arrive late, split or in any order.
3. The sorting key is tenant, metric, *bucket of time*, place, series, time. A filter on tenant and metric uses the key.
   One on time uses the minmax index, which is only worth something because the bucket keeps an hour's rows together:
   with time at the very end each granule would hold every hour. (The engine does not use the bucket itself for a
   filter on ``window_start``, since that is a key column of its own.)
4. ``series_id`` names service, metric, kind, unit and attributes of a tenant (`catchment.identity`): those are not in
   the key but beside it, ``any`` of equal values. That saves comparing long strings in every sort and merge.
5. Metrics have three classes: as sent, hour, day. A chained materialized view truncates the time and does nothing else:
   ``window_seconds`` becomes the class's own length, or stays if the row is coarser already.
6. All times are UTC by type: a session's or server's time zone must not move a row to another hour.
7. Every table, also each that a view fills, remembers the tokens of its last ``deduplication_window`` blocks. An insert
   makes one block per table partition, so partitions are long: a week, a month, a year.
8. Parts are fsynced before an insert returns, and merged ones before they replace others: a killed process loses
   nothing, nor does a dead machine (but for the token records of `store.ledger`).
9. Nothing expires unless a retention says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from catchment.columns import LANES, Column, Lane, Merge

TABLES_DATABASE = "catchment_data"
VIEWS_DATABASE = "catchment"

# What `series_id` determines (rule 4).
_DETERMINED = frozenset({"service", "kind", "unit", "attributes"})

# Each is below every real value: "null is neutral". NaN and infinities never enter a lane.
LATEST_NEUTRAL: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {"last": (-(2**63), float("-inf")), "exemplar": (float("-inf"), 0, "", "")}
)


@dataclass(frozen=True)
class Resolution:
    """A class of time: ``seconds`` 0 is the finest, as sent."""

    suffix: str
    seconds: int
    truncate: str
    bucket: str
    partition: str


FINEST = Resolution("1m", 0, "", "toStartOfHour(window_start)", "toMonday(window_start)")
HOUR = Resolution("1h", 3600, "toStartOfHour", "toStartOfDay(window_start)", "toYYYYMM(window_start)")
DAY = Resolution("1d", 86400, "toStartOfDay", "toStartOfMonth(window_start)", "toYear(window_start)")
ROLLED_UP = (HOUR, DAY)


@dataclass(frozen=True)
class TableColumn:
    """A column of a table; ``comment`` is shown by DESCRIBE."""

    name: str
    type: str
    comment: str

    @property
    def sql(self) -> str:
        """Its definition in CREATE TABLE."""
        return f"`{self.name}` {self.type} COMMENT {quoted(self.comment)}"


@dataclass(frozen=True)
class Table:
    """A table of ``catchment_data``. ``retention_class`` is the key of ``retention:`` in the configuration."""

    name: str
    lane: Lane
    resolution: Resolution
    columns: tuple[TableColumn, ...]
    order_by: tuple[str, ...]
    retention_class: str

    @property
    def qualified(self) -> str:
        """Its name with the database."""
        return f"{TABLES_DATABASE}.{self.name}"


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def is_metrics(lane: Lane) -> bool:
    """Whether the lane's rows are of series, and so have hour and day tables."""
    return "series_id" in lane.keys


def latest_groups(lane: Lane) -> dict[str, tuple[Column, ...]]:
    """The LATEST columns by group, in schema order: each group is one tuple column of the table."""
    groups: dict[str, tuple[Column, ...]] = {}
    for column in lane.columns:
        if column.merge is Merge.LATEST:
            groups[column.group] = (*groups.get(column.group, ()), column)
    return groups


def element_name(column: Column) -> str:
    """A LATEST column's name inside its tuple: without the group's prefix."""
    return column.name.removeprefix(f"{column.group}_")


def table_columns(lane: Lane) -> tuple[TableColumn, ...]:
    """The columns of a lane's table, in order: tenant, region, keys, values."""
    columns = [
        TableColumn("tenant", "LowCardinality(String)", "whose rows: set at the edge from the sender's identity"),
        TableColumn("region", "LowCardinality(String)", "region that the row came through"),
    ]
    groups = latest_groups(lane)
    for column in lane.columns:
        if column.name == "window_start_ns":
            columns.append(TableColumn("window_start", "DateTime('UTC')", column.comment))
        elif column.merge is Merge.KEY:
            determined = is_metrics(lane) and column.name in _DETERMINED
            kind = f"SimpleAggregateFunction(any, {column.clickhouse_type})" if determined else column.clickhouse_type
            columns.append(TableColumn(column.name, kind, column.comment))
        elif column.merge is Merge.LATEST:
            members = groups.pop(column.group, ())
            if members:
                columns.append(_latest_column(column.group, members))
        else:
            columns.append(TableColumn(column.name, _aggregated_type(column), column.comment))
    return tuple(columns)


def _latest_column(group: str, members: tuple[Column, ...]) -> TableColumn:
    inner = ", ".join(f"{element_name(member)} {member.clickhouse_type}" for member in members)
    comment = "largest tuple of: " + "; ".join(member.comment for member in members)
    return TableColumn(group, f"SimpleAggregateFunction(max, Tuple({inner}))", comment)


def _aggregated_type(column: Column) -> str:
    function = {
        Merge.SUM: "sum",
        Merge.MIN: "min",
        Merge.MAX: "max",
        Merge.HISTOGRAM: "sumMap",
        Merge.REGISTERS: "maxMap",
    }[column.merge]
    inner = f"Nullable({column.clickhouse_type})" if column.nullable else column.clickhouse_type
    return f"SimpleAggregateFunction({function}, {inner})"


def _order_by(lane: Lane, resolution: Resolution) -> tuple[str, ...]:
    first = ("tenant", "metric") if is_metrics(lane) else ("tenant",)
    time = ("window_start_ns", "window_seconds")
    determined = _DETERMINED if is_metrics(lane) else frozenset()
    rest = tuple(key for key in lane.keys if key not in (*first, *time) and key not in determined)
    return (*first, resolution.bucket, "region", *rest, "window_start", "window_seconds")


def _table(lane: Lane, resolution: Resolution) -> Table:
    metrics = is_metrics(lane)
    name = lane.name if resolution is FINEST else f"{lane.name}_{resolution.suffix}"
    retention_class = f"metrics_{resolution.suffix}" if metrics else lane.name
    return Table(name, lane, resolution, table_columns(lane), _order_by(lane, resolution), retention_class)


def tables() -> tuple[Table, ...]:
    """All tables of lanes, each before those that are filled from it."""
    found: list[Table] = []
    for lane in LANES.values():
        found.append(_table(lane, FINEST))
        if is_metrics(lane):
            found.extend(_table(lane, resolution) for resolution in ROLLED_UP)
    return tuple(found)


RETENTION_CLASSES = tuple(dict.fromkeys(table.retention_class for table in tables()))


def create_table(table: Table, *, deduplication_window: int) -> str:
    """CREATE TABLE of one table."""
    columns = ",\n    ".join(column.sql for column in table.columns)
    return (
        f"CREATE TABLE IF NOT EXISTS {table.qualified} (\n    {columns},\n"
        "    INDEX window_start_minmax window_start TYPE minmax GRANULARITY 1\n"
        ") ENGINE = AggregatingMergeTree\n"
        f"PARTITION BY {table.resolution.partition}\n"
        f"ORDER BY ({', '.join(table.order_by)})\n"
        f"SETTINGS {_table_settings(deduplication_window)}"
    )


_WIDE_PART_BYTES = 256 << 20


def _table_settings(deduplication_window: int) -> str:
    return (
        f"non_replicated_deduplication_window = {deduplication_window}, "
        # A merged part replaces fsynced ones, so it has to be fsynced itself (rule 8).
        "fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, "
        # Fresh parts as one file of all columns: with a file per column, creating and syncing them costs more than the
        # rows. Statistics are for the planner of joins, which no view has.
        f"min_bytes_for_wide_part = {_WIDE_PART_BYTES}, auto_statistics_types = '', "
        # Retention then drops rows at once with their part where it can, and never rewrites a table to add a TTL.
        "materialize_ttl_recalculate_only = 1"
    )


def create_roll_up(source: Table, target: Table) -> str:
    """CREATE MATERIALIZED VIEW that fills ``target`` from each block that enters ``source`` (rule 5)."""
    resolution = target.resolution
    selected = []
    for column in source.columns:
        if column.name == "window_start":
            selected.append(f"{resolution.truncate}(source.window_start) AS window_start")
        elif column.name == "window_seconds":
            selected.append(f"greatest(source.window_seconds, toUInt32({resolution.seconds})) AS window_seconds")
        else:
            selected.append(f"source.`{column.name}` AS `{column.name}`")
    return (
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS {TABLES_DATABASE}.fill_{target.name} TO {target.qualified} AS\n"
        f"SELECT\n    " + ",\n    ".join(selected) + f"\nFROM {source.qualified} AS source"
    )


CLUSTERS_TABLE = f"{TABLES_DATABASE}.cluster_registry"
RETIRED_TABLE = f"{TABLES_DATABASE}.retired_clusters"
# (version, applied_ns, what): what was applied when.
MIGRATIONS_TABLE = f"{TABLES_DATABASE}.migrations"


def create_registry(*, deduplication_window: int) -> tuple[str, ...]:
    """The clusters that ever reported, kept from their health rows; and those that were retired."""
    health = next(table for table in tables() if table.name == "health")
    latest = next(column for column in health.columns if column.name == "health")
    settings = _table_settings(deduplication_window)
    place = """tenant LowCardinality(String) COMMENT 'whose cluster',
    region LowCardinality(String) COMMENT 'its region',
    cluster LowCardinality(String) COMMENT 'its name'"""
    registry = f"""CREATE TABLE IF NOT EXISTS {CLUSTERS_TABLE} (
    {place},
    window_seconds UInt32 COMMENT 'length of the windows it vouches for',
    first_window SimpleAggregateFunction(min, DateTime('UTC')) COMMENT 'start of its first window',
    last_window SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'start of its latest window',
    {latest.sql}
) ENGINE = AggregatingMergeTree
ORDER BY (tenant, region, cluster, window_seconds)
SETTINGS {settings}"""
    fill = f"""CREATE MATERIALIZED VIEW IF NOT EXISTS {TABLES_DATABASE}.fill_cluster_registry TO {CLUSTERS_TABLE} AS
SELECT source.tenant AS tenant, source.region AS region, source.cluster AS cluster,
    source.window_seconds AS window_seconds, min(source.window_start) AS first_window,
    max(source.window_start) AS last_window, max(source.health) AS health
FROM {health.qualified} AS source
GROUP BY tenant, region, cluster, window_seconds"""
    retired = f"""CREATE TABLE IF NOT EXISTS {RETIRED_TABLE} (
    {place},
    state SimpleAggregateFunction(max, Tuple(changed_ns Int64, retired_from Int64))
        COMMENT 'a decision: when it was made, and the unix second from which it is retired (0: it is not)'
) ENGINE = AggregatingMergeTree
ORDER BY (tenant, region, cluster)
SETTINGS {settings}"""
    return registry, fill, retired, KEEP_DECISIONS


# The first program kept a cluster's latest decision only. Under a key of its own each one stays. That program goes on
# with the table: the latest decision still is the largest state; its own rows have the default key, and count here too.
KEEP_DECISIONS = f"""ALTER TABLE {RETIRED_TABLE}
    ADD COLUMN IF NOT EXISTS decided_ns Int64 COMMENT 'when the decision was made: each is kept',
    ADD COLUMN IF NOT EXISTS expected_from SimpleAggregateFunction(max, Int64)
        COMMENT 'the unix second from which it is expected again, if it is not retired',
    MODIFY ORDER BY (tenant, region, cluster, decided_ns)"""


def tenant_tables() -> tuple[str, ...]:
    """The tables behind the views, with their database; each has a column ``tenant``."""
    return (*(table.qualified for table in tables()), CLUSTERS_TABLE, RETIRED_TABLE)


def modify_retention(table: Table, retention_seconds: int | None, *, expires_now: bool) -> str | None:
    """The ALTER that gives ``table`` its retention, or None when there is nothing to do.

    ``expires_now`` tells whether the table has a TTL at present.
    """
    if retention_seconds is not None:
        length = f"toIntervalSecond({retention_seconds})"
        return f"ALTER TABLE {table.qualified} MODIFY TTL window_start + {length}"
    return f"ALTER TABLE {table.qualified} REMOVE TTL" if expires_now else None


def create_all(*, deduplication_window: int) -> tuple[str, ...]:
    """Every statement of the first schema, in order. The target of a view exists before the view."""
    statements = [f"CREATE DATABASE IF NOT EXISTS {name}" for name in (TABLES_DATABASE, VIEWS_DATABASE)]
    every = tables()
    statements.extend(create_table(table, deduplication_window=deduplication_window) for table in every)
    for source, target in pairwise(every):
        if target.lane is source.lane:
            statements.append(create_roll_up(source, target))
    statements.extend(create_registry(deduplication_window=deduplication_window))
    return tuple(statements)
