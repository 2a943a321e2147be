"""Number points read in place: nearly all of them are *plain*, and need no parser.

A point is plain if its bytes are, in this order, what every SDK writes for a point without exemplars and flags:

    0x11 start (fixed64)            may be absent, as for most gauges
    0x19 time (fixed64)
    0x21 value (double) or 0x31 value (sfixed64)
    tail: attributes (field 7, tag 0x3a) up to the end, nothing else

So time and value are one gather of 8 bytes each, and the tail, tags and all, is the raw identity: one hash. Whether a
tail holds nothing but attributes is looked at once and remembered by its hash (`KnownTails`). What is not plain goes to
the parser (`collectors.decode.wire`), and gives the same there.

Source: https://github.com/open-telemetry/opentelemetry-proto (metrics.proto, NumberDataPoint); protobuf allows any
order of fields, and the last value of one that comes twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.raw import binary_buffers
from collectors.hash_index import ABSENT, HashIndex

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]

_START, _TIME, _DOUBLE, _INT, _ATTRIBUTE = 0x11, 0x19, 0x21, 0x31, 0x3A
_FIELD_BYTES = 9
# Time and value; a start before them is one field more.
_SHORTEST_BYTES = 2 * _FIELD_BYTES
# More attributes than this are for the parser, and for the limit that refuses them.
_ATTRIBUTES_MAX = 256
# Three bytes of varint: longer attributes are for the parser.
_LENGTH_BYTES_MAX = 3


@dataclass(frozen=True)
class Heads:
    """The fixed part of points, one row each; of those that are not plain, anything.

    Columns:
        plain: whether the fixed part is as it should be; the tail was not looked at
        start_ns, time_ns: UTC
        bits: the value's 8 bytes; ``is_int`` says whether they are an integer or a double
        tail, end: where the tail begins and ends in ``data``
    """

    plain: Bools
    start_ns: Int64s
    time_ns: Int64s
    bits: Int64s
    is_int: Bools
    tail: Int32s
    end: Int32s
    data: Bytes


def heads(points: pa.Array) -> Heads:
    """Read the fixed part of serialised ``NumberDataPoint`` messages (a binary column, not empty)."""
    offsets, data = binary_buffers(points)
    begin, end = offsets[:-1], offsets[1:]
    if len(data) < _SHORTEST_BYTES:
        data = np.concatenate((data, np.zeros(_SHORTEST_BYTES, np.uint8)))
    # A point too short to be plain, at the end, is read at a place that exists; its tail tells that it is none.
    last = np.int32(len(data) - _SHORTEST_BYTES)
    at = np.minimum(begin, last)
    has_start = data[at] == _START
    shift = has_start * np.int32(_FIELD_BYTES)
    words = np.ndarray(len(data) - 7, np.int64, data, 0, (1,))
    start_ns = words[at + np.int32(1)]
    if not has_start.all():
        start_ns[~has_start] = 0
    time_at = np.minimum(at + shift, last)
    value_tag = data[time_at + np.int32(_FIELD_BYTES)]
    is_int = value_tag == _INT
    tail = begin + np.int32(_SHORTEST_BYTES) + shift
    return Heads(
        plain=(data[time_at] == _TIME) & (is_int | (value_tag == _DOUBLE)) & (tail <= end),
        start_ns=start_ns,
        time_ns=words[time_at + np.int32(1)],
        bits=words[time_at + np.int32(1 + _FIELD_BYTES)],
        is_int=is_int,
        tail=np.minimum(tail, end),
        end=end,
        data=data,
    )


def halves(points: pa.Array, of: Heads) -> pa.Array:
    """Each point as two strings, its fixed part and its tail: they lie side by side, so nothing is copied."""
    offsets, _ = binary_buffers(points)
    cuts = np.empty(2 * len(of.tail) + 1, np.int32)
    cuts[0::2], cuts[1::2] = offsets, of.tail
    data = points.buffers()[2] or pa.py_buffer(b"")
    return pa.Array.from_buffers(pa.binary(), 2 * len(of.tail), [None, pa.py_buffer(cuts), data])


class KnownTails:
    """Remembers, by hash, which byte strings are fields of one tag and nothing else: attributes of points, labels of
    remote write's series. A cache: it may be emptied at any time.
    """

    def __init__(self, tails_max: int, tag: int = _ATTRIBUTE) -> None:
        self._tails_max = tails_max
        self._tag = tag
        self._index = HashIndex()

    def plain(self, hashes: UInt64s, of: Heads) -> Bools:
        """Which points are plain; ``hashes`` are those of their tails."""
        if not of.plain.all():
            rows = np.flatnonzero(of.plain)
            plain = np.zeros(len(hashes), np.bool_)
            plain[rows] = self.holds(hashes[rows], of.tail[rows], of.end[rows], of.data)
            return plain
        return self.holds(hashes, of.tail, of.end, of.data)

    def holds(self, hashes: UInt64s, tail: Int32s, end: Int32s, data: Bytes) -> Bools:
        """Which strings, ``data[tail:end]`` each, are such fields."""
        known = self._index.find(hashes)
        new = np.flatnonzero(known == ABSENT)
        if len(new):
            distinct, first, inverse = np.unique(hashes[new], return_index=True, return_inverse=True)
            rows = new[first]
            good = _fields_only(data, tail[rows], end[rows], self._tag).astype(np.int32)
            known[new] = good[inverse]
            if len(self._index) + len(distinct) > self._tails_max:
                self._index = HashIndex()
            if len(distinct) <= self._tails_max:
                self._index.insert(distinct, good)
        plain: Bools = known == 1
        return plain


def _fields_only(data: Bytes, begin: Int32s, end: Int32s, tag: int) -> Bools:
    """Whether each of some byte ranges is a sequence of fields of one tag; one step a field, all ranges at once."""
    at, end = begin.astype(np.int64), end.astype(np.int64)
    good = np.ones(len(at), np.bool_)
    last = len(data) - 1
    for _ in range(_ATTRIBUTES_MAX):
        rows = np.flatnonzero(good & (at < end))
        if not len(rows):
            return good
        place = at[rows]
        size, shift = np.zeros(len(rows), np.int64), 0
        more = np.ones(len(rows), np.bool_)
        tag_good = data[place] == tag
        for _ in range(_LENGTH_BYTES_MAX):
            place += more
            byte = data[np.minimum(place, last)]
            size += np.where(more, (byte & 0x7F).astype(np.int64) << shift, 0)
            more &= byte >= 0x80
            shift += 7
        at[rows] = place + 1 + size
        good[rows] = tag_good & ~more & (at[rows] <= end[rows])
    return good & (at >= end)
