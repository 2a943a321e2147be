"""Records of scrapes → flat columns, many targets at once: the text is cut (`lines`), its series are looked up, and
their samples put together (`prometheus`).

Rules:

1. A series is known by its raw text, the line that declares its type, the one of its unit, the part of the record it
   stands in and its target's `Reading`. Labels are parsed, merged with the target's and relabelled once for each.
2. The role of a sample follows from its name before relabelling, to which the declaration belongs.
3. What the scraper reports itself is neither relabelled nor renamed; ``up`` has its instance as an attribute, too.
4. A line that is no sample is a point that is refused by reason; all such lines of all targets share one series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import xxhash

from catchment.identity import mix
from collectors.decode.attributes import Unreadable
from collectors.decode.families import NAME, MetricType, Series, series_of
from collectors.decode.labels import labels_of
from collectors.decode.lines import Lines, cut
from collectors.decode.points import Exemplars
from collectors.decode.prometheus import STALE_BITS, PrometheusPoints, Samples, assemble
from collectors.decode.raw import hashes_of
from collectors.decode.series_table import SeriesTable
from collectors.reasons import Reason
from collectors.scrape.record import Reading, Record
from collectors.scrape.relabel import relabelled

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_PARTS = 3
_REPORT, _BODY = 0, 1
_TYPES = {
    "counter": MetricType.COUNTER,
    "gauge": MetricType.GAUGE,
    "histogram": MetricType.HISTOGRAM,
    "gaugehistogram": MetricType.GAUGE_HISTOGRAM,
    "summary": MetricType.SUMMARY,
    "info": MetricType.INFO,
    "stateset": MetricType.STATE_SET,
}
UP = "up"
# Of a series that is no sample.
_MALFORMED_KEY = np.uint64(1)
_TIMESTAMP_SECONDS_MAX = 9e9


@dataclass(frozen=True, slots=True)
class Written:
    """A series as it was written; ``reading`` is None for what the scraper reports itself of ``labels``."""

    series: bytes
    type_line: bytes
    unit_line: bytes
    reading: bytes
    is_report: bool


def series_written(written: Written | None) -> Series:
    """The series that stands for what was written; None is a line that is no sample.

    Raises:
        Unreadable: it cannot be used, or its job drops it.
    """
    if written is None:
        raise Unreadable(Reason.LINE_MALFORMED)
    labels = labels_of(written.series)
    reading = _reading(written.reading)
    family, declared = _declared(written.type_line)
    unit_of, unit = _declared(written.unit_line)
    unit = unit if unit_of == family else ""
    if written.is_report:
        series = series_of({**reading.labels, **labels}, lambda name: _type_of(name, family, declared))
        if series.metric != UP:
            return series
        # Which target is down must be told, also where policy drops instances.
        return replace(series, labels={**series.labels, "instance": reading.labels.get("instance", "")})
    name = labels[NAME]
    merged = relabelled(_with_target(labels, reading), reading.rules)
    if merged is None:
        raise Unreadable(Reason.DROPPED_BY_RELABELLING)
    merged = {label: value for label, value in merged.items() if label == NAME or not label.startswith("__")}
    if not merged.get(NAME):
        raise Unreadable(Reason.NO_NAME)
    _check_limits(merged, reading)
    # Where the name was relabelled, the declaration is of the new name without the same suffix.
    suffix = name.removeprefix(family) if family and name.startswith(family) else ""
    renamed = merged[NAME].removesuffix(suffix) if merged[NAME] != name else family
    return series_of(merged, lambda asked: _type_of(asked, renamed, declared), unit)


def _with_target(labels: dict[str, str], reading: Reading) -> dict[str, str]:
    """The labels of a sample and its target's; who wins on equal names is the target's `Reading`'s choice."""
    merged = dict(labels)
    for name, value in reading.labels.items():
        if name in labels and reading.honor_labels:
            continue
        if name in labels:
            renamed = f"exported_{name}"
            while renamed in labels or renamed in reading.labels:
                renamed = f"exported_{renamed}"
            merged[renamed] = labels[name]
        merged[name] = value
    return merged


def _check_limits(labels: dict[str, str], reading: Reading) -> None:
    name_max, value_max = reading.label_name_length_limit, reading.label_value_length_limit
    if (
        (reading.label_limit and len(labels) > reading.label_limit)
        or (name_max and max(map(len, labels)) > name_max)
        or (value_max and max(map(len, labels.values())) > value_max)
    ):
        raise Unreadable(Reason.LABELS_BEYOND_LIMIT)


def _declared(line: bytes) -> tuple[str, str]:
    """Family and type, or family and unit, of the line that declares it."""
    words = line.decode("utf-8", "replace").split(None, 3)
    if len(words) < 4:
        return "", ""
    return words[2].strip('"'), words[3].strip()


def _type_of(name: str, family: str, declared: str) -> MetricType:
    return _TYPES.get(declared, MetricType.UNKNOWN) if name == family else MetricType.UNKNOWN


@lru_cache(4096)
def _reading(line: bytes) -> Reading:
    return Reading.of_line(line)


class ScrapeDecoder:
    """The `collectors.decode.forms.Decoder` of scrapes."""

    def __init__(self) -> None:
        self._table: SeriesTable[Written | None] = SeriesTable(series_written)

    def decode(self, payloads: Sequence[bytes]) -> PrometheusPoints:
        """See `collectors.decode.forms.Decoder.decode`."""
        return assemble_scrapes(self._table, payloads)

    def count(self, payload: bytes) -> int:
        """See `collectors.decode.forms.Decoder.count`."""
        Record.of(payload)
        return payload.count(b"\n")


