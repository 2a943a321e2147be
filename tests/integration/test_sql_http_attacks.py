"""What a reader must not be able to do through the SQL endpoint: write, read files, reach out, lift limits, crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.sql_server import ROOT, Server, running

SECRET = "the-secret-in-a-file"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An endpoint with files beside it that no query may show."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "secret.txt").write_text(f"{SECRET}\n")
    (folder / "secret.csv").write_text(f"a\n{SECRET}\n")
    with running(folder) as started:
        yield started


def ask(server: Server, query: str | bytes, **parameters: str) -> httpx.Response:
    """What the endpoint answers to a posted query."""
    content = query.encode() if isinstance(query, str) else query
    return httpx.post(server.url, params=parameters, content=content, timeout=60)


def state(server: Server) -> tuple[str, set[str]]:
    """What must not change: tables, rows, and the files around the engine's own."""
    tables = ask(server, "SELECT database, name FROM system.tables WHERE database NOT IN ('system') ORDER BY ALL").text
    rows = ask(server, "SELECT count(), sum(cityHash64(*)) FROM points").text
    files = {path.name for folder in (server.folder, ROOT) for path in folder.iterdir()}
    return tables + rows, files


WRITES = [
    "INSERT INTO points VALUES (now(), 1, 'x')",
    "insert into points select now(), 1, 'x'",
    "/* SELECT */ INSERT INTO points VALUES (now(), 1, 'x')",
    "/* a /* nested */ */ INSERT INTO points VALUES (now(), 1, 'x')",
    "-- SELECT 1\nDROP TABLE points",
    "# SELECT 1\nDROP TABLE points",
    "#! SELECT 1\nDROP TABLE points",
    "WITH 1 AS x INSERT INTO points SELECT now(), x, 'x'",
    "WITH y AS (SELECT 1 AS v) INSERT INTO points SELECT now(), v, 'x' FROM y",
    "FROM points INSERT INTO points SELECT *",
    "CREATE TABLE t (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE t (a Int8)",
    "CREATE OR REPLACE TABLE points (a Int8) ENGINE = Memory",
    "CREATE VIEW v AS SELECT 1",
    "CREATE MATERIALIZED VIEW v ENGINE = Memory AS SELECT 1",
    "CREATE FUNCTION f AS x -> x",
    "CREATE DATABASE other",
    "DROP TABLE points",
    "DROP DATABASE catchment",
    "TRUNCATE TABLE points",
    "ALTER TABLE points DELETE WHERE 1",
    "ALTER TABLE points ADD COLUMN x Int8",
    "DELETE FROM points WHERE 1",
    "UPDATE points SET value = 1 WHERE 1",
    "RENAME TABLE points TO other",
    "EXCHANGE TABLES points AND points",
    "OPTIMIZE TABLE points FINAL",
    "DETACH TABLE points",
    "ATTACH TABLE other FROM '/tmp' (a Int8) ENGINE = MergeTree ORDER BY a",
    "KILL QUERY WHERE 1",
    "SYSTEM STOP MERGES",
    "SYSTEM SHUTDOWN",
    "SYSTEM DROP MARK CACHE",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE points TO File('x')",
    "SET max_memory_usage = 0",
    "SET readonly = 0",
    "USE system",
    "BEGIN TRANSACTION",
    "EXECUTE AS default SELECT 1",
    "SELECT 1; DROP TABLE points",
    "SELECT 1;;DROP TABLE points;",
    "SELECT ';'; DROP TABLE points",
    "SELECT 1 -- ;\n; DROP TABLE points",
    "SELECT $a$;$a$; DROP TABLE points",
    "SELECT 1 /* ; */; /* */ DROP TABLE points",
    "SELECT `a;` FROM points; DROP TABLE points",
    "SELECT 'a\\'; DROP TABLE points; --'; DROP TABLE points",
    "SELECT 1\\G DROP TABLE points",
    "SELECT 1 PARALLEL WITH SELECT 2",
    "CREATE TABLE t (a Int8) ENGINE = Memory PARALLEL WITH DROP TABLE points",
    "EXPLAIN SELECT 1; DROP TABLE points",
    "EXPLAIN PLAN INSERT INTO points SELECT now(), 1, 'x'",
    "EXPLAIN AST DROP TABLE points",
    "EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:1', 'a', 'b', 'c', 'd') PARTITION BY a",
    "graph = 1 DROP TABLE points",
    "SELECT 1 INTO OUTFILE 'written.txt'",
    "SELECT 1 INTO /**/ OUTFILE 'written.txt' FORMAT CSV",
    "SELECT 1 FROM points INTO OUTFILE 'written.txt' TRUNCATE FORMAT CSV SETTINGS max_threads = 1",
    "EXPLAIN SELECT 1 INTO OUTFILE 'written.txt'",
    "SHOW TABLES INTO OUTFILE 'written.txt'",
    "DESCRIBE points INTO OUTFILE 'written.txt'",
]


