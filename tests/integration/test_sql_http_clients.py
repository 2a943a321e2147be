"""The SQL endpoint as its clients see it: clickhouse-connect, and clickhouse-go v2 built from tests/clients/go."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.clients.programs import build_go, output_of
from tests.clients.sql_server import ROOT, Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An endpoint."""
    with running(tmp_path_factory.mktemp("store")) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """clickhouse-connect, connected to it."""
    connected = clickhouse_connect.get_client(host="127.0.0.1", port=server.port)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of tests/clients/go, built."""
    binary = tmp_path_factory.mktemp("go") / "client"
    build_go(ROOT / "tests" / "clients" / "go", binary)
    return binary


def go(binary: Path, server: Server, method: str, scenario: str) -> dict[str, Any]:
    """What the Go program found."""
    command = [str(binary), f"127.0.0.1:{server.port}", method, scenario]
    found: dict[str, Any] = json.loads(output_of(command))
    return found


def test_connect_reads_typed_columns(client: Client) -> None:
    """Values come back as what they are, with the revision of the protocol that the client asks for."""
    row = client.query(
        "SELECT toUInt64(18446744073709551615), toInt128('-170141183460469231731687303715884105728'), "
        "toLowCardinality('low'), CAST(NULL, 'Nullable(String)'), CAST(map('k', 'v'), 'Map(LowCardinality(String), "
        "String)'), [1, 2], (1.5, 'x'), toDateTime('2026-01-02 03:04:05', 'UTC'), [NULL, 3], toDecimal64('1.25', 4)"
    ).result_rows[0]
    assert row[:7] == (2**64 - 1, -(2**127), "low", None, {"k": "v"}, [1, 2], (1.5, "x"))
    assert row[7] == datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=row[7].tzinfo)
    assert (row[8], str(row[9])) == ([None, 3], "1.2500")
    assert client.protocol_version > 0


def test_connect_reads_statements_that_are_no_select(client: Client) -> None:
    """SHOW, DESCRIBE, EXISTS and EXPLAIN have columns, too."""
    assert client.query("SHOW TABLES").result_rows == [("points",)]
    assert [row[0] for row in client.query("DESCRIBE TABLE points").result_rows] == ["time", "value", "name"]
    assert client.query("EXISTS points").result_rows == [(1,)]
    assert client.query("EXPLAIN SELECT 1").row_count > 0
    assert client.command("SELECT max(value) FROM points") == 60


def test_connect_reads_frames_and_arrow(client: Client) -> None:
    """Data frames and Arrow tables hold the same rows; a result without rows keeps its columns."""
    query = "SELECT value, name FROM points ORDER BY value"
    assert client.query_df(query)["value"].tolist() == list(range(61))
    assert client.query_arrow(query).column("value").to_pylist() == list(range(61))
    empty = client.query(query + " LIMIT 0")
    assert (empty.row_count, tuple(empty.column_names)) == (0, ("value", "name"))
    nothing = client.query("SELECT value, name FROM points WHERE value < 0")
    assert (nothing.row_count, tuple(nothing.column_names)) == (0, ("value", "name"))


def test_connect_streams_blocks(client: Client) -> None:
    """A result of many blocks is complete."""
    with client.query_row_block_stream("SELECT number FROM numbers(1000000)") as stream:
        assert sum(row[0] for block in stream for row in block) == 499999500000


@pytest.mark.parametrize("value", ["plain", "quote's \\ \t \n ☃", ""])
def test_connect_binds_parameters(client: Client, value: str) -> None:
    """A parameter arrives as it was given, whatever is in it."""
    assert client.query("SELECT {value:String}", parameters={"value": value}).result_rows == [(value,)]


def test_connect_sees_codes_and_goes_on(client: Client) -> None:
    """Errors carry ClickHouse's codes, limits included; the next query is answered."""
    slow = "SELECT count() FROM numbers(100000000000) WHERE sin(number) > 2"
    big = "SELECT groupArray(number) FROM numbers(100000000)"
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("SELECT missing", {}, 47),
        ("SELECT * FROM missing", {}, 60),
        (slow, {"max_execution_time": 1}, 159),
        (big, {"max_memory_usage": 50_000_000}, 241),
        ("SELECT 1", {"max_memory_usage": 10**15}, 452),
    ]
    for query, settings, code in cases:
        with pytest.raises(DatabaseError) as error:
            client.query(query, settings=settings)
        assert error.value.code == code
    with pytest.raises(DatabaseError) as error:
        client.insert("points", [[datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), 1, "x"]])
    assert error.value.code == 164
    assert client.query("SELECT count() FROM points").result_rows == [(61,)]


