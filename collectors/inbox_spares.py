"""Spares: segments of an inbox that were trimmed and wait to be overwritten, for what that saves (`collectors.inbox`).

    <name>.spare                the file of a trimmed segment, by the name that it had

Rules:
1. They take at most ``bytes_max`` on disk, and what the inbox's own limit leaves; what does not fit is deleted.
2. What is in them means nothing. Losing one costs nothing, so where the disk is full they all go.
3. The newest is taken first: its pages are the likeliest to be in memory still.
4. One thread may keep while another takes.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

_SUFFIX = ".spare"


class Spares:
    """The spares in one folder.

    Args:
        folder: of the inbox.
        bytes_max: what they may take together; 0 for none.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._kept: list[tuple[Path, int]] = []
        self._bytes = 0
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            size = path.stat().st_size
            if self._bytes + size <= bytes_max:
                self._kept.append((path, size))
                self._bytes += size
            else:
                path.unlink()

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return self._bytes

    def keep(self, segment: Path, room_bytes: int) -> bool:
        """Make a segment a spare if it fits; otherwise it is left as it is.

        Args:
            segment: a file that nobody reads any more.
            room_bytes: what all spares together may take now.

        Raises:
            OSError: it cannot be renamed.
        """
        try:
            size = segment.stat().st_size
        except FileNotFoundError:
            return False
        with self._lock:
            if not size or self._bytes + size > min(self._bytes_max, room_bytes):
                return False
            spare = segment.with_suffix(_SUFFIX)
            segment.rename(spare)
            self._kept.append((spare, size))
            self._bytes += size
        return True

    def take(self, to: Path) -> bool:
        """Rename a spare, if there is one; its old bytes are still in it.

        Returns:
            Whether there was one.
        """
        with self._lock:
            while self._kept:
                spare, size = self._kept.pop()
                self._bytes -= size
                with contextlib.suppress(FileNotFoundError):  # a person may delete them
                    spare.rename(to)
                    return True
        return False

    def release(self) -> None:
        """Delete them all: the disk is needed."""
        with self._lock:
            while self._kept:
                spare, size = self._kept.pop()
                self._bytes -= size
                with contextlib.suppress(OSError):
                    spare.unlink()
