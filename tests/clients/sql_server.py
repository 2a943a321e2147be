"""The SQL endpoint over a real engine in a process of its own, for tests: `running`, and what that process runs."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catchment.config_tls import ListenTls
from catchment.telemetry import Telemetry
from catchment.tls import ServerCertificates
from store.engine.chdb import ChdbEngine
from store.sql_http import SqlEndpointConfig, make_app, serve
from store.sql_settings import QueryLimits

ROOT = Path(__file__).parents[2]
_TABLE = "CREATE TABLE catchment.points (time DateTime, value Int64, name String) ENGINE = MergeTree ORDER BY time"
_ROWS = (
    "INSERT INTO catchment.points SELECT toDateTime(1767225600) + number * 60, number, concat('p', toString(number)) "
    "FROM numbers(61)"
)


@dataclass(frozen=True)
class Server:
    """A running endpoint."""

    port: int
    process: subprocess.Popen[str]
    folder: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/"

    def resident_bytes(self) -> int:
        """What its process holds in memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


@contextmanager
def running(folder: Path, **config: Any) -> Iterator[Server]:
    """A server with the table ``catchment.points`` of 61 rows, stopped at the end.

    ``config`` are fields of `SqlEndpointConfig`, ``limits`` a mapping of those of `QueryLimits`, and ``tls`` of those
    of `ListenTls`.
    """
    command = [sys.executable, "-m", "tests.clients.sql_server", str(folder), json.dumps(config)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("port "), f"the server did not start: {line!r}"
        yield Server(int(line.split()[1]), process, folder)
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


async def _main(folder: Path, config: dict[str, Any]) -> None:
    engine = ChdbEngine(folder)
    for statement in ("CREATE DATABASE IF NOT EXISTS catchment", _TABLE, _ROWS):
        engine.execute(statement)
    limits = QueryLimits(**config.pop("limits", {}))
    files = ListenTls(**{key: Path(path) for key, path in config.pop("tls", {}).items()})
    certificates = ServerCertificates.of(files, logging.getLogger(), Telemetry(), "sql.tls")
    app = make_app(engine, config=SqlEndpointConfig(limits=limits, **config))
    tls = None
    if certificates is not None:
        tls = certificates.context
        watching = asyncio.create_task(certificates.watch(0.1))
        watching.add_done_callback(asyncio.Task.result)
    await serve(
        app, "127.0.0.1", 0, asyncio.Event(), on_listening=lambda port: print("port", port, flush=True), tls=tls
    )


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), json.loads(sys.argv[2])))
