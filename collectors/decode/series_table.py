"""Which Prometheus series a raw key stands for: a cache, so that labels are read once, not with every sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from catchment.identity import canonical_attributes
from collectors.decode.attributes import AttributeReader, Unreadable
from collectors.decode.families import Role, Series
from collectors.decode.points import Described
from collectors.hash_index import ABSENT, HashIndex, first_seen
from collectors.reasons import Reason

Int32s = npt.NDArray[np.int32]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Raw = TypeVar("Raw")

_SCOPE = canonical_attributes({"name": "", "version": "", "attributes": {}})
_SLOTS_MAX = 1 << 18


class SeriesTable(Generic[Raw]):
    """Slots of series.

    Columns, by slot:
        role: `Role`
        group: what the samples of one point share; in-process
        bound: upper bound of a bucket
        usable: whether it can be used

    A series that cannot be used has a slot, too, so that it costs no more than another; its samples become points that
    `describe` refuses.

    Args:
        read: the series that its raw form stands for; raises `Unreadable`. Raw forms are kept, series are not: they are
            larger, and asked for again only where a stream is new.
        slots_max: beyond it all is forgotten, and read again.
    """

    def __init__(self, read: Callable[[Raw], Series], slots_max: int = _SLOTS_MAX) -> None:
        self._read = read
        self._slots_max = slots_max
        self._clear()

    def _clear(self) -> None:
        self._index = HashIndex()
        self.role: npt.NDArray[np.int8] = np.zeros(1024, np.int8)
        self.group: UInt64s = np.zeros(1024, np.uint64)
        self.bound: Float64s = np.zeros(1024)
        self.usable: npt.NDArray[np.bool_] = np.zeros(1024, np.bool_)
        self._raw: list[Raw] = []

    def __len__(self) -> int:
        return len(self._raw)

    def slots(self, keys: UInt64s, raw: Callable[[int], Raw]) -> Int32s:
        """The slot of each row. All that were handed out before are void where the table was full.

        Args:
            keys: of all that tells one series from another, its declared type included; one a row.
            raw: the raw form of a row; asked for the first row of a key that is new.
        """
        if len(self) > self._slots_max:
            self._clear()
        return self.more_slots(keys, raw)

    def more_slots(self, keys: UInt64s, raw: Callable[[int], Raw]) -> Int32s:
        """As `slots`, but all that were handed out stay."""
        slots = self._index.find(keys)
        unknown = np.flatnonzero(slots == ABSENT)
        if len(unknown):
            first, of_first = first_seen(keys[unknown])
            new = unknown[first]
            made = len(self) + np.arange(len(new), dtype=np.int32)
            for row, key in zip(new.tolist(), keys[new].tolist(), strict=True):
                self._add(key, raw(row))
            self._index.insert(keys[new], made)
            slots[unknown] = made[of_first]
        return slots

    def _add(self, key: int, raw: Raw) -> None:
        at = len(self)
        if at == len(self.role):
            self.role = np.concatenate((self.role, np.zeros_like(self.role)))
            self.group = np.concatenate((self.group, np.zeros_like(self.group)))
            self.bound = np.concatenate((self.bound, np.zeros_like(self.bound)))
            self.usable = np.concatenate((self.usable, np.zeros_like(self.usable)))
        try:
            series = self._read(raw)
            self.role[at], self.group[at], self.bound[at] = series.role, series.group, series.bound
            self.usable[at] = True
        except Unreadable:
            self.role[at], self.group[at], self.usable[at] = Role.GAUGE, key, False
        self._raw.append(raw)

    def raw(self, slot: int) -> Raw:
        """The raw form of the series that a slot stands for."""
        return self._raw[slot]

    def describe(self, slots: Int32s, reader: AttributeReader) -> Iterator[Described | Reason]:
        """The identity of the points that some slots have samples of."""
        for slot in slots.tolist():
            try:
                series = self._read(self._raw[slot])
                resource = reader.labels(series.resource)
                point = reader.labels(series.labels)
                resource_text = canonical_attributes(resource)
                yield Described(series.metric.encode(), series.unit.encode(), _SCOPE, resource, resource_text, point)
            except Unreadable as error:
                yield error.reason
