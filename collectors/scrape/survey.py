"""What one answer of a target holds, before it goes to the inbox: how many samples, and which gauges have ended.

A gauge's value is held until the next one, at most for the staleness. A series that its target offers no longer ends at
once: `Survey.ended` writes that down, and the record carries it. Counters and histograms have nothing to end.

Most answers differ from the one before in numbers alone, which a survey does not ask for: these are not read a second
time here, only compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from catchment.errors import Invalid
from collectors.decode.attributes import Unreadable
from collectors.decode.exposition import Scraped, Table, count_samples, read_records
from collectors.decode.families import Role
from collectors.decode.labels import labels_of
from collectors.decode.lines import STALE_VALUE, Declared, Lines
from collectors.decode.scraped_series import reading_of_line, series_written
from collectors.scrape.record import Format, Record

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]
Named = Callable[[int], tuple[bytes, bytes, bytes]]
"""A series as it was written, and the lines that declare its type and its unit."""

# What ends a line and is surely a finite number: a value, or a time. Marks that no text has stand for them.
_NUMBER = rb" [-+]?[0-9]{1,40}+(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]{1,2}+)?+"
_LAST, _LAST_MARK = re.compile(_NUMBER + rb"\n"), b"\xfe\n"
_BOTH, _BOTH_MARK = re.compile(_NUMBER + rb"\xfe\n"), b"\xff\n"
# A declaration that would lose a part of what it says.
_ODD = re.compile(rb"# (?:TYPE|UNIT) [^\n]*[0-9]\n")


def _no_name(row: int) -> tuple[bytes, bytes, bytes]:
    raise IndexError(row)


@dataclass(frozen=True)
class Survey:
    """What an answer holds.

    Attributes:
        samples: all of them, native histograms and lines that are no samples among them.
        kept: those that metric_relabel_configs and label limits leave.
        keys: of all series, sorted.
        gauges: keys of gauges without timestamps of their own.
        named: the name of each of these gauges.
        is_exposition: there is nothing in it, or at least one sample.
        shape: answers of one shape have equal surveys; empty where that is not known.
    """

    samples: int = 0
    kept: int = 0
    keys: UInt64s = field(default_factory=lambda: np.zeros(0, np.uint64))
    gauges: UInt64s = field(default_factory=lambda: np.zeros(0, np.uint64))
    named: Named = _no_name
    is_exposition: bool = True
    shape: bytes = b""

    def added(self, before: Survey) -> int:
        """How many series were not there before."""
        return int((~np.isin(self.keys, before.keys)).sum())

    def ended(self, after: Survey) -> bytes:
        """Which gauges are not there afterwards, as the part of a record that says so."""
        gone = np.flatnonzero(~np.isin(self.gauges, after.gauges))
        by_family: dict[tuple[bytes, bytes], list[bytes]] = {}
        for row in gone.tolist():
            series, *declared = self.named(row)
            by_family.setdefault((declared[0], declared[1]), []).append(series)
        lines = []
        # Those without a type first: a declaration would be theirs.
        for family, names in sorted(by_family.items()):
            lines += [line for line in family if line]
            lines += [name + b" " + STALE_VALUE for name in names]
        return b"\n".join([*lines, b""]) if lines else b""


NOTHING = Survey()


class Surveyor:
    """Surveys answers; remembers series, as the decoder does.

    Args:
        samples_max: of one answer; the intake refuses a record with more.
    """

    def __init__(self, samples_max: int) -> None:
        self._table = Table(series_written)
        self._samples_max = samples_max

    def survey(self, record: Record, before: Survey = NOTHING) -> Survey:
        """What a record's body holds; its other parts are not looked at.

        Args:
            record: the answer, and how it is read.
            before: of the same target; is the answer, where it holds for this record, too.

        Raises:
            Invalid: it is not what it says that it is, or too much.
        """
        shape = _shape_of(record)
        if shape and shape == before.shape:
            return before
        answer = Record(record.time_ns, record.reading, b"", record.body, b"")
        if len(answer.body) > self._samples_max and count_samples(answer) > self._samples_max:
            raise Invalid(f"the answer has more than {self._samples_max} samples")
        found = read_records([answer])
        slots = self._table.slots(found.key, found.written)
        native_slots = self._table.more_slots(found.natives.key, found.natives.written)
        usable = self._table.usable[slots]
        is_gauge = usable & (self._table.role[slots] == Role.GAUGE) & ~found.is_stamped
        rows = np.flatnonzero(is_gauge)
        return Survey(
            samples=len(slots) + len(native_slots),
            kept=int(usable.sum()) + int(self._table.usable[native_slots].sum()),
            keys=np.unique(np.concatenate((found.key[~found.malformed], found.natives.key))),
            gauges=found.key[rows],
            named=_names(found, rows),
            is_exposition=_is_exposition(found.lines, usable),
            shape=shape,
        )


def _shape_of(record: Record) -> bytes:
    """A hash of all that a survey depends on."""
    if reading_of_line(record.reading).format is Format.PROTOBUF or _ODD.search(record.body):
        return b""
    text = _BOTH.sub(_BOTH_MARK, _LAST.sub(_LAST_MARK, record.body))
    return xxhash.xxh3_128_digest(record.reading + b"\n" + text)


def _is_exposition(lines: Lines, usable: npt.NDArray[np.bool_]) -> bool:
    if usable.any() or not (len(lines) or len(lines.malformed)):
        return True
    # All may be dropped by relabelling: then the first line tells.
    return any(_is_series(written) for written in lines.series.to_pylist())


def _is_series(written: bytes) -> bool:
    try:
        return bool(labels_of(written))
    except Unreadable:
        return False


def _names(found: Scraped, rows: Rows) -> Named:
    """How some samples' series are written, without keeping all that the answer was."""
    bodies, lines = found.bodies, found.lines
    if len(bodies.key):
        first = len(found.key) - len(bodies.key)
        samples = bodies.samples
        families = bodies.families.of(samples.metric[rows - first])
        part, number = samples.part[rows - first], samples.number[rows - first]
        return lambda row: families.text(row, int(part[row]), float(number[row]))
    series = lines.series.take(pa.array(rows))
    types, units = _lines_of(lines.types, lines.type[rows]), _lines_of(lines.units, lines.unit[rows])
    return lambda row: (series[row].as_py(), types[row].as_py(), units[row].as_py())


def _lines_of(declared: Declared, rows: Int64s) -> pa.Array:
    """The line of each declaration; empty for -1."""
    lines = pa.concat_arrays([declared.lines, pa.array([b""], pa.binary())])
    return lines.take(pa.array(np.where(rows < 0, len(lines) - 1, rows)))