@pytest.mark.parametrize("method", ["none", "lz4", "zstd", "gzip", "deflate"])
def test_go_reads_typed_columns(server: Server, go_client: Path, method: str) -> None:
    """clickhouse-go decodes every type that our tables have, with each of its compressions."""
    found = go(go_client, server, method, "types")
    assert found == {
        "unsigned": "18446744073709551615",
        "wide": "-170141183460469231731687303715884105728",
        "text": "snow ☃",
        "low": "low",
        "missing": None,
        "present": 7,
        "mapping": {"k": "v"},
        "buckets": {"-1": 2},
        "list": [1, 2, 3],
        "bracket": [1.5, "x"],
        "moment": "2026-01-02T03:04:05Z",
        "precise": "2026-01-01T18:04:05.678901234Z",
        "ratio": 0.25,
        "flag": True,
        "bound": "o'neil",
        "empty_columns": ["number", "toString(number)"],
        "empty_has_row": False,
    }


@pytest.mark.parametrize("method", ["none", "lz4", "gzip"])
def test_go_reads_large_results(server: Server, go_client: Path, method: str) -> None:
    """A million rows in many blocks arrive complete."""
    expected = {"count": 1000000, "sum": 499999500000, "bytes": 40000000}
    assert go(go_client, server, method, "large") == expected


def test_go_sends_what_grafana_sends(server: Server, go_client: Path) -> None:
    """Health check, schema browser and a time series query of Grafana's plugin are answered."""
    found = go(go_client, server, "none", "grafana")
    assert found["databases"].count("catchment") == 1
    assert found["tables"] == ["points"]
    assert found["columns"] == ["time", "value", "name"]
    assert [int(value) for value in found["series"]] == [435, 1335, 60]
    assert found["version"][0].count(".") == 3
    assert len(found["timezone"]) == 1


@pytest.mark.parametrize("method", ["none", "lz4", "gzip"])
def test_go_maps_errors(server: Server, go_client: Path, method: str) -> None:
    """A refusal is a `clickhouse.Exception` with code, name and HTTP status, also when compression was asked for."""
    found = go(go_client, server, method, "errors")
    assert {name: (error["code"], error["name"], error["status"]) for name, error in found.items()} == {
        "syntax": (62, "SYNTAX_ERROR", 400),
        "table": (60, "UNKNOWN_TABLE", 404),
        "column": (47, "UNKNOWN_IDENTIFIER", 404),
        "write": (164, "READONLY", 500),
        "exec": (164, "READONLY", 500),
        "file": (497, "ACCESS_DENIED", 403),
    }


def test_go_sees_limits_and_goes_on(server: Server, go_client: Path) -> None:
    """Memory and time limits are 241 and 159; the engine answers afterwards."""
    found = go(go_client, server, "lz4", "limits")
    assert (found["memory"]["code"], found["time"]["code"], found["after"]) == (241, 159, ["fine"])


def test_go_and_python_clients_at_once(server: Server, go_client: Path) -> None:
    """20 clients of both kinds, reading at the same time, all get complete answers."""

    def python(number: int) -> bool:
        connected = clickhouse_connect.get_client(host="127.0.0.1", port=server.port)
        rows = connected.query(f"SELECT number + {number} FROM numbers(100000)").result_columns[0]
        connected.close()
        return sum(rows) == 4999950000 + number * 100000

    with ThreadPoolExecutor(20) as pool:
        theirs = [pool.submit(python, number) for number in range(14)]
        ours = [pool.submit(go, go_client, server, "lz4", "types") for _ in range(6)]
        assert all(future.result() for future in theirs)
        assert all(future.result()["text"] == "snow ☃" for future in ours)
