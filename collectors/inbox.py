"""The inbox: a write-ahead log of the requests that senders were told are safe.

Layout of its folder:

    id                          one line: ``catchment-inbox <version> <random hex>``, made at birth, written last
    lock                        held (flock) by the one process that owns the folder; its pid, for people
    00000000000000000000.log    a segment: records one after another, named by the position of its first byte
    00000000000000000000.spare  the file of a trimmed segment, to be overwritten by a later one
    quarantine/                 bytes that could not be read, one file per damaged range

A *position* is one global byte offset: over all segments it only rises. Rules:

1. ``append`` returns when all its records are on disk (one writev, one fdatasync). What it returned for is replayed
   after any crash, bit for bit, until it is trimmed.
2. An ``append`` that raises left nothing: the file is cut back to its last good length. After a failed *fsync* the
   kernel may call pages clean that never reached the disk, so that file is never synced again: it is sealed at the last
   good sync, and a new segment starts at that very position.
3. A segment ends where the next one starts, however long its file is: what stands behind is not read. The newest one
   ends at its *end mark*, which every ``append`` writes behind its last record, and the next one overwrites.
4. At opening, what stands behind the last whole record of the newest segment, with no *sign* (a record's head or an end
   mark) behind it, is cut off: a torn append, of which nobody was told that it is safe, or old bytes of an overwritten
   file. Other bytes that replay cannot read are copied to the quarantine and counted, never wiped; it goes on behind
   them.
5. Segments are ended by ``trim`` alone, oldest first, and never the newest, so that positions never start anew.
   Nobody but a person deletes from the quarantine; it counts into ``bytes_max``.
6. One process, one thread that appends; ``trim`` and ``size_bytes`` may be called from another.
7. A trimmed segment's file becomes a spare, within a bound, and a new segment overwrites a spare: writing into pages
   and blocks that are there costs a third of making new ones, and its fdatasync commits no metadata.

Why old bytes are never taken for records (rule 7). A file's lives have different bases, each above the one before,
since a file becomes a spare only behind a newer segment. So no offset of a file has the same position in two lives, and
a sign is one only at its own position. Bytes of *this* life that were not acknowledged, from a torn or failed append,
are cut off before the next append, or the file is sealed. Before its new name a spare gets an end mark at its start.

Why rule 4 tells a torn append from damage. A killed process leaves a first part of what it was writing, and the end
mark comes last: then no sign stands behind the torn record. A damaged record that was acknowledged has a sign behind
it, which only the next append touches. One exception is taken: where the last record and the end mark behind it are
both damaged, that record looks like a torn one and is cut off.

The record's bytes are described in `collectors.inbox_format`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from catchment.crash import crash_point
from catchment.errors import CatchmentError, Corrupt, Reject, TooNew
from catchment.files import sync_folder
from collectors.inbox_format import Damaged, encode, end_mark, scan, seed_of
from collectors.inbox_spares import Spares
from collectors.records import Received

VERSION = 1
_SUFFIX = ".log"
_IOV_MAX = 1000
_COPY_BYTES = 1 << 20


class Inbox:
    """The inbox of one folder; make it with `Inbox.open`.

    Attributes:
        folder_id: the random id that the folder was born with.
        damaged_ranges, damaged_bytes: what went to the quarantine since opening.
    """

    def __init__(
        self, folder: Path, lock_fd: int, folder_id: str, segment_bytes: int, bytes_max: int, spare_bytes_max: int
    ) -> None:
        self.folder_id = folder_id
        self.damaged_ranges = 0
        self.damaged_bytes = 0
        self._folder = folder
        self._lock_fd = lock_fd
        self._seed = seed_of(folder_id)
        self._segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self._bases = _bases(folder)
        self._bases_lock = threading.Lock()
        self._quarantine_bytes = sum(path.stat().st_size for path in (folder / "quarantine").glob("*"))
        self._spares = Spares(folder, spare_bytes_max)
        # Bases of segments whose sync failed (rule 2): their files are not overwritten either.
        self._unsynced: set[int] = set()
        self._fd = -1
        self._end = 0
        self._sealed = False

    @classmethod
    def open(cls, folder: str | Path, *, segment_bytes: int, bytes_max: int, spare_bytes_max: int = 0) -> Inbox:
        """Open the inbox of a folder, or found it.

        Args:
            folder: made if it is not there.
            segment_bytes: a segment that has reached this is followed by a new one.
            bytes_max: beyond this on disk, appends are rejected.
            spare_bytes_max: trimmed segments that are kept to be overwritten; 0 deletes them.

        Raises:
            CatchmentError: another process owns the folder, or it cannot be written.
            Corrupt: the folder has lost its id or its segments.
            TooNew: a newer version wrote it.
        """
        folder = Path(folder)
        lock_fd = -1
        try:
            (folder / "quarantine").mkdir(parents=True, exist_ok=True)
            lock_fd = _lock(folder)
            inbox = cls(folder, lock_fd, _identify(folder), segment_bytes, bytes_max, spare_bytes_max)
            inbox._open_newest()
        except BaseException as error:
            if lock_fd >= 0:
                os.close(lock_fd)
            if isinstance(error, OSError):
                raise CatchmentError(f"inbox cannot be opened: {error}", folder=str(folder)) from error
            raise
        return inbox

    @property
    def end(self) -> int:
        """The position after the last durable record."""
        return self._end

    @property
    def start(self) -> int:
        """The position of the oldest byte that is kept."""
        return self._bases[0]

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments and of the quarantine; spares are free space."""
        return self._end - self._bases[0] + self._quarantine_bytes

    def append(self, records: Sequence[Received]) -> list[int]:
        """Write records and return the position just after each; they are on disk then. Blocks.

        Raises:
            Reject: the inbox or the disk is full, or the disk fails; nothing was kept.
            Invalid: a record's names and labels are too long; nothing was kept.
        """
        buffers: list[bytes] = []
        ends: list[int] = []
        end = self._end
        for received in records:
            head = encode(received, end, self._seed)
            buffers += (head, received.body)
            end += len(head) + len(received.body)
            ends.append(end)
        if not ends:
            return ends
        added = end - self._end
        if self.size_bytes + added > self._bytes_max:
            raise Reject("inbox is full", bytes=self.size_bytes, bytes_max=self._bytes_max, folder=str(self._folder))
        buffers.append(end_mark(end, self._seed))
        try:
            if self._sealed or self._end - self._bases[-1] >= self._segment_bytes:
                self._start_segment()
            _write_all(self._fd, buffers, self._end - self._bases[-1])
        except OSError as error:
            self._cut_back()
            raise self._reject(error) from error
        crash_point("inbox.written")
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._sealed = True
            self._unsynced.add(self._bases[-1])
            self._cut_back()
            raise self._reject(error) from error
        crash_point("inbox.synced")
        self._end = end
        return ends

    def replay(self, position: int) -> Iterator[tuple[int, Received]]:
        """Every record from ``position`` (a boundary that ``append`` returned, or `start`), with the position after it.

        Damaged ranges are quarantined, counted and left out.

        Raises:
            Corrupt: ``position`` lies outside of what is kept: this folder is not the one that it was taken from.
        """
        if not self.start <= position <= self._end:
            raise Corrupt(
                f"position {position} is not in this inbox, which holds {self.start} to {self._end}",
                folder=str(self._folder),
            )
        bases = [*self._bases, self._end]
        for base, end in itertools.pairwise(bases):
            if end <= position:
                continue
            with self._path(base).open("rb", buffering=0) as file:
                yield from self._replay_segment(file.fileno(), base, max(position, base), end)

    def _replay_segment(self, fd: int, base: int, start: int, end: int) -> Iterator[tuple[int, Received]]:
        def read(position: int, length: int) -> bytes:
            return os.pread(fd, length, position - base)

        for found in scan(read, start, end, self._seed):
            if isinstance(found, Damaged):
                self._quarantine(fd, base, found)
            else:
                yield found.end, found.received

    def trim(self, position: int) -> None:
        """End the segments that lie wholly before ``position``: their files become spares or are deleted.

        Raises:
            CatchmentError: a file cannot be renamed or deleted; trimming again is safe.
        """
        while len(self._bases) > 1 and self._bases[1] <= position:
            path = self._path(self._bases[0])
            room_bytes = self._bytes_max - (self.size_bytes - (self._bases[1] - self._bases[0]))
            try:
                if self._bases[0] in self._unsynced or not self._spares.keep(path, room_bytes):
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise CatchmentError(f"inbox cannot be trimmed: {error}", folder=str(self._folder)) from error
            with self._bases_lock:
                del self._bases[0]

    def close(self) -> None:
        """Let go of the files and the lock. May be called twice."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _path(self, base: int) -> Path:
        return self._folder / f"{base:020d}{_SUFFIX}"

    def _open_newest(self) -> None:
        """Take the newest segment for appending, its torn tail cut (rule 4)."""
        base = self._bases[-1]
        self._fd = os.open(self._path(base), os.O_RDWR | os.O_CLOEXEC)
        size = os.fstat(self._fd).st_size
        fd = self._fd

        def read(position: int, length: int) -> bytes:
            return os.pread(fd, length, position - base)

        self._end = base
        ends_damaged = False
        for found in scan(read, base, base + size, self._seed):
            # What is damaged but whole in length may have been acknowledged: it stays, for replay to quarantine, and
            # positions behind it stay true.
            if not isinstance(found, Damaged) or found.complete:
                self._end = found.end
                ends_damaged = isinstance(found, Damaged)
        if self._end < base + size:
            os.ftruncate(fd, self._end - base)
            self._mark_end()
            os.fsync(fd)
        # A torn append over the end mark would make damage before it look like a part of itself.
        self._sealed = ends_damaged

    def _start_segment(self) -> None:
        """Put a new, empty segment at the end (rule 2: it may replace the file of a sealed one that holds nothing)."""
        unnamed = self._folder / "segment.new"
        emptied = 0 if self._spares.take(unnamed) else os.O_TRUNC
        fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | emptied | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, [end_mark(self._end, self._seed)], 0)
            os.fsync(fd)
            unnamed.rename(self._path(self._end))
            sync_folder(self._folder)
            crash_point("inbox.rotated")
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._sealed = False
        with self._bases_lock:
            if self._bases[-1] != self._end:
                self._bases.append(self._end)

    def _cut_back(self) -> None:
        """Leave nothing of a failed append. What cannot be cut is sealed off instead."""
        try:
            os.ftruncate(self._fd, self._end - self._bases[-1])
        except OSError:
            self._sealed = True
        self._mark_end()

    def _mark_end(self) -> None:
        """Write the end mark again after a cut, where the disk takes it; the end of the file says the same."""
        if not self._sealed:
            with contextlib.suppress(OSError):
                _write_all(self._fd, [end_mark(self._end, self._seed)], self._end - self._bases[-1])

    def _reject(self, error: OSError) -> Reject:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full:
            self._spares.release()
        reason = "disk of the inbox is full" if full else f"inbox cannot be written: {error.strerror}"
        return Reject(reason, retry_after_seconds=10, folder=str(self._folder))

    def _quarantine(self, fd: int, base: int, damaged: Damaged) -> None:
        """Copy a damaged range to a file of its own, once, and count it."""
        self.damaged_ranges += 1
        self.damaged_bytes += damaged.end - damaged.position
        path = self._folder / "quarantine" / f"{damaged.position:020d}-{damaged.end - damaged.position}.bin"
        if path.exists():
            return
        unnamed = path.with_suffix(".new")
        with unnamed.open("wb") as copy:
            position = damaged.position
            while position < damaged.end:
                chunk = os.pread(fd, min(_COPY_BYTES, damaged.end - position), position - base)
                if not chunk:
                    break
                copy.write(chunk)
                position += len(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        unnamed.rename(path)
        sync_folder(path.parent)
        self._quarantine_bytes += path.stat().st_size


def _bases(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())


def _lock(folder: Path) -> int:
    """Take the folder's lock, which ends with the process."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise CatchmentError(
            f"another process{f' ({owner})' if owner else ''} uses this inbox: stop it, or choose another folder",
            folder=str(folder),
        ) from error
    with contextlib.suppress(OSError):  # the pid is for people; a full disk must not keep the inbox from opening
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()}\n".encode(), 0)
    return fd


