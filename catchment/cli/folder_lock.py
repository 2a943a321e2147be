"""A lock on a folder: one owner at a time, released by the system when its process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from catchment.cli.exits import EnvironmentFault


class FolderLock:
    """Holds ``<folder>/<name>.lock``, which keeps the owner's process id for people.

    Raises:
        EnvironmentFault: another process holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.lock"
        self._folder = folder
        self._file = -1

    def __enter__(self) -> FolderLock:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise EnvironmentFault(f"data folder {self._folder} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise EnvironmentFault(
                f"data folder {self._folder} is in use by process {owner}; stop it or give another --data-dir"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file stays: deleting it would let two owners lock two files of one name.
        os.close(self._file)
