"""The roles of the pipeline on one folder, each a process of its own that a test kills and starts again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from catchment.columns import EDGE_LANES, GLOBAL_LANES, global_topic, regional_topic
from catchment.crash import VARIABLE
from catchment.query import Query, Row
from catchment.sql_client import SqlClient
from demo.ports import free_ports
from tests.faults.edge_folder import EdgeFolder

ROLES = ("collector", "aggregator", "store")
# All roles as children of one process: what `catchment up` runs.
UP = "up"
REGION = "jp-east"
COMMAND = (sys.executable, "-m", "catchment.cli.main")
# A second one for a log whose partitions aggregators share.
SECOND_AGGREGATOR = "aggregator-2"
COMMANDS = {
    "collector": "collector",
    "aggregator": "aggregator",
    SECOND_AGGREGATOR: "aggregator",
    "store": "loader",
    UP: "up",
}
_ADDRESSES = ("otlp_grpc", "otlp_http", "sql", "ui")
_PREFIX = "catchment"


class Stack:
    """A folder with collector, aggregator and store.

    Args:
        folder: for data, configuration and what the processes say.
        settings: further lines of the configuration.
        commands: role → what runs it.
    """

    def __init__(self, folder: Path, settings: str = "", commands: Mapping[str, str] = COMMANDS) -> None:
        self.folder = folder
        self.data = folder / "data"
        # The folders of its collectors.
        self.edges = [EdgeFolder(self.data / "collector")]
        self._commands = commands
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._settings = settings
        ports = free_ports(len(_ADDRESSES) + len(commands))
        self.ports = dict(zip(_ADDRESSES, ports, strict=False))
        self._status = dict(zip(commands, ports[len(_ADDRESSES) :], strict=True))
        self.sql = SqlClient(f"http://127.0.0.1:{self.ports['sql']}")
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def config(self, role: str, **changes: str) -> Path:
        """Write a role's configuration; ``changes`` replace lines by their key, such as flush="1h"."""
        lines = {
            "data_dir": str(self.data),
            "region": REGION,
            "cluster": "{name: tokyo-1}",
            "resolution": "10s",
            "flush": "200ms",
            "aggregator": "{linger: 50ms}",
            "limits": "{inbox_segment_bytes_max: 64KiB, retry_after_seconds: 1}",
            "listen": "{" + ", ".join(f"{name}: 127.0.0.1:{port}" for name, port in self.addresses(role)) + "}",
            **changes,
        }
        file = self.folder / f"{role}.yaml"
        file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()) + self._settings)
        return file

    def start(self, *roles: str, crash_at: str = "", program: Sequence[str] = COMMAND, **changes: str) -> None:
        """Start roles of a program, each in a process group of its own; returns before they are ready."""
        environment = {**os.environ, VARIABLE: crash_at}
        for role in roles:
            assert role not in self._processes, f"{role} runs already"
            command = [*program, self._commands[role], "--config", str(self.config(role, **changes))]
            with self.output(role).open("ab") as output:
                self._processes[role] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, process_group=0
                )

    def kill(self, *roles: str) -> None:
        """Kill roles at once by SIGKILL; each must have been running."""
        for role in roles:
            os.killpg(self._processes[role].pid, signal.SIGKILL)
        for role in roles:
            code = self._processes.pop(role).wait(30)
            assert code == -signal.SIGKILL, f"{role} ended by itself with {code}\n{self.said(role)}"

    @contextlib.contextmanager
    def paused(self, *roles: str) -> Iterator[None]:
        """Roles stand still, as a machine does that swaps or migrates: they do not know that time goes by."""
        for role in roles:
            os.killpg(self._processes[role].pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for role in roles:
                os.killpg(self._processes[role].pid, signal.SIGCONT)

    def wait_for_death(self, role: str, seconds: float = 60.0) -> int:
        """Wait until a role ends by itself; returns its exit code."""
        code = self._processes[role].wait(seconds)
        del self._processes[role]
        return code

    def stop(self, *roles: str) -> None:
        """Stop roles gracefully, in this order."""
        for role in roles:
            process = self._processes.pop(role)
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            assert code == 0, f"{role} stopped with {code}\n{self.said(role)}"

    def end(self) -> None:
        """Kill whatever still runs."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        self._processes.clear()

    def pid(self, role: str) -> int:
        """A running role's process id."""
        return self._processes[role].pid

    def has_ended(self, role: str) -> bool:
        """Whether a role that the test has started ended by itself."""
        return self._processes[role].poll() is not None

    def running(self) -> list[str]:
        """Roles that were started and not ended by the test."""
        return list(self._processes)

    def output(self, role: str) -> Path:
        """The file of all that a role ever said."""
        return self.folder / f"{role}.log"

    def said(self, role: str) -> str:
        """The last that a role said, for failure messages."""
        path = self.output(role)
        return path.read_text("utf-8", "replace")[-4000:] if path.exists() else ""

    def reasons(self, role: str) -> str:
        """Why a role is not ready, or is but has something that does not flow on; "" when all is well."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._status[role]}/readyz", timeout=5) as answer:
                said = str(answer.read().decode().strip())
                return "" if said == "ok" else said
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode().strip() or "not ready"
        except OSError as error:
            return f"does not answer: {error}"

    def metric(self, role: str, name: str) -> float:
        """The sum of a role's metric over its labels."""
        lines = self.metrics(role).splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}(\{{| )", line))

    def metrics(self, role: str) -> str:
        """All of a role's metrics, as Prometheus reads them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._status[role]}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    def wait_ready(self, *roles: str, seconds: float = 60.0) -> None:
        """Wait until roles are ready; fails at once when one ends by itself."""
        for role in roles:

            def ready(role: str = role) -> bool:
                code = self._processes[role].poll()
                assert code is None, f"{role} ended by itself with {code}\n{self.said(role)}"
                return not self.reasons(role)

            wait_until(ready, f"{role} is ready", seconds, lambda role=role: self.reasons(role) + self.said(role))  # type: ignore[misc]

    def rows(self, sql: str) -> list[Row]:
        """The rows of a query to the store."""
        return self.sql.rows(Query(sql))

    def drain(self, seconds: float = 60.0, to: str = "") -> None:
        """Wait until all that was acknowledged is loaded, or has come as far as to the role ``to``.

        Heartbeats flow for ever, so this waits for a cut: what was in the inbox, then in the outbox, then in the log.
        """

        def wait(what: str, done: Callable[[], bool]) -> None:
            wait_until(done, f"{what} is drained", seconds, lambda: "".join(map(self.said, self._commands)))

        (edge,) = self.edges
        self.drain_collectors(seconds, to="outbox")
        last = edge.outbox_last()
        wait("the outbox", lambda: self._position("forward-%", [""]).get("", 0) >= last)
        for role, hop, topics in (
            ("aggregator", f"rollup-{REGION}", [regional_topic(_PREFIX, REGION, lane) for lane in EDGE_LANES]),
            ("store", "load", [global_topic(_PREFIX, lane) for lane in GLOBAL_LANES]),
        ):
            if role == to:
                return
            ends = self._ends(topics)
            wait(hop, lambda hop=hop, ends=ends: _reached(self._position(hop, ends), ends))  # type: ignore[misc]

    def drain_collectors(self, seconds: float = 60.0, to: str = "log") -> None:
        """Wait until the log, whichever it is, or only the outbox has all that was acknowledged."""

        def wait(what: str, done: Callable[[], bool]) -> None:
            wait_until(done, f"{what} is drained", seconds, lambda: "".join(map(self.said, self._commands)))

        for edge in self.edges:
            end = edge.inbox_end()
            wait("the inbox", lambda edge=edge, end=end: edge.consumed() >= end)  # type: ignore[misc]
            last = edge.outbox_last()
            if to == "log":
                wait("the outbox", lambda edge=edge, last=last: not edge.waiting(last))  # type: ignore[misc]

    def acknowledged(self) -> dict[str, tuple[int, int]]:
        """Points and digest that the collectors acknowledged and flushed, by tenant."""
        sums: dict[str, tuple[int, int]] = {}
        for edge in self.edges:
            for tenant, (points, digest) in edge.acknowledged().items():
                before = sums.get(tenant, (0, 0))
                sums[tenant] = (before[0] + points, (before[1] + digest) % 2**64)
        return sums

    def _position(self, hop: str, topics: Iterable[str]) -> dict[str, int]:
        with contextlib.closing(sqlite3.connect(self.data / "log" / "log.db", timeout=10)) as database:
            rows = database.execute(
                "SELECT topic, coalesce(position, 0) FROM sources WHERE hop LIKE ? AND partition = 0", (hop,)
            ).fetchall()
        return {topic: position for topic, position in rows if topic in topics}

    def _ends(self, topics: Sequence[str]) -> dict[str, int]:
        with contextlib.closing(sqlite3.connect(self.data / "log" / "log.db", timeout=10)) as database:
            rows = database.execute("SELECT topic, next_offset FROM partitions WHERE partition = 0").fetchall()
        return {topic: end for topic, end in rows if topic in topics and end}

    def status_address(self, role: str) -> str:
        """Where a role says how it is."""
        return f"127.0.0.1:{self._status[role]}"

    def addresses(self, role: str) -> list[tuple[str, int]]:
        """A role's addresses as (key below ``listen``, port)."""
        return [*self.ports.items(), ("status", self._status[role])]


def wait_until(
    done: Callable[[], bool], what: str, seconds: float = 60.0, details: Callable[[], str] = lambda: ""
) -> None:
    """Wait until something holds; fails with ``what`` and ``details`` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not after {seconds:g} s: {what}\n{details()}"
        time.sleep(0.02)


def _reached(positions: dict[str, int], ends: dict[str, int]) -> bool:
    return all(positions.get(topic, 0) >= end for topic, end in ends.items())