@dataclass(frozen=True)
class Cut:
    """The text of some records, cut.

    Columns, by sample:
        part: which part of which record, three a record
        key: of its series
    """

    records: list[Record]
    lines: Lines
    part: Int64s
    key: UInt64s

    def written(self, row: int) -> Written:
        """A sample's series as it was written."""
        lines, part = self.lines, int(self.part[row])
        declared, unit = int(lines.type[row]), int(lines.unit[row])
        series = lines.series[row].as_py()
        return Written(
            series,
            lines.types.lines[declared].as_py() if declared >= 0 else b"",
            lines.units.lines[unit].as_py() if unit >= 0 else b"",
            self.records[part // _PARTS].reading,
            part % _PARTS == _REPORT,
        )


def cut_records(records: list[Record]) -> Cut:
    """Cut the text of some records, all in one go.

    Raises:
        Invalid: a record's `Reading` is none.
    """
    for line in {record.reading for record in records}:
        _reading(line)
    parts = [part for record in records for part in (record.report, record.body, record.ended)]
    lines = cut(b"".join(parts))
    begins = np.cumsum([0, *map(len, parts)])[:-1]
    # Parts that are empty begin where the next one does: the last of those is meant.
    part = np.searchsorted(begins, lines.at, side="right") - 1
    begin = begins[part]
    # What is declared in one text means nothing in the next, and a unit nothing for the next family.
    type_at, unit_at = (np.concatenate((declared.at, [-1])) for declared in (lines.types, lines.units))
    of_type = np.where(type_at[lines.type] >= begin, lines.type, -1)
    of_unit = np.where(unit_at[lines.unit] >= np.maximum(begin, type_at[of_type]), lines.unit, -1)
    lines = replace(lines, type=of_type, unit=of_unit)
    series, types, units = hashes_of([lines.series, lines.types.lines, lines.units.lines])
    declared = mix(np.append(types, np.uint64(0))[of_type], np.append(units, np.uint64(0))[of_unit])
    context = np.array(
        [xxhash.xxh3_64_intdigest(record.reading) for record in records for _ in range(_PARTS)], np.uint64
    )
    context[_REPORT::_PARTS] += np.uint64(1)
    return Cut(records, lines, part, np.maximum(mix(series, mix(context[part], declared)), np.uint64(2)))


def assemble_scrapes(table: SeriesTable[Written | None], payloads: Sequence[bytes]) -> PrometheusPoints:
    """The points of some scrapes.

    Raises:
        Invalid: at least one payload is no record of a scrape.
    """
    found = cut_records([Record.of(payload) for payload in payloads])
    lines, records = found.lines, found.records
    # Only the scraper may say that a series has ended.
    forged = (found.part % _PARTS == _BODY) & (lines.value.view(np.uint64) == STALE_BITS)
    key = np.where(forged, _MALFORMED_KEY, found.key)
    parts = [part for record in records for part in (record.report, record.body, record.ended)]
    begins = np.cumsum([0, *map(len, parts)])[:-1]
    n, bad = len(lines), len(lines.malformed)
    bad_request = (np.searchsorted(begins, lines.malformed, side="right") - 1) // _PARTS
    keys = np.concatenate((key, np.full(bad, _MALFORMED_KEY)))
    slots = table.slots(keys, lambda row: None if keys[row] == _MALFORMED_KEY else found.written(row))
    request = np.concatenate((found.part // _PARTS, bad_request)).astype(np.int32)
    samples = Samples(
        request=request,
        slot=slots,
        time_ns=np.concatenate((_times(found), np.array([records[i].time_ns for i in bad_request], np.int64))),
        start_ns=np.zeros(n + bad, np.int64),
        value=np.concatenate((lines.value, np.zeros(bad))),
    )
    return assemble(table, len(payloads), samples, _exemplars(lines, samples.time_ns))


def _times(found: Cut) -> Int64s:
    """When each sample was: its own timestamp where there is one and it counts, else the time of its scrape."""
    records, request = found.records, found.part // _PARTS
    time_ns = np.array([record.time_ns for record in records], np.int64)[request]
    stamped = np.flatnonzero(~np.isnan(found.lines.timestamp))
    if not len(stamped):
        return time_ns
    readings = [_reading(record.reading) for record in records]
    honored = np.array([reading.honor_timestamps for reading in readings])[request[stamped]]
    stamped = stamped[honored]
    scale = np.where(np.array([reading.is_openmetrics for reading in readings])[request[stamped]], 1e3, 1.0)
    ms = np.clip(found.lines.timestamp[stamped] * scale, 0, _TIMESTAMP_SECONDS_MAX * 1e3)
    time_ns[stamped] = np.rint(ms).astype(np.int64) * 10**6
    return time_ns


def _exemplars(lines: Lines, time_ns: Int64s) -> Exemplars | None:
    if not len(lines.exemplar_row):
        return None
    labels = pl.Series("", lines.exemplar_labels, pl.String)
    own = lines.exemplar_timestamp
    seconds = np.clip(np.nan_to_num(own, nan=0.0, posinf=0.0, neginf=0.0), 0, _TIMESTAMP_SECONDS_MAX)
    return Exemplars(
        point=lines.exemplar_row,
        value=lines.exemplar_value,
        time_ns=np.where(np.isnan(own), time_ns[lines.exemplar_row], np.rint(seconds * 1e3).astype(np.int64) * 10**6),
        trace_ids=_ids(labels, "trace_id", 32),
        span_ids=_ids(labels, "span_id", 16),
    )


def _ids(labels: pl.Series, name: str, digits: int) -> pa.Array:
    """The ids that a label has, as bytes; none where it has another length."""
    written = labels.str.extract(rf'[{{,]\s*{name}="([0-9a-fA-F]{{{digits}}})"')
    return written.fill_null("").str.decode("hex", strict=False).fill_null(b"").to_arrow().cast(pa.binary())
