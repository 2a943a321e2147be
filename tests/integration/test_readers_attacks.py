"""A reader of some tenants gets no row of another, nor learns that there is any, whatever it asks.

The same query goes to a store with the rows of all tenants and to one that has the reader's own rows only. Answers,
errors included, must be equal: whatever differs was told by somebody else's rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import clickhouse_connect
import httpx
import pytest

from tests.clients.reader_server import FOREIGN, OWN, ROOT, ReaderServer, digest, running
from tests.integration.reader_attacks import ORACLES, PARAMETERS, READS, REFUSED, VIEWS
from tests.integration.test_supervisor_up import wait_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReaderServer]:
    """A store with the rows of all tenants."""
    with running(tmp_path_factory.mktemp("whole"), [*OWN, *FOREIGN]) as server:
        yield server


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReaderServer]:
    """A store with the reader's own rows only."""
    with running(tmp_path_factory.mktemp("alone"), OWN) as server:
        yield server


@pytest.fixture(scope="module")
def untouched(whole: ReaderServer) -> str:
    """What nothing may change."""
    return state(whole)


def state(server: ReaderServer) -> str:
    """All tables, and the rows behind the views."""
    listed = server.ask("SELECT database, name, total_rows FROM system.tables ORDER BY ALL", "operator").text
    lines = [line for line in listed.splitlines() if line.startswith("catchment")]
    assert len(lines) > 20
    return "\n".join(lines)


def told(answer: httpx.Response) -> tuple[int, list[bytes], str | None]:
    """What an answer tells; the order of rows that nobody asked to sort tells nothing."""
    return answer.status_code, sorted(answer.content.split(b"\n")), answer.headers.get("X-ClickHouse-Summary")


def blurred(answer: httpx.Response, server: ReaderServer) -> list[str]:
    """The lines of an answer without what differs between any two stores: folders, random ids, times."""
    text = answer.text.replace(str(server.folder), "FOLDER")
    for pattern in (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", r"\b[0-9a-f]{3}/", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"):
        text = re.sub(pattern, "", text)
    return sorted(text.split("\n"))


def attacked(server: ReaderServer, query: str, reader: str = "own") -> httpx.Response:
    """The answer to an attack."""
    wanted = {name: value for name, value in PARAMETERS.items() if f"{{{name.removeprefix('param_')}:" in query}
    return server.ask(query, reader, **wanted)


@pytest.mark.parametrize("query", [*READS, *ORACLES])
def test_others_rows_tell_nothing(whole: ReaderServer, alone: ReaderServer, query: str) -> None:
    """The answer is the one of a store that never had the others' rows."""
    answer = attacked(whole, query)
    assert told(answer) == told(attacked(alone, query))
    if "foreign" not in query:
        assert b"foreign" not in answer.content
        assert "foreign" not in str(answer.headers)


def test_the_attacks_bite_where_nothing_is_enforced(whole: ReaderServer, alone: ReaderServer) -> None:
    """For an operator the answers differ: each attack would turn the suite red if readers were not kept apart."""

    def bites(query: str) -> bool:
        return told(attacked(whole, query, "operator"))[:2] != told(attacked(alone, query, "operator"))[:2]

    attacks = [*READS, *ORACLES]
    with ThreadPoolExecutor(4) as threads:
        assert [query for query, bit in zip(attacks, threads.map(bites, attacks), strict=True) if not bit] == []


@pytest.mark.parametrize("query", REFUSED)
def test_what_goes_around_the_views_is_refused(whole: ReaderServer, untouched: str, query: str) -> None:
    """Other databases, functions, plans, settings and statements are refused before anything runs."""
    answer = attacked(whole, query)
    assert answer.headers.get("X-ClickHouse-Exception-Code") in ("36", "48", "62", "73", "115", "164", "452", "497")
    assert b"foreign" not in answer.content or "foreign" in query
    if not query.startswith(("SELECT", "WITH", "EXPLAIN", "SHOW")):
        assert state(whole) == untouched
    assert not list(ROOT.glob("written*"))


