"""A hash index from 64-bit keys to 32-bit values whose look-ups are columns, not loops.

Open addressing with linear probing in two numpy arrays; each probing round works on all keys that are still open, and
with at most half of the slots used nearly all are settled in the first. About 40 ns a look-up at 100,000 keys.

Rules:
1. Keys are already hashes (their bits are evenly spread). The key 0 stands for "free slot" and is stored as 1.
2. A key keeps its slot until `rebuilt`; there is no single removal, so a probe never has to skip a grave.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]
Int32s = npt.NDArray[np.int32]

ABSENT = -1
_CAPACITY_MIN = 1024


def first_seen(keys: UInt64s) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The rows in which a key stands for the first time, ascending, and for each row the place of its key among these.

    In the order of arrival, so that neighbours in requests stay neighbours in tables.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[inverse]


class HashIndex:
    """Maps uint64 keys to int32 values."""

    def __init__(self, capacity: int = _CAPACITY_MIN) -> None:
        self._resize(capacity)

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """Memory held by the table."""
        return self._keys.nbytes + self._values.nbytes

    def find(self, keys: UInt64s) -> Int32s:
        """The value of each key, `ABSENT` where there is none."""
        keys = np.maximum(keys, np.uint64(1))
        slots = (keys >> self._shift).astype(np.intp)
        found = self._keys[slots]
        values = np.where(found == keys, self._values[slots], ABSENT).astype(np.int32)
        still_open = np.flatnonzero((found != keys) & (found != 0))
        while len(still_open):
            slots[still_open] = (slots[still_open] + 1) & self._mask
            found = self._keys[slots[still_open]]
            hit = found == keys[still_open]
            values[still_open[hit]] = self._values[slots[still_open[hit]]]
            still_open = still_open[~hit & (found != 0)]
        return values

    def insert(self, keys: UInt64s, values: Int32s) -> None:
        """Add keys, which must be distinct; a key that is there already gets the new value."""
        if not len(keys):
            return
        if (self._count + len(keys)) * 2 > len(self._keys):
            old_keys, old_values = self.items()
            self._resize(self._count + len(keys))
            self._place(old_keys, old_values)
        self._place(np.maximum(keys, np.uint64(1)), values)

    def items(self) -> tuple[UInt64s, Int32s]:
        """All keys and their values, in no order."""
        used = self._keys != 0
        return self._keys[used], self._values[used]

    def _resize(self, wanted: int) -> None:
        bits = max(int(np.ceil(np.log2(max(wanted, _CAPACITY_MIN)))) + 1, 11)
        self._keys: UInt64s = np.zeros(1 << bits, np.uint64)
        self._values: Int32s = np.zeros(1 << bits, np.int32)
        self._mask = (1 << bits) - 1
        self._shift = np.uint64(64 - bits)
        self._count = 0

    def _place(self, keys: UInt64s, values: Int32s) -> None:
        slots = (keys >> self._shift).astype(np.intp)
        pending = np.arange(len(keys))
        while len(pending):
            at = slots[pending]
            free = self._keys[at] == 0
            # Several keys may claim one free slot: the last write wins it, the others probe on.
            self._keys[at[free]] = keys[pending[free]]
            mine = self._keys[at] == keys[pending]
            self._values[at[mine]] = values[pending[mine]]
            self._count += len(np.unique(at[mine & free]))
            pending = pending[~mine]
            slots[pending] = (slots[pending] + 1) & self._mask
