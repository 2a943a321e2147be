"""The series of remote write: from a raw key to what its samples are, as of the types that are known then.

Two steps, since types come in other requests than samples. A *row* stands for a raw series of one place: its labels
were read and checked once, when it was first seen. A *slot* of the `SeriesTable` stands for such a series with its
type; when a type of the place changes, rows get their slot anew. Both are caches: `forget` empties them, and raises
``generation``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catchment.identity import mix
from catchment.limits import Limits
from collectors.decode.attributes import AttributeReader, Unreadable
from collectors.decode.families import NAME, MetricType, Role, Series, series_of
from collectors.decode.remote_wire import Malformed, RawSeries, labels_of
from collectors.decode.series_table import SeriesTable
from collectors.hash_index import ABSENT, HashIndex, first_seen
from collectors.metric_types import Learnt, MetricTypes
from collectors.reasons import Reason

Int32s = npt.NDArray[np.int32]
UInt64s = npt.NDArray[np.uint64]

_SUFFIXES = ("_total", "_bucket", "_count", "_sum", "_created")
# Those of the samples that do not have their family's name, by its type.
_PART_SUFFIXES = {
    MetricType.COUNTER: ("_created",),
    MetricType.HISTOGRAM: ("_bucket", "_count", "_sum", "_created"),
    MetricType.SUMMARY: ("_count", "_sum", "_created"),
}
_UNRESOLVED = -1
_NEVER = (1 << 31) - 1
# Series of both caches; some 500 bytes each.
_ROWS_MAX = 1 << 18


@dataclass(frozen=True, slots=True)
class TypedSeries:
    """A raw series with the types of its own name and of that without its suffix."""

    raw: RawSeries
    own: MetricType
    base: MetricType


def typed_series(typed: TypedSeries) -> Series:
    """The series that labels and types name.

    A ``_created`` is a gauge of its own: it may come in another request than what was created, and a start that is
    there for some points only would make two lives of one stream.

    Raises:
        Unreadable: the labels cannot be read.
    """
    try:
        labels = labels_of(typed.raw)
        unit = typed.raw.unit.decode()
    except (Malformed, UnicodeDecodeError) as error:
        raise Unreadable(Reason.ATTRIBUTES_MALFORMED) from error
    name = labels.get(NAME, "")
    series = series_of(labels, lambda family: typed.own if family == name else typed.base, unit)
    if series.role is Role.CREATED:
        return series_of(labels, lambda _: MetricType.UNKNOWN, unit)
    return series


class RemoteSeries:
    """Rows and slots of series.

    Columns by row:
        reason: `Reason.OK`, or why its samples cannot be used
        place: catalog slot
    """

    def __init__(self, limits: Limits, types: MetricTypes) -> None:
        self._types = types
        self._reader = AttributeReader(limits)
        self._name_bytes_max = limits.metric_name_bytes_max
        self.generation = 0
        self._clear()

    def _clear(self) -> None:
        self.table: SeriesTable[TypedSeries] = SeriesTable(typed_series, slots_max=_NEVER)
        self._index = HashIndex()
        self._raw: list[RawSeries] = []
        self._names: list[str] = []
        self._keys: UInt64s = np.zeros(1024, np.uint64)
        self.reason: npt.NDArray[np.uint8] = np.zeros(1024, np.uint8)
        self.place: Int32s = np.zeros(1024, np.int32)
        self._infers: npt.NDArray[np.bool_] = np.zeros(1024, np.bool_)
        self._slot: Int32s = np.zeros(1024, np.int32)
        self._epoch: Int32s = np.zeros(1024, np.int32)
        self._place_of_slot: Int32s = np.zeros(1024, np.int32)

    @property
    def is_full(self) -> bool:
        """Whether `forget` is due."""
        return len(self._raw) > _ROWS_MAX or len(self.table) > _ROWS_MAX

    def forget(self) -> None:
        """Empty the caches: rows and slots that were handed out are void."""
        self.generation += 1
        self._clear()

    def rows(self, keys: UInt64s, places: Int32s, raw: Callable[[int], RawSeries]) -> Int32s:
        """The row of each series.

        Args:
            keys: raw identity within a place.
            places: catalog slots.
            raw: the raw series at an index of ``keys``.
        """
        keys = mix(keys, places.astype(np.uint64) + np.uint64(1))
        rows = self._index.find(keys)
        unknown = np.flatnonzero(rows == ABSENT)
        if len(unknown):
            first, of_first = first_seen(keys[unknown])
            new = unknown[first]
            made = len(self._raw) + np.arange(len(new), dtype=np.int32)
            for at in new.tolist():
                self._add(int(keys[at]), int(places[at]), raw, at)
            self._index.insert(keys[new], made)
            rows[unknown] = made[of_first]
        return rows

    def _add(self, key: int, place: int, raw: Callable[[int], RawSeries], at: int) -> None:
        row = len(self._raw)
        if row == len(self.reason):
            for name in ("_keys", "reason", "place", "_infers", "_slot", "_epoch"):
                column = getattr(self, name)
                setattr(self, name, np.concatenate((column, np.zeros_like(column))))
        name, reason, infers, series = "", Reason.OK, False, RawSeries(b"")
        try:
            series = raw(at)
            labels = labels_of(series)
            name = labels.get(NAME, "")
            reason = self._check(labels, name)
            infers = series.type is None and name.endswith("_bucket") and "le" in labels
        except Malformed:
            reason = Reason.ATTRIBUTES_MALFORMED
        self._raw.append(series)
        self._names.append(name)
        self._keys[row], self.reason[row], self.place[row] = key, reason, place
        self._infers[row], self._slot[row], self._epoch[row] = infers, _UNRESOLVED, _UNRESOLVED

    def _check(self, labels: dict[str, str], name: str) -> Reason:
        if not name:
            return Reason.NO_NAME
        if len(name.encode()) > self._name_bytes_max:
            return Reason.NAME_TOO_LONG
        try:
            self._reader.labels(labels)
        except Unreadable as error:
            return error.reason
        return Reason.OK

    def inferred(self, rows: Int32s) -> list[tuple[int, Learnt]]:
        """The types that series tell by their names, with the first index in ``rows``, where that may be news."""
        doubtful = np.flatnonzero(self._infers[rows] & (self._slot[rows] == _UNRESOLVED))
        distinct, first = np.unique(rows[doubtful], return_index=True)
        return [
            (
                int(doubtful[at]),
                Learnt(int(self.place[row]), self._names[row].removesuffix("_bucket"), MetricType.HISTOGRAM),
            )
            for row, at in zip(distinct.tolist(), first.tolist(), strict=True)
        ]

    def slots(self, rows: Int32s) -> Int32s:
        """The slot of each row, as of the types that are known now."""
        slots = self._slot[rows]
        stale = (slots == _UNRESOLVED) | (self._epoch[rows] != self._types.epochs[self.place[rows]])
        if not stale.any():
            return slots
        self._resolve(np.unique(rows[stale]))
        return self._slot[rows]

    def _resolve(self, rows: Int32s) -> None:
        typed = [self._typed(row) for row in rows.tolist()]
        codes = np.array([each.own * 8 + each.base for each in typed], np.uint64)
        self._slot[rows] = self._placed(mix(self._keys[rows], codes), self.place[rows], typed)
        self._epoch[rows] = self._types.epochs[self.place[rows]]

    def _typed(self, row: int) -> TypedSeries:
        raw, name = self._raw[row], self._names[row]
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
        if raw.type is not None:
            # The type is that of the family, and comes with each of its series.
            declared = _type(raw.type)
            if suffix in _PART_SUFFIXES.get(declared, ()):
                return TypedSeries(raw, MetricType.UNKNOWN, declared)
            return TypedSeries(raw, declared, MetricType.UNKNOWN)
        types = self._types.of(int(self.place[row]))
        base = types.get(name.removesuffix(suffix), MetricType.UNKNOWN) if suffix else MetricType.UNKNOWN
        return TypedSeries(raw, types.get(name, MetricType.UNKNOWN), base)

    def places(self, slots: Int32s) -> Int32s:
        """The place of each slot."""
        return self._place_of_slot[slots]

    def typed(self, slot: int) -> TypedSeries:
        """What a slot stands for."""
        return self.table.raw(slot)

    def put_back(self, places: Int32s, typed: list[TypedSeries]) -> Int32s:
        """The slots of series that were persisted or forgotten, whose types are what they were then."""
        keys = np.array([hash((each.raw, each.own, each.base)) & (2**64 - 1) for each in typed], np.uint64)
        return self._placed(mix(keys, places.astype(np.uint64)), places, typed)

    def _placed(self, keys: UInt64s, places: Int32s, typed: list[TypedSeries]) -> Int32s:
        """The slots of some series, of those that are new with their place."""
        before = len(self.table)
        slots = self.table.slots(keys, lambda at: typed[at])
        while len(self._place_of_slot) < len(self.table.role):
            self._place_of_slot = np.concatenate((self._place_of_slot, np.zeros_like(self._place_of_slot)))
        new = slots >= before
        self._place_of_slot[slots[new]] = places[new]
        return slots


def _type(number: int) -> MetricType:
    try:
        return MetricType(number)
    except ValueError:
        return MetricType.UNKNOWN
