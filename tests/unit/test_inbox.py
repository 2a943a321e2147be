"""The inbox: its bytes, its lock, its limits, its damage."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from catchment.errors import CatchmentError, Corrupt, Invalid, Reject, TooNew
from collectors import inbox_format
from collectors.inbox import Inbox
from collectors.inbox_format import Damaged, Valid
from collectors.records import Received

ID = "0123456789abcdef0123456789abcdef"


def request(body: bytes, cluster: str = "tokyo-1") -> Received:
    """A request with this body."""
    return Received("metrics", "acme", cluster, '{"zone":"a"}', "application/x-protobuf", "", 7, "p1", body)


def open_inbox(
    folder: Path, *, segment_bytes: int = 1 << 20, bytes_max: int = 1 << 30, spare_bytes_max: int = 0
) -> Inbox:
    """Open with limits that do not matter unless given."""
    return Inbox.open(folder, segment_bytes=segment_bytes, bytes_max=bytes_max, spare_bytes_max=spare_bytes_max)


def test_the_bytes_of_a_record_are_golden() -> None:
    """A record's bytes never change, since inboxes written by older versions must be read."""
    head = inbox_format.encode(request(b"body"), 4096, inbox_format.seed_of(ID))
    assert head[:40].hex() == "f09f8ca7494e42310010000000000000b800000004000000d2cf5a0ea0832802db0870cd3ff6f01b"
    assert head[40:].decode() == (
        '{"signal":"metrics","tenant":"acme","cluster":"tokyo-1","labels":"{\\"zone\\":\\"a\\"}",'
        '"content_type":"application/x-protobuf","content_encoding":"","received_ns":7,"policy_version":"p1"}'
    )
    mark = inbox_format.end_mark(4096, inbox_format.seed_of(ID))
    assert mark.hex() == "f09f8ca7494e42450010000000000000dee8a53892a7072d"


def test_a_record_is_found_behind_damage_but_not_inside_a_body() -> None:
    """A body that holds a whole record of an inbox with another seed is skipped with the damage around it."""
    seed, foreign = inbox_format.seed_of(ID), inbox_format.seed_of("another")
    head_bytes = len(inbox_format.encode(request(b""), 0, seed))
    forged = inbox_format.encode(request(b"x"), head_bytes, foreign) + b"x"
    first = inbox_format.encode(request(forged), 0, seed) + forged
    second = inbox_format.encode(request(b"good"), len(first), seed) + b"good"
    data = b"\0" + first[1:] + second

    def read(position: int, length: int) -> bytes:
        return data[position : position + length]

    damaged, valid = inbox_format.scan(read, 0, len(data), seed)
    assert isinstance(damaged, Damaged)
    assert (damaged.position, damaged.end, damaged.complete) == (0, len(first), True)
    assert isinstance(valid, Valid)
    assert (valid.position, valid.end, valid.received) == (len(first), len(data), request(b"good"))


def test_a_record_is_found_behind_more_damage_than_one_read() -> None:
    """The search for the next record goes over the borders of its reads."""
    seed = inbox_format.seed_of(ID)
    for offset in range((1 << 20) - 20, (1 << 20) + 4):
        record = inbox_format.encode(request(b"good"), offset, seed) + b"good"
        data = b"\1" * offset + record
        found = list(inbox_format.scan(lambda p, n, d=data: d[p : p + n], 0, len(data), seed))  # type: ignore[misc]
        assert [(each.position, each.end) for each in found] == [(0, offset), (offset, len(data))]


def test_positions_go_on_over_segments_and_trims(tmp_path: Path) -> None:
    """Positions only rise: over segments, over trims and over openings."""
    inbox = open_inbox(tmp_path, segment_bytes=500)
    ends = [inbox.append([request(bytes(100))])[0] for _ in range(5)]
    assert len(list(tmp_path.glob("*.log"))) == 3
    inbox.trim(ends[-1])
    assert [path.name for path in tmp_path.glob("*.log")] == [f"{ends[3]:020d}.log"]
    inbox.close()
    inbox = open_inbox(tmp_path)
    assert (inbox.start, inbox.end) == (ends[3], ends[4])
    assert inbox.append([request(b"")])[0] > ends[4]
    inbox.close()


def test_many_records_of_one_append_share_it(tmp_path: Path) -> None:
    """More records than one system call takes are written whole and in order."""
    inbox = open_inbox(tmp_path)
    batch = [request(str(i).encode()) for i in range(2500)]
    ends = inbox.append(batch)
    assert list(inbox.replay(0)) == list(zip(ends, batch, strict=True))
    assert inbox.append([]) == []
    inbox.close()


