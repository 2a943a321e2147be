from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from catchment.errors import Bug, Retry
from store.engine.chdb import ChdbEngine
from store.engine.port import EngineError


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ChdbEngine]:
    """An engine on an empty folder."""
    found = ChdbEngine(tmp_path)
    yield found
    found.close()


LARGE = "SELECT groupArray(number) FROM numbers(100000000)"
SLOW = "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 1"


@pytest.mark.parametrize(
    ("sql", "settings", "code", "name"),
    [
        (LARGE, {"max_memory_usage": "20000000"}, 241, "MEMORY_LIMIT_EXCEEDED"),
        (SLOW, {"max_execution_time": "0.3"}, 159, "TIMEOUT_EXCEEDED"),
        ("SELEC 1", {}, 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", {}, 62, "SYNTAX_ERROR"),
        ("SELECT 1", {"no_such_setting": "1"}, 115, "UNKNOWN_SETTING"),
        ("SELECT 1", {"x = 1, readonly": "0"}, 115, "UNKNOWN_SETTING"),
        ("CREATE TABLE t (a Int8) ENGINE = Memory", {"readonly": "2"}, 164, "READONLY"),
    ],
)  # fmt: skip
def test_refusals_carry_clickhouse_codes(
    engine: ChdbEngine, sql: str, settings: dict[str, str], code: int, name: str
) -> None:
    """Memory, time, syntax, settings and read-only give ClickHouse's code and text; the engine lives on."""
    with pytest.raises(EngineError) as caught:
        engine.query(sql, settings=settings, database="default")
    assert (caught.value.code, caught.value.name) == (code, name)
    assert caught.value.message.startswith(f"Code: {code}. DB::Exception: ")
    assert engine.query("SELECT 1", database="default").data == b"1\n"


@pytest.mark.parametrize(
    "sql", ["SELECT ';' AS x -- ; y\n;;", "SELECT 1 /* ; */ ;", "SELECT `a;b` FROM (SELECT 1 AS `a;b`)"]
)
def test_a_semicolon_in_text_or_comment_is_no_second_statement(engine: ChdbEngine, sql: str) -> None:
    """Only a statement after a statement is refused."""
    assert engine.query(sql, database="default").rows == 1


def test_a_failed_query_leaves_nothing_to_the_next(engine: ChdbEngine) -> None:
    """After a query that failed in the middle of its output, and one with settings, others see neither."""
    with pytest.raises(EngineError):
        engine.query(
            SLOW.replace("count()", "number"), format="JSON", settings={"max_execution_time": "0.2"}, database="default"
        )
    assert engine.query("SELECT getSetting('max_execution_time')", database="default").data == b"0\n"


def test_parameters_and_formats_pass_through(engine: ChdbEngine) -> None:
    """Parameters are typed by the query and a FORMAT clause wins over the argument."""
    result = engine.query(
        "SELECT {a:String} AS a, {b:Array(UInt8)} AS b FORMAT JSONEachRow", params={"a": "x'y", "b": "[1,2]"},
        database="default",
    )  # fmt: skip
    assert result.data == b'{"a":"x\'y","b":[1,2]}\n'
    with pytest.raises(EngineError) as caught:
        engine.query("SELECT 1", format="DataFrame", database="default")
    assert caught.value.code == 73


def test_threads_query_at_once(engine: ChdbEngine) -> None:
    """Queries of several threads have connections of their own and all answer."""
    engine.execute("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
    engine.insert("default.t", pa.table({"a": pa.array(range(1000), pa.uint64())}), token="t")
    answers: list[bytes] = []

    def ask() -> None:
        answers.extend(engine.query("SELECT sum(a) FROM t", database="default").data for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"499500\n"] * 40


def test_a_second_process_is_told_who_owns_the_folder(engine: ChdbEngine, tmp_path: Path) -> None:
    """Another process on the folder fails at once with the owner's pid, and the owner is not disturbed."""
    script = f"from pathlib import Path; from store.engine.chdb import ChdbEngine; ChdbEngine(Path({str(tmp_path)!r}))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode != 0
    assert "another process owns this store" in child.stderr
    with pytest.raises(Retry) as caught:
        ChdbEngine(tmp_path)
    assert caught.value.coordinates["folder"] == str(tmp_path)
    assert engine.query("SELECT 1", database="default").data == b"1\n"


def test_a_closed_engine_says_so_and_the_folder_opens_again(tmp_path: Path) -> None:
    """close() may be called twice, frees the folder, and a later call is a bug of the caller."""
    first = ChdbEngine(tmp_path)
    first.execute("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
    first.close()
    first.close()
    with pytest.raises(Bug):
        first.query("SELECT 1", database="default")
    second = ChdbEngine(tmp_path)
    assert second.query("SELECT count() FROM t", database="default").data == b"0\n"
    second.close()
