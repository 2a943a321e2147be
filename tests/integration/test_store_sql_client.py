from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catchment.errors import Retry
from catchment.query import Query, QueryError, parameter_text
from catchment.sql_client import SqlClient
from store.engine.chdb import ChdbEngine
from store.sql_http import SqlEndpointConfig, make_app, serve


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlClient]:
    """A client of a real endpoint on a real engine, served by a thread."""
    engine = ChdbEngine(tmp_path_factory.mktemp("sql-client"))
    engine.execute("CREATE DATABASE catchment")
    loop, stop, ports = asyncio.new_event_loop(), asyncio.Event(), []
    listening = threading.Event()

    def told(port: int) -> None:
        ports.append(port)
        listening.set()

    app = make_app(engine, config=SqlEndpointConfig())
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(serve(app, "127.0.0.1", 0, stop, on_listening=told))
    )
    thread.start()
    assert listening.wait(30)
    yield SqlClient(f"http://127.0.0.1:{ports[0]}")
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()
    engine.close()


@pytest.mark.parametrize("text", ["plain", "it's", "back\\slash", "tab\tand\nline\r", "{a:String}", "雨", ""])
def test_text_parameters_arrive_unchanged(client: SqlClient, text: str) -> None:
    """Quotes, backslashes, control characters and braces in a value are data, also inside a list."""
    query = Query("SELECT {a:String} AS a, {b:Array(String)} AS b", {"a": text, "b": [text, "x"]})
    assert client.rows(query) == [{"a": text, "b": [text, "x"]}]


def test_numbers_arrive_exactly(client: SqlClient) -> None:
    """Integers beyond 53 and 64 bits are exact, and parameters keep their type."""
    query = Query(
        "SELECT {a:UInt64} AS a, toInt128('170141183460469231731687303715884105727') AS b, {c:Float64} AS c, "
        "{d:Bool} AS d",
        {"a": 2**64 - 1, "c": 0.1, "d": True},
    )
    assert client.rows(query) == [{"a": 2**64 - 1, "b": 2**127 - 1, "c": 0.1, "d": True}]


def test_any_format_passes_through(client: SqlClient) -> None:
    """`raw` answers in the asked format, byte for byte."""
    assert client.raw(Query("SELECT 1 AS a, 'x' AS b"), format="CSVWithNames") == b'"a","b"\n1,"x"\n'


def test_a_refusal_carries_the_code(client: SqlClient) -> None:
    """A syntax error is QueryError 62 with ClickHouse's text."""
    with pytest.raises(QueryError, match="Syntax error") as caught:
        client.rows(Query("SELEC 1"))
    assert caught.value.code == 62


def test_an_endpoint_that_is_not_there_is_retry(free_port: Callable[[], int]) -> None:
    """Nobody listening is passing trouble; a URL that is no HTTP is not."""
    with pytest.raises(Retry, match="cannot be reached"):
        SqlClient(f"http://127.0.0.1:{free_port()}").rows(Query("SELECT 1"))
    with pytest.raises(QueryError, match="http://"):
        SqlClient(f"file://{Path.cwd()}").rows(Query("SELECT 1"))


def test_a_parameter_of_another_type_is_refused() -> None:
    """What has no text in SQL is the caller's fault."""
    with pytest.raises(TypeError, match="bytes"):
        parameter_text(b"x")
