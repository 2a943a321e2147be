"""The bytes of the inbox: how one received request is a record, and how records are found again among damage.

A pure codec: it reads through a function that is given, and answers with values.

A record at position p, little-endian:

    magic          8 bytes   f0 9f 8c a7 49 4e 42 31
    position       u64       p itself: a stale or moved block is not taken for this record
    meta_bytes     u32
    body_bytes     u32
    body_checksum  u64       XXH3-64 of the body, seeded
    head_checksum  u64       XXH3-64 of the 32 bytes above and the meta, seeded
    meta           JSON object of all fields of `Received` but the body, UTF-8
    body           as received

An end mark at position p, which the record that is written there next overwrites:

    magic          8 bytes   f0 9f 8c a7 49 4e 42 45
    position       u64       p itself
    checksum       u64       XXH3-64 of the 16 bytes above, seeded

A *sign* is either of them, standing at its own position. What stands before a sign was written to its end, so a reader
that finds no end of a file by its length (the file may be an old one, overwritten) tells by it what was acknowledged.

The seed derives from the folder's random id, which no sender knows: a body that holds bytes of an inbox cannot pass for
a record when a reader looks for the next one behind damage. Pinned by golden bytes in ``tests/unit/test_inbox.py``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import xxhash

from catchment.errors import Invalid
from collectors.records import Received

MAGIC = b"\xf0\x9f\x8c\xa7INB1"
END_MAGIC = b"\xf0\x9f\x8c\xa7INBE"
META_BYTES_MAX = 64 * 1024
"""Names and labels are short; a damaged length must not make a reader ask for gigabytes."""

_PREFIX = struct.Struct("<8sQIIQ")
_CHECKSUM = struct.Struct("<Q")
HEAD_BYTES = _PREFIX.size + _CHECKSUM.size
_END_PREFIX = struct.Struct("<8sQ")
END_BYTES = _END_PREFIX.size + _CHECKSUM.size
_COMMON_MAGIC = MAGIC[:7]
_SCAN_BYTES = 1 << 20

Read = Callable[[int, int], bytes]
"""``read(position, length)``: up to ``length`` bytes; fewer only where the bytes end."""


@dataclass(frozen=True, slots=True)
class Valid:
    """A whole record in ``[position, end)``."""

    position: int
    end: int
    received: Received


@dataclass(frozen=True, slots=True)
class Damaged:
    """Bytes in ``[position, end)`` that are no whole record, and why."""

    position: int
    end: int
    reason: str
    complete: bool
    """A sign stands behind them, or the bytes end where the record should, so they may have been acknowledged."""


@dataclass(frozen=True, slots=True)
class _Head:
    meta: bytes
    body_position: int
    end: int
    body_checksum: int


def seed_of(folder_id: str) -> int:
    """The seed of a folder's checksums."""
    return xxhash.xxh3_64_intdigest(folder_id.encode())


def encode(received: Received, position: int, seed: int) -> bytes:
    """The head and meta of the record at ``position``; the body follows them as it is.

    Raises:
        Invalid: names and labels are beyond `META_BYTES_MAX`.
    """
    fields = {
        "signal": received.signal,
        "tenant": received.tenant,
        "cluster": received.cluster,
        "labels": received.labels,
        "content_type": received.content_type,
        "content_encoding": received.content_encoding,
        "received_ns": received.received_ns,
        "policy_version": received.policy_version,
    }
    meta = json.dumps(fields, separators=(",", ":")).encode()
    if len(meta) > META_BYTES_MAX:
        raise Invalid(f"tenant, cluster and labels take {len(meta)} bytes, at most {META_BYTES_MAX} are kept")
    body_checksum = xxhash.xxh3_64_intdigest(received.body, seed)
    prefix = _PREFIX.pack(MAGIC, position, len(meta), len(received.body), body_checksum)
    return prefix + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(prefix + meta, seed)) + meta


def end_mark(position: int, seed: int) -> bytes:
    """The end mark at ``position``."""
    prefix = _END_PREFIX.pack(END_MAGIC, position)
    return prefix + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(prefix, seed))


def scan(read: Read, start: int, end: int, seed: int) -> Iterator[Valid | Damaged]:
    """All that stands from ``start`` to an end mark or ``end``, in order, without gaps: whole records and damage."""
    position = start
    while position < end:
        head = _head_at(read, position, end, seed)
        if head is None:
            if _is_end_mark(read(position, END_BYTES), position, seed):
                return
            following = _next_sign(read, position + 1, end, seed)
            yield Damaged(position, following, "no record head", following < end)
            position = following
            continue
        if head.end > end:
            following = _next_sign(read, position + 1, end, seed)
            yield Damaged(position, following, "record is cut short", following < end)
            position = following
            continue
        body = read(head.body_position, head.end - head.body_position)
        if len(body) != head.end - head.body_position:
            yield Damaged(position, head.end, "bytes are missing", True)
        elif xxhash.xxh3_64_intdigest(body, seed) != head.body_checksum:
            complete = head.end == end or _next_sign(read, head.end, end, seed) < end
            yield Damaged(position, head.end, "checksum of the body differs", complete)
        else:
            yield Valid(position, head.end, Received(**json.loads(head.meta), body=body))
        position = head.end


def _head_at(read: Read, position: int, end: int, seed: int) -> _Head | None:
    """The head at a position, if one stands there that was written for it."""
    raw = read(position, min(HEAD_BYTES + 512, end - position))
    if len(raw) < HEAD_BYTES:
        return None
    magic, own_position, meta_bytes, body_bytes, body_checksum = _PREFIX.unpack_from(raw)
    if magic != MAGIC or own_position != position or meta_bytes > META_BYTES_MAX:
        return None
    body_position = position + HEAD_BYTES + meta_bytes
    meta = raw[HEAD_BYTES : HEAD_BYTES + meta_bytes]
    if len(meta) < meta_bytes and body_position <= end:
        meta = read(position + HEAD_BYTES, meta_bytes)
    (checksum,) = _CHECKSUM.unpack_from(raw, _PREFIX.size)
    if xxhash.xxh3_64_intdigest(raw[: _PREFIX.size] + meta, seed) != checksum:
        return None
    return _Head(meta, body_position, body_position + body_bytes, body_checksum)


def _is_end_mark(raw: bytes, position: int, seed: int) -> bool:
    """Whether the bytes at a position begin with the end mark that was written for it."""
    return raw[:END_BYTES] == end_mark(position, seed)


def _next_sign(read: Read, position: int, end: int, seed: int) -> int:
    """Where the next record's head or end mark stands at or after ``position``; ``end`` if there is none."""
    overlap = END_BYTES
    while position < end:
        chunk = read(position, min(_SCAN_BYTES, end - position))
        found = chunk.find(_COMMON_MAGIC)
        while found >= 0:
            # A body may hold the magic any number of times, and an overwritten file is full of old heads; its own
            # position tells a sign from them without a read.
            own = int.from_bytes(chunk[found + len(MAGIC) : found + len(MAGIC) + 8], "little")
            if own == position + found and (
                _is_end_mark(chunk[found : found + END_BYTES], own, seed) or _head_at(read, own, end, seed) is not None
            ):
                return own
            found = chunk.find(_COMMON_MAGIC, found + 1)
        if len(chunk) <= overlap:
            return end
        position += len(chunk) - overlap
        if len(chunk) < _SCAN_BYTES:
            return end
    return end
