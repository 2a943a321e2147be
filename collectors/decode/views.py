"""Arrow columns as numpy arrays, without copies where there are no nulls, at little cost each: a batch has many."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.raw import lengths_of

Int32s = npt.NDArray[np.int32]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

_ZERO = bytes(8)


def children(lists: pa.ListArray) -> tuple[Int32s, pa.Array]:
    """The row of the parent of each child, and the children."""
    return np.repeat(np.arange(len(lists), dtype=np.int32), lengths_of(lists.offsets.to_numpy())), lists.values


def joined_columns(parts: list[npt.NDArray[Scalar]]) -> npt.NDArray[Scalar]:
    """Some columns one after the other."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def values_of(array: pa.Array, dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    """The values of a column of numbers, seen as ``dtype``; 0 where it has none (fields of an absent message)."""
    return optional(array, dtype)[0] if array.null_count else _view(array, dtype)


def _view(array: pa.Array, dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    data = array.buffers()[1]
    if not data:
        return np.zeros(0, dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * np.dtype(dtype).itemsize)


def optional(array: pa.Array, dtype: type[Scalar]) -> tuple[npt.NDArray[Scalar], Bools]:
    """Values (0 where absent) and where they are present."""
    values = _view(array, dtype)
    if not array.null_count:
        return values, np.ones(len(array), bool)
    present = _unpacked(array.buffers()[0], array.offset, len(array))
    return np.where(present, values, dtype(0)), present


def bits_of(array: pa.Array) -> Bools:
    """A column of booleans; false where it has none."""
    if not len(array):
        return np.zeros(0, np.bool_)
    values = _unpacked(array.buffers()[1], array.offset, len(array))
    return values & _unpacked(array.buffers()[0], array.offset, len(array)) if array.null_count else values


def _unpacked(bits: pa.Buffer, offset: int, length: int) -> Bools:
    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8), count=offset + length, bitorder="little")
    return unpacked[offset:].view(np.bool_)


def or_nan(values: Float64s, present: Bools) -> Float64s:
    """Values, NaN where they are absent."""
    return values if present.all() else np.where(present, values, np.nan)


def nothing(n: int, dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    """Zeros for a column that a shape does not have; a view of one zero, which takes no memory."""
    return np.ndarray(n, dtype, _ZERO, strides=(0,))
