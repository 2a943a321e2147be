"""The settings that keep a reader of some tenants apart, on the engine itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from store.engine.port import EngineError
from store.leakproof import is_leakproof
from store.reader_scope import LOCKED, Scope
from store.sql_answer import read_catalogue
from store.sql_guard import parse
from store.views import views
from tests.clients.reader_server import FOREIGN, OWN, fill
from tests.integration.store_support import Store

_ORACLE = "SELECT count() FROM metrics_cluster_1m WHERE intDiv(1, cluster != 'zzz-foreign-c1')"
_INDEX_ORACLE = (
    "SELECT count() FROM metrics_cluster_1m WHERE accurateCast(toUInt32(window_start) - 1767571200, 'UInt16') > 5"
)

_TUPLE_ORACLE = "SELECT count() FROM metrics_cluster_1m WHERE window_start + (1, 2) > 0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with rows of all tenants, and a table and view that do not aggregate."""
    opened = Store(tmp_path_factory.mktemp("scope"))
    fill(opened, [*OWN, *FOREIGN, "a_b", "axb-foreign"])
    opened.engine.execute(
        "CREATE TABLE catchment_data.kept ENGINE = MergeTree ORDER BY (tenant, cluster) AS "
        "SELECT tenant, cluster FROM catchment.clusters"
    )
    opened.engine.execute("CREATE VIEW catchment.kept_lines AS SELECT tenant, cluster FROM catchment_data.kept")
    yield opened
    opened.close()


def scope(store: Store, *tenants: str) -> Scope:
    """The scope of a reader."""
    return Scope(tenants, read_catalogue(store.engine).inventory)


def tree(store: Store, sql: str) -> list[str]:
    """The parser's tree."""
    answer = store.engine.query(f"EXPLAIN AST {sql}", format="TabSeparatedRaw")
    return answer.data.decode().split("\n")[:-1]


def test_the_filter_alone_lets_errors_tell(store: Store) -> None:
    """Without the locked settings a reader's condition is computed on others' rows; with them it never is."""
    full = scope(store, "acme").settings()
    alone = {"additional_table_filters": full["additional_table_filters"]}
    assert {name: full[name] for name in LOCKED} == LOCKED
    for query in (_ORACLE, _INDEX_ORACLE, _ORACLE.replace("metrics_cluster_1m", "kept_lines")):
        with pytest.raises(EngineError):
            store.engine.query(query, settings=alone)
        assert store.engine.query(query, settings=full).data.decode().strip().isdigit()
    pushed = {**full, "query_plan_filter_push_down": "1"}
    for query in (_INDEX_ORACLE, _TUPLE_ORACLE):
        assert not is_leakproof(parse(query), tree(store, query), {})
        assert store.engine.query(query, settings=full).data.decode().strip().isdigit()
        with pytest.raises(EngineError):
            store.engine.query(query, settings=pushed)


def test_globs_match_what_they_say(store: Store) -> None:
    """``*`` and ``?`` are wild, an underscore is not."""
    query = "SELECT DISTINCT tenant FROM metrics_cluster_1m ORDER BY tenant"
    for tenants, seen in (
        (("station-?",), ["station-1", "station-2"]),
        (("station*",), ["station-1", "station-2", "stationary-foreign"]),
        (("a_b*",), ["a_b"]),
        (("a?b*",), ["a_b", "axb-foreign"]),
        (("a_b", "acme"), ["a_b", "acme"]),
        (("nobody",), []),
    ):
        answer = store.engine.query(query, settings=scope(store, *tenants).settings())
        assert answer.data.decode().split() == seen


def test_every_view_reads_filtered_tables_only(store: Store) -> None:
    """What stands behind a view has a tenant, so that the filter is on it; a table without one must not get there."""
    inventory = read_catalogue(store.engine).inventory
    named = {name for view in views() for name in re.findall(r"catchment_data\.(\w+)", view.sql)}
    assert named
    assert named <= inventory.with_tenant
    assert {name for view in views() for name in re.findall(r"(?<!_data)\bcatchment\.(\w+)", view.body)} <= {
        view.name for view in views()
    }


