"""What the demo asks the SQL endpoint. Every figure of its answer that the simulator does not know itself is from here.

A question is a function of a `Querier` and a `Span`; what it returns is plain data. A cloud is its region and the label
``zone`` of its clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from catchment.query import Querier, Query
from demo.fleet import TENANT
from demo.station import ENERGY, FAILED, LATENCY, REQUESTS, SESSIONS

TARGET: Final = 0.999
# The fast burn of multi-window alerts: at this rate 2 % of a 30-day budget are gone in an hour.
BURN_RATE_BAD: Final = 14.4
# A station is small: one failure by chance is a large share of its few requests.
FAILING_SHARE: Final = 0.1

_ZONES = "(SELECT region, cluster, labels['zone'] AS zone FROM clusters WHERE tenant = {tenant:String})"


@dataclass(frozen=True)
class Span:
    """The time of the traffic, unix seconds: windows that lie within are whole."""

    begin: int
    end: int

    @property
    def params(self) -> dict[str, object]:
        """As parameters of a query."""
        return {"tenant": TENANT, "begin": self.begin, "end": self.end}


_INSIDE = (
    "window_start >= toDateTime({begin:UInt32}, 'UTC') "
    "AND window_start + window_seconds <= toDateTime({end:UInt32}, 'UTC')"
)


@dataclass(frozen=True)
class CloudState:
    """One logical cloud: its service level so far. ``bad_since`` is unix seconds, None while it is not bad."""

    name: str
    stations: int
    total: int
    failed: int
    expected: int
    reported: int
    bad_since: int | None
    silent: int

    @property
    def availability(self) -> float:
        """Share of requests that did not fail; NaN without any."""
        return 1 - self.failed / self.total if self.total else float("nan")

    @property
    def budget_left(self) -> float:
        """Share of the failures allowed by the target that have not happened; below 0 when overspent."""
        return 1 - self.failed / ((1 - TARGET) * self.total) if self.total else float("nan")

    @property
    def coverage(self) -> float:
        """Share of (station, window) pairs of which a sign of life is here."""
        return self.reported / self.expected if self.expected else 0.0


def clouds(querier: Querier, span: Span) -> list[CloudState]:
    """The logical clouds, by name."""
    service = _by_cloud(querier, _SERVICE, span)
    coverage = _by_cloud(querier, _COVERAGE, span)
    bad = _by_cloud(querier, _BAD_SINCE, span)
    silent = [row["cloud"] for row in silences(querier, span)]
    return [
        CloudState(
            name=name,
            stations=int(row["stations"]),
            total=int(row["total"]),
            failed=int(row["failed"]),
            expected=int(coverage.get(name, {}).get("windows_expected", 0)),
            reported=int(coverage.get(name, {}).get("windows_reported", 0)),
            bad_since=int(bad.get(name, {}).get("bad_since", 0)) or None,
            silent=silent.count(name),
        )
        for name, row in sorted(service.items())
    ]


def _by_cloud(querier: Querier, sql: str, span: Span) -> dict[str, Mapping[str, Any]]:
    metrics = {"requests": REQUESTS, "failed": FAILED}
    burn = {"failures_bad": BURN_RATE_BAD * (1 - TARGET)}
    return {str(row["cloud"]): row for row in querier.rows(Query(sql, {**span.params, **metrics, **burn}))}


_SERVICE = f"""SELECT concat(region, '-', zone) AS cloud, count() AS stations, sum(served_total) AS total,
    sum(served_failed) AS failed
FROM {_ZONES} AS zones LEFT JOIN
(
    SELECT region, cluster, sumIf(sum_int, metric = {{requests:String}}) AS served_total,
        sumIf(sum_int, metric = {{failed:String}}) AS served_failed
    FROM metrics_cluster_1m WHERE tenant = {{tenant:String}} AND metric IN ({{requests:String}}, {{failed:String}})
    GROUP BY region, cluster
) AS served USING (region, cluster)
GROUP BY cloud"""

_COVERAGE = f"""SELECT concat(region, '-', zone) AS cloud, countIf(expected) AS windows_expected,
    countIf(expected AND reported) AS windows_reported
