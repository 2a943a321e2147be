"""The views: what readers see, in database ``catchment``. Each aggregates, so nobody can forget to.

Rules:

1. A view groups by plain key columns of its table, so that filters on them reach the table's primary key.
2. What is computed from groups (maps, sums, latest values) is computed outside of the grouping.
3. Every column has a comment. Names and meanings are docs/sql.md, generated from here.
4. Absence is data: coverage lists every window in which a cluster was expected, whether anything came or not
   (`store.coverage`).
"""

from __future__ import annotations

from collections.abc import Iterable

from catchment.columns import LANES, Column, Lane, Merge
from store.coverage import CLUSTERS, coverage_views
from store.ddl import LATEST_NEUTRAL, TABLES_DATABASE, Table, is_metrics, latest_groups, tables
from store.view import (
    CLUSTER,
    MAP,
    REGION,
    TENANT,
    TEXT,
    TIME,
    WINDOW_SECONDS,
    WINDOW_START,
    View,
    ViewColumn,
    text_map,
)


def _metrics_keys(lane: Lane) -> tuple[str, ...]:
    names = ("window_start" if key == "window_start_ns" else key for key in lane.keys)
    return ("tenant", "region", *names)


def _grouped(column: str, merge: str) -> str:
    # Qualified, and named apart from its source: an alias equal to an aggregated column would aggregate itself.
    return f"{merge}(source.`{column}`) AS `merged_{column}`"


def metrics_view(table: Table) -> View:
    """The view of a metrics table."""
    lane = table.lane
    keys = _metrics_keys(lane)
    merges = [_grouped(group, "max") for group in latest_groups(lane)]
    merges += [_grouped(column.name, _FUNCTION[column.merge]) for column in lane.columns if column.merge in _FUNCTION]
    selected = _metrics_columns(lane)
    outer = ",\n    ".join(f"{column.expression or column.name} AS `{column.name}`" for column in selected)
    inner = ",\n        ".join([*(f"source.`{key}` AS `{key}`" for key in keys), *merges])
    body = (
        f"SELECT\n    {outer}\nFROM\n(\n    SELECT\n        {inner}\n    FROM {table.qualified} AS source\n"
        f"    GROUP BY {', '.join(keys)}\n)"
    )
    suffix = table.resolution.suffix
    name = f"{lane.name}_{suffix}"
    place = "tenant, region, cluster" if "cluster" in lane.keys else "tenant, region"
    return View(name, f"{place}, series, window", tuple(selected), body)


_FUNCTION = {Merge.SUM: "sum", Merge.MIN: "min", Merge.MAX: "max", Merge.HISTOGRAM: "sumMap"}


def _metrics_columns(lane: Lane) -> list[ViewColumn]:
    columns = [TENANT, REGION]
    for column in lane.columns:
        if column.name == "window_start_ns":
            columns.append(WINDOW_START)
        elif column.name == "attributes":
            columns.append(ViewColumn("attributes", MAP, "attributes kept by policy", text_map("attributes")))
        elif column.merge is Merge.KEY:
            columns.append(ViewColumn(column.name, column.clickhouse_type, column.comment))
        elif column.merge is Merge.LATEST:
            if column.group not in {known.name for known in columns}:
                columns.append(_latest_column(column.group))
        else:
            columns.append(_value_column(column))
            if column.name == "sum_float":
                columns.append(_SUM)
    return columns


_SUM = ViewColumn(
    "sum",
    "Float64",
    "sum_int + sum_float: a counter's increase in the window, else the sum of values",
    "toFloat64(merged_sum_int) + merged_sum_float",
)


def _value_column(column: Column) -> ViewColumn:
    kind = f"Nullable({column.clickhouse_type})" if column.nullable else column.clickhouse_type
    return ViewColumn(column.name, kind, column.comment, f"merged_{column.name}")


def _latest_column(group: str) -> ViewColumn:
    if group == "last":
        none = str(LATEST_NEUTRAL["last"][0])
        return ViewColumn(
            "last",
            "Nullable(Float64)",
            "value of the latest gauge sample of any stream (never add these); NULL when there is none",
            # The smallest Int64 cannot be written as a literal of that type.
            f"if(merged_last.time_ns = toInt64('{none}'), NULL, merged_last.value)",
        )
    return ViewColumn(
        "exemplar",
        "Tuple(value Float64, time DateTime64(9, 'UTC'), trace_id String, span_id String)",
        "the largest exemplar: its value, time, trace id and span id in hex; ids are empty when there is none",
        "CAST((if(isInfinite(merged_exemplar.value), 0., merged_exemplar.value), "
        "fromUnixTimestamp64Nano(merged_exemplar.time_ns, 'UTC'), merged_exemplar.trace_id, merged_exemplar.span_id), "
        "'Tuple(value Float64, time DateTime64(9, \\'UTC\\'), trace_id String, span_id String)')",
    )


