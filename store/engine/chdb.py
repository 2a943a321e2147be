"""The engine in this process: ClickHouse as a library (chDB), one folder, one process.

Rules:

1. One process owns the folder. A lock file beside the engine's own says who, before the engine starts: a second
   process gets `Retry` with the owner's pid at once, not a line on stderr.
2. Every call has a connection of its own, closed afterwards (0.6 ms): settings, database and temporary tables do not
   leak from one caller to the next, and neither does output: after a failed query a chDB connection answers the next
   statement with what was left of the last one. One idle connection keeps the engine alive in between.
3. A call is one statement. chDB would run ``SELECT 1; DROP TABLE t`` as two.
4. Inserts are one block: no squashing, splitting, threads or asynchronous queue between message and token.
5. ``<folder>/engine`` is the engine's: nothing else may be put there. One process has one engine at a time.
6. Tokens of inserts that a killed process never finished are forgotten before the engine starts (`token_records`).
7. A crash of the engine ends the process at once. Left to chDB, its handlers would wait for minutes for a thread that
   writes a report and that a library does not have: dead to everybody, with the folder's lock and the port still held.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import chdb.state
import pyarrow as pa

from catchment.errors import Bug, Retry
from store.engine.port import NOTHING, SYNTAX_ERROR, EngineError, Result
from store.engine.statement import is_single
from store.engine.token_records import revoke_orphans

# Retries of an insert need identical settings, and a token names one block (facts: exactly once with views).
INSERT_SETTINGS: Mapping[str, str] = {
    "async_insert": "0",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "max_insert_threads": "1",
    # Above the largest message (500,000 rows), so that a message is never cut into blocks.
    "max_insert_block_size": "2000000",
    "min_insert_block_size_rows": "2000000",
    "min_insert_block_size_bytes": "0",
    "max_partitions_per_insert_block": "2000",
    # A message's rows have unique keys: aggregating them before writing the part would only cost.
    "optimize_on_insert": "0",
}

_ERROR = re.compile(r"Code: (\d+)\. DB::Exception: .*?(?:\(([A-Z0-9_]+)\))?\s*$", re.DOTALL)
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Names that chDB's Python layer takes for itself instead of passing them on to the engine.
_PYTHON_FORMATS = frozenset({"dataframe", "datastore", "arrowtable"})
_UNKNOWN_FORMAT = 73
_UNKNOWN_SETTING = 115
_STD_EXCEPTION = 1001
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS, signal.SIGTRAP)


class ChdbEngine:
    """The `store.engine.port.Engine` of the embedded profile.

    Args:
        folder: the store's folder; made if absent.

    Raises:
        Retry: another process owns the folder.
        EngineError: the engine cannot open it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = str(folder / "engine")
        self._guard = threading.Lock()
        self._lock_file = _own(folder)
        revoke_orphans(folder / "engine")
        self._idle: chdb.state.sqlitelike.Connection | None = None
        try:
            self._idle = chdb.state.connect(self._path)
        except RuntimeError as error:
            os.close(self._lock_file)
            raise _engine_error(error, folder=str(folder)) from error
        _die_of_faults()

    def execute(self, sql: str, *, settings: Mapping[str, str] = NOTHING) -> None:
        """Run one statement that answers nothing."""
        _require_single(sql)
        with self._connection(settings, "default") as connection:
            connection.query(sql, "Null")

    def query(
        self,
        sql: str,
        *,
        format: str = "TabSeparated",
        params: Mapping[str, str] = NOTHING,
        settings: Mapping[str, str] = NOTHING,
        database: str = "catchment",
    ) -> Result:
        """Run one query."""
        _require_single(sql)
        if format.lower() in _PYTHON_FORMATS:
            text = f"Code: {_UNKNOWN_FORMAT}. DB::Exception: Unknown format {format}. (UNKNOWN_FORMAT)"
            raise EngineError(_UNKNOWN_FORMAT, "UNKNOWN_FORMAT", text)
        with self._connection(settings, database) as connection:
            answer = connection.query(sql, format, params=dict(params))
            return Result(
                data=bytes(answer.bytes()),
                rows=answer.rows_read(),
                bytes_read=answer.storage_bytes_read(),
                rows_read=answer.storage_rows_read(),
                elapsed_seconds=answer.elapsed(),
            )

    def insert(self, table: str, columns: pa.Table, *, token: str) -> None:
        """Insert all rows as one block with one token."""
        whole = columns.unify_dictionaries().combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, whole.schema) as writer:
            for batch in whole.to_batches():
                writer.write_batch(batch)
        names = ", ".join(f"`{name}`" for name in whole.column_names)
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": token}
        statement = f"INSERT INTO {table} ({names})"
        with (
            self._connection(settings, "default") as connection,
            connection.send_insert(statement, "ArrowStream") as stream,
        ):
            stream.append(sink.getvalue().to_pybytes())
            stream.finish()

    def close(self) -> None:
        """Let go of the folder. May be called twice."""
        with self._guard:
            idle, self._idle = self._idle, None
        if idle is not None:
            idle.close()
            os.close(self._lock_file)

    @contextmanager
    def _connection(self, settings: Mapping[str, str], database: str) -> Iterator[chdb.state.sqlitelike.Connection]:
        """A connection for one call (rule 2), with chDB's exceptions turned into ours."""
        with self._guard:
            if self._idle is None:
                raise Bug("the engine is closed", folder=self._path)
            connection = chdb.state.connect(self._path)
        try:
            connection.query(f"USE {_identifier(database)}", "Null")
            if settings:
                connection.query(_set_statement(settings), "Null")
            yield connection
        except (chdb.ChdbError, RuntimeError) as error:
            raise _engine_error(error) from error
        finally:
            connection.close()


def _own(folder: Path) -> int:
    """Take the folder's lock (rule 1); the kernel gives it back when the process dies."""
    descriptor = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise Retry(
            "another process owns this store: stop it or use another data_dir", folder=str(folder), pid=owner
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _die_of_faults() -> None:
    """Give the signals of a crash their default action back (rule 7)."""
    library = ctypes.CDLL(None)
    for number in _FAULTS:
        # Not `signal.signal`, which works in the main thread only.
        library.signal(number, ctypes.c_void_p(signal.SIG_DFL))


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _set_statement(settings: Mapping[str, str]) -> str:
    # `readonly` last: after it the others could not be changed.
    names = sorted(settings, key=lambda name: name == "readonly")
    for name in names:
        if not _SETTING_NAME.fullmatch(name):
            text = f"Code: {_UNKNOWN_SETTING}. DB::Exception: Unknown setting {name!r}. (UNKNOWN_SETTING)"
            raise EngineError(_UNKNOWN_SETTING, "UNKNOWN_SETTING", text)
    values = (settings[name].replace("\\", "\\\\").replace("'", "\\'") for name in names)
    return "SET " + ", ".join(f"{name} = '{value}'" for name, value in zip(names, values, strict=True))


def _require_single(sql: str) -> None:
    if not is_single(sql):
        text = f"Code: {SYNTAX_ERROR}. DB::Exception: Syntax error: Multi-statements are not allowed. (SYNTAX_ERROR)"
        raise EngineError(SYNTAX_ERROR, "SYNTAX_ERROR", text)


def _engine_error(error: Exception, **coordinates: object) -> EngineError:
    text = str(error)
    text = text[max(text.find("Code: "), 0) :].strip()
    match = _ERROR.match(text)
    if match is None:
        return EngineError(_STD_EXCEPTION, "STD_EXCEPTION", text, **coordinates)
    return EngineError(int(match[1]), match[2] or "UNKNOWN", text, **coordinates)
