"""The SQL endpoint as curl sees it: routes, requests, answers, errors, credentials, encodings, limits."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import lz4.frame
import pytest
import zstandard

from store.sql_wire import compressed_blocks, decompress_blocks
from tests.clients.sql_server import Server, running

SECONDS_MAX = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An endpoint with one user."""
    users = {"alice": hashlib.sha256(b"secret").hexdigest()}
    with running(tmp_path_factory.mktemp("store"), users=users) as started:
        yield started


def curl(*arguments: str, data: bytes | None = None) -> str:
    """What curl prints."""
    done = subprocess.run(["curl", "-sS", *arguments], input=data, capture_output=True, check=True, timeout=60)
    return done.stdout.decode()


def post(url: str, **options: Any) -> httpx.Response:
    """What the endpoint answers, however busy this machine is."""
    return httpx.post(url, timeout=SECONDS_MAX, **options)


@pytest.mark.parametrize("path", ["", "ping", "replicas_status"])
def test_health_routes_answer_ok(server: Server, path: str) -> None:
    """Load balancers and clients probe these three."""
    assert curl(server.url + path) == "Ok.\n"


def test_unknown_path_is_404(server: Server) -> None:
    """A path that is no handle is not found."""
    assert curl("-o", "-", "-w", "%{http_code}", server.url + "nope").endswith("404")


def test_query_comes_from_url_body_or_both(server: Server) -> None:
    """The URL's part and the body's are joined by a line feed."""
    assert curl(server.url + "?query=SELECT%201") == "1\n"
    assert curl(server.url, "--data-binary", "@-", data=b"SELECT 2") == "2\n"
    assert curl(server.url + "?query=SELECT%203%2B--", "--data-binary", "@-", data=b"4") == "7\n"


def test_url_parameters_shape_the_query(server: Server) -> None:
    """Parameters, database and default format come from the URL; a FORMAT clause wins over the format."""
    base = server.url + "?default_format=JSONCompact&database=system&param_n=5&query="
    assert json.loads(curl(base + "SELECT%20%7Bn%3AUInt8%7D%2Bdummy%20AS%20x%20FROM%20one"))["data"] == [[5]]
    assert curl(base + "SELECT%207%20FORMAT%20CSV%3B") == "7\n"
    assert curl("-H", "X-ClickHouse-Format: CSV", server.url, "-d", "SELECT 'a'") == '"a"\n'


def test_default_database_is_catchment(server: Server) -> None:
    """Clients that say ``default``, and those that say nothing, read the database catchment."""
    for database in ("", "&database=default", "&database=catchment"):
        assert curl(server.url + "?query=SELECT%20count()%20FROM%20points" + database) == "61\n"


def test_headers_describe_the_answer(server: Server) -> None:
    """Query id, format, time zone, display name and a summary whose figures are strings."""
    answer = post(server.url, params={"query_id": "mine", "default_format": "JSON"}, content=b"SELECT 1 AS a")
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Format"] == "JSON"
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-ClickHouse-Timezone"]
    assert answer.headers["X-ClickHouse-Server-Display-Name"] == "catchment"
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["result_rows"] == "1"


def test_head_has_no_body(server: Server) -> None:
    """HEAD tells the length of what GET would send."""
    answer = httpx.head(
        server.url, params={"query": "SELECT 12345"}, headers={"Accept-Encoding": "identity"}, timeout=SECONDS_MAX
    )
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, "6", b"")


