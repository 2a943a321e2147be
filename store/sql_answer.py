"""From a `SqlRequest` to an answer: guard, settings, engine, framing. Blocking; the endpoint calls it in a thread."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from store.ddl import TABLES_DATABASE, VIEWS_DATABASE
from store.engine.port import Engine, EngineError, Result
from store.leakproof import is_leakproof
from store.reader_scope import REFUSED_SETTINGS, Inventory, Scope
from store.sql_guard import Statement, check_parameters, parse, words
from store.sql_request import SqlRequest
from store.sql_settings import QueryLimits, engine_settings
from store.sql_tree import check_database, check_tree
from store.sql_wire import choose_encoding, chunks, compressed_blocks, encode, native_blocks, rechunk

Parts = Iterator[bytes | memoryview]

UNKNOWN_FORMAT = 73
TOO_MANY_ROWS_OR_BYTES = 396
# These read a schema or template from a file, or speak another protocol than HTTP.
_DENIED_FORMATS = words("template capnproto protobuf protobufsingle protobuflist mysqlwire postgresqlwire")
_DEFAULT_FORMAT = "TabSeparated"
_TSV = "text/tab-separated-values; charset=UTF-8"
_CONTENT_TYPES = {"CSV": "text/csv; charset=UTF-8; header=absent", "TabSeparated": _TSV, "TSV": _TSV}
_CONTENT_TYPES |= {"CSVWithNames": "text/csv; charset=UTF-8; header=present", "XML": "application/xml; charset=UTF-8"}
_BINARY_FORMATS = ("Native", "RowBinary", "Arrow", "Parquet", "ORC", "Avro", "MsgPack", "BSON", "Npy", "Buffers")
# They tell how many rows were read.
_PROGRESS_FORMATS = "withprogress"
_LEVELS = frozenset(str(level) for level in range(1, 16))


@dataclass(frozen=True)
class Catalogue:
    """What the engine says of itself; it does not change while it runs.

    Attributes:
        version: e.g. ``26.9.2.1``.
        timezone: of the engine.
        settings: names of all settings.
        formats: output formats, lower case → name.
        table_functions: names of all table functions, lower case.
        inventory: its databases and tables.
    """

    version: str
    timezone: str
    settings: frozenset[str]
    formats: Mapping[str, str]
    table_functions: frozenset[str]
    inventory: Inventory


@dataclass(frozen=True)
class Answer:
    """A result ready to send: its bytes, in pieces made while they are sent, and the headers that describe it."""

    parts: Parts
    headers: list[tuple[str, str]]


def read_catalogue(engine: Engine) -> Catalogue:
    """Ask the engine about itself.

    Raises:
        EngineError: it does not answer.
    """

    def column(sql: str) -> list[str]:
        return engine.query(sql, database="system").data.decode().splitlines()

    version, timezone = column("SELECT version(), timezone()")[0].split("\t")
    formats = column("SELECT name FROM system.formats WHERE is_output")
    return Catalogue(
        version=version,
        timezone=timezone,
        settings=frozenset(column("SELECT name FROM system.settings")),
        formats={name.lower(): name for name in formats if name.lower() not in _DENIED_FORMATS},
        table_functions=frozenset(column("SELECT lower(name) FROM system.table_functions")),
        inventory=Inventory(
            databases=frozenset(column("SELECT name FROM system.databases")),
            beside_views=frozenset(column(f"SELECT name FROM system.tables WHERE database = '{VIEWS_DATABASE}'")),
            with_tenant=frozenset(
                column(f"SELECT table FROM system.columns WHERE database = '{TABLES_DATABASE}' AND name = 'tenant'")
            ),
            system=frozenset(column("SELECT name FROM system.tables WHERE database = 'system'")),
        ),
    )


def answer(
    engine: Engine,
    request: SqlRequest,
    limits: QueryLimits,
    catalogue: Catalogue,
    tenants: tuple[str, ...] | None = None,
) -> Answer:
    """Guard and run a query, and frame its result as the client asked; ``tenants`` are those that its reader sees.

    Raises:
        EngineError: the guard's, the engine's, or a limit's.
    """
    statement = parse(request.query)
    check_parameters(statement, request.parameters)
    check_database(request.database)
    scope = None if tenants is None else Scope(tenants, catalogue.inventory)
    refused = frozenset() if scope is None else REFUSED_SETTINGS
    for inner in statement.inner_settings:
        engine_settings(inner, limits, catalogue.settings, refused)
    settings = engine_settings({**request.settings, **statement.settings}, limits, catalogue.settings, refused)
    output = _output_format(statement.format or request.format or _DEFAULT_FORMAT, catalogue, scope)
    if scope is not None:
        settings |= scope.settings()

    def ask(sql: str, output_format: str) -> Result:
        result = engine.query(
            sql, format=output_format, params=request.parameters, settings=settings, database=request.database
        )
        _check_size(len(result.data), int(settings["max_result_bytes"]))
        return result

    tree = _tree(ask, statement.sql)
    tables = check_tree(
        statement, tree, database=request.database, table_functions=catalogue.table_functions, bounds=scope
    )
    if scope is not None and is_leakproof(statement, tree, request.parameters):
        settings["query_plan_filter_push_down"] = "1"
    if tables == {"system.settings"} and not statement.inner_settings:
        # Clients read there which settings they may send; under readonly=1 the engine would say none. Nothing else may
        # be within reach, nor any SETTINGS: under readonly=2 those of a subquery would hold beside the locked ones.
        settings["readonly"] = "2"
    if output == "Native" and request.revision > 0:
        columns = _columns(ask, statement)
        result = ask(statement.sql, "Buffers")
        parts = rechunk(native_blocks(result.data, columns, request.revision))
    else:
        result = ask(statement.sql, output)
        parts = chunks(result.data)
    headers = [
        ("Content-Type", _content_type(output)),
        ("X-ClickHouse-Format", output),
        ("X-ClickHouse-Summary", _summary(result, is_whole=scope is None)),
    ]
    return _encoded(parts, headers, request)


def _check_size(size: int, bytes_max: int) -> None:
    """The engine counts a constant column as one value and knows no format's overhead: count what it made, too."""
    if size > bytes_max:
        text = f"Limit for result exceeded, max bytes: {bytes_max}, current bytes: {size}."
        raise EngineError(TOO_MANY_ROWS_OR_BYTES, "TOO_MANY_ROWS_OR_BYTES", text)


