"""Records of scrapes → flat columns, many targets at once: text is cut (`lines`), protobuf parsed (`client_model`),
series are looked up, and their samples put together (`prometheus`).

Rules:

1. A series is known by its raw form, the lines that declare its type and its unit, and its target's `Reading`. Its
   labels are read once (`scraped_series`).
2. What is declared in one text means nothing in the next.
3. A line that is no sample is a point that is refused by reason; all such lines of all targets share one series. A
   body that is no protobuf though it says so refuses its whole record.
4. Only the scraper may say that a series has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import xxhash

from catchment.identity import mix
from collectors.decode.client_model import Bodies, most_samples, no_bodies, read_bodies
from collectors.decode.client_samples import Part
from collectors.decode.lines import Lines, cut, last_before
from collectors.decode.native_histograms import native_points
from collectors.decode.points import Exemplars, Points
from collectors.decode.prometheus import STALE_BITS, PrometheusPoints, Samples, assemble, with_exemplars
from collectors.decode.raw import hashes_of
from collectors.decode.scraped_series import Written, reading_of_line, series_written
from collectors.decode.series_table import SeriesTable
from collectors.scrape.record import Format, Reading, Record

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
Table = SeriesTable[Written | None]

_PARTS = 3
_REPORT, _BODY = 0, 1
# Of all lines that are no samples.
_MALFORMED_KEY = np.uint64(1)
_SECONDS_MAX = 9e9


class ScrapeDecoder:
    """The `collectors.decode.forms.Decoder` of scrapes; a native histogram has at most ``buckets_max``."""

    def __init__(self, buckets_max: int) -> None:
        self._table = Table(series_written)
        self._buckets_max = buckets_max

    def decode(self, payloads: Sequence[bytes]) -> PrometheusPoints:
        """See `collectors.decode.forms.Decoder.decode`."""
        found = read_records([Record.of(payload) for payload in payloads])
        slots = self._table.slots(found.key, found.written)
        samples = Samples(found.request, slots, found.time_ns, found.start_ns, found.value)
        points = assemble(self._table, len(payloads), samples, found.exemplars)
        natives = self._natives(found)
        return replace(points, points=(*points.points, *natives)) if natives else points

    def count(self, payload: bytes) -> int:
        """See `collectors.decode.forms.Decoder.count`."""
        return count_samples(Record.of(payload))

    def _natives(self, found: Scraped) -> list[Points]:
        """The native histograms, as points of their own."""
        natives = found.natives
        if not len(natives.key):
            return []
        # In the same batch no slot that was handed out is given to another series.
        slots = self._table.more_slots(natives.key, natives.written)
        parts = []
        for native in native_points(found.bodies.natives, natives.request, self._buckets_max):
            rows, slot = native.rows, slots[native.rows]
            points = replace(
                native.points, metric=slot, attributes=self._table.group[slot], time_ns=natives.time_ns[rows]
            )
            parts.append(with_exemplars(points, found.bodies.native_exemplars, len(slots), rows, None))
        return parts


@dataclass(frozen=True)
class ScrapedNatives:
    """The native histograms of some records, one row each: columns as `Scraped` has them."""

    request: Int32s
    key: UInt64s
    time_ns: Int64s
    written: Callable[[int], Written]


@dataclass(frozen=True)
class Scraped:
    """All samples of some records, and all lines that are none.

    Columns of samples:
        request: which of the records
        key: of its series; `malformed` where it is none
        time_ns, start_ns: UTC; a start of 0 is none
        value
        is_stamped: whether it has a timestamp of its own

    ``written`` gives the raw form of a row's series, None where it is no sample.
    """

    request: Int32s
    key: UInt64s
    time_ns: Int64s
    start_ns: Int64s
    value: Float64s
    is_stamped: Bools
    written: Callable[[int], Written | None]
    exemplars: Exemplars | None
    lines: Lines
    bodies: Bodies
    natives: ScrapedNatives

    @property
    def malformed(self) -> Bools:
        """Where a line is no sample."""
        malformed: Bools = self.key == _MALFORMED_KEY
        return malformed


def count_samples(record: Record) -> int:
    """How many samples a record holds, or more, cheaply: a line is one at most.

    Raises:
        Invalid: it says that it is protobuf and is none.
    """
    parts = [record.report, record.ended]
    if reading_of_line(record.reading).format is Format.PROTOBUF:
        return most_samples(record.body) + sum(part.count(b"\n") for part in parts)
    return sum(part.count(b"\n") + 1 for part in (*parts, record.body))


def read_records(records: Sequence[Record]) -> Scraped:
    """The samples of some records, all in one go.

    Raises:
        Invalid: a record's body is no protobuf though it says so, or its `Reading` is none.
    """
    readings = [reading_of_line(record.reading) for record in records]
    binary = [i for i, reading in enumerate(readings) if reading.format is Format.PROTOBUF]
    texts = [
        part if part.endswith(b"\n") or not part else part + b"\n"
        for record, reading in zip(records, readings, strict=True)
        for part in (record.report, b"" if reading.format is Format.PROTOBUF else record.body, record.ended)
    ]
    text = _cut(records, texts)
    bodies = _bodies([records[i].body for i in binary], [readings[i] for i in binary])
    owners = np.array(binary, np.int64)
    ms_per_unit = np.array([1e3 if reading.format is Format.OPENMETRICS else 1.0 for reading in readings])
    times = _Times(
        np.array([record.time_ns for record in records], np.int64),
        np.array([reading.honor_timestamps for reading in readings], np.bool_),
    )
    request = np.concatenate((text.part // _PARTS, text.malformed_part // _PARTS, owners[bodies.body]))
    stamps_ms = np.concatenate(
        (
            text.lines.timestamp * ms_per_unit[text.part // _PARTS],
            np.full(len(text.malformed_part), np.nan),
            _or_none(bodies.time_ms),
        )
    )
    time_ns = times.of(request, stamps_ms)
    first = len(text.part) + len(text.malformed_part)
    context = _contexts(records)[_BODY::_PARTS]
    native_request = owners[bodies.native_body]

    def written(row: int) -> Written | None:
        if key[row] == _MALFORMED_KEY:
            return None
        if row < first:
            return text.written(row, records)
        return Written(*bodies.text(row - first), records[int(request[row])].reading, False)

    key = np.concatenate(
        (text.key, np.full(len(text.malformed_part), _MALFORMED_KEY), _keys_of_bodies(bodies, context[owners]))
    )
    return Scraped(
        request=request.astype(np.int32),
        key=key,
        time_ns=time_ns,
        start_ns=np.concatenate((np.zeros(first, np.int64), bodies.samples.start_ns)),
        value=np.concatenate((text.lines.value, np.zeros(len(text.malformed_part)), bodies.samples.value)),
        is_stamped=~np.isnan(stamps_ms),
        written=written,
        exemplars=_joined(_exemplars(text.lines, time_ns), _moved(bodies.samples.exemplars, first, time_ns)),
        lines=text.lines,
        bodies=bodies,
        natives=ScrapedNatives(
            request=native_request.astype(np.int32),
            key=np.maximum(mix(bodies.native_key, context[native_request]), np.uint64(2)),
            time_ns=times.of(native_request, _or_none(bodies.native_time_ms)),
            written=lambda row: Written(*bodies.native_text(row), records[int(native_request[row])].reading, False),
        ),
    )


def _bodies(bodies: Sequence[bytes], readings: Sequence[Reading]) -> Bodies:
    if not bodies:
        return no_bodies()
    takes_native = np.array([reading.native_histograms for reading in readings])
    return read_bodies(bodies, takes_native, np.array([reading.classic_histograms for reading in readings]))


@dataclass(frozen=True)
class _Times:
    """By record: when it was scraped, and whether timestamps of samples count."""

    scrape_ns: Int64s
    is_honored: Bools

    def of(self, request: Int64s, stamps_ms: Float64s) -> Int64s:
        """The time of each sample from its timestamp; NaN is none."""
        stamped = ~np.isnan(stamps_ms) & self.is_honored[request]
        own_ms = np.clip(np.where(stamped, stamps_ms, 0), 0, _SECONDS_MAX * 1e3)
        return np.where(stamped, np.rint(own_ms).astype(np.int64) * 10**6, self.scrape_ns[request])


def _or_none(time_ms: Int64s) -> Float64s:
    return np.where(time_ms != 0, time_ms.astype(np.float64), np.nan)


def _keys_of_bodies(bodies: Bodies, context: UInt64s) -> UInt64s:
    """The key of each sample in protobuf; ``context`` is by body."""
    samples = bodies.samples
    key = np.maximum(mix(bodies.key, context[bodies.body]), np.uint64(2))
    is_none = (samples.part == Part.MALFORMED) | (samples.value.view(np.uint64) == STALE_BITS)
    return np.where(is_none, _MALFORMED_KEY, key)


@dataclass(frozen=True)
class _Cut:
    """The text of some records; ``part`` is which part of which record, three a record, as is ``malformed_part``."""

    lines: Lines
    part: Int64s
    key: UInt64s
    malformed_part: Int64s

    def written(self, row: int, records: Sequence[Record]) -> Written:
        """A sample's series as it was written."""
        lines, part = self.lines, int(self.part[row])
        declared, unit = int(lines.type[row]), int(lines.unit[row])
        return Written(
            lines.series[row].as_py(),
            lines.types.lines[declared].as_py() if declared >= 0 else b"",
            lines.units.lines[unit].as_py() if unit >= 0 else b"",
            records[part // _PARTS].reading,
            part % _PARTS == _REPORT,
        )


def _cut(records: Sequence[Record], parts: Sequence[bytes]) -> _Cut:
    """Cut the text of some records; ``parts`` are theirs, one after the other."""
    lines = cut(b"".join(parts))
    begins = np.cumsum([0, *map(len, parts)])[:-1]
    # Parts that are empty begin where the next one does: the last of those is meant.
    part, malformed_part = (last_before(begins, at) for at in (lines.at, lines.malformed))
    begin = begins[part]
    type_at, unit_at = (np.concatenate((declared.at, [-1])) for declared in (lines.types, lines.units))
    of_type = np.where(type_at[lines.type] >= begin, lines.type, -1)
    # A unit is of the family that was declared before it.
    of_unit = np.where(unit_at[lines.unit] >= np.maximum(begin, type_at[of_type]), lines.unit, -1)
    lines = replace(lines, type=of_type, unit=of_unit)
    series, types, units = hashes_of([lines.series, lines.types.lines, lines.units.lines])
    declared = mix(np.append(types, np.uint64(0))[of_type], np.append(units, np.uint64(0))[of_unit])
    key = np.maximum(mix(series, mix(_contexts(records)[part], declared)), np.uint64(2))
    forged = (part % _PARTS == _BODY) & (lines.value.view(np.uint64) == STALE_BITS)
    return _Cut(lines, part, np.where(forged, _MALFORMED_KEY, key), malformed_part)


def _contexts(records: Sequence[Record]) -> UInt64s:
    """What tells apart equal series of different readings, part by part; reports are read in a way of their own."""
    read_by = [xxhash.xxh3_64_intdigest(record.reading) for record in records]
    context = np.repeat(np.array(read_by, np.uint64), _PARTS)
    context[_REPORT::_PARTS] += np.uint64(1)
    return context


def _exemplars(lines: Lines, time_ns: Int64s) -> Exemplars | None:
    if not len(lines.exemplar_row):
        return None
    labels = pl.Series("", lines.exemplar_labels, pl.String)
    own = lines.exemplar_timestamp
    seconds = np.clip(np.nan_to_num(own, nan=0.0, posinf=0.0, neginf=0.0), 0, _SECONDS_MAX)
    return Exemplars(
        point=lines.exemplar_row,
        value=lines.exemplar_value,
        time_ns=np.where(np.isnan(own), time_ns[lines.exemplar_row], np.rint(seconds * 1e3).astype(np.int64) * 10**6),
        trace_ids=_ids(labels, "trace_id", 32),
        span_ids=_ids(labels, "span_id", 16),
    )


def _moved(exemplars: Exemplars | None, first: int, time_ns: Int64s) -> Exemplars | None:
    """Exemplars of samples that begin at row ``first``; they have their sample's time where they have none."""
    if exemplars is None:
        return None
    point = exemplars.point + first
    own_ns = exemplars.time_ns
    return replace(exemplars, point=point, time_ns=np.where(own_ns > 0, own_ns, time_ns[point]))


def _joined(one: Exemplars | None, other: Exemplars | None) -> Exemplars | None:
    if one is None or other is None:
        return one or other
    return Exemplars(
        np.concatenate((one.point, other.point)),
        np.concatenate((one.value, other.value)),
        np.concatenate((one.time_ns, other.time_ns)),
        pa.concat_arrays([one.trace_ids, other.trace_ids]),
        pa.concat_arrays([one.span_ids, other.span_ids]),
    )


def _ids(labels: pl.Series, name: str, digits: int) -> pa.Array:
    """The ids that a label has, as bytes; none where it has another length."""
    written = labels.str.extract(rf'[{{,]\s*{name}="([0-9a-fA-F]{{{digits}}})"')
    return written.fill_null("").str.decode("hex", strict=False).fill_null(b"").to_arrow().cast(pa.binary())
