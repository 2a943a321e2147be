"""Sums: unsigned integers (mod 2^64, which is what a digest wants), floats, and exact 128-bit decimals.

A decimal is two's complement in 128 bits. Where every value and every possible sum fits 63 bits the low words are
added as they are; otherwise four 32-bit limbs are added apart and their carries moved up once per group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.algebra.grouping import Grouping, Int64s, view
from catchment.errors import Bug

_LIMB_BITS = 32
_LIMB_MASK = np.int64((1 << _LIMB_BITS) - 1)
# |high word| of 10^38, the limit of decimal128(38, 0).
_HIGH_MAX = 10**38 >> 64


def merge_sum(column: pa.Array[Any], groups: Grouping) -> pa.Array[Any]:
    """One sum per group, in the column's type. No nulls.

    Raises:
        Bug: a decimal sum left the 38 digits.
    """
    if pa.types.is_decimal(column.type):
        return _merge_decimal(column, groups)
    values = view(column, column.type.to_pandas_dtype())
    return pa.array(groups.reduce(np.add, values), type=column.type)


def _merge_decimal(column: pa.Array[Any], groups: Grouping) -> pa.Array[Any]:
    words = view(column, np.dtype("V16")).view(np.int64).reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    if _narrow(low, high):
        low_sum = groups.reduce(np.add, low)
        high_sum = low_sum >> np.int64(63)
    else:
        low_sum, high_sum = _add_limbs(low, high, groups)
    result = np.stack((low_sum, high_sum), axis=1)
    return pa.Array.from_buffers(column.type, len(result), [None, pa.py_buffer(result)])


def _narrow(low: Int64s, high: Int64s) -> bool:
    """Whether any sum of these rows fits one signed word."""
    if not len(low):
        return True
    if not bool(np.all(high == low >> np.int64(63))):
        return False
    return max(int(low.max()), -int(low.min())) * len(low) < 1 << 63


def _add_limbs(low: Int64s, high: Int64s, groups: Grouping) -> tuple[Int64s, Int64s]:
    shift = np.int64(_LIMB_BITS)
    # Each limb is below 2^32 and there are fewer than 2^31 rows, so that no sum of limbs overflows.
    limbs = [
        low & _LIMB_MASK,
        (low.view(np.uint64) >> np.uint64(_LIMB_BITS)).view(np.int64),
        high & _LIMB_MASK,
        high >> shift,  # signed: carries the sign
    ]
    sums: list[npt.NDArray[np.int64]] = [groups.reduce(np.add, limb) for limb in limbs]
    for index in range(3):
        sums[index + 1] = sums[index + 1] + (sums[index] >> shift)
        sums[index] = sums[index] & _LIMB_MASK
    top = sums[3]
    if len(top) and max(int(top.max()), -int(top.min())) > _HIGH_MAX >> _LIMB_BITS:
        raise Bug("a sum_int is beyond 38 digits")
    return sums[0] | (sums[1] << shift), sums[2] | (top << shift)