def _identify(folder: Path) -> str:
    """The folder's id. It is written after the first segment, so an id without segments means that they were lost."""
    path = folder / "id"
    bases = _bases(folder)
    if path.exists():
        words = path.read_text().split()
        if len(words) != 3 or words[0] != "catchment-inbox" or not words[1].isdigit():
            raise Corrupt("file `id` of the inbox cannot be read: restore it, or move the folder away", file=str(path))
        if int(words[1]) > VERSION:
            raise TooNew(f"inbox of version {words[1]}; this process reads up to {VERSION}", folder=str(folder))
        if not bases:
            raise Corrupt("inbox has lost its segments: restore them, or move the folder away", folder=str(folder))
        return words[2]
    if bases != [] and (bases != [0] or (folder / f"{0:020d}{_SUFFIX}").stat().st_size):
        raise Corrupt("inbox has segments but no file `id`: restore it, or move the folder away", folder=str(folder))
    folder_id = secrets.token_hex(16)
    (folder / f"{0:020d}{_SUFFIX}").touch(mode=0o600)
    unnamed = folder / "id.new"
    with unnamed.open("w") as file:
        file.write(f"catchment-inbox {VERSION} {folder_id}\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)
    unnamed.rename(path)
    sync_folder(folder)
    sync_folder(folder.parent)
    return folder_id


def _write_all(fd: int, buffers: list[bytes], offset: int) -> None:
    """Write all buffers in order from an offset of the file, without joining them."""
    for first in range(0, len(buffers), _IOV_MAX):
        group = buffers[first : first + _IOV_MAX]
        written = os.pwritev(fd, group, offset)
        offset += written
        if written == sum(map(len, group)):
            continue
        # A disk that fills up takes a part: the rest goes on its own, until it is in or the system says why not.
        rest = b"".join(group)[written:]
        while rest:
            written = os.pwrite(fd, rest, offset)
            offset += written
            rest = rest[written:]
