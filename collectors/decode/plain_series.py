"""Series of remote write 1.0 read in place: nearly all of them are *plain*, and need no parser.

A series is plain if its bytes are, in this order, what Prometheus writes for one sample of a series:

    labels (field 1, tag 0x0a) and nothing else
    0x12 0x10   0x09 value (double)   0x10 time (varint of six bytes)
    0x12 0x07                         0x10 time                         if the value is 0

Six bytes of varint are milliseconds from 1971 to 2109. So value and time are one gather each, and the labels, tags and
all, are the raw identity: one hash. Whether they hold nothing but labels is looked at once and remembered by their
hash. What is not plain goes to the parser (`collectors.decode.remote_wire`), and gives the same there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.plain import KnownTails
from collectors.decode.raw import binary_buffers, hashes_of

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

_LABEL = 0x0A
_WORD_BYTES = 8
_WHOLE_BYTES, _ZERO_BYTES = 18, 9
# Of the eight bytes at the end: the tag of the time, then five bytes of a varint that go on and one that ends it.
_TAG_MASK, _TAG = np.uint64(0x80808080_8080FF00), np.uint64(0x00808080_80801000)
_LABELS = KnownTails(tails_max=1 << 18, tag=_LABEL)


@dataclass(frozen=True)
class PlainSeries:
    """Series, one row each; of those that are not plain, anything.

    Columns:
        plain: whether the row can be used
        labels: hash of the labels
        labels_end: where they end, within the row
        time_ms, value: of its sample
    """

    plain: Bools
    labels: UInt64s
    labels_end: Int32s
    time_ms: Int64s
    value: Float64s


def plain_series(series: pa.Array) -> PlainSeries:
    """Read serialised ``TimeSeries`` messages in place (a binary column, not empty)."""
    offsets, data = binary_buffers(series)
    begin, end = offsets[:-1], offsets[1:]
    if len(data) < _WHOLE_BYTES:
        data = np.concatenate((data, np.zeros(_WHOLE_BYTES, np.uint8)))
    words = np.ndarray(len(data) - _WORD_BYTES + 1, np.uint64, data, 0, (1,))
    last = words[np.maximum(end - np.int32(_WORD_BYTES), 0)]
    at = np.maximum(end - np.int32(_WHOLE_BYTES), 0)
    head = words[at]
    is_whole = ((head & np.uint64(0xFFFFFF)) == np.uint64(0x091012)) & (end - begin >= _WHOLE_BYTES)
    is_zero = data[np.maximum(end - np.int32(_ZERO_BYTES), 0)] == 0x12
    is_zero &= ((last & np.uint64(0xFF)) == np.uint64(0x07)) & (end - begin >= _ZERO_BYTES)
    plain = ((last & _TAG_MASK) == _TAG) & (is_whole | is_zero)
    value = words[at + np.int32(3)].view(np.float64)
    if not is_whole.all():
        value[~is_whole] = 0.0
    tail_bytes = np.where(is_whole, np.int32(_WHOLE_BYTES), np.int32(_ZERO_BYTES))
    cut = np.where(plain, end - tail_bytes, end)
    hashes = _hashes(series, offsets, cut)
    if plain.all():
        plain = _LABELS.holds(hashes, begin, cut, data)
    else:
        rows = np.flatnonzero(plain)
        plain[rows] = _LABELS.holds(hashes[rows], begin[rows], cut[rows], data)
    return PlainSeries(plain, hashes, cut - begin, _time_ms(last), value)


def _time_ms(last: UInt64s) -> Int64s:
    """The varint in the upper six bytes of words."""
    time = np.zeros(len(last), np.uint64)
    for byte in range(6):
        time |= ((last >> np.uint64(16 + 8 * byte)) & np.uint64(0x7F)) << np.uint64(7 * byte)
    return time.view(np.int64)


def _hashes(series: pa.Array, offsets: Int32s, cut: Int32s) -> UInt64s:
    """The hash of the first part of each row: the parts lie side by side, so nothing is copied."""
    cuts = np.empty(2 * len(cut) + 1, np.int32)
    cuts[0::2], cuts[1::2] = offsets, cut
    data = series.buffers()[2] or pa.py_buffer(b"")
    halves = pa.Array.from_buffers(pa.binary(), 2 * len(cut), [None, pa.py_buffer(cuts), data])
    return hashes_of([halves])[0][0::2]
