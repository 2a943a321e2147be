"""How many distinct things: HyperLogLog registers of 64-bit hashes, merged by the larger rank of each register.

Source: Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog" (2007), with linear counting where few registers are in use.

Rules, pinned by tests:

1. 1,024 registers: the upper ten bits of a hash choose one; its rank is one more than the leading zeros of the other
   54, of which the lowest is not looked at: 1 to 54. A register that nothing fell into is not in the map.
2. The merge of two sketches is the sketch of both, whatever they share. So they may be merged in any order, twice too.
3. The standard error is 1.04 / sqrt(1024) = 3.3 %; up to some hundred things the estimate is nearly exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

UInt8s = npt.NDArray[np.uint8]
UInt64s = npt.NDArray[np.uint64]

REGISTERS = 1024
RELATIVE_ERROR = 1.04 / REGISTERS**0.5
_INDEX_BITS = 10
_REST = np.uint64((1 << (64 - _INDEX_BITS)) - 1)
ALPHA = 0.7213 / (1 + 1.079 / REGISTERS)


def registers_of(hashes: UInt64s) -> tuple[npt.NDArray[np.int64], UInt8s]:
    """The register that each hash falls into, and its rank there."""
    index = (hashes >> np.uint64(64 - _INDEX_BITS)).astype(np.int64)
    # 53 bits are exact in a float, whose exponent is their length.
    _, length = np.frexp(((hashes & _REST) >> np.uint64(1)).astype(np.float64))
    return index, (54 - length).astype(np.uint8)


def estimate(registers: Mapping[int, int]) -> float:
    """About how many distinct things registers have seen; `catchmentDistinct` of SQL is the same."""
    empty = REGISTERS - len(registers)
    raw = ALPHA * REGISTERS**2 / (empty + sum(2.0**-rank for rank in registers.values()))
    if raw <= 2.5 * REGISTERS and empty:
        return float(REGISTERS * np.log(REGISTERS / empty))
    return raw