def _control_totals() -> View:
    """What the edge accepted beside what the tables hold, at each place: the proof is one query (docs/sql.md)."""
    parts = []
    totals = f"FROM {TABLES_DATABASE}.totals AS source"
    edge = (
        # The edge's lane is metrics_cluster, a region's metrics_region: the points are the same ones.
        "if(startsWith(source.lane, 'metrics'), 'metrics', source.lane) AS lane, "
        "source.window_start AS window_start, source.points AS edge_points, "
        "source.rows AS edge_rows, source.digest AS edge_digest, toUInt64(0) AS held"
    )
    held = (
        "'metrics' AS lane, source.window_start AS window_start, toUInt64(0) AS edge_points, "
        "toUInt64(0) AS edge_rows, toUInt64(0) AS edge_digest, source.points AS held"
    )
    for level, place, region, cluster, table in (
        ("cluster", "concat('cluster:', source.cluster)", "source.region", "source.cluster", "metrics_cluster"),
        ("region", "concat('region:', source.region)", "source.region", "''", "metrics_region"),
        ("globe", "'globe'", "''", "''", "metrics_region"),
    ):
        head = (
            f"SELECT source.tenant AS tenant, '{level}' AS level, {place} AS place, "
            f"{region} AS region, {cluster} AS cluster, "
        )
        parts += [f"{head}{edge} {totals}", f"{head}{held} FROM {TABLES_DATABASE}.{table} AS source"]
    union = "\n    UNION ALL\n    ".join(parts)
    keys = "tenant, level, place, region, cluster, lane, window_start"
    return View(
        "control_totals",
        "tenant, place, lane, window",
        (
            TENANT,
            ViewColumn("level", TEXT, "cluster, region or globe: sums over one level are comparable with the others'"),
            ViewColumn("place", "String", "'cluster:NAME', 'region:NAME' or 'globe'"),
            ViewColumn("region", "String", "the place's region; empty for the globe"),
            ViewColumn("cluster", "String", "the place's cluster; empty for a region and the globe"),
            ViewColumn("lane", TEXT, "what was counted: metrics, ..."),
            WINDOW_START,
            ViewColumn("points", "UInt64", "data points accepted at the edge, as the collectors state"),
            ViewColumn("rows", "UInt64", "rows that left the edge"),
            ViewColumn("digest", "UInt64", "sum of the 64-bit hashes of the accepted points, mod 2^64"),
            ViewColumn("stored_points", "UInt64", "data points in the rows of this place's own table: equal to points"),
        ),
        f"SELECT {keys}, sum(edge_points) AS points, sum(edge_rows) AS rows, sum(edge_digest) AS digest,\n"
        f"    sum(held) AS stored_points\nFROM\n(\n    {union}\n)\nGROUP BY {keys}",
    )


_DROPS = View(
    "pipeline_drops",
    "tenant, tier, place, lane, reason, unit, window",
    (
        TENANT,
        ViewColumn("tier", TEXT, "collector, aggregator or store"),
        ViewColumn("place", "String", "'cluster:NAME', 'region:NAME' or 'globe': where it was lost"),
        ViewColumn("lane", TEXT, "lane that lost it"),
        ViewColumn("reason", TEXT, "why; see docs/drops.md"),
        ViewColumn("unit", TEXT, "what is counted: points, requests, rows, messages"),
        WINDOW_START,
        WINDOW_SECONDS,
        ViewColumn("count", "UInt64", "how many"),
    ),
    f"""SELECT source.tenant AS tenant, source.tier AS tier,
    multiIf(source.cluster != '', concat('cluster:', source.cluster),
        source.region != '', concat('region:', source.region), 'globe') AS place,
    source.lane AS lane, source.reason AS reason, source.unit AS unit, source.window_start AS window_start,
    source.window_seconds AS window_seconds, sum(source.count) AS count
FROM {TABLES_DATABASE}.drops AS source
GROUP BY tenant, tier, place, lane, reason, unit, window_start, window_seconds""",
)

_CARDINALITY = View(
    "cardinality_top",
    "tenant, region, cluster, metric, attribute, day; order it by distinct_values",
    (
        TENANT,
        REGION,
        CLUSTER,
        ViewColumn("metric", TEXT, "name of the metric; otel.overflow: those beyond limits.cardinality_sketches_max"),
        ViewColumn("attribute", TEXT, "an attribute that policy keeps"),
        ViewColumn(
            "window_start",
            TIME,
            "start of the day, UTC, on which streams began or policy gave them another series",
        ),
        ViewColumn("distinct_values", "UInt64", "estimate of how many values the attribute had, within 3.3 % mostly"),
        ViewColumn("series", "UInt64", "estimate of how many series the metric's streams asked for"),
        ViewColumn("streams", "UInt64", "streams that have the attribute"),
        ViewColumn("folded_streams", "UInt64", "of these, folded into otel.metric.overflow: a budget was reached"),
        ViewColumn("last_window", TIME, "start of the latest window in which a stream began"),
        ViewColumn("registers", "Map(Int64, UInt64)", "for further sums: catchmentDistinct(maxMap(registers))"),
    ),
    f"""SELECT tenant, region, cluster, metric, attribute, window_start,
    catchmentDistinct(merged_registers) AS distinct_values, series, merged_streams AS streams,
    merged_folded AS folded_streams, last_window, merged_registers AS registers
FROM
(
    SELECT *, max(if(attribute = '', catchmentDistinct(merged_registers), 0))
        OVER (PARTITION BY tenant, region, cluster, metric, window_start) AS series
    FROM
    (
        SELECT source.tenant AS tenant, source.region AS region, source.cluster AS cluster, source.metric AS metric,
            source.attribute AS attribute, toStartOfDay(source.window_start) AS window_start,
            max(source.window_start) AS last_window, sum(source.streams) AS merged_streams,
            sum(source.folded) AS merged_folded, maxMap(source.registers) AS merged_registers
        FROM {TABLES_DATABASE}.cardinality AS source
        GROUP BY tenant, region, cluster, metric, attribute, window_start
    )
)
WHERE attribute != '' OR metric = 'otel.overflow'""",
)


def views(health_retention_seconds: int = 0) -> tuple[View, ...]:
    """All views, each after those that it reads; heartbeats expire after ``health_retention_seconds``, 0: never."""
    metrics: Iterable[View] = (metrics_view(table) for table in tables() if is_metrics(LANES[table.lane.name]))
    coverage = coverage_views(health_retention_seconds)
    return (*metrics, CLUSTERS, *coverage, _control_totals(), _DROPS, _CARDINALITY)