FROM coverage_cluster_1m INNER JOIN {_ZONES} AS zones USING (region, cluster)
WHERE tenant = {{tenant:String}} AND {_INSIDE}
GROUP BY cloud"""

# Bad since: the start of the unbroken run of bad windows that reaches to the last one.
_BAD_SINCE = f"""SELECT cloud, toUnixTimestamp(arrayMin(arrayFilter(start -> start > last_good, starts))) AS bad_since
FROM
(
    SELECT cloud, groupArray(window_start) AS starts,
        maxIf(window_start, failed <= {{failures_bad:Float64}} * toFloat64(total)) AS last_good
    FROM
    (
        SELECT concat(region, '-', zone) AS cloud, window_start, sumIf(sum_int, metric = {{requests:String}}) AS total,
            sumIf(sum_int, metric = {{failed:String}}) AS failed
        FROM metrics_cluster_1m INNER JOIN {_ZONES} AS zones USING (region, cluster)
        WHERE tenant = {{tenant:String}} AND metric IN ({{requests:String}}, {{failed:String}}) AND {_INSIDE}
        GROUP BY cloud, window_start
    )
    GROUP BY cloud
)
WHERE arrayMax(starts) > last_good"""


def failing_stations(querier: Querier, cloud: str, since: int) -> list[dict[str, Any]]:
    """Services of a cloud's stations that fail, the worst first: cluster, service, total, failed, since ``since``."""
    return querier.rows(
        Query(
            _FAILING,
            {
                "tenant": TENANT,
                "cloud": cloud,
                "since": since,
                "requests": REQUESTS,
                "failed": FAILED,
                "share": FAILING_SHARE,
            },
        )
    )


_FAILING = f"""SELECT cluster, service, sumIf(sum_int, metric = {{requests:String}}) AS total,
    sumIf(sum_int, metric = {{failed:String}}) AS failed
FROM metrics_cluster_1m INNER JOIN {_ZONES} AS zones USING (region, cluster)
WHERE tenant = {{tenant:String}} AND metric IN ({{requests:String}}, {{failed:String}})
    AND concat(region, '-', zone) = {{cloud:String}} AND window_start >= toDateTime({{since:UInt32}}, 'UTC')
GROUP BY cluster, service HAVING failed > 1 AND toFloat64(failed) > {{share:Float64}} * toFloat64(total)
ORDER BY failed DESC, cluster"""


def silences(querier: Querier, span: Span) -> list[dict[str, Any]]:
    """Stations that are silent at the end: cloud, cluster, last_seen (text), windows missed. Unknown, never up."""
    return querier.rows(Query(_SILENT, span.params))


_SILENT = f"""SELECT concat(region, '-', zone) AS cloud, cluster, missed, toString(seen) AS last_seen
FROM
(
    SELECT region, cluster, countIf(NOT reported) AS missed, argMax(reported, window_start) AS reported_last,
        arrayCount(here -> NOT here, arraySlice(arrayMap(pair -> pair.2,
            arraySort(groupArray((window_start, reported)))), -2)) AS missed_lately
    FROM coverage_cluster_1m WHERE tenant = {{tenant:String}} AND {_INSIDE}
    GROUP BY region, cluster
) AS heard
INNER JOIN {_ZONES} AS zones USING (region, cluster)
INNER JOIN (SELECT region, cluster, last_seen AS seen FROM clusters WHERE tenant = {{tenant:String}}) AS known
    USING (region, cluster)
WHERE missed_lately = 2
ORDER BY cluster"""


@dataclass(frozen=True)
class Sums:
    """What one place, or all places of a level together, hold."""

    places: int
    points: int
    requests: int
    failed: int
    energy: int
    sessions: int


def sums_of_stations(querier: Querier) -> dict[str, Sums]:
    """By cluster."""
    return _sums_by(querier, f"SELECT cluster AS place, {_SUMS} FROM metrics_cluster_1m {_OURS} GROUP BY place")


def sums_of_zones(querier: Querier) -> dict[str, Sums]:
    """By logical cloud: the clusters' rows, selected by label."""
    return _sums_by(
        querier,
        f"SELECT concat(region, '-', zone) AS place, {_SUMS} FROM metrics_cluster_1m "
        f"INNER JOIN {_ZONES} AS zones USING (region, cluster) {_OURS} GROUP BY place",
    )


def sums_of_regions(querier: Querier) -> dict[str, Sums]:
    """By region: rows of their own, made by the aggregators."""
    return _sums_by(querier, f"SELECT region AS place, {_SUMS} FROM metrics_region_1m {_OURS} GROUP BY place")


