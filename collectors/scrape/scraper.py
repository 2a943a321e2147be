"""All scraping of one collector: the file of jobs, what their discoveries find, and a loop for each target. A shell.

Rules:

1. The file is read again when it changes. With a fault in it the jobs before stay in force, and the log says so.
2. A target that stays, of a job that changed, goes on with what is known of it; one that is gone ends its series.
3. When the collector stops, nothing ends: it is about to come back. What was asked and not handed in is lost, and its
   counters are in the next answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from catchment.errors import ConfigFaults
from catchment.files import version_of
from catchment.telemetry import OwnMetric, Telemetry
from collectors.records import Intake, Outcome, Received
from collectors.scrape.discovery import Discovery
from collectors.scrape.fetch import Client
from collectors.scrape.job import Job, ScrapeFile
from collectors.scrape.loop import Loop, Shared
from collectors.scrape.prometheus_yml import config_globs, read_prometheus_yml
from collectors.scrape.record import CONTENT_TYPE
from collectors.scrape.survey import NOTHING, Survey, Surveyor
from collectors.scrape.targets import Target, targets_of
from collectors.tenants import Sender

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


@dataclass
class _Running:
    """A job in force."""

    job: Job
    client: Client
    discovery: Discovery
    loops: dict[Target, tuple[Loop, asyncio.Task[None]]]
    faults: list[str]


class Scraper:
    """Scrapes for one sender.

    Args:
        path: a ``prometheus.yml``.
        sender: whose all scraped samples are.
        policy_version: that of now, recorded with each scrape.
        body_bytes_max: of an answer, after decompression.
        samples_max: of an answer.

    Raises:
        ConfigFaults: the file has some.
    """

    def __init__(
        self,
        path: Path,
        sender: Sender,
        intake: Intake,
        telemetry: Telemetry,
        policy_version: Callable[[], str],
        body_bytes_max: int,
        samples_max: int,
    ) -> None:
        self._path = path
        self._sender = sender
        self._intake = intake
        self._policy_version = policy_version
        self._threads = ThreadPoolExecutor(1, "scrape")
        self._changed = asyncio.Event()
        self._running: dict[str, _Running] = {}
        self._file, self._seen = load(path)
        self._is_refused = False
        telemetry.read_from(OwnMetric.FILES_REFUSED, lambda: self._is_refused, "scrape.file")
        self._telemetry = telemetry
        self._shared = Shared(
            submit=self._submit,
            surveyor=Surveyor(samples_max),
            in_thread=self._in_thread,
            count=lambda end: telemetry.count(OwnMetric.SCRAPES, 1, end),
            clock_ns=time.time_ns,
            monotonic=time.monotonic,
            body_bytes_max=body_bytes_max,
        )
        for state, is_down in (("up", False), ("down", True)):
            telemetry.read_from(OwnMetric.SCRAPE_TARGETS, lambda down=is_down: self._targets(down), state)  # type: ignore[misc]

    async def run(self, stop: asyncio.Event) -> None:
        """Scrape until ``stop``."""
        stopping = asyncio.create_task(stop.wait())
        watching = asyncio.create_task(self._watch(), name="scrape file")
        for line in self._file.unsupported:
            log.warning("%s: %s", self._path, line)
        try:
            await self._use(self._file)
            while not stop.is_set():
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait((stopping, changed, watching), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if watching.done():
                    watching.result()
                self._changed.clear()
                await self._sync()
        finally:
            watching.cancel()
            stopping.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)
            for running in self._running.values():
                await self._stop(running)
            self._threads.shutdown()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if await asyncio.to_thread(_look, self._seen) == self._seen:
                continue
            try:
                loaded, self._seen = await asyncio.to_thread(load, self._path)
            except ConfigFaults as error:
                self._is_refused = True
                self._seen = await asyncio.to_thread(_look, self._seen)
                log.warning("the scrape file has faults, the jobs before stay in force: %s", error)
            else:
                self._is_refused = False
                log.info("scrape file read", extra={"file": str(self._path), "jobs": len(loaded.jobs)})
                self._file = loaded
                for line in loaded.unsupported:
                    log.warning("%s: %s", self._path, line)
                await self._use(loaded)

    async def _use(self, file: ScrapeFile) -> None:
        """Put the jobs of a file in force."""
        wanted = {job.name: job for job in file.jobs}
        surveys: dict[tuple[str, str], Survey] = {}
        gone: list[Loop] = []
        for name, running in list(self._running.items()):
            if wanted.get(name) == running.job:
                continue
            del self._running[name]
            loops = await self._stop(running)
            surveys |= {(name, loop.target.instance): loop.survey for loop in loops}
            gone += loops
        for name, job in wanted.items():
            if name not in self._running:
                discovery = Discovery(job, self._changed.set)
                running = _Running(job, Client(job.http), discovery, {}, [])
                self._running[name] = running
                discovery.start()
        await self._sync(surveys)
        current = {(name, target.instance) for name, each in self._running.items() for target in each.loops}
        await self._end(loop for loop in gone if (loop.job.name, loop.target.instance) not in current)

    async def _sync(self, surveys: dict[tuple[str, str], Survey] | None = None) -> None:
        """Start loops of targets that are new, and end those of targets that are gone."""
        for name, running in self._running.items():
            targets, faults = targets_of(running.job, running.discovery.groups)
            if faults != running.faults:
                running.faults = faults
                for fault in faults:
                    log.warning(fault)
            gone = [running.loops.pop(target) for target in set(running.loops) - set(targets)]
            await _cancelled(task for _, task in gone)
            # The same instance under other labels or another address goes on as another target.
            await self._end(loop for loop, _ in gone)
            for target in targets:
                if target not in running.loops:
                    survey = (surveys or {}).get((name, target.instance), NOTHING)
                    loop = Loop(running.job, target, running.client, self._shared, survey)
                    running.loops[target] = loop, asyncio.create_task(loop.run(), name=f"scrape {target.url}")

    async def _stop(self, running: _Running) -> list[Loop]:
        """Stop a job; its loops, at rest."""
        await running.discovery.close()
        await _cancelled(task for _, task in running.loops.values())
        await running.client.close()
        return [loop for loop, _ in running.loops.values()]

    async def _end(self, loops: Iterable[Loop]) -> None:
        await asyncio.gather(*(loop.end() for loop in loops), return_exceptions=True)

    def _targets(self, down: bool) -> int:
        loops = [loop for running in self._running.values() for loop, _ in running.loops.values()]
        return sum(loop.trouble is not None and bool(loop.trouble) == down for loop in loops)

    async def _in_thread(self, work: Callable[[], Survey]) -> Survey:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _submit(self, payload: bytes) -> Outcome:
        return await self._intake.submit(
            Received(
                signal="metrics",
                tenant=self._sender.tenant,
                cluster=self._sender.cluster,
                labels=self._sender.labels,
                content_type=CONTENT_TYPE,
                content_encoding="",
                received_ns=time.time_ns(),
                policy_version=self._policy_version(),
                body=payload,
            )
        )


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_Seen = dict[Path, tuple[int, int, int] | None]


def load(path: Path) -> tuple[ScrapeFile, _Seen]:
    """The jobs of a file and of those that it names, and what tells that one of them has changed.

    Raises:
        ConfigFaults: all that is wrong with them.
    """
    seen: _Seen = {path: version_of(path)}
    text = _text(path)
    more: dict[str, str] = {}
    for pattern in (path.parent / each for each in config_globs(text)):
        seen[pattern.parent] = version_of(pattern.parent)
        for file in sorted(pattern.parent.glob(pattern.name)):
            seen[file] = version_of(file)
            more[str(file)] = _text(file)
    try:
        return read_prometheus_yml(text, path.parent, more), seen
    except ConfigFaults as error:
        raise ConfigFaults([f"{path}: {fault}" for fault in error.faults]) from error


def _look(seen: _Seen) -> _Seen:
    return {file: version_of(file) for file in seen}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{path} cannot be read: {error}"]) from error
