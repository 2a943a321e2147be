"""The key of an interval: two order-preserving float32 in an Int64 (rules 1 and 2 of the package)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

# s(upper) + HALF is not negative, so that it fills the low 32 bits of a key.
HALF: Final = np.int64(1 << 31)
_LOW_BITS: Final = np.int64((1 << 32) - 1)


class Histograms(NamedTuple):
    """Ragged histograms: ``offsets`` int64[n + 1], ``keys`` int64, ``counts`` uint64."""

    offsets: Int64s
    keys: Int64s
    counts: UInt64s


def _ordered(bounds: npt.NDArray[np.float32]) -> Int64s:
    """s(x) of rule 1, as int64."""
    bits = (bounds + np.float32(0)).view(np.int32)  # -0 + 0 is 0
    return np.where(bits >= 0, bits, bits ^ np.int32(0x7FFFFFFF)).astype(np.int64)


def bounds_of(ordered: Int64s) -> Float64s:
    """The inverse of s(x)."""
    bits = ordered.astype(np.int32)
    return np.where(bits >= 0, bits, bits ^ np.int32(0x7FFFFFFF)).view(np.float32).astype(np.float64)


def ordered_below(bounds: Float64s) -> Int64s:
    """s(x) of the largest float32 that is not above each bound."""
    with np.errstate(over="ignore"):
        near = bounds.astype(np.float32)
    return _ordered(np.where(near > bounds, np.nextafter(near, np.float32(-np.inf)), near))


def ordered_above(bounds: Float64s) -> Int64s:
    """s(x) of the smallest float32 that is not below each bound."""
    with np.errstate(over="ignore"):
        near = bounds.astype(np.float32)
    return _ordered(np.where(near < bounds, np.nextafter(near, np.float32(np.inf)), near))


def pack(lower: npt.ArrayLike, upper: npt.ArrayLike) -> Int64s:
    """Keys of the intervals (lower, upper], rounded outward to float32. NaN has no key and must not be passed."""
    low = ordered_below(np.atleast_1d(np.asarray(lower, np.float64)))
    high = ordered_above(np.atleast_1d(np.asarray(upper, np.float64)))
    keys: Int64s = (low << 32) + (high + HALF)
    return keys


def split(keys: Int64s) -> tuple[Int64s, Int64s]:
    """s(lower) and s(upper) of keys: integers that order as the bounds do."""
    return keys >> 32, (keys & _LOW_BITS) - HALF


def unpack(keys: Int64s) -> tuple[Float64s, Float64s]:
    """The lower and upper bounds of keys."""
    lower, upper = split(np.asarray(keys, np.int64))
    return bounds_of(lower), bounds_of(upper)


def take_histograms(histograms: Histograms, rows: npt.NDArray[np.intp]) -> Histograms:
    """Some histograms, in the order of ``rows``."""
    lengths = np.diff(histograms.offsets)[rows]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    index = np.repeat(histograms.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Histograms(offsets, histograms.keys[index], histograms.counts[index])


def concat_histograms(parts: list[Histograms]) -> Histograms:
    """Histograms one after the other."""
    ends = np.cumsum([len(part.keys) for part in parts])
    return Histograms(
        np.concatenate([[0], *(p.offsets[1:] + (end - len(p.keys)) for p, end in zip(parts, ends, strict=True))]),
        np.concatenate([p.keys for p in parts]),
        np.concatenate([p.counts for p in parts]),
    )