def test_system_tables_tell_nothing(whole: ReaderServer, alone: ReaderServer) -> None:
    """Every table of `system` and `information_schema` is refused, or the same with and without the others' rows."""
    listed = "SELECT database, name FROM system.tables WHERE lower(database) IN ('system', 'information_schema')"
    names = [line.split("\t") for line in whole.ask(listed, "operator").text.splitlines()]
    assert len(names) > 100
    served = []
    for database, name in names:
        query = f"SELECT * FROM {database}.`{name}` LIMIT 100000"
        if name.startswith(("numbers", "zeros", "primes", "generate")):
            query = f"SELECT * FROM {database}.`{name}` LIMIT 3"
        answer = whole.ask(query)
        if answer.status_code == 200:
            served.append(name)
            assert b"-foreign" not in answer.content, name
            assert blurred(answer, whole) == blurred(alone.ask(query), alone), name
        else:
            assert answer.headers["X-ClickHouse-Exception-Code"] in ("497", "47"), (name, answer.text)
    assert {"tables", "columns", "databases", "settings", "functions"} <= set(served)
    assert not {"parts", "processes", "query_log", "metrics", "merges", "parts_columns"} & set(served)


def test_listings_show_the_views_only(whole: ReaderServer) -> None:
    """SHOW, the system tables and information_schema name what may be asked, nothing of the tables behind it."""
    for query in (
        "SELECT name FROM system.tables WHERE database NOT IN ('system') AND lower(database) != 'information_schema'",
        "SHOW TABLES",
        "SELECT DISTINCT table FROM system.columns WHERE database LIKE 'catch%'",
        "SELECT table_name FROM information_schema.tables WHERE table_schema LIKE 'catch%'",
        "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema LIKE 'catch%'",
    ):
        shown = whole.ask(query).text.split()
        assert set(VIEWS) <= set(shown), query
        assert not [name for name in shown if name.startswith("fill_") or name in ("health", "totals", "drops")], query
    for query in ("SHOW DATABASES", "SELECT name FROM system.databases"):
        assert "catchment_data" not in whole.ask(query).text
    assert whole.ask("SHOW COLUMNS FROM drops FROM catchment_data").text == ""
    assert whole.ask("SELECT sum(total_rows) FROM system.tables WHERE database = 'catchment'").text in ("0\n", "\\N\n")


def test_every_format_carries_own_rows_only(whole: ReaderServer) -> None:
    """No output format brings others' values along, in dictionaries, statistics or metadata."""
    formats = whole.ask("SELECT name FROM system.formats WHERE is_output", "operator").text.split()
    carried = 0
    for name in formats:
        for query in ("SELECT * FROM clusters", "SELECT tenant, cluster, metric FROM metrics_cluster_1m"):
            answer = whole.ask(query, default_format=name)
            assert b"foreign" not in answer.content, name
            carried += answer.status_code == 200
            assert b"rows_read" not in answer.content, name
    assert carried > 60


def test_table_functions_tell_nothing(whole: ReaderServer) -> None:
    """Every table function of the engine but those that only compute is refused by its name."""
    for name in whole.ask("SELECT name FROM system.table_functions", "operator").text.split():
        answer = whole.ask(f"SELECT * FROM `{name}`('catchment_data', 'drops') LIMIT 1")
        assert b"foreign" not in answer.content.replace(b"foreign_", b""), name
        if answer.status_code == 200:
            assert name in ("values", "null"), name


@pytest.mark.parametrize(
    "parameters",
    [
        {"additional_table_filters": "{}"},
        {"additional_table_filters": "{'catchment_data.metrics_cluster': '1'}"},
        {"query_plan_filter_push_down": "1"},
        {"query_plan_merge_filters": "1"},
        {"use_query_cache": "1"},
        {"enable_analyzer": "0"},
        {"max_rows_to_read": "1"},
        {"database": "catchment_data"},
        {"readonly": "0"},
        {"param_tenant": "x", "profile": "admin"},
    ],
)
def test_url_parameters_unlock_nothing(whole: ReaderServer, parameters: dict[str, str]) -> None:
    """Settings and databases in the URL are refused as they are in the query."""
    answer = whole.ask("SELECT * FROM clusters", **parameters)
    assert answer.status_code >= 400
    assert answer.headers["X-ClickHouse-Exception-Code"] in ("81", "115", "164", "452", "497")
    assert b"foreign" not in answer.content


def test_sessions_and_users_are_not_mixed(whole: ReaderServer) -> None:
    """An operator's session, query id or cached answer is of no use to a reader of some tenants."""
    query = "SELECT DISTINCT tenant FROM metrics_cluster_1m ORDER BY tenant"
    shared = {"session_id": "s", "query_id": "q"}
    assert "foreign" in whole.ask(query, "operator", **shared, use_query_cache="1").text
    assert whole.ask(query, **shared).text.split() == list(OWN)
    for parameters in ({"user": "operator"}, {"role": "operator"}, {"quota_key": "operator"}):
        assert whole.ask(query, **parameters).text.split() == list(OWN)
    assert "foreign" in whole.ask(query, "operator", **shared).text


