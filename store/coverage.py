"""The views of clusters and of coverage: of which signs of life came, beside which should have come.

Rules:

1. A cluster is expected in a window that has ended, if it began with or after the cluster's first one and the cluster
   is not retired when it begins. It is expected for as long as nobody retires it: one that dies is missing, not gone.
2. Whoever reports is expected, so that no share exceeds one.
3. Of decisions about a cluster the latest holds from its own time on; what former ones said of the time before stays.
4. Where heartbeats expire nothing is known of older windows, so they are not listed: expired is not silent.
"""

from __future__ import annotations

from store.ddl import CLUSTERS_TABLE, RETIRED_TABLE, TABLES_DATABASE, VIEWS_DATABASE
from store.view import CLUSTER, MAP, REGION, TENANT, TIME, WINDOW_SECONDS, WINDOW_START, View, ViewColumn, text_map

CLUSTERS = View(
    "clusters",
    "tenant, region, cluster",
    (
        TENANT,
        REGION,
        CLUSTER,
        ViewColumn("labels", MAP, "labels of the cluster as it last stated them"),
        ViewColumn("first_seen", TIME, "start of the first window in which it reported"),
        ViewColumn("last_seen", TIME, "its latest heartbeat"),
        ViewColumn("retired", "Bool", "whether somebody retired it: from then on nothing is expected of it"),
        ViewColumn("retired_at", f"Nullable({TIME})", "from when on, if so"),
        ViewColumn("version", "String", "program version of its collector"),
        ViewColumn("policy_version", "String", "policy in force in its collector"),
    ),
    f"""SELECT tenant, region, cluster, {text_map("merged.labels")} AS labels, first_seen,
    toDateTime(intDiv(merged.heartbeat_ns, 1000000000), 'UTC') AS last_seen,
    toBool(retired_from != 0) AS retired, if(retired_from != 0, toDateTime(retired_from, 'UTC'), NULL) AS retired_at,
    merged.version AS version, merged.policy_version AS policy_version
FROM
(
    SELECT source.tenant AS tenant, source.region AS region, source.cluster AS cluster,
        min(source.first_window) AS first_seen, max(source.health) AS merged
    FROM {CLUSTERS_TABLE} AS source GROUP BY tenant, region, cluster
) AS known
LEFT JOIN
(
    SELECT source.tenant AS tenant, source.region AS region, source.cluster AS cluster,
        tupleElement(max(source.state), 'retired_from') AS retired_from
    FROM {RETIRED_TABLE} AS source GROUP BY tenant, region, cluster
) AS gone USING (tenant, region, cluster)""",
)

_FOR_EVER = "toInt64(4294967295)"

# One row per cluster that was ever retired: the periods, in unix seconds, as (first, end). A decision holds until the
# time of the next one that was made after it, if that is earlier than its own it never held.
_RETIRED = f"""SELECT tenant, region, cluster, groupArrayIf((from_second, end_second), is_retired) AS periods,
        maxIf(from_second, is_retired AND end_second = {_FOR_EVER}) AS retired_from
    FROM
    (
        SELECT tenant, region, cluster, retired_from != 0 AS is_retired,
            if(retired_from != 0, retired_from, merged_expected_from) AS from_second,
            ifNull(min(toNullable(if(retired_from != 0, retired_from, merged_expected_from))) OVER (
                PARTITION BY tenant, region, cluster ORDER BY changed_ns
                ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), {_FOR_EVER}) AS end_second
        FROM
        (
            SELECT source.tenant AS tenant, source.region AS region, source.cluster AS cluster,
                tupleElement(max(source.state), 'changed_ns') AS changed_ns,
                tupleElement(max(source.state), 'retired_from') AS retired_from,
                max(source.expected_from) AS merged_expected_from
            FROM {RETIRED_TABLE} AS source GROUP BY tenant, region, cluster, source.decided_ns
        )
    )
    GROUP BY tenant, region, cluster"""