@pytest.mark.parametrize("query", WRITES)
def test_nothing_is_written(server: Server, query: str) -> None:
    """Whatever hides it, a write is refused and changes neither tables nor files."""
    before = state(server)
    answer = ask(server, query)
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("62", "164", "497")
    assert state(server) == before


READS = [
    "SELECT * FROM file('{path}', LineAsString)",
    "SELECT * FROM file('{path}', 'LineAsString', 'a String') SETTINGS readonly = 0",
    "SELECT file('{path}')",
    "SELECT FILE('{path}')",
    "SELECT `file`('{path}')",
    "SELECT \"file\"('{path}')",
    "SELECT `fi\\x6ce`('{path}')",
    "SELECT file /* x */ ('{path}')",
    "SELECT arrayMap(x -> file(x), ['{path}'])",
    "SELECT * APPLY(file) FROM (SELECT '{path}')",
    "SELECT * APPLY file FROM (SELECT '{path}')",
    "SELECT * APPLY(x -> file(x)) FROM (SELECT '{path}')",
    "SELECT * REPLACE(file('{path}') AS a) FROM (SELECT 1 AS a)",
    "SELECT COLUMNS('a') APPLY(file) FROM (SELECT '{path}' AS a)",
    "SELECT 1 ORDER BY file('{path}')",
    "SELECT 1 LIMIT length(file('{path}'))",
    "SELECT sum(1) OVER (ORDER BY file('{path}'))",
    "WITH file('{path}') AS x SELECT x",
    "WITH x AS (SELECT * FROM file('{path}', LineAsString)) SELECT * FROM x",
    "SELECT (SELECT file('{path}'))",
    "SELECT 1 UNION ALL SELECT length(file('{path}'))",
    "SELECT 1 EXCEPT SELECT length(file('{path}'))",
    "SELECT * FROM view(SELECT file('{path}'))",
    "SELECT * FROM default.`{path}`",
    'SELECT * FROM "default"."{path}"',
    "SELECT * FROM DEFAULT.`{path}`",
    "SELECT * FROM `def\\x61ult`.`{path}`",
    "SELECT * FROM default.`{path}` SETTINGS max_threads = 1",
    "SELECT '{secret}' IN default.`{path}`",
    "SELECT '{secret}' IN (SELECT * FROM default.`{path}`)",
    "SELECT * FROM {{d:Identifier}}.`{path}`",
    "SELECT * FROM {{d:Identifier}}.{{t:Identifier}}",
    "SELECT * FROM merge('default', '.*')",
    "SELECT * FROM loop(default.`{path}`)",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT file('{path}')))",
    "EXPLAIN SELECT file('{path}')",
    "EXPLAIN SYNTAX SELECT file('{path}')",
    "EXPLAIN ESTIMATE SELECT * FROM default.`{path}`",
    "SELECT * FROM (EXPLAIN SELECT file('{path}'))",
    "DESCRIBE file('{path}', LineAsString)",
    "DESCRIBE default.`{path}`",
    "DESCRIBE (SELECT file('{path}'))",
    "SHOW TABLES WHERE file('{path}') LIKE '%secret%'",
    "SHOW TABLES WHERE name IN (SELECT * FROM default.`{path}`)",
    "SHOW CREATE TABLE default.`{path}`",
    "SHOW COLUMNS FROM `{path}` FROM default",
    "EXISTS default.`{path}`",
    "SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{path}'",
    "SELECT 1 AS a FORMAT Protobuf SETTINGS format_schema = '{path}:M'",
    "SELECT * FROM sqlite('{path}', 't')",
    "SELECT * FROM filesystem('/')",
    "SELECT * FROM executable('cat {path}', LineAsString, 'a String')",
    "SELECT * FROM Python(SECRET)",
    "SELECT * FROM python('x')",
    "SELECT * FROM input('a String')",
    "SELECT * FROM system.stack_trace",
    "SELECT * FROM format(LineAsString, '{secret}')",
    "SELECT * FROM eval('SELECT file(''{path}'')') SETTINGS allow_experimental_eval_table_function = 1",
]


@pytest.mark.parametrize("query", READS)
@pytest.mark.parametrize("name", ["secret.txt", "secret.csv"])
def test_no_file_is_read(server: Server, query: str, name: str) -> None:
    """No spelling of a function, table function, path or format shows what a file holds."""
    path = str(server.folder / name)
    parameters = {"param_d": "default", "param_t": path}
    answer = ask(server, query.format(path=path, secret=SECRET), **parameters)
    assert answer.status_code >= 400
    assert "X-ClickHouse-Exception-Code" in answer.headers
    shown = answer.text.replace(query.format(path=path, secret=SECRET), "")
    assert SECRET not in shown or "{secret}" in query