@pytest.mark.parametrize(
    ("query", "status", "code", "name"),
    [
        ("SELEC 1", 400, 62, "SYNTAX_ERROR"),
        ("", 400, 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
        ("SELECT * FROM missing", 404, 60, "UNKNOWN_TABLE"),
        ("SELECT missing", 404, 47, "UNKNOWN_IDENTIFIER"),
        ("SELECT 1 FORMAT Nope", 404, 73, "UNKNOWN_FORMAT"),
        ("SELECT 1 SETTINGS no_such_setting = 1", 404, 115, "UNKNOWN_SETTING"),
        ("SELECT {missing:String}", 400, 456, "UNKNOWN_QUERY_PARAMETER"),
        ("INSERT INTO points VALUES (1)", 500, 164, "READONLY"),
        ("SELECT file('/etc/hosts')", 403, 497, "ACCESS_DENIED"),
        ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ],
)
def test_errors_have_clickhouse_text_code_and_status(
    server: Server, query: str, status: int, code: int, name: str
) -> None:
    """Clients classify by these three."""
    answer = post(server.url, content=query.encode())
    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    assert f"({name}) (version " in answer.text
    assert answer.text.count("DB::Exception") == 1
    if code != 456:
        assert answer.status_code == status


def test_syntax_errors_point_into_the_readers_own_text(server: Server) -> None:
    """The position is that of the query as sent."""
    assert "position 14 (3)" in post(server.url, content=b"SELECT 1 + * 3 FROM").text


def test_credentials_in_all_three_places(server: Server) -> None:
    """Basic, headers and URL parameters are accepted, a wrong password is 516 in each."""
    for password, expected in (("secret", "1\n"), ("wrong", "516")):
        for extra in (
            ["-u", f"alice:{password}", server.url],
            ["-H", "X-ClickHouse-User: alice", "-H", f"X-ClickHouse-Key: {password}", server.url],
            [f"{server.url}?user=alice&password={password}"],
        ):
            assert expected in curl(*extra, "-d", "SELECT 1")


def test_foreign_host_name_is_refused_to_anonymous(server: Server) -> None:
    """A web page whose name was made to resolve to loopback reads nothing."""
    answer = post(server.url, content=b"SELECT 1", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (401, "194")


def test_response_encodings(server: Server) -> None:
    """What Accept-Encoding asks for is what comes, unless enable_http_compression=0."""
    query = b"SELECT number FROM numbers(500000)"
    plain = post(server.url, content=query, headers={"Accept-Encoding": "identity"}).content
    decoders = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
        "lz4": lz4.frame.decompress,
    }
    for name, decoder in decoders.items():
        with httpx.stream(
            "POST", server.url, content=query, headers={"Accept-Encoding": name}, timeout=SECONDS_MAX
        ) as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers["Content-Encoding"] == name
        assert len(raw) < len(plain)
        assert decoder(raw) == plain
    off = post(server.url, params={"enable_http_compression": "0"}, content=query)
    assert "Content-Encoding" not in off.headers


def test_native_compression_of_requests_and_responses(server: Server) -> None:
    """``decompress=1`` and ``compress=1`` wrap bodies in ClickHouse's checksummed blocks."""
    body = b"".join(compressed_blocks([b"SELECT number FROM numbers(300000)"], "LZ4"))
    plain = "".join(f"{number}\n" for number in range(300000)).encode()
    for method in ("LZ4", "ZSTD"):
        parameters = {"compress": "1", "decompress": "1", "network_compression_method": method}
        answer = post(server.url, params=parameters, content=body)
        assert decompress_blocks(answer.content, 1 << 30) == plain
    broken = post(server.url, params={"decompress": "1"}, content=body[:30] + b"?" + body[31:])
    assert broken.headers["X-ClickHouse-Exception-Code"] == "40"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "lz4"])
def test_request_encodings_and_bombs(server: Server, encoding: str) -> None:
    """A compressed query is read; one that would inflate beyond the limit is 413 and costs no memory."""
    encoders = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.ZstdCompressor().compress,
        "lz4": lz4.frame.compress,
    }
    headers = {"Content-Encoding": encoding}
    assert post(server.url, content=encoders[encoding](b"SELECT 8"), headers=headers).text == "8\n"
    bomb = encoders[encoding](b" " * 200_000_000)
    answer = post(server.url, content=bomb, headers=headers)
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (413, "170")
    broken = post(server.url, content=b"\xff" * 50, headers=headers)
    assert broken.headers["X-ClickHouse-Exception-Code"] == "354"


def test_oversized_requests_are_413(server: Server) -> None:
    """Neither a body nor a chunked body beyond the limit is read to its end."""
    assert post(server.url, content=b"SELECT '" + b"x" * 2_000_000 + b"'").status_code == 413
    assert post(server.url, content=iter([b"x" * 500_000] * 4)).status_code == 413


def test_forms_carry_queries_but_no_tables(server: Server) -> None:
    """Long parameters come as multipart fields; a file would be an external table and is refused by name."""
    fields = {"query": (None, "SELECT length({p:String})"), "param_p": (None, "x" * 5000)}
    assert post(server.url, files=fields).text == "5000\n"
    table = post(server.url, params={"query": "SELECT 1"}, files={"t": ("t.csv", b"1")})
    assert (table.status_code, table.headers["X-ClickHouse-Exception-Code"]) == (501, "48")


def test_settings_of_dashboards_are_accepted(server: Server) -> None:
    """What clients and dashboards send by default does not fail the query."""
    settings = {
        "max_execution_time": "60", "session_id": "s", "session_timeout": "60", "wait_end_of_query": "1",
        "http_headers_progress_interval_ms": "1000", "send_progress_in_http_headers": "1", "extremes": "0",
        "cancel_http_readonly_queries_on_client_close": "1", "readonly": "2", "log_comment": "x", "quota_key": "q",
        "output_format_json_quote_64bit_integers": "1", "max_block_size": "100", "role": "r", "buffer_size": "1",
    }  # fmt: skip
    answer = post(server.url, params=settings, content=b"SELECT toUInt64(1) AS a FORMAT JSONEachRow")
    assert answer.text == '{"a":"1"}\n'


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("max_memory_usage", "99999999999999", "452"),
        ("max_memory_usage", "0", "452"),
        ("max_execution_time", "0", "452"),
        ("max_execution_time", "1e9", "452"),
        ("max_execution_time", "nan", "452"),
        ("max_execution_time", "x", "36"),
        ("max_result_bytes", "0", "452"),
        ("max_untracked_memory", "1000000000", "452"),
        ("format_schema", "/etc/hosts", "452"),
        ("output_format_schema", "/tmp/x", "452"),
        ("format_template_resultset", "/etc/hosts", "452"),
        ("readonly", "0", "164"),
        ("allow_ddl", "1", "164"),
        ("no_such_setting", "1", "115"),
        ("a=1; DROP TABLE points; --", "1", "115"),
    ],
)
def test_locked_and_unknown_settings_are_refused(server: Server, name: str, value: str, code: str) -> None:
    """Limits can only be lowered; what could read files or lift limits is not changed; unknown names are told so."""
    answer = post(server.url, params={name: value}, content=b"SELECT 1")
    assert answer.headers["X-ClickHouse-Exception-Code"] == code


