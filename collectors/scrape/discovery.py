"""Finding targets: fixed groups, files of groups, and Kubernetes (`collectors.scrape.kubernetes`). A shell.

What was found last stays in force while a source cannot be read: a file that is half written or an API that is away
ends no target.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from catchment.errors import ConfigFaults
from catchment.files import version_of
from collectors.scrape.job import FileDiscovery, Group, Job
from collectors.scrape.kubernetes import watch_kubernetes
from collectors.scrape.prometheus_yml import read_groups
from collectors.scrape.yml_reader import load_yaml

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class Discovery:
    """The groups of one job; ``changed`` is called whenever they become others. Runs until `close`."""

    def __init__(self, job: Job, changed: Callable[[], None]) -> None:
        self._job = job
        self._changed = changed
        self._found: dict[str, tuple[Group, ...]] = {"static": job.static}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look; static and file targets are there at once."""
        for i, files in enumerate(self._job.files):
            seen: dict[str, Any] = {}
            self._look(f"file/{i}", files, seen)
            self._tasks.append(asyncio.create_task(self._follow(f"file/{i}", files, seen), name="file_sd"))
        for i, settings in enumerate(self._job.kubernetes):
            source = f"kubernetes/{i}"

            def take(groups: tuple[Group, ...], source: str = source) -> None:
                self._take(source, groups)

            self._tasks.append(asyncio.create_task(watch_kubernetes(settings, take), name="kubernetes_sd"))

    @property
    def groups(self) -> list[Group]:
        """What is found by now."""
        return [group for groups in self._found.values() for group in groups]

    async def close(self) -> None:
        """Look no longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, source: str, groups: tuple[Group, ...]) -> None:
        if self._found.get(source) != groups:
            self._found[source] = groups
            self._changed()

    async def _follow(self, source: str, files: FileDiscovery, seen: dict[str, Any]) -> None:
        while True:
            await asyncio.sleep(min(_POLL_SECONDS, files.refresh_seconds or _POLL_SECONDS))
            self._look(source, files, seen)

    def _look(self, source: str, files: FileDiscovery, seen: dict[str, Any]) -> None:
        """Read the files that are new or changed; those that are gone have no targets any more."""
        globs = map(Path, files.globs)
        names = sorted({str(file) for pattern in globs for file in pattern.parent.glob(pattern.name)})
        for name in set(seen) - set(names):
            del seen[name]
            self._take(f"{source}:{name}", ())
        for name in names:
            version = version_of(Path(name))
            if seen.get(name) == version:
                continue
            seen[name] = version
            groups = _read(name)
            if groups is not None:
                self._take(f"{source}:{name}", groups)


def _read(name: str) -> tuple[Group, ...] | None:
    """The groups of a file; None if it cannot be read, which is said."""
    try:
        text = Path(name).read_text("utf-8")
        return read_groups(json.loads(text) if name.endswith(".json") else load_yaml(text), name)
    except (OSError, ValueError, yaml.YAMLError, RecursionError, ConfigFaults) as error:
        log.warning("targets of a file stay as they were: it cannot be read", extra={"file": name, "error": str(error)})
        return None