def test_a_second_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    """One folder, one process: the second one gets an error that names the first."""
    inbox = open_inbox(tmp_path)
    program = (
        "import sys; from collectors.inbox import Inbox\n"
        "try: Inbox.open(sys.argv[1], segment_bytes=1, bytes_max=1)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    told = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"CatchmentError another process (pid {os.getpid()}) uses this inbox")
    inbox.close()
    open_inbox(tmp_path).close()


def test_a_full_inbox_rejects_until_it_is_trimmed(tmp_path: Path) -> None:
    """At its limit the inbox pushes back; a trim lets senders in again."""
    inbox = open_inbox(tmp_path, segment_bytes=1000, bytes_max=3500)
    ends = [inbox.append([request(bytes(800))])[0] for _ in range(3)]
    with pytest.raises(Reject, match="inbox is full"):
        inbox.append([request(bytes(800))])
    inbox.trim(ends[1])
    inbox.append([request(bytes(800))])
    assert len(list(inbox.replay(inbox.start))) == 2
    inbox.close()


def test_a_position_of_another_folder_is_refused(tmp_path: Path) -> None:
    """A consumed position that is not in this inbox is an error, not a guess."""
    inbox = open_inbox(tmp_path)
    inbox.append([request(b"x")])
    with pytest.raises(Corrupt, match="is not in this inbox"):
        list(inbox.replay(inbox.end + 1))
    inbox.close()


def test_damage_is_quarantined_once_and_counted(tmp_path: Path) -> None:
    """A record that fails its checksum is kept in a file of its own; those beside it are replayed."""
    inbox = open_inbox(tmp_path)
    ends = inbox.append([request(b"first"), request(b"second"), request(b"third")])
    path = tmp_path / f"{0:020d}.log"
    data = bytearray(path.read_bytes())
    data[ends[1] - 1] ^= 0xFF
    path.write_bytes(data)
    for _ in range(2):
        assert [received.body for _, received in inbox.replay(0)] == [b"first", b"third"]
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert kept.read_bytes() == data[ends[0] : ends[1]]
    assert inbox.damaged_bytes == 2 * (ends[1] - ends[0])
    assert inbox.size_bytes == ends[2] + ends[1] - ends[0]
    inbox.close()


def test_a_lost_id_or_lost_segments_are_an_error(tmp_path: Path) -> None:
    """A folder that lost a part of itself is never taken for a new one."""
    inbox = open_inbox(tmp_path)
    inbox.append([request(b"x")])
    inbox.close()
    name = (tmp_path / "id").read_text()
    (tmp_path / "id").unlink()
    with pytest.raises(Corrupt, match="no file `id`"):
        open_inbox(tmp_path)
    (tmp_path / "id").write_text(name)
    (tmp_path / f"{0:020d}.log").unlink()
    with pytest.raises(Corrupt, match="lost its segments"):
        open_inbox(tmp_path)


def test_an_inbox_of_a_newer_version_is_held(tmp_path: Path) -> None:
    """A folder that a newer version wrote is not touched."""
    open_inbox(tmp_path).close()
    (tmp_path / "id").write_text(f"catchment-inbox 2 {ID}\n")
    with pytest.raises(TooNew):
        open_inbox(tmp_path)


def test_a_crash_at_birth_leaves_a_folder_that_can_be_born_again(tmp_path: Path) -> None:
    """The id is written last: without it, an empty first segment is no inbox yet."""
    (tmp_path / f"{0:020d}.log").touch()
    open_inbox(tmp_path).close()
    assert (tmp_path / "id").exists()


def test_a_path_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """A folder that cannot be made says so in one line."""
    (tmp_path / "file").touch()
    with pytest.raises(CatchmentError, match="inbox cannot be opened"):
        open_inbox(tmp_path / "file" / "inbox")


def test_names_that_are_too_long_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    """The head of a record is bounded; a batch with one beyond it is refused whole."""
    inbox = open_inbox(tmp_path)
    with pytest.raises(Invalid, match="at most"):
        inbox.append([request(b"x"), request(b"x", cluster="c" * inbox_format.META_BYTES_MAX)])
    assert (inbox.end, inbox.size_bytes) == (0, 0)
    inbox.close()


def overwritten(folder: Path, *, spare_bytes_max: int = 1 << 20) -> tuple[Inbox, int]:
    """An inbox whose newest segment, which holds one short record, overwrites a spare; and where that record ends."""
    inbox = open_inbox(folder, segment_bytes=500, spare_bytes_max=spare_bytes_max)
    for number in range(3):
        inbox.append([request(bytes([number + 1]) * 700)])
    inbox.trim(inbox.end)
    spares = {path.stat().st_ino for path in folder.glob("*.spare")}
    (end,) = inbox.append([request(b"short")])
    assert newest(folder).stat().st_ino in spares
    assert newest(folder).stat().st_size > 700
    return inbox, end


def newest(folder: Path) -> Path:
    """The file of the newest segment."""
    return max(folder.glob("*.log"))


def test_old_bytes_of_an_overwritten_segment_are_nothing(tmp_path: Path) -> None:
    """What stands behind the end mark is no damage, no record and not in the way of what comes next."""
    inbox, end = overwritten(tmp_path)
    inbox.close()
    inbox = open_inbox(tmp_path)
    assert inbox.end == end
    inbox.append([request(b"next")])
    bodies = [received.body for _, received in inbox.replay(inbox.start)]
    assert bodies[-2:] == [b"short", b"next"]
    assert (inbox.damaged_ranges, list((tmp_path / "quarantine").iterdir())) == (0, [])
    inbox.close()


@pytest.mark.parametrize("part", ["head", "body", "end mark"])
def test_damage_of_the_last_record_in_an_overwritten_segment_is_seen(tmp_path: Path, part: str) -> None:
    """The end mark tells a damaged record, which is quarantined, from old bytes; a damaged mark costs no record."""
    inbox, end = overwritten(tmp_path)
    start = int(newest(tmp_path).stem)
    inbox.close()
    data = bytearray(newest(tmp_path).read_bytes())
    data[{"head": 10, "body": end - start - 1, "end mark": end - start + 3}[part]] ^= 0xFF
    newest(tmp_path).write_bytes(data)
    for _ in range(2):
        inbox = open_inbox(tmp_path)
        assert inbox.end >= end
        inbox.append([request(b"next")])
        bodies = [received.body for _, received in inbox.replay(start)]
        if part == "end mark":
            assert bodies[0] == b"short"
        else:
            assert b"short" not in bodies
            (kept,) = (tmp_path / "quarantine").iterdir()
            assert kept.read_bytes() == data[: end - start]
        assert bodies[-1] == b"next"
        inbox.close()


def test_spares_are_bounded_and_given_up_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares take what the limits leave; a smaller limit deletes some at opening, a full disk all of them."""
    inbox = open_inbox(tmp_path, segment_bytes=500, bytes_max=8000, spare_bytes_max=4000)
    for _ in range(8):
        inbox.append([request(bytes(700))])
    inbox.trim(inbox.end)
    assert len(list(tmp_path.glob("*.spare"))) == 4
    inbox.close()
    inbox = open_inbox(tmp_path, segment_bytes=500, bytes_max=8000, spare_bytes_max=2000)
    assert len(list(tmp_path.glob("*.spare"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(Reject, match="disk of the inbox is full"):
            inbox.append([request(b"x")])
    assert list(tmp_path.glob("*.spare")) == []
    assert inbox.append([request(b"x")]) == [inbox.end]
    inbox.close()


def test_spares_leave_the_inbox_its_room(tmp_path: Path) -> None:
    """Segments and spares together stay within the inbox's limit."""
    inbox = open_inbox(tmp_path, segment_bytes=500, bytes_max=4000, spare_bytes_max=1 << 20)
    for _ in range(40):
        (end,) = inbox.append([request(bytes(700))])
        inbox.trim(end)
        on_disk = sum(path.stat().st_size for pattern in ("*.log", "*.spare") for path in tmp_path.glob(pattern))
        assert on_disk <= 4000
    inbox.close()


def test_a_file_whose_sync_failed_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of it may be taken for clean without being on disk, so a trim deletes it."""
    inbox = open_inbox(tmp_path, spare_bytes_max=1 << 20)
    inbox.append([request(b"good")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(Reject):
            inbox.append([request(b"lost")])
    inbox.append([request(b"next")])
    inbox.trim(inbox.end)
    assert len(list(tmp_path.glob("*.log"))) == 1
    assert list(tmp_path.glob("*.spare")) == []
    inbox.close()
