"""What one answer of a target holds, before it goes to the inbox: how many samples, and which gauges have ended.

A gauge's value is held until the next one, at most for the staleness. A series that its target offers no longer ends at
once: `Survey.ended` writes that down, and the record carries it. Counters and histograms have nothing to end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.exposition import Written, cut_records, series_written
from collectors.decode.families import Role
from collectors.decode.lines import STALE_VALUE, Declared
from collectors.decode.series_table import SeriesTable
from collectors.scrape.record import Record

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Survey:
    """What an answer holds.

    Attributes:
        samples: all of them, and lines that are none.
        kept: those that metric_relabel_configs and label limits leave.
        keys: of all series, sorted.
        gauges, names: keys of gauges without timestamps of their own, and their series.
        types, units: the lines that declare theirs.
    """

    samples: int = 0
    kept: int = 0
    keys: UInt64s = field(default_factory=lambda: np.zeros(0, np.uint64))
    gauges: UInt64s = field(default_factory=lambda: np.zeros(0, np.uint64))
    names: pa.Array = field(default_factory=lambda: pa.array([], pa.binary()))
    types: pa.Array = field(default_factory=lambda: pa.array([], pa.binary()))
    units: pa.Array = field(default_factory=lambda: pa.array([], pa.binary()))

    def added(self, before: Survey) -> int:
        """How many series were not there before."""
        return int((~np.isin(self.keys, before.keys)).sum())

    def ended(self, after: Survey) -> bytes:
        """Which gauges are not there afterwards, as the part of a record that says so."""
        gone = np.flatnonzero(~np.isin(self.gauges, after.gauges))
        by_family: dict[tuple[bytes, bytes], list[bytes]] = {}
        for row in gone.tolist():
            family = self.types[row].as_py(), self.units[row].as_py()
            by_family.setdefault(family, []).append(self.names[row].as_py())
        lines = []
        # Those without a type first: a declaration would be theirs.
        for declared, names in sorted(by_family.items()):
            lines += [line for line in declared if line]
            lines += [name + b" " + STALE_VALUE for name in names]
        return b"\n".join([*lines, b""]) if lines else b""


class Surveyor:
    """Surveys answers; remembers series, as the decoder does."""

    def __init__(self) -> None:
        self._table: SeriesTable[Written | None] = SeriesTable(series_written)

    def survey(self, record: Record) -> Survey:
        """What a record's body holds; its other parts are not looked at."""
        found = cut_records([Record(record.time_ns, record.reading, b"", record.body, b"")])
        lines = found.lines
        slots = self._table.slots(found.key, found.written)
        usable = self._table.usable[slots]
        is_gauge = usable & (self._table.role[slots] == Role.GAUGE) & np.isnan(lines.timestamp)
        rows = np.flatnonzero(is_gauge)
        return Survey(
            samples=len(lines) + len(lines.malformed),
            kept=int(usable.sum()),
            keys=np.unique(found.key),
            gauges=found.key[rows],
            names=lines.series.take(pa.array(rows)),
            types=_declared(lines.types, lines.type[rows]),
            units=_declared(lines.units, lines.unit[rows]),
        )


def _declared(declared: Declared, rows: Int64s) -> pa.Array:
    """The line of each declaration; empty for -1."""
    lines = pa.concat_arrays([declared.lines, pa.array([b""], pa.binary())])
    return lines.take(pa.array(np.where(rows < 0, len(lines) - 1, rows)))