def sums_of_globe(querier: Querier) -> dict[str, Sums]:
    """The globe, from the days, which the store keeps itself."""
    return _sums_by(querier, f"SELECT 'globe' AS place, {_SUMS} FROM metrics_region_1d {_OURS} GROUP BY place")


_COUNTERS = {"requests": REQUESTS, "failed": FAILED, "energy": ENERGY, "sessions": SESSIONS}
_SUMS = "sum(points) AS points, " + ", ".join(
    f"sumIf(sum_int, metric = {{{name}:String}}) AS total_{name}" for name in _COUNTERS
)
_OURS = "WHERE tenant = {tenant:String}"


def _sums_by(querier: Querier, sql: str) -> dict[str, Sums]:
    rows = querier.rows(Query(sql, {"tenant": TENANT, **_COUNTERS}))
    return {
        str(row["place"]): Sums(1, int(row["points"]), *(int(row[f"total_{name}"]) for name in _COUNTERS))
        for row in rows
    }


def control_totals(querier: Querier) -> dict[str, tuple[int, int, int]]:
    """By level (cluster, zone, region, globe): points stated by the edge, points in the level's table, digest."""
    rows = querier.rows(Query(_TOTALS, {"tenant": TENANT}))
    return {str(row["step"]): (int(row["stated"]), int(row["stored"]), int(row["digests"])) for row in rows}


# Adding unsigned 64-bit numbers wraps, as digests are defined to.
_TOTALS = f"""SELECT level AS step, sum(points) AS stated, sum(stored_points) AS stored, sum(digest) AS digests
FROM control_totals WHERE tenant = {{tenant:String}} GROUP BY step
UNION ALL
SELECT 'zone' AS step, sum(points) AS stated, sum(stored) AS stored, sum(digests) AS digests
FROM
(
    SELECT region, zone, sum(points) AS points, sum(stored_points) AS stored, sum(digest) AS digests
    FROM control_totals INNER JOIN {_ZONES} AS zones USING (region, cluster)
    WHERE tenant = {{tenant:String}} AND level = 'cluster' GROUP BY region, zone
)"""


def stored_points(querier: Querier) -> int:
    """Points that can be queried now, fast: what freshness is measured by."""
    sql = "SELECT sum(points) AS points FROM metrics_region_1m WHERE tenant = {tenant:String}"
    return int(querier.rows(Query(sql, {"tenant": TENANT}))[0]["points"])


@dataclass(frozen=True)
class Quantile:
    """An estimate and the bracket that holds the exact value."""

    low: float
    estimate: float
    high: float
    count: int


def latency_quantile(querier: Querier, q: float) -> Quantile:
    """Of all stations' authorisations, seconds."""
    row = querier.rows(Query(_LATENCY, {"tenant": TENANT, "metric": LATENCY, "q": q}))[0]
    return Quantile(float(row["low"]), float(row["estimate"]), float(row["high"]), int(row["observations"]))


_LATENCY = """SELECT catchmentQuantile({q:Float64}, merged) AS estimate,
    catchmentQuantileBounds({q:Float64}, merged).1 AS low, catchmentQuantileBounds({q:Float64}, merged).2 AS high,
    observations
FROM
(
    SELECT sumMap(histogram) AS merged, sum(count) AS observations FROM metrics_region_1m
    WHERE tenant = {tenant:String} AND metric = {metric:String}
)"""


def drops(querier: Querier) -> list[dict[str, Any]]:
    """What did not make it, or made it with a remark: reason, unit, count."""
    sql = "SELECT reason, unit, sum(count) AS total FROM pipeline_drops WHERE tenant = {tenant:String} GROUP BY 1, 2"
    return querier.rows(Query(sql + " ORDER BY 1, 2", {"tenant": TENANT}))


def series(querier: Querier) -> tuple[int, int]:
    """How many series there are by station, and by region: what a look at the fleet has to read."""
    counts = []
    for view, place in (("metrics_cluster_1h", "cluster"), ("metrics_region_1h", "region")):
        sql = f"SELECT uniqExact({place}, series_id) AS places FROM {view} WHERE tenant = {{tenant:String}}"
        counts.append(int(querier.rows(Query(sql, {"tenant": TENANT}))[0]["places"]))
    return counts[0], counts[1]