def _tree(ask: Callable[[str, str], Result], sql: str) -> list[str]:
    """The tree that the engine's parser makes of a statement, a node a line; nothing is run."""
    prefix = "EXPLAIN AST "
    try:
        return ask(prefix + sql, "TabSeparatedRaw").data.decode(errors="replace").split("\n")[:-1]
    except EngineError as error:
        # The reader's text begins behind the prefix: so do the positions in it.
        own = re.sub(r"(?<=position )\d+", lambda match: str(int(match[0]) - len(prefix)), error.message, count=1)
        raise EngineError(error.code, error.name, own) from error


def _output_format(name: str, catalogue: Catalogue, scope: Scope | None) -> str:
    known = catalogue.formats.get(name.lower())
    if known is None or (scope is not None and name.lower().endswith(_PROGRESS_FORMATS)):
        raise EngineError(UNKNOWN_FORMAT, "UNKNOWN_FORMAT", f"Unknown format {name}.")
    return known


def _columns(ask: Callable[[str, str], Result], statement: Statement) -> list[tuple[str, str]]:
    """Names and types of a result's columns; a SELECT is only analysed for it, the small others are run."""
    if statement.kind == "select":
        described = json.loads(ask(f"DESCRIBE TABLE ({statement.sql}\n)", "JSONCompact").data)
        return [(row[0], row[1]) for row in described["data"]]
    meta = json.loads(ask(statement.sql, "JSONCompact").data)["meta"]
    return [(column["name"], column["type"]) for column in meta]


def _encoded(parts: Parts, headers: list[tuple[str, str]], request: SqlRequest) -> Answer:
    """Compress as asked: ClickHouse's own blocks (``compress=1``) or, else, a content encoding."""
    if request.flag("compress"):
        method = request.settings.get("network_compression_method", "LZ4").upper()
        level = request.settings.get("network_zstd_compression_level", "1")
        return Answer(compressed_blocks(parts, method, int(level) if level in _LEVELS else 1), headers)
    encoding = choose_encoding(request.headers.get("accept-encoding", ""))
    if encoding and request.flag("enable_http_compression", default=True):
        return Answer(encode(parts, encoding), [*headers, ("Content-Encoding", encoding), ("Vary", "Accept-Encoding")])
    return Answer(parts, headers)


def _content_type(output: str) -> str:
    if output.startswith("JSON") or output.endswith("JSON"):
        lines = "EachRow" in output
        return "application/x-ndjson; charset=UTF-8" if lines else "application/json; charset=UTF-8"
    if output.startswith(_BINARY_FORMATS):
        return "application/octet-stream"
    return _CONTENT_TYPES.get(output, "text/plain; charset=UTF-8")


def _summary(result: Result, *, is_whole: bool) -> str:
    if not is_whole:
        # What was read, and how long it took, tells of rows that the reader must not see.
        return json.dumps({"result_rows": str(result.rows), "result_bytes": str(len(result.data))})
    figures = {
        "read_rows": result.rows_read,
        "read_bytes": result.bytes_read,
        "written_rows": 0,
        "written_bytes": 0,
        "total_rows_to_read": result.rows_read,
        "result_rows": result.rows,
        "result_bytes": len(result.data),
        "elapsed_ns": int(result.elapsed_seconds * 1e9),
    }
    return json.dumps({name: str(value) for name, value in figures.items()})