@pytest.mark.parametrize("database", ["default`", "/", "missing", "_temporary_and_external_tables"])
def test_no_other_database_is_read_by_parameter(server: Server, database: str) -> None:
    """The database parameter opens nothing either: a path in it is no table."""
    answer = ask(server, f"SELECT * FROM `{server.folder / 'secret.txt'}`", database=database)
    assert answer.status_code >= 400
    default = ask(server, f"SELECT * FROM `{server.folder / 'secret.txt'}`", database="default")
    assert default.headers["X-ClickHouse-Exception-Code"] in ("60", "497")


@pytest.mark.parametrize("query", ["SELECT * FROM stack_trace", "SELECT 1 IN stack_trace", "DESCRIBE stack_trace"])
def test_hidden_system_tables_stay_hidden_as_current_database(server: Server, query: str) -> None:
    """What is refused by its full name is refused by its short one, too."""
    assert ask(server, query, database="system").headers["X-ClickHouse-Exception-Code"] == "497"
    assert ask(server, "SELECT dummy IN (0, dummy) FROM one", database="system").text == "1\n"


@pytest.mark.parametrize(
    "call",
    [
        "url('http://127.0.0.1:{port}/ping', LineAsString)",
        "urlCluster('c', 'http://127.0.0.1:{port}/ping', LineAsString)",
        "s3('http://127.0.0.1:{port}/bucket/key', LineAsString)",
        "gcs('http://127.0.0.1:{port}/bucket/key', LineAsString)",
        "hdfs('hdfs://127.0.0.1:{port}/x', LineAsString)",
        "remote('127.0.0.1:{port}', system.one)",
        "remoteSecure('127.0.0.1:{port}', system.one)",
        "cluster('default', system.one)",
        "clusterAllReplicas('default', system.one)",
        "mysql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
        "postgresql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
        "mongodb('127.0.0.1:{port}', 'a', 'b', 'c', 'd', 'x String')",
        "redis('127.0.0.1:{port}', 'k', 'k String')",
        "jdbc('x', 'y', 'z')",
        "odbc('x', 'y', 'z')",
        "azureBlobStorage('http://127.0.0.1:{port}', 'c', 'x.csv')",
        "iceberg('http://127.0.0.1:{port}/b/')",
        "deltaLake('http://127.0.0.1:{port}/b/')",
        "dictionary('x')",
    ],
)
def test_nothing_is_reached_over_the_network(server: Server, call: str) -> None:
    """Table functions that open sockets are refused by name, before anything is resolved."""
    for query in (f"SELECT * FROM {call}", f"DESCRIBE TABLE {call}", f"SELECT 1 WHERE 1 IN (SELECT 1 FROM {call})"):
        answer = ask(server, query.format(port=server.port))
        assert answer.headers["X-ClickHouse-Exception-Code"] == "497", answer.text


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 SETTINGS max_memory_usage = 0",
        "SELECT 1 SETTINGS max_memory_usage = 99999999999999",
        "SELECT 1 SETTINGS max_execution_time = 0",
        "SELECT 1 SETTINGS max_execution_time = -1",
        "SELECT 1 SETTINGS max_execution_time = 'x'",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1 SETTINGS readonly, allow_ddl",
        "SELECT 1 SETTINGS readonly = DEFAULT",
        "SELECT 1 SETTINGS max_threads = 1, max_memory_usage = 0",
        "SELECT 1 SETTINGS `max_memory_usage` = 0",
        "SELECT 1 SETTINGS max_threads = 1 FORMAT CSV SETTINGS max_memory_usage = 0",
        "SELECT 1 FORMAT CSV SETTINGS max_memory_usage = 0",
        "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)",
        "SELECT * FROM (SELECT 1 SETTINGS max_untracked_memory = 99999999999)",
        "SELECT 1 SETTINGS max_memory_usage = 0 UNION ALL SELECT 2",
        "WITH x AS (SELECT 1 SETTINGS max_execution_time = 0) SELECT * FROM x",
        "EXPLAIN SELECT 1 SETTINGS max_memory_usage = 0",
        "SHOW TABLES SETTINGS max_memory_usage = 0",
        "SELECT 1 SETTINGS max_memory_usage = {m:UInt64}",
        "SELECT 1 SETTINGS max_untracked_memory = 99999999999",
        "SELECT 1 SETTINGS additional_table_filters = {'points': '1'}",
    ],
)
def test_no_limit_is_lifted_in_sql(server: Server, query: str) -> None:
    """SETTINGS in the query, anywhere and however spelled, cannot raise, remove or unlock anything."""
    answer = ask(server, query, param_m="0")
    assert answer.status_code >= 400
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("36", "53", "62", "115", "164", "452", "497")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT " + "[" * 3000 + "]" * 3000,
        "SELECT " + "-" * 100_000 + "1",
        "SELECT 1" + " + 1" * 50_000,
        "/*" * 100_000,
        "SELECT '" + "\\" * 99_999,
        "SELECT $a$" + "x" * 100_000,
        "SELECT " + "not " * 20_000 + "1",
        "SELECT 1 " + "UNION ALL SELECT 1 " * 5000,
        b"SELECT '\xff\xfe'",
        b"SELECT 1\x00; DROP TABLE points",
        "SELECT ‘a’",
        "SELECT 1 \u00a0 FROM points",
        "SELECT repeat('x', 1000000000000)",
        "SELECT range(10000000000)",
        "SELECT arrayJoin(range(1000000)) AS a, arrayJoin(range(1000000)) AS b FROM numbers(1000000) ORDER BY a, b",
        "SELECT * FROM zeros(1000000000000) FORMAT JSON",
        "SELECT throwIf(1, repeat('x', 1000000))",
        "SELECT CAST(unhex('ffffffffffffffffff'), 'AggregateFunction(uniq, UInt64)')",
    ],
)
def test_nothing_crashes_the_process(server: Server, query: str | bytes) -> None:
    """Deep, long, broken and expensive queries are refused or stopped, and the process answers the next one."""
    answer = ask(server, query, max_execution_time="5")
    assert answer.status_code == 200 or "X-ClickHouse-Exception-Code" in answer.headers
    assert ask(server, "SELECT count() FROM points").text == "61\n"
    assert server.process.poll() is None