def test_a_client_of_others_makes_do(whole: ReaderServer) -> None:
    """What clickhouse-connect asks before and around its queries is served to a reader of some tenants."""
    client = clickhouse_connect.get_client(
        host="127.0.0.1", port=whole.port, username="own", password="own-secret", settings={"max_execution_time": 10}
    )
    names = client.query("SELECT DISTINCT tenant FROM metrics_cluster_1m ORDER BY tenant").result_columns[0]
    assert names == list(OWN)
    bound = client.query("SELECT count() FROM clusters WHERE tenant = {t:String}", parameters={"t": "acme"})
    assert bound.result_rows == [(2,)]
    assert client.query_arrow("SELECT * FROM clusters").num_rows == 6
    client.close()


@pytest.mark.parametrize(
    "query",
    [
        "SHOW CREATE TABLE clusters",
        "SHOW COLUMNS FROM clusters",
        "SHOW FUNCTIONS LIKE 'sum'",
        "SHOW SETTINGS LIKE 'max_threads'",
        "DESCRIBE clusters",
        "DESCRIBE (SELECT tenant FROM clusters)",
        "EXISTS TABLE clusters",
        "EXPLAIN AST SELECT * FROM clusters",
        "EXPLAIN SYNTAX SELECT * FROM clusters",
        "SELECT name, value FROM system.settings WHERE name = 'max_threads'",
        "SELECT * FROM numbers(3)",
        "SELECT * FROM metrics_region_1h SETTINGS max_threads = 1, join_use_nulls = 1",
    ],
)
def test_honest_queries_pass(whole: ReaderServer, query: str) -> None:
    """What describes the views is served."""
    answer = whole.ask(query)
    assert answer.status_code == 200, answer.text
    assert answer.text


def test_a_changed_file_is_in_force_within_a_second(whole: ReaderServer) -> None:
    """Tenants taken from a reader are gone from its next answers; a file with faults changes nothing."""
    file = whole.folder / "readers.json"
    before = file.read_text()
    query = "SELECT DISTINCT tenant FROM metrics_cluster_1m ORDER BY tenant"

    def seen() -> str:
        return whole.ask(query).text

    def put(text: str) -> None:
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").replace(file)

    try:
        put(before.replace('"station-*"', '"station-2"'))
        wait_for(seen, "acme\nstation-2\n")
        put("[{}]")
        time.sleep(0.5)
        assert seen() == "acme\nstation-2\n"
        put(before.replace(digest("own-secret"), digest("another")))
        wait_for(lambda: whole.ask(query).headers.get("X-ClickHouse-Exception-Code", ""), "516")
    finally:
        put(before)
        wait_for(seen, "".join(f"{tenant}\n" for tenant in OWN))


def test_every_credential_of_a_reader_is_held_to_its_tenants(whole: ReaderServer) -> None:
    """Token, basic authentication, headers and parameters mean the same reader; without any, nobody is served."""
    query = b"SELECT DISTINCT tenant FROM metrics_cluster_1m ORDER BY tenant"
    for arguments in (
        {"headers": {"Authorization": "Bearer token of own"}},
        {"auth": ("own", "own-secret")},
        {"auth": ("own", "token of own")},
        {"headers": {"X-ClickHouse-User": "own", "X-ClickHouse-Key": "own-secret"}},
        {"params": {"user": "own", "password": "own-secret"}},
    ):
        assert httpx.post(whole.url, content=query, timeout=60, **arguments).text.split() == list(OWN)
    for code, arguments in (
        ("194", {}),
        ("516", {"auth": ("own", "wrong")}),
        ("516", {"auth": ("own", "operator-secret")}),
        ("516", {"auth": ("operator", "token of own")}),
        ("516", {"auth": ("nobody", "own-secret")}),
        ("516", {"auth": ("default", "x")}),
        ("516", {"headers": {"Authorization": "Bearer own-secret"}}),
        ("516", {"headers": {"Authorization": "Bearer x"}}),
    ):
        answer = httpx.post(whole.url, content=query, timeout=60, **arguments)
        assert answer.headers["X-ClickHouse-Exception-Code"] == code
        assert answer.status_code in (401, 403)
