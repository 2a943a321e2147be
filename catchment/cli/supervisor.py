"""The supervisor of `catchment up`: child processes of the same roles as in the distributed profile.

Rules:

1. A child that dies is started again, after 0.2 s at first and 10 s at most; one that ran for 10 s is at 0.2 s again.
2. A child that exits with 2 or 3 before it was ever ready will not do better next time: all stop, with its code.
3. Stopping is graceful and in the order in which the children are listed: the next is told when the one before is
   gone, so that what a sender was promised flows out. One that takes longer than ``stop_seconds`` is killed.
4. A child never outlives the supervisor: it watches its stdin, a pipe that only the supervisor holds, and exits when it
   closes, which the system does even after SIGKILL.
5. A child tells its status address in ``<run_dir>/<name>.json`` once it listens. The file is deleted before each start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from catchment.cli import http_get
from catchment.cli.exits import ENVIRONMENT, FINE, USAGE
from catchment.telemetry import OwnMetric, Telemetry

log = logging.getLogger(__name__)

BACKOFF_SECONDS_MIN = 0.2
BACKOFF_SECONDS_MAX = 10.0
STEADY_SECONDS = 10.0


@dataclass(frozen=True)
class ChildSpec:
    """A child: its name, unique under one supervisor, and what to run.

    ``command`` is given ``--name NAME --state FILE`` besides, keeps rules 4 and 5, stops at SIGTERM and reads its
    configuration again at SIGHUP, which it finds blocked: it lets it in once it has a handler.
    """

    name: str
    command: tuple[str, ...]


def role_child(name: str, role: str, config_file: Path) -> ChildSpec:
    """A child that runs a role of `catchment.cli.roles`, configured by a file with all defaults resolved."""
    command = (sys.executable, "-m", "catchment.cli.main", "_role", role, "--config", str(config_file))
    return ChildSpec(name, command)


@dataclass
class Child:
    """A child as it is now."""

    spec: ChildSpec
    state_file: Path
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    was_ready: bool = False
    exit_code: int | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs children until it is told to stop.

    Args:
        children: in the order in which they are to be stopped.
        run_dir: where children leave their state files.
        telemetry: counts restarts.
        stop_seconds: what one child may take to stop.
        log_file: where what the children say on stderr is appended; the supervisor's own stderr unless given.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        run_dir: Path,
        telemetry: Telemetry,
        *,
        stop_seconds: float = 30.0,
        log_file: Path | None = None,
    ) -> None:
        self.children = [Child(spec, run_dir / f"{spec.name}.json") for spec in children]
        self._run_dir = run_dir
        self._telemetry = telemetry
        self._stop_seconds = stop_seconds
        self._log_file = log_file
        self._stopping = asyncio.Event()
        self._hard = False
        self._failed: int | None = None

    async def run(self, ready: asyncio.Event) -> int:
        """Start all children and keep them running until `stop`; sets ``ready`` when all were ready at once.

        Returns the exit code: 0 after `stop`, else that of the child that could not start.
        """
        self._run_dir.mkdir(parents=True, exist_ok=True)
        keepers = [asyncio.create_task(self._keep(child), name=child.spec.name) for child in self.children]
        watcher = asyncio.create_task(self._watch_readiness(ready))
        await self._stopping.wait()
        await self._stop_in_order()
        watcher.cancel()
        await asyncio.gather(*keepers)
        return FINE if self._failed is None else self._failed

    def stop(self) -> None:
        """Stop gracefully; called again, kill."""
        if self._stopping.is_set():
            self.kill()
        self._stopping.set()

    def kill(self) -> None:
        """Kill all children now."""
        self._hard = True
        self._stopping.set()
        for child in self.children:
            _signal(child, signal.SIGKILL)

    def reload(self) -> None:
        """Tell all children to read their configuration again."""
        for child in self.children:
            _signal(child, signal.SIGHUP)

    async def not_ready(self) -> list[str]:
        """Reasons of every child that is not ready, each with its name."""
        return await self._of_each(self._reasons)

    async def stalled(self) -> list[str]:
        """For how long and why something does not flow on, of every child, each with its name."""
        return await self._of_each(_stalled)

    async def _of_each(self, ask: Callable[[Child], Awaitable[list[str]]]) -> list[str]:
        answers = await asyncio.gather(*(ask(child) for child in self.children))
        return [
            f"{child.spec.name}: {said}" for child, lines in zip(self.children, answers, strict=True) for said in lines
        ]

    async def metrics(self) -> list[tuple[str, bytes]]:
        """The metrics of every child that answers: (name, Prometheus text)."""
        answers = await asyncio.gather(*(_ask(child, "/metrics") for child in self.children))
        return [
            (child.spec.name, answer[1])
            for child, answer in zip(self.children, answers, strict=True)
            if answer is not None and answer[0] == 200
        ]

    async def _keep(self, child: Child) -> None:
        backoff = BACKOFF_SECONDS_MIN
        while not self._stopping.is_set():
            started = time.monotonic()
            await self._start(child)
            assert child.process is not None
            code = await child.process.wait()
            child.exit_code = code
            if self._stopping.is_set():
                break
            if code in (USAGE, ENVIRONMENT) and not child.was_ready:
                # It said why on stderr.
                self._failed = code
                self._stopping.set()
                break
            if time.monotonic() - started >= STEADY_SECONDS:
                backoff = BACKOFF_SECONDS_MIN
            child.restarts += 1
            self._telemetry.count(OwnMetric.CHILD_RESTARTS, 1, child.spec.name)
            log.warning(
                "child died, starting it again",
                extra={"child": child.spec.name, "exit": _how(code), "after_seconds": backoff},
            )
            await self._pause(backoff)
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
        child.done.set()

    async def _start(self, child: Child) -> None:
        child.state_file.unlink(missing_ok=True)
        with contextlib.ExitStack() as files, _reloads_wait():
            child.process = await asyncio.create_subprocess_exec(
                *child.spec.command,
                "--name",
                child.spec.name,
                "--state",
                str(child.state_file),
                stdin=subprocess.PIPE,
                stderr=files.enter_context(self._log_file.open("ab")) if self._log_file else None,
                # A group of its own: Ctrl-C in the terminal is for the supervisor, which stops the children in order.
                process_group=0,
            )
        # `stop` may have come while the process was being made.
        if self._stopping.is_set():
            _signal(child, signal.SIGKILL if self._hard else signal.SIGTERM)

    async def _stop_in_order(self) -> None:
        for child in self.children:
            _signal(child, signal.SIGKILL if self._hard else signal.SIGTERM)
            try:
                await asyncio.wait_for(child.done.wait(), self._stop_seconds)
            except TimeoutError:
                log.warning("child does not stop, killing it", extra={"child": child.spec.name})
                _signal(child, signal.SIGKILL)
                await child.done.wait()

    async def _watch_readiness(self, ready: asyncio.Event) -> None:
        while True:
            waiting = await self.not_ready()
            if not waiting:
                ready.set()
            await asyncio.sleep(1.0 if ready.is_set() else 0.1)

    async def _reasons(self, child: Child) -> list[str]:
        if child.process is None or child.process.returncode is not None:
            return ["not running"]
        answer = await _ask(child, "/readyz")
        if answer is None:
            return ["starting" if not child.was_ready else "does not answer"]
        if answer[0] == 200:
            child.was_ready = True
            return []
        return answer[1].decode("utf-8", "replace").splitlines() or ["not ready"]

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


async def _ask(child: Child, path: str) -> tuple[int, bytes] | None:
    try:
        port = int(json.loads(child.state_file.read_text("utf-8"))["status_port"])
        return await http_get.request("127.0.0.1", port, path)
    except (OSError, ValueError, KeyError):
        return None


async def _stalled(child: Child) -> list[str]:
    answer = await _ask(child, "/healthz")
    with contextlib.suppress(ValueError):
        return list(json.loads(answer[1]).get("stalled", ())) if answer is not None else []
    return []


@contextlib.contextmanager
def _reloads_wait() -> Iterator[None]:
    """Let what is started meanwhile begin with SIGHUP blocked: it would die of one before it has a handler for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process is not None and child.process.returncode is None:
        child.process.send_signal(number)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else str(code)
