"""Raw bytes of identity: hashed many at a time, cut into their fields only where they were never seen before."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

# Another one in every process, so that nobody can prepare attributes whose hashes collide.
_SEED = secrets.randbits(63)
# An odd number: 2^64 over the golden ratio.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def hashes_of(columns: Sequence[pa.Array]) -> list[UInt64s]:
    """An in-memory hash of each string of some binary columns, for look-ups within this process (not `identity`'s).

    One call for all of them, since a call costs as much as a thousand strings.
    """
    frame = pl.concat([pl.Series("", column) for column in columns], rechunk=False).to_frame()
    hashes: UInt64s = frame.hash_rows(_SEED).to_numpy()
    ends = list(accumulate(len(column) for column in columns))
    return [hashes[end - len(column) : end] for column, end in zip(columns, ends, strict=True)]


def joined_fields(lists: pa.ListArray) -> tuple[pa.Array, UInt64s]:
    """Each row's fields as one string, for they lie side by side in the values' buffer, and a number for its cuts.

    Bytes that join to the same may be cut elsewhere: the number of fields and the sum of their places tell. It is to be
    added to the string's hash.
    """
    list_offsets = lists.offsets.to_numpy()
    _, offsets, data = lists.values.buffers()
    field_offsets = np.frombuffer(offsets, np.int32, len(lists.values) + 1) if offsets else np.zeros(1, np.int32)
    joined = pa.Array.from_buffers(
        pa.binary(), len(lists), [None, pa.py_buffer(field_offsets[list_offsets]), data or pa.py_buffer(b"")]
    )
    counts = lengths_of(list_offsets).astype(np.int64)
    sums = np.zeros(len(field_offsets), np.int64)
    np.cumsum(field_offsets[:-1], dtype=np.int64, out=sums[1:])
    sums = sums[list_offsets]
    places = lengths_of(sums) - counts * field_offsets[list_offsets[:-1]]
    return joined, (counts ^ (places << 16)).view(np.uint64) * _SPREAD


def binary_buffers(array: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Offsets and bytes of a binary column without nulls, as views."""
    _, offsets, data = array.buffers()
    if not offsets:
        return np.zeros(1, np.int32), np.zeros(0, np.uint8)
    at = np.frombuffer(offsets, np.int32, len(array) + 1, array.offset * 4)
    return at, np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)


def lengths_of(offsets: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.signedinteger]:
    """The length of each row of a ragged column; a tenth of the fixed cost of `numpy.diff`."""
    return offsets[1:] - offsets[:-1]