def test_a_leakproof_query_still_uses_the_index(store: Store) -> None:
    """Filters on tenant, metric and time of a usual query choose granules, as they do for an operator."""
    query = (
        "SELECT sum(sum) FROM metrics_cluster_1m WHERE metric = 'own.requests' AND "
        "window_start >= toDateTime(1767571200) AND window_start < now()"
    )
    settings = scope(store, "acme").settings()
    assert is_leakproof(parse(query), tree(store, query), {})
    settings["query_plan_filter_push_down"] = "1"
    plan = store.engine.query(f"EXPLAIN indexes = 1 {query}", settings=settings, format="TabSeparatedRaw").data.decode()
    keys = plan[plan.index("PrimaryKey") :]
    assert re.search(r"Keys:\s+tenant\s+metric\s+window_start", keys), plan


LEAKPROOF = [
    "SELECT tenant, sum(sum) FROM metrics_cluster_1m WHERE metric = 'x' GROUP BY tenant ORDER BY 2 DESC LIMIT 3",
    "SELECT * FROM metrics_cluster_1m WHERE window_start BETWEEN toDateTime('2026-01-01 00:00:00') AND now()",
    "SELECT window_start FROM metrics_cluster_1m WHERE window_start > now() - INTERVAL 1 HOUR",
    (
        "SELECT toStartOfInterval(toDateTime(window_start), INTERVAL 60 second) AS time, sum(sum) FROM "
        "metrics_cluster_1m WHERE window_start >= fromUnixTimestamp64Milli(1700000000000) AND "
        "cluster IN ('a (b)', 'c') GROUP BY time"
    ),
    "SELECT catchmentQuantile(0.9, histogram) FROM metrics_cluster_1m WHERE attributes['a'] = 'b' AND unit LIKE 'x%'",
    "SELECT count() FROM metrics_cluster_1m WHERE cluster IN (SELECT cluster FROM clusters WHERE NOT retired)",
    "WITH x AS (SELECT cluster FROM clusters) SELECT a.unit FROM metrics_cluster_1m AS a JOIN x USING (cluster)",
    "SELECT row_number() OVER (PARTITION BY tenant ORDER BY window_start) FROM metrics_cluster_1m WHERE metric = 'x'",
    "SELECT accurateCast(sum, 'UInt8') AS small FROM metrics_cluster_1m WHERE metric = 'x' ORDER BY small",
    "SELECT 1 FROM clusters WHERE (tenant, cluster) IN (('a', 'b'), ('c', 'd')) AND last_seen > now() - INTERVAL 1 DAY",
    "SELECT groupArray((cluster, unit)) AS pairs FROM metrics_cluster_1m WHERE window_start > now() - INTERVAL 1 HOUR",
    "SELECT 1 FROM clusters WHERE last_seen > CAST('2026-01-01 00:00:00', 'Nullable(DateTime64(3))')",
    "SELECT 1 FROM clusters WHERE cluster IN CAST(['a'], 'Array(LowCardinality(Nullable(String)))')",
]
NOT_LEAKPROOF = [
    "SELECT tenant FROM clusters QUALIFY count() OVER (PARTITION BY intDiv(1, cluster != 'x')) = 1",
    "SELECT 1 FROM metrics_cluster_1m WHERE accurateCast(window_start, 'UInt8') > 5",
    "SELECT accurateCast(window_start, 'UInt8') AS x FROM metrics_cluster_1m WHERE x > 5",
    "SELECT accurateCast(window_start, 'UInt8') AS x, x AS y, y AS z FROM metrics_cluster_1m WHERE z > 5",
    "SELECT 1 + accurateCast(window_start, 'UInt8') AS x FROM metrics_cluster_1m GROUP BY x HAVING x > 5",
    "WITH accurateCast(window_start, 'UInt8') AS z SELECT 1 FROM metrics_cluster_1m WHERE z > 5",
    "SELECT * FROM (SELECT accurateCast(window_start, 'UInt8') AS x FROM metrics_cluster_1m) WHERE x > 5",
    "WITH t AS (SELECT accurateCast(window_start, 'UInt8') AS x FROM metrics_cluster_1m) SELECT 1 FROM t WHERE x > 5",
    "SELECT 1 UNION ALL SELECT 2 FROM metrics_cluster_1m WHERE accurateCast(window_start, 'UInt8') > 5",
    "SELECT 1 FROM clusters AS a JOIN clusters AS b ON intDiv(1, a.cluster != 'x') = intDiv(1, b.cluster != 'y')",
    "SELECT 1 FROM metrics_cluster_1m WHERE 'x' LIKE cluster",
    "SELECT 1 FROM metrics_cluster_1m WHERE catchmentBucketLower(cluster) > 0",
    "SELECT 1 FROM metrics_cluster_1m WHERE toString(window_start, cluster) = 'x'",
    "SELECT 1 FROM metrics_cluster_1m WHERE match(cluster, '(')",
    "SELECT y, x + 1 AS y, accurateCast(window_start, 'UInt8') AS x FROM metrics_cluster_1m WHERE y > 5",
    "SELECT 1 FROM metrics_cluster_1m WHERE toDateTime(cluster) > now()",
    "SELECT 1 FROM metrics_cluster_1m WHERE toDateTime((SELECT any(cluster) FROM clusters)) > now()",
    "SELECT * REPLACE (accurateCast(window_start, 'UInt8') AS window_start) FROM clusters WHERE window_start > 5",
    "SELECT x FROM clusters ARRAY JOIN [intDiv(1, cluster != 'x')] AS x WHERE x > 5",
    "SELECT accurateCast(window_start, 'UInt8') AS `a) (alias b` FROM metrics_cluster_1m WHERE 1",
    "SELECT accurateCast(window_start, 'UInt8') AS x, 'a\n Function b' FROM metrics_cluster_1m WHERE x > 5",
    "SELECT 'a\\n Function b' FROM metrics_cluster_1m",
    "SELECT 1 FROM metrics_cluster_1m WHERE window_start + (1, 2) > 0",
    "SELECT (1, 2) AS t FROM metrics_cluster_1m WHERE window_start - t > 0",
    "WITH tuple(toIntervalDay(1)) AS t SELECT 1 FROM metrics_cluster_1m WHERE toString(window_start + t) > '0'",
    "SELECT 1 FROM (SELECT (1, 2) AS t, window_start FROM metrics_cluster_1m) WHERE window_start + t > 0",
    "SELECT 1 FROM metrics_cluster_1m WHERE ((1, 2) AS t) IN ((1, 2)) AND window_start + t > 0",
    "SELECT 1 FROM metrics_cluster_1m WHERE tenant + INTERVAL 1 DAY > now()",
    "WITH INTERVAL 1 DAY AS d SELECT 1 FROM metrics_cluster_1m WHERE metric - d > now()",
    "SELECT 1 FROM metrics_cluster_1m WHERE metric - (SELECT INTERVAL 1 DAY) > now()",
    "SELECT 1 FROM metrics_cluster_1m WHERE window_start + CAST('(1)', 'Tuple(UInt8)') > 0",
    "SELECT 1 FROM metrics_cluster_1m WHERE window_seconds > CAST('1', 'Decimal(38, 37)')",
    "SELECT 1 FROM metrics_cluster_1m WHERE window_start > CAST('1', toTypeName(tenant))",
    "SELECT brandNewFunction(tenant) AS x FROM clusters WHERE x",
]


