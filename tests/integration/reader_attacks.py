"""Attack queries of a reader of some tenants: what it may try to see rows of others, or to tell that there are any.

`READS` and `ORACLES` answer something that depends on others' rows for whoever is not kept from them: the suite runs
them unkept, too, so that each is known to bite.
"""

from __future__ import annotations

from itertools import product

VIEWS = (
    "metrics_cluster_1m",
    "metrics_cluster_1h",
    "metrics_cluster_1d",
    "metrics_region_1m",
    "metrics_region_1h",
    "metrics_region_1d",
    "clusters",
    "control_totals",
    "pipeline_drops",
    "cardinality_top",
)
COVERAGE = ("coverage_1m", "coverage_cluster_1m")
# All that was expected up to now would be half a million windows.
_SOON = "window_start < toDateTime('2026-01-05 02:00:00', 'UTC')"
_M = "metrics_cluster_1m"
# A whole row of somebody else's: IN takes a table by its bare name, which is not a table in the parser's tree.
_FOREIGN_DROP = (
    "('zzz-foreign', 'collector', 'cluster:zzz-foreign-c1', 'metrics_cluster', 'foreign_reason', 'points', "
    "toDateTime('2026-01-05 00:00:00', 'UTC'), 60, 777000000)"
)

READS = [
    *(f"SELECT * FROM {view}" for view in VIEWS),
    *(f"SELECT count() FROM {view}" for view in VIEWS),
    *(f"SELECT DISTINCT tenant FROM {view}" for view in VIEWS),
    *(f"SELECT min(tenant), max(tenant), uniqExact(tenant) FROM {view}" for view in VIEWS),
    *(f"SELECT * FROM {view} WHERE {_SOON}" for view in COVERAGE),
    *(f"SELECT sum(expected), sum(reported) FROM {view} WHERE {_SOON}" for view in COVERAGE),
    "SELECT min(window_start), max(window_start) FROM coverage_1m WHERE window_seconds = 60 AND tenant > 'z'",
    f"SELECT 1 FROM {_M} WHERE tenant = 'zzz-foreign' LIMIT 1",
    f"SELECT count() FROM {_M} WHERE tenant NOT IN ('acme') OR 1",
    f"SELECT count() FROM {_M} WHERE (tenant = 'acme') = 0 AND tenant NOT LIKE 'station-%'",
    f"SELECT any(cluster) FROM {_M} WHERE cluster > 'z'",
    f"SELECT 'acme' AS tenant, cluster FROM {_M}",
    f"WITH 'acme' AS tenant SELECT tenant, cluster FROM {_M}",
    f"WITH x AS (SELECT 'acme' AS tenant, cluster AS c FROM {_M}) SELECT c FROM x WHERE tenant = 'acme'",
    f"SELECT * EXCEPT (tenant) FROM {_M}",
    f"SELECT * REPLACE ('acme' AS tenant) FROM {_M}",
    f"SELECT COLUMNS('tenant|cluster') FROM {_M}",
    f"SELECT * APPLY(toString) FROM {_M}",
    f"SELECT {_M}.tenant, catchment.{_M}.cluster FROM catchment.{_M}",
    f"SELECT t.tenant FROM {_M} AS t",
    f"SELECT tenant FROM {_M} AS metrics_region_1m",
    f"SELECT tenant FROM (SELECT * FROM (SELECT * FROM (SELECT * FROM {_M})))",
    f"SELECT tenant FROM view(SELECT * FROM {_M})",
    f"SELECT tenant FROM view(SELECT tenant FROM view(SELECT tenant FROM {_M} UNION ALL SELECT tenant FROM clusters))",
    f"FROM {_M} SELECT tenant",
    f"SELECT tenant FROM {_M} UNION ALL SELECT tenant FROM clusters",
    f"SELECT 'a' UNION DISTINCT SELECT cluster FROM {_M}",
    f"SELECT cluster FROM {_M} EXCEPT SELECT 'x'",
    f"SELECT cluster FROM {_M} INTERSECT SELECT cluster FROM clusters",
    f"(SELECT tenant FROM {_M}) UNION ALL (SELECT tenant FROM pipeline_drops)",
    f"SELECT DISTINCT a.tenant FROM {_M} AS a JOIN clusters AS b ON a.cluster = b.cluster",
    f"SELECT count() FROM {_M} AS a, clusters AS b",
    "SELECT count() FROM clusters AS a CROSS JOIN clusters AS b WHERE a.tenant != b.tenant",
    f"SELECT b.tenant, count() FROM (SELECT 'c' AS x) AS a LEFT JOIN {_M} AS b ON 1 GROUP BY ALL",
    "SELECT b.cluster FROM numbers(1) AS a FULL JOIN clusters AS b ON b.tenant = toString(a.number)",
    f"SELECT DISTINCT a.tenant FROM clusters AS a SEMI JOIN {_M} AS b USING (tenant)",
    "SELECT a.tenant FROM clusters AS a ANTI JOIN (SELECT 'acme' AS tenant) AS b USING (tenant)",
    f"SELECT b.tenant FROM clusters AS a RIGHT JOIN {_M} AS b ON a.tenant = 'acme' AND b.tenant = a.tenant",
    f"SELECT count() FROM clusters AS a ASOF JOIN {_M} AS b ON a.tenant = b.tenant AND a.first_seen <= b.window_start",
    *(
        f"SELECT uniqExact(b.tenant) FROM numbers(3) AS a JOIN {_M} AS b ON a.number = b.count "
        f"SETTINGS join_algorithm = '{algorithm}'"
        for algorithm in ("hash", "parallel_hash", "grace_hash", "full_sorting_merge", "partial_merge")
    ),
    f"SELECT (SELECT count() FROM {_M})",
    f"SELECT (SELECT groupUniqArray(tenant) FROM {_M})",
    f"WITH (SELECT max(cluster) FROM {_M}) AS m SELECT m",
    f"WITH x AS (SELECT cluster FROM {_M}) SELECT count() FROM x AS a, x AS b",
    (
        f"WITH RECURSIVE r AS (SELECT 1 AS n, '' AS c UNION ALL SELECT n + 1, (SELECT max(cluster) FROM {_M}) FROM r "
        "WHERE n < 3) SELECT * FROM r"
    ),
    f"SELECT number FROM numbers(5) WHERE number < (SELECT uniqExact(tenant) FROM {_M})",
    f"SELECT 'zzz-foreign' IN (SELECT tenant FROM {_M})",
    f"SELECT 'zzz-foreign-c1' GLOBAL IN (SELECT cluster FROM {_M})",
    "SELECT ('zzz-foreign', 'zzz-foreign-c1') IN (SELECT tenant, cluster FROM clusters)",
    f"SELECT {_FOREIGN_DROP} IN pipeline_drops",
    f"SELECT any({_FOREIGN_DROP} IN pipeline_drops) FROM system.settings",
    "SELECT tenant, cluster, retired_at FROM clusters WHERE retired",
    f"SELECT 1 WHERE EXISTS (SELECT 1 FROM {_M} WHERE tenant = 'zzz-foreign')",
    (
        f"SELECT count() FROM clusters AS c WHERE EXISTS (SELECT 1 FROM {_M} AS m WHERE m.tenant != c.tenant AND "
        "m.tenant > 'z')"
    ),
    "SELECT tenant, (SELECT count() FROM pipeline_drops) FROM clusters",
    "SELECT dictionaryless.tenant FROM (SELECT tenant FROM clusters) AS dictionaryless",
    f"SELECT tenant, row_number() OVER (PARTITION BY tenant ORDER BY cluster, window_start) FROM {_M}",
    f"SELECT count() OVER () FROM {_M} LIMIT 1",
    f"SELECT max(sum) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM {_M} LIMIT 1",
    f"SELECT arrayJoin(groupArray(tenant)) FROM {_M}",
    f"SELECT t FROM (SELECT groupUniqArray(cluster) AS ts FROM {_M}) ARRAY JOIN ts AS t",
    f"SELECT topK(10)(tenant), groupBitXor(cityHash64(cluster)), sum(sum_int) FROM {_M}",
    f"SELECT sumMap(histogram) FROM {_M}",
    f"SELECT finalizeAggregation(s) FROM (SELECT uniqState(tenant) AS s FROM {_M})",
    f"SELECT tenant, count() FROM {_M} GROUP BY tenant WITH TOTALS",
    f"SELECT tenant, cluster, count() FROM {_M} GROUP BY CUBE (tenant, cluster)",
    f"SELECT tenant, count() FROM {_M} GROUP BY GROUPING SETS ((tenant), ())",
    f"SELECT count() FROM {_M} SETTINGS extremes = 1, totals_mode = 'before_having'",
    f"SELECT tenant FROM {_M} ORDER BY tenant DESC LIMIT 1",
    f"SELECT tenant FROM {_M} ORDER BY tenant LIMIT 1 WITH TIES",
    f"SELECT tenant FROM {_M} ORDER BY cluster, window_start LIMIT 2 BY tenant",
    f"SELECT tenant FROM {_M} ORDER BY tenant, cluster, window_start OFFSET 3 ROWS",
    f"SELECT tenant FROM {_M} QUALIFY row_number() OVER (PARTITION BY tenant ORDER BY window_start, cluster) = 1",
    f"SELECT tenant FROM {_M} GROUP BY tenant HAVING count() > 6",
    f"SELECT tenant FROM {_M} WHERE identity(1) /* comment */ -- another\n OR tenant = 'x'",
    f"SELECT DISTINCT ON (tenant) tenant FROM {_M}",
    f"SELECT tenant FROM {_M} ORDER BY cluster, window_start LIMIT 1 FORMAT JSON",
    f"SELECT 1 FROM {_M} LIMIT 1 FORMAT JSONCompact",
    f"SELECT 1 FROM {_M} LIMIT 1 FORMAT XML",
    f"SELECT tenant, count() FROM {_M} GROUP BY tenant WITH TOTALS ORDER BY tenant LIMIT 1 FORMAT JSON",
    "SELECT labels['who'] FROM clusters",
    f"SELECT attributes['n'], JSONExtractRaw(toJSONString(attributes)) FROM {_M}",
    f"SELECT tupleElement(tuple(tenant, cluster), 2) FROM {_M}",
    f"SELECT tenant FROM {_M} SETTINGS max_threads = 1",
    f"SELECT * FROM (SELECT tenant FROM {_M} SETTINGS max_threads = 1)",
    f"SELECT toTypeName(tenant), count() FROM {_M} GROUP BY 1",
    f"SELECT if(tenant = 'zzz-foreign', sleep(0), 0) FROM {_M}",
    "SELECT tenant, sum(stored_points) FROM control_totals WHERE level = 'globe' GROUP BY tenant",
    "SELECT sum(digest) FROM control_totals",
    "SELECT reason, sum(count) FROM pipeline_drops GROUP BY reason",
    f"SELECT * FROM {_M} AS a PASTE JOIN (SELECT tenant AS other FROM clusters ORDER BY ALL) AS b",
    f"SELECT hex(toString(tenant)) FROM {_M}",
    f"SELECT {{column:Identifier}} FROM {_M}",
    "SELECT tenant FROM {table:Identifier}",
    "SELECT tenant FROM catchment.{table:Identifier}",
    "SELECT tenant FROM {database:Identifier}.{table:Identifier}",
    f"SELECT count() FROM {_M} WHERE tenant = {{tenant:String}}",
]

