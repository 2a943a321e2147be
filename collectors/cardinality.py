"""What makes series: for each metric and attribute of a place, a sketch of the values of streams that began.

Rules:

1. A stream counts when it begins, and again when policy gives it another series: its attributes' values, as far as
   policy keeps them, and its series, whether that was folded or not. So what one flush says adds to what others say,
   whatever the tier (`catchment.columns`).
2. A count of distinct things is a sketch (`catchment.algebra.distinct`), never a number.
3. There are at most ``cardinality_sketches_max`` sketches until the next flush, a kilobyte each, and one tenant has at
   most a quarter of them. What comes beyond counts, by its series only, as metric ``otel.overflow``.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.algebra.distinct import REGISTERS, registers_of
from catchment.columns import LANES
from catchment.identity import value_hash
from catchment.limits import Limits
from collectors.catalog import OVERFLOW_METRIC, Catalog

SERIES = ""
"""Stands for an attribute where the series themselves are counted."""

Key = tuple[int, str, str]

_TENANT_SHARE = 4
# Values are added to their sketches this many at a time.
_BUFFERED_MAX = 65_536
# Hashes of short values are remembered: the same few occur in nearly every stream.
_REMEMBERED_MAX = 16_384
_REMEMBERED_CHARACTERS_MAX = 64


@dataclass(frozen=True)
class Sketches:
    """What was counted since the last flush, by (place, metric, attribute): one row each of all members."""

    keys: list[Key]
    streams: npt.NDArray[np.uint64]
    folded: npt.NDArray[np.uint64]
    registers: npt.NDArray[np.uint8]


class Cardinality:
    """The sketches of one collector, until they are drained."""

    def __init__(self, limits: Limits, catalog: Catalog) -> None:
        self._sketches_max = limits.cardinality_sketches_max
        self._catalog = catalog
        self._hashes: dict[str, int] = {}
        self._start()

    def _start(self) -> None:
        self._rows: dict[tuple[int, str], dict[str, int]] = {}
        self._keys: list[Key] = []
        self._per_tenant: Counter[str] = Counter()
        # Of each value that waits: its sketch, times two, plus one if its stream was folded; and its hash.
        self._waiting, self._waiting_hashes = array("Q"), array("Q")
        self._streams = np.zeros(256, np.uint64)
        self._folded = np.zeros(256, np.uint64)
        self._registers = np.zeros((256, REGISTERS), np.uint8)

    def add(
        self, place: int, metric: str, attributes: Mapping[str, object], series_id: int, *, is_folded: bool
    ) -> None:
        """Count a stream that begins.

        Args:
            place: catalog slot.
            metric: its name.
            attributes: those that policy keeps.
            series_id: of the series that it asked for.
            is_folded: whether that was beyond a budget.
        """
        rows = self._rows.get((place, metric))
        if rows is None:
            rows = self._begin(place, metric)
        self._wait(rows[SERIES], is_folded, series_id)
        for name, value in attributes.items():
            row = rows.get(name) if name != SERIES else -1  # a sender may have an attribute without a name
            if row is None:
                row = self._attribute(rows, place, metric, name)
            if row >= 0:
                self._wait(row, is_folded, self._hash(value))
        if len(self._waiting) >= _BUFFERED_MAX:
            self._settle()

    def folded(self) -> dict[tuple[str, str], int]:
        """Streams that were folded since the last flush, by tenant and metric."""
        self._settle()
        counts: Counter[tuple[str, str]] = Counter()
        for row in np.flatnonzero(self._folded[: len(self._keys)]).tolist():
            place, metric, attribute = self._keys[row]
            if attribute == SERIES:
                counts[self._catalog.places[place].tenant, metric] += int(self._folded[row])
        return counts

    def drain(self) -> Sketches:
        """Hand out all that was counted."""
        self._settle()
        size = len(self._keys)
        drained = Sketches(self._keys, self._streams[:size], self._folded[:size], self._registers[:size])
        self._start()
        return drained

    def put_back(self, drained: Sketches) -> None:
        """Take back what a failed flush drained."""
        self._settle()
        for i, (place, metric, attribute) in enumerate(drained.keys):
            rows = self._rows.get((place, metric)) or self._begin(place, metric)
            row = rows.get(attribute, -1)
            if row < 0:
                row = self._attribute(rows, place, metric, attribute)
            if row >= 0:
                self._streams[row] += drained.streams[i]
                self._folded[row] += drained.folded[i]
                np.maximum(self._registers[row], drained.registers[i], out=self._registers[row])

    def _begin(self, place: int, metric: str) -> dict[str, int]:
        """The sketches of a metric that has none: its own, or where there is no room those of all such metrics."""
        if metric == OVERFLOW_METRIC or self._has_room(place):
            rows = self._rows[place, metric] = {SERIES: self._new(place, metric, SERIES)}
            return rows
        others = self._rows.get((place, OVERFLOW_METRIC)) or self._begin(place, OVERFLOW_METRIC)
        return {SERIES: others[SERIES]}

    def _attribute(self, rows: dict[str, int], place: int, metric: str, name: str) -> int:
        """The sketch of an attribute that has none; -1 where there is no room, or its metric has none of its own."""
        if self._rows.get((place, metric)) is not rows or not self._has_room(place):
            return -1
        rows[name] = self._new(place, metric, name)
        return rows[name]

    def _has_room(self, place: int) -> bool:
        of_tenant = self._per_tenant[self._catalog.places[place].tenant]
        return len(self._keys) < self._sketches_max and of_tenant < max(self._sketches_max // _TENANT_SHARE, 1)

    def _new(self, place: int, metric: str, attribute: str) -> int:
        self._per_tenant[self._catalog.places[place].tenant] += 1
        row = len(self._keys)
        self._keys.append((place, metric, attribute))
        if row == len(self._streams):
            self._streams = np.concatenate([self._streams, np.zeros_like(self._streams)])
            self._folded = np.concatenate([self._folded, np.zeros_like(self._folded)])
            self._registers = np.concatenate([self._registers, np.zeros_like(self._registers)])
        return row

    def _wait(self, row: int, is_folded: bool, value: int) -> None:
        self._waiting.append(2 * row + is_folded)
        self._waiting_hashes.append(value)

    def _hash(self, value: object) -> int:
        if not isinstance(value, str):
            return value_hash(value)
        known = self._hashes.get(value)
        if known is None:
            known = value_hash(value)
            if len(value) <= _REMEMBERED_CHARACTERS_MAX:
                if len(self._hashes) >= _REMEMBERED_MAX:
                    self._hashes.clear()
                self._hashes[value] = known
        return known

    def _settle(self) -> None:
        """Add the values that wait to their sketches."""
        if not self._waiting:
            return
        waiting = np.frombuffer(self._waiting, np.uint64)
        rows, folded = (waiting >> np.uint64(1)).astype(np.int64), waiting & np.uint64(1)
        size = len(self._keys)
        self._streams[:size] += np.bincount(rows, minlength=size).astype(np.uint64)
        self._folded[:size] += np.bincount(rows, folded, minlength=size).astype(np.uint64)
        index, ranks = registers_of(np.frombuffer(self._waiting_hashes, np.uint64))
        np.maximum.at(self._registers.reshape(-1), rows * REGISTERS + index, ranks)
        self._waiting, self._waiting_hashes = array("Q"), array("Q")


def rows_by_tenant(
    sketches: Sketches, catalog: Catalog, *, window_start_ns: int, window_seconds: int
) -> dict[str, pa.Table]:
    """The rows of the lane ``cardinality`` by tenant, all of one window."""
    schema = LANES["cardinality"].schema
    members: dict[str, list[int]] = {}
    for row, (place, _, _) in enumerate(sketches.keys):
        members.setdefault(catalog.places[place].tenant, []).append(row)
    tables = {}
    for tenant, rows in members.items():
        keys = [sketches.keys[row] for row in rows]
        used, register = np.nonzero(sketches.registers[rows])
        offsets = np.concatenate([[0], np.cumsum(np.bincount(used, minlength=len(rows)))]).astype(np.int32)
        ranks = sketches.registers[rows][used, register].astype(np.uint64)
        columns = {
            "window_start_ns": pa.array(np.full(len(rows), window_start_ns)),
            "window_seconds": pa.array(np.full(len(rows), window_seconds, np.uint32)),
            "cluster": pa.array([catalog.places[place].cluster for place, _, _ in keys]).dictionary_encode(),
            "metric": pa.array([metric for _, metric, _ in keys]).dictionary_encode(),
            "attribute": pa.array([attribute for _, _, attribute in keys]).dictionary_encode(),
            "streams": pa.array(sketches.streams[rows]),
            "folded": pa.array(sketches.folded[rows]),
            "registers": pa.MapArray.from_arrays(offsets, register, ranks, type=schema.field("registers").type),
        }
        tables[tenant] = pa.table([columns[name] for name in schema.names], schema=schema)
    return tables