@pytest.mark.parametrize("query", LEAKPROOF)
def test_usual_queries_are_leakproof(store: Store, query: str) -> None:
    """Dashboards' conditions reach the index."""
    assert is_leakproof(parse(query), tree(store, query), {})


@pytest.mark.parametrize("query", NOT_LEAKPROOF)
def test_what_can_fail_by_a_value_is_not(store: Store, query: str) -> None:
    """A condition that may fail, by whatever name or way it comes, keeps every condition above the views."""
    assert not is_leakproof(parse(query), tree(store, query), {})


def test_a_huge_query_is_looked_at_in_time(store: Store) -> None:
    """Trees that are too large or deep are not leakproof, and a long chain of names costs next to nothing."""
    chain = ", ".join(f"a{number + 1} AS a{number}" for number in range(4000))
    names = f"SELECT {chain}, accurateCast(window_start, 'UInt8') AS a4000 FROM clusters WHERE a0 > 5"
    huge = "SELECT " + ", ".join(["tenant"] * 30_000) + " FROM clusters"
    deep = "SELECT 1 FROM clusters WHERE " + "1 + " * 400 + "1 > 0"
    for query in (names, huge, deep):
        lines = tree(store, query)
        began = time.process_time()
        assert not is_leakproof(parse(query), lines, {})
        assert time.process_time() - began < 2


def test_parameters_cannot_rewrite_the_tree(store: Store) -> None:
    """A parameter whose value could end a line of the tree makes the query not leakproof."""
    query = "SELECT 1 FROM clusters WHERE tenant = {t:String}"
    lines = ["SelectWithUnionQuery (children 1)"]
    assert is_leakproof(parse(query), lines, {"t": "acme"})
    assert not is_leakproof(parse(query), lines, {"t": "a\n Function x"})