# Each fails, or not, by a value of somebody else's row: if it is computed on that row.
_FAILING = (
    "intDiv(1, cluster != 'zzz-foreign-c1')",
    "throwIf(cluster = 'zzz-foreign-c1') = 0",
    "throwIf(tenant = 'zzz-foreign') = 0",
    "throwIf(startsWith(cluster, 'aaa-')) = 0",
    "toUInt64(if(cluster = 'zzz-foreign-c1', 'x', '1'))",
    "toDateTime(if(cluster = 'aaa-foreign-c1', 'x', '2026-01-01 00:00:00')) > 0",
    "parseDateTime(if(tenant = 'zzz-foreign', 'x', '2026'), '%Y') > 0",
    "accurateCast(if(tenant = 'zzz-foreign', 300, 1), 'UInt8')",
    "accurateCast(toUnixTimestamp(window_start) - 1767571200, 'UInt16') >= 0",
    "CAST(tenant, 'Enum8(\\'acme\\' = 1, \\'station-1\\' = 2, \\'station-2\\' = 3)') != 'acme'",
    "modulo(1, cluster != 'zzz-foreign-c1') = 0",
    "toDecimal32(if(tenant = 'zzz-foreign', 100000000, 1), 9) > 0",
    "length(repeat('x', if(tenant = 'zzz-foreign', 100000000, 1))) >= 0",
    "length(range(if(tenant = 'zzz-foreign', 10000000000, 1))) >= 0",
    "[1, 2][if(tenant = 'zzz-foreign', 0, 1)] >= 0 AND throwIf(tenant > 'zz') = 0",
    "match('x', if(tenant = 'zzz-foreign', '(', 'x'))",
    "'x' LIKE if(tenant = 'zzz-foreign', 'x\\\\', 'x')",
    "JSONExtractString(if(tenant = 'zzz-foreign', '{', '{}'), 'a') = '' AND throwIf(tenant = 'aaa-foreign') = 0",
    "IPv4StringToNum(if(tenant = 'zzz-foreign', 'x', '1.1.1.1')) > 0",
    "toUUID(if(tenant = 'zzz-foreign', 'x', '61f0c404-5cb3-11e7-907b-a6006ad3dba0')) IS NOT NULL",
    "(SELECT 1 UNION ALL SELECT toUInt8(2) WHERE 0) = intDiv(1, tenant < 'zz')",
)
_CLAUSES = (
    "SELECT count() FROM {view} WHERE {failing}",
    "SELECT count() FROM (SELECT *, {failing} AS x FROM {view}) WHERE x",
)
ORACLES = [
    *(
        clause.format(view=_M, failing=failing)
        for clause, failing in product(_CLAUSES, _FAILING)
        # As a computed column it is the same, but for what has a subquery.
        if "SELECT 1 UNION" not in failing or "AS x" not in clause
    ),
    *(
        template.format(failing=failing)
        for failing in _FAILING[:2]
        for template in (
            "SELECT countIf({failing}) FROM clusters",
            "SELECT count() FROM clusters WHERE 1 AND {failing} AND last_seen > 0",
            "SELECT count() FROM clusters WHERE tenant != 'acme' OR {failing}",
            f"SELECT cluster FROM {_M} GROUP BY cluster HAVING {{failing}}",
            "SELECT cluster FROM clusters ORDER BY {failing}",
            "SELECT cluster FROM clusters QUALIFY {failing}",
            "SELECT count() FROM clusters AS a JOIN clusters AS b USING (cluster) WHERE {failing}",
            f"SELECT count() FROM clusters AS a JOIN {_M} AS b ON a.tenant = b.tenant WHERE a.{{failing}}".replace(
                "a.{failing}", "{failing}"
            )
            .replace("AS b", "AS b_")
            .replace("b.tenant", "b_.tenant"),
            "WITH x AS (SELECT * FROM clusters WHERE {failing}) SELECT count() FROM x",
            "SELECT 1 IN (SELECT 1 FROM clusters WHERE {failing})",
            "SELECT (SELECT count() FROM clusters WHERE {failing})",
            f"SELECT count() FROM coverage_cluster_1m WHERE {{failing}} AND {_SOON}",
            "SELECT count() FROM clusters WHERE {failing} UNION ALL SELECT 2",
            "SELECT sum(x) OVER () FROM (SELECT {failing} AS x FROM clusters)",
            f"SELECT arrayMap(y -> intDiv(1, y != 'zzz-foreign-c1'), [cluster]), {{failing}} FROM {_M} ORDER BY ALL",
        )
    ),
    # The planner swaps the sides of a join by the sizes of tables, and the order of rows tells it.
    *(
        f"SELECT groupArray((a.tenant, b.region)) FROM {left} AS a JOIN {right} AS b ON a.tenant = b.tenant "
        "SETTINGS max_threads = 1"
        for left, right in (
            ("metrics_cluster_1h", _M),
            ("metrics_cluster_1d", _M),
        )
    ),
    # The index is searched with a reader's condition on the bounds of everybody's granules.
    f"SELECT count() FROM {_M} WHERE accurateCast(toUInt32(window_start) - 1767571200, 'UInt16') > 5",
    *(
        template.format(x="accurateCast(toUInt32(window_start) - 1767571200, 'UInt16') AS x")
        for template in (
            f"SELECT {{x}} FROM {_M} WHERE x > 5 ORDER BY x",
            f"SELECT {{x}}, x AS y FROM {_M} WHERE y > 5 ORDER BY x",
            f"SELECT count() FROM (SELECT {{x}} FROM {_M}) WHERE x > 5",
            f"WITH {{x}} SELECT count() FROM {_M} WHERE x > 5",
            f"SELECT {{x}} FROM {_M} GROUP BY x HAVING x > 5 ORDER BY x",
        )
    ),
]

