"""A death before and after every system call that changes the inbox, and a machine that dies with any pages written."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors.inbox import Inbox
from collectors.records import Received

SEGMENT_BYTES = 3000
SPARE_BYTES_MAX = 1 << 20
_PAGE_BYTES = 64
_CALLS = ("pwritev", "pwrite", "fdatasync", "fsync", "ftruncate", "rename", "unlink")


class _Died(BaseException):
    """The process is no more: nothing behind it runs but what lets go of the files."""


class _Mortal:
    """Counts system calls and dies at one of them; a write that it dies in leaves a part of its bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies_at: int, part: float) -> None:
        self.calls = 0
        self.dies_at = dies_at
        self._part = part
        self._open: set[int] = set()
        open_file, close_file = os.open, os.close

        def opened(*args: Any, **kwargs: Any) -> int:
            fd = open_file(*args, **kwargs)
            self._open.add(fd)
            return fd

        def closed(fd: int) -> None:
            self._open.discard(fd)
            close_file(fd)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "close", closed)
        for name in _CALLS:
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def bury(self) -> None:
        """Let go of what the dead had open, as the kernel does."""
        for fd in list(self._open):
            os.close(fd)

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.calls >= self.dies_at:
                raise _Died
            self.calls += 1
            if self.calls < self.dies_at:
                return real(*args, **kwargs)
            if name == "pwritev":
                whole = b"".join(args[1])
                os.lseek(args[0], args[2], os.SEEK_SET)
                os.write(args[0], whole[: int(len(whole) * self._part)])
            elif self._part > 0.5:
                real(*args, **kwargs)
            raise _Died

        return call


def request(number: int) -> Received:
    """A request whose body tells its number; all of one length, so that old and new records meet at the borders."""
    body = random.Random(number).randbytes(700)
    return Received("metrics", "acme", f"{number:09d}", "{}", "application/x-protobuf", "", 7, "", body)


def open_inbox(folder: Path) -> Inbox:
    """Open with segments of a few records and room for spares."""
    return Inbox.open(folder, segment_bytes=SEGMENT_BYTES, bytes_max=1 << 30, spare_bytes_max=SPARE_BYTES_MAX)


def _live(folder: Path, acknowledged: list[int]) -> None:
    """Open, append and trim until death; note what was acknowledged. A trim leaves the last three requests."""
    try:
        inbox = open_inbox(folder)
        ends = [end for end, _ in inbox.replay(inbox.start)]
        number = acknowledged[-1] + 1 if acknowledged else 0
        while True:
            batch = list(range(number, number + 1 + number % 3))
            ends += inbox.append([request(each) for each in batch])
            acknowledged += batch
            number += len(batch)
            if len(ends) > 3:
                inbox.trim(ends[-4])
    except _Died:
        return


def _reborn(folder: Path, acknowledged: list[int]) -> Iterator[int]:
    """The numbers that are replayed, each checked to be as it was."""
    inbox = open_inbox(folder)
    try:
        for _, received in inbox.replay(inbox.start):
            number = int(received.cluster)
            assert received == request(number)
            yield number
        assert inbox.damaged_ranges == 0
    finally:
        inbox.close()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.99, 1.0])
def test_a_death_at_every_system_call_loses_nothing_and_finds_nothing_old(tmp_path: Path, part: float) -> None:
    """Through many lives of overwritten files: what was acknowledged is there, and at most the last append more."""
    acknowledged: list[int] = []
    overwritten = 0
    for dies_at in range(1, 90):
        spares = {path.stat().st_ino for path in tmp_path.glob("*.spare")}
        with pytest.MonkeyPatch.context() as monkeypatch:
            mortal = _Mortal(monkeypatch, dies_at, part)
            _live(tmp_path, acknowledged)
            mortal.bury()
            assert mortal.calls == dies_at
        overwritten += len(spares & {path.stat().st_ino for path in tmp_path.glob("*.log")})
        if not (tmp_path / "id").exists():
            continue
        found = list(_reborn(tmp_path, acknowledged))
        if not found:
            assert acknowledged == []
            continue
        assert found == list(range(found[0], found[-1] + 1))
        last = acknowledged[-1] if acknowledged else -1
        assert found[-1] >= last
        assert found[-1] <= last + 3
        assert found[0] <= max(last - 2, 0)
        # What was written and not answered may be there: the sender's next request has the next number.
        acknowledged += range(last + 1, found[-1] + 1)
    assert overwritten > 10


def test_a_machine_that_dies_with_any_pages_written_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """Of an append that was not answered any pages may be new and the rest old: those before it are replayed whole."""
    generator = random.Random(5)
    acknowledged: list[int] = []
    inbox = open_inbox(tmp_path)
    for _ in range(400):
        old = {
            path.stat().st_ino: path.read_bytes() for pattern in ("*.log", "*.spare") for path in tmp_path.glob(pattern)
        }
        number = (acknowledged[-1] if acknowledged else 0) + 1
        batch = [request(each) for each in range(number, number + generator.randint(1, 3))]
        before = inbox.end
        ends = inbox.append(batch)
        newest = inbox._path(inbox._bases[-1])
        inbox.close()
        was, new = old.get(newest.stat().st_ino, b""), bytearray(newest.read_bytes())
        first = (before - inbox._bases[-1]) // _PAGE_BYTES * _PAGE_BYTES
        for start in range(first, len(new), _PAGE_BYTES):
            if generator.random() < 0.5:
                page = was[start : start + _PAGE_BYTES]
                new[start : start + _PAGE_BYTES] = page.ljust(len(new[start : start + _PAGE_BYTES]), b"\0")
        newest.write_bytes(new)
        inbox = open_inbox(tmp_path)
        assert before <= inbox.end <= ends[-1]
        replayed = list(inbox.replay(inbox.start))
        kept = [int(received.cluster) for end, received in replayed if end <= before]
        assert kept == acknowledged[len(acknowledged) - len(kept) :]
        assert len(kept) >= min(3, len(acknowledged))
        assert all(received == request(int(received.cluster)) for _, received in replayed)
        late = [received for end, received in replayed if end > before]
        assert all(received in batch for received in late)
        acknowledged += [int(received.cluster) for received in late]
        kept_ends = [end for end, _ in replayed]
        number = (acknowledged[-1] if acknowledged else 0) + 1
        for each in range(number, number + generator.randint(0, 4)):
            kept_ends += inbox.append([request(each)])
            acknowledged.append(each)
        if len(kept_ends) > 3:
            inbox.trim(kept_ends[-4])
    assert list(tmp_path.glob("*.spare"))
    inbox.close()
