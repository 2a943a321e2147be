from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catchment.algebra.distinct import registers_of
from catchment.errors import Invalid
from catchment.histogram.keys import pack
from catchment.identity import value_hash
from store.clusters import reinstate, retire
from store.views import views
from tests.integration.store_support import NS, T0, Store, metric_row, opened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty, migrated store."""
    with opened(tmp_path) as found:
        yield found


K1, K2 = (int(key) for key in pack([1.0, 2.0], [2.0, 4.0]))


def test_counter_sums_integers_exactly_beyond_64_bits_and_adds_fractions(store: Store) -> None:
    """A counter's sum_int is exact over Int128 and sum is both parts together."""
    big = 2**62
    store.put("metrics_cluster", [metric_row(sum_int=big, sum_float=0.5, cluster=f"c{i}") for i in range(8)])
    store.put("metrics_cluster", [metric_row(sum_int=big - 1, sum_float=0.25, cluster="c0")])
    (row,) = store.rows("SELECT toString(sum_int) AS i, sum, sum_float FROM metrics_cluster_1m WHERE cluster = 'c0'")
    assert row["i"] == str(2 * big - 1)
    assert float(row["sum"]) == float(2 * big - 1) + 0.75
    assert row["sum_float"] == 0.75
    assert store.one("SELECT toString(sum(sum_int)) FROM metrics_cluster_1h") == str(9 * big - 1)
    assert store.one("SELECT toString(sum(sum_int)) FROM metrics_cluster_1d") == str(9 * big - 1)


def test_gauge_keeps_the_latest_value_by_time_and_its_integral(store: Store) -> None:
    """A gauge's last is the value of the largest (time, value), whatever the order of arrival; integrals add."""

    def gauge(offset: int, value: float, at: int = T0) -> dict[str, Any]:
        return metric_row(
            kind="gauge", at=at, min=value, max=value, last_time_ns=(T0 + offset) * NS, last_value=value,
            integral=value * 60, observed_seconds=60.0, sum_float=value,
        )  # fmt: skip

    store.put("metrics_cluster", [gauge(50, -3.0)])
    store.put("metrics_cluster", [gauge(10, 9.0)])
    store.put("metrics_cluster", [gauge(110, 4.0, T0 + 60)])
    minutes = store.rows(
        "SELECT last, min, max, count, integral, observed_seconds, histogram FROM metrics_cluster_1m "
        "ORDER BY window_start"
    )
    assert minutes == [
        {
            "last": -3.0,
            "min": -3.0,
            "max": 9.0,
            "count": 2,
            "integral": 360.0,
            "observed_seconds": 120.0,
            "histogram": {},
        },
        {"last": 4.0, "min": 4.0, "max": 4.0, "count": 1, "integral": 240.0, "observed_seconds": 60.0, "histogram": {}},
    ]
    (hour,) = store.rows("SELECT last, min, max, integral, window_seconds FROM metrics_cluster_1h")
    assert hour == {"last": 4.0, "min": -3.0, "max": 9.0, "integral": 600.0, "window_seconds": 3600}


def test_histogram_buckets_and_exemplar_merge(store: Store) -> None:
    """Histograms add by interval; the exemplar is the largest by value, time and ids."""

    def histogram(buckets: dict[int, int], value: float | None, trace: str) -> dict[str, Any]:
        return metric_row(
            kind="histogram", count=sum(buckets.values()), histogram=list(buckets.items()), exemplar_value=value,
            exemplar_time_ns=T0 * NS, exemplar_trace_id=trace, exemplar_span_id="5" * 16,
        )  # fmt: skip

    store.put("metrics_cluster", [histogram({K1: 3}, 1.5, "a" * 32)])
    store.put("metrics_cluster", [histogram({K1: 1, K2: 4}, 3.5, "b" * 32)])
    store.put("metrics_cluster", [metric_row(kind="histogram", count=0)])
    (row,) = store.rows(
        "SELECT histogram, count, exemplar, last, min, catchmentQuantileBounds(0.5, histogram) AS bracket, "
        "catchmentCountBelow(2, histogram) AS below FROM metrics_cluster_1m"
    )
    assert row["histogram"] == {str(K1): 4, str(K2): 4}
    assert row["count"] == 8
    assert row["exemplar"] == [3.5, "2026-01-05 00:00:00.000000000", "b" * 32, "5" * 16]
    assert (row["last"], row["min"]) == (None, None)
    assert row["bracket"] == [1.0, 2.0]
    assert row["below"] == 4.0