_TABLE = "catchment_data.metrics_cluster"
REFUSED = [
    f"SELECT * FROM {_TABLE}",
    f"SELECT count() FROM {_TABLE}",
    "SELECT * FROM catchment_data.`metrics_cluster`",
    'SELECT * FROM "catchment_data"."metrics_cluster"',
    f"SELECT * FROM {_TABLE} FINAL",
    f"SELECT * FROM {_TABLE} PREWHERE intDiv(1, tenant != 'zzz-foreign')",
    f"SELECT * FROM {_TABLE} SAMPLE 0.1",
    f"SELECT _part, _partition_id, _part_offset FROM {_TABLE}",
    f"SELECT 1 IN {_TABLE}",
    "SELECT tenant FROM clusters WHERE tenant IN catchment_data.drops",
    f"SELECT (SELECT count() FROM {_TABLE})",
    f"SELECT 1 UNION ALL SELECT count() FROM {_TABLE}",
    f"WITH x AS (SELECT * FROM {_TABLE}) SELECT count() FROM x",
    f"SELECT count() FROM view(SELECT * FROM {_TABLE})",
    f"SELECT count() FROM clusters JOIN {_TABLE} USING (tenant)",
    "SELECT * FROM {hidden:Identifier}.drops",
    "SELECT * FROM {hidden:Identifier}.{hiddentable:Identifier}",
    "SELECT * FROM {qualified:Identifier}",
    'SELECT number AS "a\n X", "a\n X" IN catchment_data FROM numbers(1)',
    "SELECT 1 AS {lines:Identifier}, {lines:Identifier} IN metrics_cluster_1m",
    f"DESCRIBE {_TABLE}",
    f"DESCRIBE (SELECT * FROM {_TABLE})",
    f"SHOW CREATE TABLE {_TABLE}",
    "SHOW CREATE DATABASE catchment_data",
    "SHOW TABLES FROM catchment_data",
    f"EXISTS {_TABLE}",
    f"EXISTS TABLE {_TABLE}",
    "SELECT * FROM catchment_data.migrations",
    "SELECT * FROM catchment_data.fill_cluster_registry",
    "SELECT * FROM catchment_data.`.inner.x`",
    *(
        f"SELECT * FROM {call}"
        for call in (
            "merge('catchment_data', '.*')",
            "merge('catchment_data', 'metrics_cluster')",
            "merge(REGEXP('catch.*'), '.*')",
            "remote('127.0.0.1', catchment_data.drops)",
            "remote('127.0.0.1', 'catchment_data', 'drops')",
            "remoteSecure('127.0.0.1', catchment_data.drops)",
            "cluster('default', catchment_data.drops)",
            "clusterAllReplicas('default', catchment_data.drops)",
            "loop(catchment_data.drops)",
            "mergeTreeIndex(catchment_data, metrics_cluster)",
            "mergeTreeProjection(catchment_data, metrics_cluster, x)",
            "mergeTreeAnalyzeIndexes(catchment_data, metrics_cluster)",
            "mergeTreePartInfo('x')",
            "timeSeriesData('catchment_data', 'x')",
            "viewExplain('EXPLAIN', '', (SELECT 1))",
            "viewIfPermitted(SELECT 1 ELSE null('x UInt8'))",
            "dictionary('x')",
            "generateRandom('a UInt8')",
            "fuzzQuery('SELECT 1')",
            "file('x', 'LineAsString')",
            "url('http://127.0.0.1:1/', 'LineAsString')",
            "s3('http://127.0.0.1:1/b/k', 'LineAsString')",
            "executable('cat', 'LineAsString', 'a String')",
            "sqlite('x', 't')",
            "postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        )
    ),
    "SELECT joinGet('catchment_data.drops', 'count', 1)",
    "SELECT dictGet('catchment_data.drops', 'count', 1) FROM catchment_data.drops",
    "SELECT hasColumnInTable('catchment_data', 'drops', 'tenant')",
    "SELECT lowCardinalityKeys(tenant) FROM metrics_cluster_1m",
    "SELECT lowCardinalityIndices(tenant) FROM metrics_cluster_1m",
    "SELECT filesystemAvailable()",
    "SELECT file('x')",
    "SELECT eval('SELECT 1')",
    "EXPLAIN SELECT * FROM metrics_cluster_1m",
    "EXPLAIN PLAN SELECT * FROM metrics_cluster_1m",
    "EXPLAIN indexes = 1 SELECT * FROM metrics_cluster_1m",
    "EXPLAIN PLAN indexes = 1, actions = 1 SELECT * FROM metrics_cluster_1m",
    "EXPLAIN PIPELINE SELECT * FROM metrics_cluster_1m",
    "EXPLAIN ESTIMATE SELECT * FROM metrics_cluster_1m",
    "EXPLAIN QUERY TREE SELECT * FROM metrics_cluster_1m",
    "EXPLAIN ANALYZE SELECT * FROM metrics_cluster_1m",
    "SELECT * FROM (EXPLAIN ESTIMATE SELECT * FROM metrics_cluster_1m)",
    "SHOW PROCESSLIST",
    "SHOW MERGES",
    "SHOW INDEX FROM clusters",
    "SHOW GRANTS",
    "SHOW USERS",
    "SHOW ACCESS",
    "SHOW ENGINES",
    "SHOW /* a */ MERGES",
    "SHOW DICTIONARIES",
    "SHOW CLUSTERS",
    *(
        f"SELECT * FROM metrics_cluster_1m SETTINGS {setting}"
        for setting in (
            "additional_table_filters = {'catchment_data.metrics_cluster': '1'}",
            "additional_table_filters = {}",
            "additional_table_filters = '{}'",
            "`additional_table_filters` = '{}'",
            "additional_result_filter = '1'",
            "max_threads = 1, additional_table_filters = '{}'",
            "readonly = 0",
            "query_plan_merge_filters = 1",
            "query_plan_filter_push_down = 1",
            "query_plan_optimize_prewhere = 1",
            "optimize_move_to_prewhere = 1",
            "enable_analyzer = 0",
            "allow_experimental_analyzer = 0",
            "use_query_cache = 1",
            "use_query_condition_cache = 1",
            "max_rows_to_read = 5",
            "max_memory_usage = 100000",
            "max_bytes_to_read = 5",
            "read_overflow_mode = 'break'",
            "force_primary_key = 1",
            "final = 1",
            "output_format_write_statistics = 1",
            "output_format_arrow_low_cardinality_as_dictionary = 1",
            "param_x = 1",
            "compatibility = '20.1'",
            "profile = 'default'",
            "limit = 1, additional_table_filters = '{}'",
        )
    ),
    "SELECT * FROM (SELECT * FROM metrics_cluster_1m SETTINGS additional_table_filters = '{}')",
    # Settings that only the engine sees, in a query of system.settings, which was run with readonly=2.
    *(
        f"SELECT (SELECT {_FOREIGN_DROP} IN pipeline_drops SETTINGS {settings}) FROM system.settings LIMIT 1"
        for settings in (
            "extremes = 1, join_use_nulls, additional_table_filters = '{}'",
            "extremes = 1., additional_table_filters = '{}'",
            "extremes = 1.e0, additional_table_filters = '{}'",
            "join_use_nulls, additional_table_filters = '{}'",
            "extremes = 1, additional_table_filters = DEFAULT",
        )
    ),
    "WITH x AS (SELECT * FROM clusters SETTINGS additional_table_filters = '{}') SELECT * FROM x",
    "SELECT * FROM clusters SETTINGS additional_table_filters = '{}' UNION ALL SELECT * FROM clusters",
    "SELECT (SELECT count() FROM clusters SETTINGS additional_table_filters = '{}')",
    "SELECT * FROM clusters FORMAT JSON SETTINGS additional_table_filters = '{}'",
    "EXPLAIN SYNTAX SELECT * FROM clusters SETTINGS additional_table_filters = '{}'",
    "SELECT * FROM clusters FORMAT JSONEachRowWithProgress",
    "SELECT * FROM clusters FORMAT JSONStringsEachRowWithProgress",
    "SELECT * FROM clusters INTO OUTFILE 'written.txt'",
    "SELECT 1; SELECT * FROM catchment_data.drops",
    "SELECT 1;; DROP TABLE catchment_data.drops",
    "SET additional_table_filters = '{}'",
    "SET readonly = 0",
    "USE catchment_data",
    "USE default",
    "CREATE TEMPORARY TABLE t AS SELECT * FROM catchment_data.drops",
    "CREATE VIEW catchment.v AS SELECT * FROM catchment_data.drops",
    "CREATE TABLE catchment.t ENGINE = Memory AS SELECT * FROM catchment_data.drops",
    "CREATE MATERIALIZED VIEW catchment.v ENGINE = Memory AS SELECT * FROM catchment_data.drops",
    "CREATE FUNCTION f AS x -> x",
    "CREATE USER u",
    "CREATE ROW POLICY p ON catchment_data.drops USING 1 TO ALL",
    "ALTER TABLE catchment_data.drops DELETE WHERE 1",
    "INSERT INTO catchment_data.drops SELECT * FROM catchment_data.drops",
    "INSERT INTO FUNCTION file('written.txt') SELECT 1",
    "DROP VIEW catchment.clusters",
    "TRUNCATE TABLE catchment_data.drops",
    "OPTIMIZE TABLE catchment_data.drops FINAL",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "GRANT ALL ON *.* TO own",
    "BACKUP TABLE catchment_data.drops TO File('x')",
    "ATTACH TABLE catchment.t FROM 'x' (a UInt8) ENGINE = MergeTree ORDER BY a",
    "EXECUTE AS operator SELECT * FROM clusters",
]
"""What is refused before anything runs."""

PARAMETERS = {
    "param_column": "cluster",
    "param_table": "metrics_cluster_1m",
    "param_database": "catchment",
    "param_tenant": "zzz-foreign",
    "param_hidden": "catchment_data",
    "param_hiddentable": "drops",
    "param_lines": "a\n X",
    "param_qualified": "catchment_data.drops",
}