def test_memory_time_and_result_limits(server: Server) -> None:
    """A query over its limits gets ClickHouse's codes, and the engine answers the next one."""
    heavy = b"SELECT length(groupArray(number)) FROM numbers(100000000)"
    memory = post(server.url, params={"max_memory_usage": "50000000"}, content=heavy)
    assert (memory.status_code, memory.headers["X-ClickHouse-Exception-Code"]) == (500, "241")
    slow = b"SELECT count() FROM numbers(100000000000) WHERE sin(number) > 2"
    late = post(server.url, params={"max_execution_time": "1"}, content=slow)
    assert (late.status_code, late.headers["X-ClickHouse-Exception-Code"]) == (408, "159")
    for wide in (b"SELECT repeat('x', 1000) FROM numbers(400000)", b"SELECT number FROM numbers(60000000)"):
        result = post(server.url, content=wide)
        assert result.headers["X-ClickHouse-Exception-Code"] == "396"
    assert post(server.url, content=b"SELECT 1").text == "1\n"


def test_large_results_are_streamed_in_bounded_memory(server: Server) -> None:
    """50 MB arrive whole in pieces; the server grows by a few results at most, and not with every further one."""
    query = b"SELECT repeat('x', 49) FROM numbers(1000000)"
    post(server.url, content=b"SELECT 1")
    resident = [server.resident_bytes()]
    for _ in range(12):
        size, peak = 0, 0
        with httpx.stream(
            "POST", server.url, content=query, headers={"Accept-Encoding": "identity"}, timeout=SECONDS_MAX
        ) as answer:
            for piece in answer.iter_raw():
                if size % (10 << 20) < len(piece):
                    peak = max(peak, server.resident_bytes())
                size += len(piece)
        assert size == 50_000_000
        resident.append(peak)
    # Twelve results are 600 MB: one kept per request would show.
    assert max(resident) - resident[0] < 8 * size


async def ask_at_once(url: str, queries: list[str]) -> list[httpx.Response]:
    """The answers to queries that are sent at the same time."""
    async with httpx.AsyncClient(timeout=SECONDS_MAX) as client:
        return await asyncio.gather(*(client.post(url, content=query) for query in queries))


def test_twenty_clients_at_once(server: Server) -> None:
    """20 clients share the places; each gets its own answer."""
    queries = [f"SELECT sum(number) + {number} FROM numbers(2000000)" for number in range(20)] * 3
    answers = asyncio.run(ask_at_once(server.url, queries))
    assert [int(answer.text) - 1999999000000 for answer in answers] == list(range(20)) * 3


def test_overload_is_202_with_retry_after(tmp_path: Path) -> None:
    """With one place and one waiting, the third is told to come back, and the waiting one is served in time."""
    with running(tmp_path, queries_max=1, queue_max=1, queue_seconds_max=60) as small:
        post(small.url, content=b"SELECT 1")
        started = time.monotonic()
        answers = asyncio.run(ask_at_once(small.url, ["SELECT sleep(3)"] * 3))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(refused) == 1
        assert refused[0].headers["X-ClickHouse-Exception-Code"] == "202"
        assert refused[0].headers["Retry-After"] == "1"
        assert 6 <= time.monotonic() - started < 60
        assert [answer.text for answer in answers if answer not in refused] == ["0\n", "0\n"]


def test_slow_and_vanished_readers_give_their_place_back(tmp_path: Path) -> None:
    """With one place, neither a reader that does not read, nor one that does not send, nor one that left, keeps it."""
    with running(tmp_path, queries_max=1, request_seconds_max=3, send_seconds_max=3) as small:
        large = b"GET /?query=SELECT%20repeat('x',49)FROM%20numbers(1000000) HTTP/1.1\r\nHost: localhost\r\n\r\n"
        half = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nSELECT"
        for request, leave in ((large, False), (half, False), (large, True), (half, True)):
            with socket.create_connection(("127.0.0.1", small.port)) as connection:
                connection.sendall(request)
                time.sleep(0.3)
                if leave:
                    connection.close()
                assert post(small.url, content=b"SELECT 1").text == "1\n"
