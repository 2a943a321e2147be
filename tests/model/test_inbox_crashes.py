"""Real processes, real kills, a real full disk."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from catchment.errors import Reject
from collectors.inbox import Inbox
from collectors.inbox_format import END_BYTES
from collectors.records import Received
from tests.model.inbox_writer import SPARE_BYTES_MAX, body_of

KILLS = 25
_LIBC = ctypes.CDLL(None, use_errno=True)


def request(body: bytes) -> Received:
    """A request with this body."""
    return Received("metrics", "acme", "tokyo-1", "{}", "application/x-protobuf", "", 7, "", body)


def test_what_was_acknowledged_is_replayed_after_every_kill(tmp_path: Path) -> None:
    """After each of many kill −9 at random moments, every acknowledged request is replayed once, bit for bit."""
    next_number = position = spares = 0
    for kill in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.model.inbox_writer", str(tmp_path), str(next_number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(random.Random(kill).uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        lines += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        writer.stdout.close()
        writer.wait()
        acknowledged, acknowledged_position = map(int, lines[-1].split())

        inbox = Inbox.open(tmp_path, segment_bytes=1 << 20, bytes_max=1 << 40, spare_bytes_max=SPARE_BYTES_MAX)
        assert inbox.end >= acknowledged_position
        replayed = list(inbox.replay(position))
        numbers = [int(received.cluster) for _, received in replayed]
        assert numbers == list(range(next_number, next_number + len(numbers)))
        assert next_number + len(numbers) >= acknowledged
        assert all(received.body == body_of(int(received.cluster)) for _, received in replayed)
        assert inbox.damaged_ranges == 0
        # What stands behind the last answer may have survived: it goes on from there, as a sender's answer was lost.
        next_number += len(numbers)
        position = inbox.end
        inbox.trim(position)
        inbox.close()
        spares = max(spares, len(list(tmp_path.glob("*.spare"))))
    assert next_number > KILLS
    assert spares > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if _LIBC.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=1m") != 0:
        yield tmp_path / "unmounted"
        return
    yield folder
    if _LIBC.umount2(str(folder).encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), "umount")


def _fill(inbox: Inbox, body: bytes) -> list[int]:
    """Append until the inbox pushes back."""
    ends: list[int] = []
    with pytest.raises(Reject, match="disk of the inbox is full") as rejected:  # noqa: PT012 - the last of many raises
        while len(ends) < 100:
            ends += inbox.append([request(body)])
    assert rejected.value.retry_after_seconds > 0
    return ends


def test_a_full_disk_pushes_back_and_recovers_without_restart(small_disk: Path) -> None:
    """With no space left nothing half-written stays; once space is there, appends go on and replay shows all."""
    mounted = small_disk.exists()
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    inbox = Inbox.open(small_disk, segment_bytes=1 << 30, bytes_max=1 << 40)
    ballast = small_disk / "ballast"
    try:
        if mounted:
            ballast.write_bytes(bytes(400_000))
        else:  # no right to mount: a limit on the size of files refuses in the middle of a write just so
            resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, old_limit[1]))
        ends = _fill(inbox, bytes(70_001))
        newest = max(small_disk.glob("*.log"))
        assert inbox.end == ends[-1] <= newest.stat().st_size <= ends[-1] + END_BYTES
        if mounted:
            ballast.unlink()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        ends += inbox.append([request(b"after")])
        assert [end for end, _ in inbox.replay(0)] == ends
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
        inbox.close()
    inbox = Inbox.open(small_disk, segment_bytes=1 << 30, bytes_max=1 << 40)
    assert [end for end, _ in inbox.replay(0)] == ends
    inbox.close()


def test_a_full_disk_refuses_a_new_segment(small_disk: Path) -> None:
    """The push-back is the same where a segment is due, and those before it stay readable."""
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    mounted = small_disk.exists()
    inbox = Inbox.open(small_disk, segment_bytes=100_000, bytes_max=1 << 40)
    try:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, old_limit[1]))
        body = bytes(30_000) if mounted else bytes(130_000)
        if not mounted:
            inbox.append([request(bytes(100_000))])
        ends = _fill(inbox, body)
        inbox.trim(inbox.end)
        assert inbox.start <= inbox.end
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        ends = inbox.append([request(body)])
        assert list(inbox.replay(inbox.start))[-1] == (ends[-1], request(body))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
        inbox.close()


@pytest.mark.parametrize("already", [0, 3])
def test_a_file_whose_sync_failed_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, already: int) -> None:
    """After a failed fdatasync the next append goes to a new file, and nothing of the failed one is replayed."""
    inbox = Inbox.open(tmp_path, segment_bytes=1 << 20, bytes_max=1 << 40)
    kept = [(inbox.append([request(bytes([i]))])[0], request(bytes([i]))) for i in range(already)]
    good_end = inbox.end
    real = os.fdatasync
    failed: list[int] = []

    def fails_once(fd: int) -> None:
        if not failed:
            failed.append(os.fstat(fd).st_ino)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        assert os.fstat(fd).st_ino not in failed, "a file whose sync failed is synced again"
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fails_once)
    # The kernel may refuse the cut as well, so that all of the failed append is still to be read.
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
    with pytest.raises(Reject, match="cannot be written"):
        inbox.append([request(b"lost")])
    assert inbox.end == good_end
    monkeypatch.undo()
    monkeypatch.setattr(os, "fdatasync", lambda fd: fails_once(fd))
    kept.append((inbox.append([request(b"good")])[0], request(b"good")))
    assert list(inbox.replay(0)) == kept
    inbox.close()
    monkeypatch.undo()
    inbox = Inbox.open(tmp_path, segment_bytes=1 << 20, bytes_max=1 << 40)
    assert list(inbox.replay(0)) == kept
    inbox.close()
