"""A query that takes the engine's process with it, and queries over their limits: no operator is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from catchment.errors import CatchmentError
from catchment.query import Query, QueryError
from tests.faults.known_data import KnownData
from tests.faults.stack import COMMAND, Stack, wait_until
from tests.faults.totals import differences, disagreements, stored

# Minutes of work for the engine.
_SLOW = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
_MEMORY_EXCEEDED, _TIMEOUT_EXCEEDED = 241, 159
_LIMITS = "{query_memory_bytes_max: 128MiB, query_seconds_default: 10s, query_seconds_max: 60s}"


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Folder, ports and configuration."""
    return Stack(tmp_path)


@pytest.fixture
def up(stack: Stack) -> Iterator[subprocess.Popen[str]]:
    """All roles under one supervisor, ready."""
    command = [*COMMAND, "up", "--config", str(stack.config("collector", limits=_LIMITS))]
    with (
        stack.output("up").open("w") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("catchment is ready"), stack.said("up")
            yield process
        finally:
            process.terminate()
            process.wait(60)


def store_pid(stack: Stack) -> int:
    """The store's process as the supervisor knows it; 0 while there is none."""
    # Asked for and then read it might be gone in between: the supervisor removes it when the process ends.
    try:
        return int(json.loads((stack.data / "run" / "store.json").read_text())["pid"])
    except FileNotFoundError:
        return 0


def ask(stack: Stack, sql: str, settings: str, answers: list[bytes | CatchmentError]) -> None:
    """Ask and keep the answer or the error."""
    try:
        answers.append(stack.sql.raw(Query(f"{sql} SETTINGS {settings}"), format="TSV"))
    except CatchmentError as error:
        answers.append(error)


def check(stack: Stack, sender: KnownData) -> None:
    """Wait for SQL, drain, and compare every sum and digest."""
    wait_until(lambda: _answers(stack), "SQL answers", 60, lambda: stack.said("up"))
    stack.drain()
    faults = [*differences(sender.expected, stored(stack, "metrics_cluster_1m")), *disagreements(stack)]
    assert faults == [], "\n".join(faults)


def test_a_query_whose_engine_dies_loses_nothing(stack: Stack, up: subprocess.Popen[str]) -> None:
    """The store dies by SEGV, ABRT and KILL in the midst of a query and of loading: an error, then all is as before."""
    sender = KnownData("engine", stack.ports["otlp_http"])
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL):
        before = store_pid(stack)
        answers: list[bytes | CatchmentError] = []
        asking = threading.Thread(target=ask, args=(stack, _SLOW, "max_execution_time = 50", answers))
        asking.start()
        for _ in range(10):
            sender.send()
            time.sleep(0.05)
        os.kill(before, number)
        asking.join(60)
        assert len(answers) == 1 and isinstance(answers[0], CatchmentError), answers
        wait_until(lambda before=before: store_pid(stack) not in (0, before), "the supervisor starts the store again")  # type: ignore[misc]
        sender.send()
        check(stack, sender)
    assert up.poll() is None


def test_a_query_over_its_limits_is_stopped_and_hurts_nobody(stack: Stack, up: subprocess.Popen[str]) -> None:
    """Too much memory is code 241, too much time 159; the store lives on, loads on and answers the next query."""
    before = store_pid(stack)
    sender = KnownData("limits", stack.ports["otlp_http"])
    for sql, code in (
        (
            "SELECT length(groupArray(number)) FROM numbers(1000000000) SETTINGS max_execution_time = 50",
            _MEMORY_EXCEEDED,
        ),
        (_SLOW, _TIMEOUT_EXCEEDED),
    ):
        sender.send()
        with pytest.raises(QueryError) as refused:
            stack.sql.raw(Query(sql), format="TSV")
        assert refused.value.code == code, str(refused.value)
        sender.send()
    check(stack, sender)
    assert store_pid(stack) == before and up.poll() is None


def _answers(stack: Stack) -> bool:
    try:
        return bool(stack.rows("SELECT 1 AS one"))
    except CatchmentError:
        return False
