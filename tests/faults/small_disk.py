"""A folder whose disk fills up and is freed again at a test's will."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

_CHUNK = b"\0" * 4096


class SmallDisk:
    """A small tmpfs mounted on ``folder``; where nothing may be mounted, a limit on what the processes may write.

    Args:
        folder: made if it is not there; empty.
        size_bytes: of the tmpfs.
        pids: the processes that write there, for the second way.
    """

    def __init__(self, folder: Path, size_bytes: int, pids: Callable[[], Iterable[int]]) -> None:
        self._folder = folder
        self._size_bytes = size_bytes
        self._pids = pids
        self.is_mounted = False

    def __enter__(self) -> SmallDisk:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size_bytes}", "tmpfs", str(self._folder)]
        with contextlib.suppress(OSError):
            self.is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def fill(self) -> None:
        """Leave not one page."""
        if not self.is_mounted:
            self._limit(0)
            return
        with (self._folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(_CHUNK)

    def free(self) -> None:
        """Make room again."""
        if self.is_mounted:
            (self._folder / "ballast").unlink()
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, file_bytes_max: int) -> None:
        for pid in self._pids():
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            soft = hard if file_bytes_max == resource.RLIM_INFINITY else file_bytes_max
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