HONEST = [
    "SELECT 'INSERT INTO x; DROP TABLE y' AS `a;b`, \"name\" FROM points -- ; comment\n;",
    "SELECT settings, value AS format FROM (SELECT 1 AS settings, 2 AS value)",
    "SELECT name FROM system.settings WHERE name = 'max_threads'",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "WITH recent AS (SELECT * FROM points WHERE value > 3) SELECT count() FROM recent",
    "FROM points SELECT count()",
    "SELECT 1 /* a /* nested */ comment */ + 1",
    "SELECT $tag$it's; fine$tag$",
    "SELECT format('{} {}', 'a', 'b'), replaceAll(name, 'file', 'url') FROM points LIMIT 1",
    "SELECT 1 FROM points AS p JOIN points AS q ON p.value = q.value SETTINGS max_threads = 2, join_use_nulls = 1",
    "SELECT catchment.points.value FROM catchment.points LIMIT 1",
    "SELECT * FROM (SELECT value FROM points SETTINGS max_threads = 1) LIMIT 1 FORMAT JSON;",
    "EXPLAIN indexes = 1 SELECT * FROM points WHERE time > now()",
    "SELECT number FROM numbers(3) WHERE number NOT IN (SELECT value FROM points WHERE value = 1)",
    "SELECT * EXCEPT (name) FROM points LIMIT 1",
    "SELECT * APPLY(toString) FROM points LIMIT 1",
    "SELECT value, sum(value) OVER (ORDER BY time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM points",
    "SELECT x.1, -1.5e3, 0x1F, 1_000, [1, 2][1], m['a'] FROM (SELECT (1, 2) AS x, map('a', 1) AS m)",
    "SHOW TABLES FROM catchment LIKE 'p%'",
    "SHOW CREATE TABLE points",
    "SHOW COLUMNS FROM points",
    "SHOW DATABASES",
    "SHOW FUNCTIONS LIKE 'sum'",
    "DESC points",
    "EXISTS TABLE points",
]


@pytest.mark.parametrize("query", HONEST)
def test_honest_queries_pass(server: Server, query: str) -> None:
    """The guard does not stand in the way of what only looks like an attack."""
    answer = ask(server, query)
    assert answer.status_code == 200, answer.text
    assert answer.text


def test_get_and_head_only_read(server: Server) -> None:
    """The method makes no difference: a write is refused in each."""
    for method in ("GET", "HEAD", "POST"):
        answer = httpx.request(method, server.url, params={"query": "DROP TABLE points"}, timeout=60)
        assert answer.headers["X-ClickHouse-Exception-Code"] == "164"
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert httpx.request(method, server.url, params={"query": "SELECT 1"}, timeout=60).status_code == 501


def test_the_folder_of_the_engine_is_left_alone(server: Server) -> None:
    """What the suite asked for has left no file behind."""
    assert not list(Path(server.folder).rglob("written*"))
    assert not list(ROOT.glob("written*"))
