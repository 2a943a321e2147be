"""A file that is read again when it changes; a fault leaves what was read before in force."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from catchment.errors import ConfigFaults
from catchment.files import version_of

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What a file says now.

    Args:
        path: of the file.
        load: reads it; raises `ConfigFaults`.
        name: what it is called in reports.
        describe: what was read, for reports.
        report: told in one line that what changed was read.
        refuse: told in one line why what changed was not taken; as ``report`` unless given.

    Attributes:
        current: what it says.
        is_refused: what changed was not taken: ``current`` is of the file before it.

    Raises:
        ConfigFaults: it cannot be read at first.
    """

    def __init__(
        self,
        path: Path,
        load: Callable[[Path], T],
        name: str,
        describe: Callable[[T], str],
        report: Callable[[str], None],
        refuse: Callable[[str], None] | None = None,
    ) -> None:
        self._path = path
        self._load = load
        self._name = name
        self._describe = describe
        self._report = report
        self._refuse = refuse or report
        self.is_refused = False
        self._seen = version_of(path)
        self._asked = asyncio.Event()
        self.current = load(path)

    def reload(self) -> None:
        """Read the file at the next turn of `watch`, changed or not (SIGHUP)."""
        self._asked.set()

    async def watch(self, poll_seconds: float = 1.0) -> None:
        """Look after the file until cancelled. Reading happens in a thread, so that all else goes on."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), poll_seconds)
            looked = await asyncio.to_thread(version_of, self._path)
            if looked == self._seen and not self._asked.is_set():
                continue
            self._asked.clear()
            self._seen = looked
            try:
                self.current = await asyncio.to_thread(self._load, self._path)
            except ConfigFaults as error:
                self.is_refused = True
                self._refuse(f"{self._name} has faults, the one before it stays in force: {error}")
            else:
                self.is_refused = False
                self._report(f"{self._name} {self._path} read: {self._describe(self.current)}")
