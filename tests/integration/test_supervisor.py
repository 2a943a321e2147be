"""The supervisor with real child processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from catchment.cli import http_get
from catchment.cli.exits import EnvironmentFault
from catchment.cli.folder_lock import FolderLock
from catchment.cli.ports import check_free
from catchment.cli.supervisor import ChildSpec, Supervisor
from catchment.telemetry import Telemetry
from catchment.units import Address

CHILD = Path(__file__).with_name("supervised_child.py")
NAMES = ("collector", "aggregator", "store")


def specs(folder: Path, behaviour: str = "fine") -> list[ChildSpec]:
    """Three children; the one in the middle behaves as told."""
    result = []
    for name in NAMES:
        file = folder / f"{name}.yaml"
        cluster = behaviour if name == "aggregator" else "fine"
        file.write_text(f"data_dir: {folder}\nregion: first\ncluster: {{name: {cluster}}}\n")
        result.append(ChildSpec(name, (sys.executable, str(CHILD), str(file))))
    return result


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child may take long to say how it is: with 2 s a busy machine makes it one that does not answer."""
    monkeypatch.setattr(http_get, "request", partial(http_get.request, timeout_seconds=60.0))


def events(folder: Path) -> list[list[str]]:
    """What the children noted: [what, name, pid, region]."""
    file = folder / "events"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds, at most 60 s."""
    async with asyncio.timeout(60):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[asyncio.Task[int]]:
    """A supervisor whose children are all ready; stopped at the end."""
    ready = asyncio.Event()
    task = asyncio.create_task(supervisor.run(ready))
    try:
        await asyncio.wait_for(ready.wait(), 60)
        yield task
    finally:
        supervisor.stop()
        await asyncio.wait_for(task, 60)


def pid_of(folder: Path, name: str) -> int:
    """The process id that a child tells in its state file."""
    return int(json.loads((folder / "run" / f"{name}.json").read_text())["pid"])


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_children_stop_in_the_order_of_the_path(tmp_path: Path) -> None:
    """A graceful stop ends collector, aggregator and store one after the other, and answers 0."""

    async def scenario() -> int:
        supervisor = Supervisor(specs(tmp_path), tmp_path / "run", Telemetry())
        async with running(supervisor) as task:
            assert await supervisor.not_ready() == []
        return task.result()

    assert asyncio.run(scenario()) == 0
    assert [name for what, name, *_ in events(tmp_path) if what == "stop"] == list(NAMES)


@pytest.mark.parametrize("victim", NAMES)
def test_a_killed_child_is_started_again(tmp_path: Path, victim: str) -> None:
    """After SIGKILL of one child it comes back by itself, is counted, and the others are not touched."""

    async def scenario() -> str:
        telemetry = Telemetry()
        supervisor = Supervisor(specs(tmp_path), tmp_path / "run", telemetry)
        async with running(supervisor):
            before = {name: pid_of(tmp_path, name) for name in NAMES}
            os.kill(before[victim], signal.SIGKILL)
            await until(lambda: sum(what == "start" for what, *_ in events(tmp_path)) == 4)

            async def is_ready() -> bool:
                return not await supervisor.not_ready()

            await until(is_ready)
            after = {name: pid_of(tmp_path, name) for name in NAMES}
            assert after[victim] != before[victim]
            assert {name for name in NAMES if after[name] == before[name]} == set(NAMES) - {victim}
        return telemetry.exposition().decode()

    assert f'catchment_child_restarts_total{{child="{victim}"}} 1.0' in asyncio.run(scenario())


def test_a_dead_child_makes_the_whole_not_ready(tmp_path: Path) -> None:
    """While one child is away, readiness names it."""

    async def scenario() -> None:
        supervisor = Supervisor(specs(tmp_path), tmp_path / "run", Telemetry())
        async with running(supervisor):
            pid = pid_of(tmp_path, "store")
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not is_alive(pid))
            reasons = await supervisor.not_ready()
            assert reasons
            assert all(reason.startswith("store: ") for reason in reasons)

    asyncio.run(scenario())


def test_a_child_that_cannot_start_stops_all_with_its_code(tmp_path: Path) -> None:
    """A fault of the environment at the first start is not retried for ever: all stop, exit code 3."""

    async def scenario() -> int:
        supervisor = Supervisor(specs(tmp_path, "refused"), tmp_path / "run", Telemetry())
        return await asyncio.wait_for(supervisor.run(asyncio.Event()), 60)

    assert asyncio.run(scenario()) == 3


def test_a_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """A stuck child costs `stop_seconds`, and the one behind it still stops gracefully."""

    async def scenario() -> float:
        supervisor = Supervisor(specs(tmp_path, "stuck"), tmp_path / "run", Telemetry(), stop_seconds=5.0)
        async with running(supervisor):
            started = time.monotonic()
        return time.monotonic() - started

    assert 5.0 <= asyncio.run(scenario()) < 60
    assert [name for what, name, *_ in events(tmp_path) if what == "stop"] == ["collector", "store"]


def test_a_second_stop_kills(tmp_path: Path) -> None:
    """The operator's second signal does not wait for a stuck child."""

    async def scenario() -> float:
        supervisor = Supervisor(specs(tmp_path, "stuck"), tmp_path / "run", Telemetry(), stop_seconds=60.0)
        async with running(supervisor):
            supervisor.stop()
            await until(lambda: any(what == "stop" for what, *_ in events(tmp_path)))
            started = time.monotonic()
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 50