# One row per (cluster, length of its windows): from when to when it may be expected to report, in unix seconds. A
# cluster that changes its resolution is expected at the former one until its last such window, at its latest one until
# it is retired for good, or now. Only windows that have ended are expected.
_EXPECTED = f"""SELECT tenant, region, cluster, window_seconds, from_second, periods,
        least(if(is_latest, toInt64(toUnixTimestamp(now('UTC'))) - window_seconds, last_second),
              if(retired_from = 0, {_FOR_EVER}, retired_from - 1)) AS to_second
    FROM
    (
        SELECT tenant, region, cluster, window_seconds, from_second, last_second,
            last_second = max(last_second) OVER (PARTITION BY tenant, region, cluster) AS is_latest
        FROM
        (
            SELECT source.tenant AS tenant, source.region AS region, source.cluster AS cluster,
                source.window_seconds AS window_seconds,
                toInt64(toUnixTimestamp(min(source.first_window))) AS from_second,
                toInt64(toUnixTimestamp(max(source.last_window))) AS last_second
            FROM {CLUSTERS_TABLE} AS source GROUP BY tenant, region, cluster, window_seconds
        )
    ) AS known
    LEFT JOIN
    (
    {_RETIRED}
    ) AS gone USING (tenant, region, cluster)"""

# Every window of every length since the first cluster: cheap to list (a year of minutes is half a million) and to
# filter, before clusters multiply it.
_WINDOWS = f"""SELECT toUInt32(step) AS window_seconds,
        toDateTime(arrayJoin(range(oldest, greatest(oldest, toUInt32(now('UTC'))), step)), 'UTC') AS window_start
    FROM
    (
        SELECT source.window_seconds AS step,
            toUInt32(intDiv(toUnixTimestamp(min(source.first_window)), step) * step) AS oldest
        FROM {CLUSTERS_TABLE} AS source GROUP BY step
    )"""

_COVERAGE = View(
    "coverage_1m",
    "tenant, region, window that has ended",
    (
        TENANT,
        REGION,
        WINDOW_START,
        WINDOW_SECONDS,
        ViewColumn("expected", "UInt64", "clusters that should have reported in this window"),
        ViewColumn("reported", "UInt64", "clusters that did; the others are unknown, never up"),
    ),
    f"""SELECT tenant, region, window_start, window_seconds, count() AS expected, countIf(covered.reported) AS reported
FROM {VIEWS_DATABASE}.coverage_cluster_1m AS covered
GROUP BY tenant, region, window_start, window_seconds""",
)


def coverage_views(health_retention_seconds: int) -> tuple[View, View]:
    """Coverage by cluster and by region; heartbeats expire after ``health_retention_seconds``, 0: never."""

    def kept(table: str) -> str:
        if not health_retention_seconds:
            return ""
        return f"\n        AND {table}.window_start > now('UTC') - {health_retention_seconds}"

    by_cluster = View(
        "coverage_cluster_1m",
        "tenant, region, cluster, window that has ended",
        (
            TENANT,
            REGION,
            CLUSTER,
            WINDOW_START,
            WINDOW_SECONDS,
            ViewColumn(
                "expected", "Bool", "whether the cluster should have reported: seen before, not retired; or did"
            ),
            ViewColumn(
                "reported", "Bool", "whether a sign of life of this window is here; false is never to be read as up"
            ),
        ),
        f"""SELECT tenant, region, cluster, window_start, window_seconds, true AS expected,
    toBool(max(is_reported)) AS reported
FROM
(
    SELECT expectation.tenant AS tenant, expectation.region AS region, expectation.cluster AS cluster,
        windows.window_start AS window_start, windows.window_seconds AS window_seconds, 0 AS is_reported
    FROM
    (
    {_EXPECTED}
    ) AS expectation
    INNER JOIN
    (
    {_WINDOWS}
    ) AS windows ON windows.window_seconds = expectation.window_seconds
    WHERE toUnixTimestamp(windows.window_start) >= expectation.from_second
        AND toUnixTimestamp(windows.window_start) <= expectation.to_second
        AND NOT arrayExists(period -> toUnixTimestamp(windows.window_start) >= tupleElement(period, 1)
            AND toUnixTimestamp(windows.window_start) < tupleElement(period, 2), expectation.periods){kept("windows")}
    UNION ALL
    SELECT source.tenant AS tenant, source.region AS region, source.cluster AS cluster,
        source.window_start AS window_start, source.window_seconds AS window_seconds, 1 AS is_reported
    FROM {TABLES_DATABASE}.health AS source
    WHERE source.window_start <= now('UTC') - source.window_seconds{kept("source")}
)
GROUP BY tenant, region, cluster, window_start, window_seconds""",
    )
    return by_cluster, _COVERAGE