def test_summary_rows_carry_count_and_sum(store: Store) -> None:
    """A summary has its count and sum and neither extremes nor a histogram."""
    store.put("metrics_cluster", [metric_row(kind="summary", count=7, sum_float=3.5)])
    (row,) = store.rows("SELECT kind, count, sum, min, exemplar.3 AS trace FROM metrics_cluster_1d")
    assert row == {"kind": "summary", "count": 7, "sum": 3.5, "min": None, "trace": ""}


def test_attributes_are_a_map_of_text(store: Store) -> None:
    """String attributes lose their quotes, other values keep their JSON text, and a filter on one finds its row."""
    attributes: dict[str, object] = {"route": 'a"b\\c', "code": 200, "ok": True, "ratio": 1.5, "list": ["x", 1]}
    store.put("metrics_cluster", [metric_row(attributes=attributes), metric_row(attributes={"code": 500})])
    (row,) = store.rows("SELECT attributes FROM metrics_cluster_1m WHERE attributes['code'] = '200'")
    assert row["attributes"] == {
        "route": 'a"b\\c', "code": "200", "ok": "true", "ratio": "1.5", "list": '["x",1]'
    }  # fmt: skip


def test_views_are_the_same_for_any_order_and_split_of_the_rows(tmp_path: Path) -> None:
    """Late, reordered and split rows give bit for bit the same tables at every resolution."""
    rows = [
        metric_row(
            cluster=f"c{cluster}", at=T0 + 60 * minute, kind="histogram", count=minute + 1, points=2,
            sum_int=3 ** (minute // 60), min=float(-minute), max=float(cluster), last_time_ns=(T0 + minute) * NS,
            last_value=float(cluster), histogram=[(K1, minute + 1), (K2, cluster + 1)],
        )
        for cluster, minute, _ in itertools.product(range(3), range(0, 1800, 300), range(2))
    ]  # fmt: skip
    names = [f"metrics_cluster_{suffix}" for suffix in ("1m", "1h", "1d")]
    answers = []
    for attempt in range(3):
        order = random.Random(attempt)
        shuffled = order.sample(rows, len(rows)) if attempt else rows
        with opened(tmp_path / str(attempt)) as store:
            size = len(rows) if not attempt else order.randint(1, 7)
            for start in range(0, len(shuffled), size):
                store.put("metrics_cluster", shuffled[start : start + size])
            if attempt == 2:
                for table in ("metrics_cluster", "metrics_cluster_1h", "metrics_cluster_1d"):
                    store.engine.execute(f"OPTIMIZE TABLE catchment_data.{table} FINAL")
            answers.append([store.rows(f"SELECT * FROM {name} ORDER BY ALL") for name in names])
    assert answers[0] == answers[1] == answers[2]
    assert [len(answer) for answer in answers[0]] == [18, 18, 6]


def test_a_window_coarser_than_the_class_keeps_its_length(store: Store) -> None:
    """Rows of 60 s and 300 s merge in the hour; one of two hours stays beside them, counted once."""
    store.put(
        "metrics_cluster",
        [metric_row(sum_int=1), metric_row(sum_int=2, window_seconds=300), metric_row(sum_int=4, window_seconds=7200)],
    )
    hours = store.rows("SELECT window_seconds, toInt64(sum_int) AS s FROM metrics_cluster_1h ORDER BY window_seconds")
    assert hours == [{"window_seconds": 3600, "s": 3}, {"window_seconds": 7200, "s": 4}]
    assert store.rows("SELECT window_seconds, toInt64(sum_int) AS s FROM metrics_cluster_1d") == [
        {"window_seconds": 86400, "s": 7}
    ]


def test_hours_are_utc_in_any_session(store: Store) -> None:
    """A session's time zone of half an hour does not move rows to another hour."""
    store.put("metrics_cluster", [metric_row(at=T0 + 1800), metric_row(at=T0 + 3540)])
    sql = "SELECT toUnixTimestamp(window_start) AS t FROM metrics_cluster_1h"
    result = store.engine.query(sql, settings={"session_timezone": "Asia/Kolkata"})
    assert result.data == f"{T0}\n".encode()


def test_a_filter_on_tenant_metric_and_time_prunes_through_the_view(store: Store) -> None:
    """Primary key (tenant, metric) and the index on time together leave the granules of the hour that is asked for."""
    rows = [
        metric_row(cluster=f"c{cluster:03}", metric=metric, at=T0 + 3600 * hour, attributes={"i": i})
        for metric in ("requests", "errors")
        for hour in range(24)
        for cluster in range(40)
        for i in range(40)
    ]
    store.put("metrics_cluster", rows)
    store.engine.execute("OPTIMIZE TABLE catchment_data.metrics_cluster FINAL")
    plan = store.engine.query(
        "EXPLAIN indexes = 1 SELECT sum(sum) FROM metrics_cluster_1m WHERE tenant = 'acme' AND metric = 'requests' "
        f"AND window_start >= toDateTime({T0 + 7200}, 'UTC') AND window_start < toDateTime({T0 + 10800}, 'UTC')"
    ).data.decode()

    def granules(section: str) -> tuple[int, int]:
        line = next(line for line in plan[plan.index(section) :].splitlines() if "Granules:" in line)
        left, _, of = line.split("Granules:")[1].strip().partition("/")
        return int(left), int(of)

    by_key, all_granules = granules("PrimaryKey")
    by_time, _ = granules("window_start_minmax")
    assert all_granules >= 9
    # Half of the rows are the other metric's: the key leaves this one's, with a granule shared at each end.
    assert by_key <= all_granules // 2 + 1
    # 1,600 of 8,192 rows: one granule, or two where the hour lies across a border.
    assert by_time <= 2


def test_coverage_lists_windows_in_which_nothing_came(store: Store) -> None:
    """A window without any sign of life is expected, not reported; before the first and after retirement, neither."""
    start = int(time.time()) // 60 * 60 - 600

    def health(cluster: str, minute: int) -> dict[str, Any]:
        at = start + 60 * minute
        return {
            "window_start_ns": at * NS,
            "cluster": cluster,
            "source": "x",
            "heartbeat_ns": at * NS,
            "sequence": minute,
        }

    store.put("health", [health("a", 0), health("a", 1), health("a", 4), health("b", 1)])
    retire(store.engine, tenant="acme", region="jp", cluster="b", from_ns=(start + 180) * NS, now_ns=T0 * NS)
    query = f"SELECT expected, reported FROM coverage_1m WHERE window_start < {start + 360} ORDER BY window_start"
    assert [tuple(row.values()) for row in store.rows(query)] == [(1, 1), (2, 2), (2, 0), (1, 0), (1, 1), (1, 0)]
    silent = store.rows(f"SELECT cluster FROM coverage_cluster_1m WHERE window_start = {start + 120} AND NOT reported")
    assert sorted(row["cluster"] for row in silent) == ["a", "b"]
    assert store.one("SELECT max(window_start) + 60 <= now() FROM coverage_1m") == 1
    back_ns = (start + 180) * NS
    reinstate(store.engine, tenant="acme", region="jp", cluster="b", from_ns=back_ns, now_ns=T0 * NS + 1)
    assert [tuple(row.values()) for row in store.rows(query)][3] == (2, 0)


def test_clusters_show_their_latest_health_and_retirement(store: Store) -> None:
    """`clusters` has labels and versions of the largest heartbeat, whichever came first; retiring shows."""

    def health(seconds: int, labels: str, version: str) -> dict[str, Any]:
        return {
            "window_start_ns": (T0 + seconds // 60 * 60) * NS, "cluster": "a", "source": "x", "labels": labels,
            "heartbeat_ns": (T0 + seconds) * NS, "version": version, "policy_version": "p",
        }  # fmt: skip

    store.put("health", [health(130, '{"zone":"b"}', "2")])
    store.put("health", [health(10, '{"zone":"a"}', "1")])
    expected = {
        "tenant": "acme", "region": "jp", "cluster": "a", "labels": {"zone": "b"}, "version": "2",
        "policy_version": "p", "first_seen": "2026-01-05 00:00:00", "last_seen": "2026-01-05 00:02:10",
        "retired": False, "retired_at": None,
    }  # fmt: skip
    assert store.rows("SELECT * FROM clusters") == [expected]
    retire(store.engine, tenant="acme", region="jp", cluster="a", from_ns=(T0 + 600) * NS, now_ns=T0 * NS)
    (row,) = store.rows("SELECT retired, retired_at FROM clusters")
    assert row == {"retired": True, "retired_at": "2026-01-05 00:10:00"}
    with pytest.raises(Invalid, match="no such cluster"):
        retire(store.engine, tenant="acme", region="jp", cluster="z'\\", from_ns=T0 * NS, now_ns=T0 * NS)


def test_control_totals_prove_clusters_region_and_globe_equal(store: Store) -> None:
    """Points, stored points and wrapping digests agree over all three levels of place, per tenant."""
    digests = [2**64 - 1, 5, 7]
    store.put(
        "totals",
        [
            {
                "window_start_ns": T0 * NS,
                "cluster": f"c{i}",
                "lane": "metrics_cluster",
                "points": 10 + i,
                "rows": 1,
                "digest": d,
            }
            for i, d in enumerate(digests)
        ],
    )
    store.put("metrics_cluster", [metric_row(cluster=f"c{i}", points=10 + i) for i in range(3)])
    store.put("metrics_region", [metric_row(cluster=None, points=33)])
    found = store.rows(
        "SELECT level, sum(points) AS p, sum(stored_points) AS s, sum(digest) AS d, count() AS places "
        "FROM control_totals WHERE tenant = 'acme' AND lane = 'metrics' GROUP BY level ORDER BY level"
    )
    assert found == [
        {"level": level, "p": 33, "s": 33, "d": 11, "places": places}
        for level, places in (("cluster", 3), ("globe", 1), ("region", 1))
    ]
    assert store.one("SELECT groupArray(place) FROM (SELECT place FROM control_totals ORDER BY place)") == [
        "cluster:c0", "cluster:c1", "cluster:c2", "globe", "region:jp",
    ]  # fmt: skip


def test_drops_add_up_by_place_and_reason(store: Store) -> None:
    """Equal drops add, and the place names the cluster."""
    drop = {
        "window_start_ns": T0 * NS, "cluster": "c1", "tier": "collector", "lane": "metrics", "reason": "nan",
        "unit": "points", "count": 3,
    }  # fmt: skip
    store.put("drops", [drop])
    store.put("drops", [drop, {**drop, "reason": "late"}])
    found = store.rows("SELECT place, reason, count FROM pipeline_drops ORDER BY reason")
    assert found == [
        {"place": "cluster:c1", "reason": "late", "count": 3},
        {"place": "cluster:c1", "reason": "nan", "count": 6},
    ]


def test_attributes_that_make_series_are_estimated_over_flushes_and_windows(store: Store) -> None:
    """Sketches of a day merge, whatever they share; series are of the metric; streams add; days stay apart."""

    def row(attribute: str, values: range, *, folded: int = 0, at: int = T0, cluster: str = "c1") -> dict[str, Any]:
        index, ranks = registers_of(np.array([value_hash(f"{attribute}{n}") for n in values], np.uint64))
        registers: dict[int, int] = {}
        for register, rank in zip(index.tolist(), ranks.tolist(), strict=True):
            registers[register] = max(registers.get(register, 0), rank)
        return {
            "window_start_ns": at * NS, "cluster": cluster, "metric": "orders", "attribute": attribute,
            "streams": len(values), "folded": folded, "registers": list(registers.items()),
        }  # fmt: skip

    store.put("cardinality", [row("user", range(100), folded=7), row("", range(120)), row("route", range(3))])
    store.put("cardinality", [row("user", range(50, 150), at=T0 + 60), row("", range(60, 180), at=T0 + 60)])
    store.put("cardinality", [row("user", range(5), at=T0 + 86_400), row("user", range(9), cluster="c2")])
    found = store.rows(
        "SELECT cluster, attribute, toString(window_start) AS day, distinct_values AS n, series, streams, "
        "folded_streams AS folded, toUInt32(last_window) AS last FROM cardinality_top WHERE tenant = 'acme' "
        "ORDER BY distinct_values DESC, attribute"
    )
    first, second = "2026-01-05 00:00:00", "2026-01-06 00:00:00"
    names = ("cluster", "attribute", "day", "n", "series", "streams", "folded", "last")
    assert [tuple(each[name] for name in names) for each in found] == [
        ("c1", "user", first, 147, 179, 200, 7, T0 + 60),
        ("c2", "user", first, 9, 0, 9, 0, T0),
        ("c1", "user", second, 5, 0, 5, 0, T0 + 86_400),
        ("c1", "route", first, 3, 179, 3, 0, T0),
    ]
    everywhere = "SELECT catchmentDistinct(maxMap(registers)) FROM cardinality_top WHERE attribute = 'user'"
    assert store.one(everywhere) == 147


def test_every_column_of_every_view_and_table_has_a_comment(store: Store) -> None:
    """DESCRIBE explains each column, and the views are those that the code lists."""
    assert (
        store.one(
            "SELECT count() FROM system.columns WHERE comment = '' AND database IN ('catchment', 'catchment_data') "
            "AND NOT startsWith(table, 'fill_')"
        )
        == 0
    )
    names = store.one("SELECT arraySort(groupArray(name)) FROM system.tables WHERE database = 'catchment'")
    assert names == sorted(view.name for view in views())