def test_children_read_their_configuration_again(tmp_path: Path) -> None:
    """A reload gives a child whose file changed its new values, in the same process; a bad file is refused."""

    async def scenario() -> None:
        supervisor = Supervisor(specs(tmp_path), tmp_path / "run", Telemetry())
        async with running(supervisor):
            pid = pid_of(tmp_path, "store")
            file = tmp_path / "store.yaml"
            file.write_text(file.read_text().replace("region: first", "region: second"))
            (tmp_path / "collector.yaml").write_text("regio: wrong\n")
            supervisor.reload()
            await until(lambda: ["start", "store", str(pid), "second"] in events(tmp_path))
            assert [name for what, name, *_ in events(tmp_path) if what == "stop"] == ["store"]

            async def is_ready() -> bool:
                return not await supervisor.not_ready()

            await until(is_ready)

    asyncio.run(scenario())


def test_a_reload_while_children_start_is_for_them_too(tmp_path: Path) -> None:
    """It neither kills a child that has no handler yet, nor is it lost: the child has what the file says by then."""

    async def scenario() -> None:
        supervisor = Supervisor(specs(tmp_path), tmp_path / "run", Telemetry())
        ready = asyncio.Event()
        task = asyncio.create_task(supervisor.run(ready))
        try:
            await until(lambda: all(child.process is not None for child in supervisor.children))
            for name in NAMES:
                file = tmp_path / f"{name}.yaml"
                file.write_text(file.read_text().replace("region: first", "region: second"))
                supervisor.reload()
            await asyncio.wait_for(ready.wait(), 60)
            # A child's latest line is of what it runs with.
            latest = dict.fromkeys(NAMES, "second")
            await until(lambda: {name: region for _, name, _, region in events(tmp_path)} == latest)
            assert [child.restarts for child in supervisor.children] == [0, 0, 0]
            assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        finally:
            supervisor.stop()
            await asyncio.wait_for(task, 60)

    asyncio.run(scenario())


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    """After SIGKILL of the supervisor no child is left to hold a port or a folder."""
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from tests.integration.test_supervisor import *\n"
        "folder = Path(sys.argv[1])\n"
        "asyncio.run(Supervisor(specs(folder), folder / 'run', Telemetry()).run(asyncio.Event()))\n"
    )
    root = str(CHILD.parents[2])
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=root) as supervisor:
        asyncio.run(until(lambda: sum(what == "start" for what, *_ in events(tmp_path)) == 3))
        supervisor.kill()
    pids = [int(pid) for _, _, pid, _ in events(tmp_path)]
    asyncio.run(until(lambda: not any(is_alive(pid) for pid in pids)))


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    """The second owner of a folder is told who has it; when the first lets go it is free."""
    in_use = pytest.raises(EnvironmentFault, match=f"in use by process {os.getpid()}")
    with FolderLock(tmp_path, "up"), in_use, FolderLock(tmp_path, "up"):
        pass
    with FolderLock(tmp_path, "up"):
        pass


def test_a_folder_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    """A data folder below a file is reported, not a stack trace."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"), FolderLock(tmp_path / "file" / "data", "up"):
        pass


def test_a_taken_port_is_named(free_port: Callable[[], int]) -> None:
    """All taken ports are told at once, with the keys that name them; free ones are not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = Address("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(EnvironmentFault, match=f"listen.sql {taken} is taken; stop what listens there") as caught:
            check_free({"listen.sql": taken, "listen.status": Address("127.0.0.1", free_port())})
    assert "listen.status" not in str(caught.value)
