"""Records of scrapes → flat columns, many targets at once: text is cut (`lines`), protobuf parsed (`client_model`), series
are looked up, and their samples put together (`prometheus`).

Rules:

1. A series is known by its raw form, the lines that declare its type and its unit, and its target's `Reading`. Its labels
   are read once (`scraped_series`).
2. What is declared in one text means nothing in the next.
3. A line that is no sample is a point that is refused by reason; all such lines of all targets share one series.
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
from collectors.decode.client_model import Bodies, read_bodies
from collectors.decode.lines import Lines, cut
from collectors.decode.native_histograms import native_points
from collectors.decode.points import Exemplars, Points
from collectors.decode.prometheus import STALE_BITS, PrometheusPoints, Samples, assemble
from collectors.decode.raw import hashes_of
from collectors.decode.scraped_series import Written, reading_of_line, series_written
from collectors.decode.series_table import SeriesTable
from collectors.scrape.record import Format, Record

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
    """The `collectors.decode.forms.Decoder` of scrapes; ``buckets_max`` is the most that a native histogram may have."""

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
        """See `collectors.decode.forms.Decoder.count`: a line is a sample at most, and one of protobuf has eight bytes."""
        record = Record.of(payload)
        if reading_of_line(record.reading).format is Format.PROTOBUF:
            return len(record.body) // 8 + record.report.count(b"\n") + record.ended.count(b"\n")
        return payload.count(b"\n")

    def _natives(self, found: Scraped) -> list[Points]:
        """The native histograms, as points of their own."""
        bodies = found.bodies
        if not len(bodies.native_key):
            return []
        # Their series stay: none is looked up between the two calls, and a full table is cleared by the first of a batch.
        slots = self._table.more_slots(found.native_key, found.native_written)
        parts = []
        for native in native_points(bodies.natives, found.native_request, self._buckets_max):
            slot = slots[native.rows]
            own_ns = native.points.time_ns
            time_ns = np.where(own_ns > 0, own_ns, found.native_time_ns[native.rows])
            parts.append(replace(native.points, metric=slot, attributes=self._table.group[slot], time_ns=time_ns))
        return parts


@dataclass(frozen=True)
class Scraped:
    """All samples of some records, and all lines that are none.

    Columns of samples:
        request: which of the records
        key: of its series; `malformed` where it is none
        time_ns, start_ns: UTC; a start of 0 is none
        value
        is_stamped: whether it has a timestamp of its own

    ``written`` gives the raw form of a row's series; ``native_*`` are of the native histograms of ``bodies``.
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
    native_request: Int32s
    native_key: UInt64s
    native_time_ns: Int64s
    native_written: Callable[[int], Written]

    @property
    def malformed(self) -> Bools:
        """Where a line is no sample."""
        malformed: Bools = self.key == _MALFORMED_KEY
        return malformed


def read_records(records: Sequence[Record]) -> Scraped:
    """The samples of some records, all in one go.

    Raises:
        Invalid: a record's body is no protobuf though it says so, or its `Reading` is none.
    """
    readings = [reading_of_line(record.reading) for record in records]
    is_protobuf = [reading.format is Format.PROTOBUF for reading in readings]
    parts = [
        part if part.endswith(b"\n") or not part else part + b"\n"
        for record, binary in zip(records, is_protobuf, strict=True)
        for part in (record.report, b"" if binary else record.body, record.ended)
    ]
    text = _cut(records, parts)
    owners = np.flatnonzero(is_protobuf)
    bodies = read_bodies([records[i].body for i in owners.tolist()])
    scrape_ns = np.array([record.time_ns for record in records], np.int64)
    honored = np.array([reading.honor_timestamps for reading in readings], np.bool_)
    ms_per_unit = np.array([1e3 if reading.format is Format.OPENMETRICS else 1.0 for reading in readings])
    part = np.concatenate((text.part, text.malformed_part))
    request = np.concatenate((part // _PARTS, owners[bodies.body]))
    stamps = np.concatenate(
        (
            text.lines.timestamp * ms_per_unit[text.part // _PARTS],
            np.full(len(text.malformed_part), np.nan),
            np.where(bodies.time_ms != 0, bodies.time_ms.astype(np.float64), np.nan),
        )
    )
    is_stamped = ~np.isnan(stamps)
    stamped_ns = np.rint(np.clip(np.where(is_stamped, stamps, 0), 0, _SECONDS_MAX * 1e3)).astype(np.int64) * 10**6
    time_ns = np.where(is_stamped & honored[request], stamped_ns, scrape_ns[request])
    context = _contexts(records)[_BODY::_PARTS]
    first = len(part)

    def written(row: int) -> Written | None:
        if row >= first:
            at = row - first
            form = bodies.families.text(int(bodies.metric[at]), int(bodies.part[at]), float(bodies.number[at]))
            return Written(*form, records[int(owners[bodies.body[at]])].reading, False)
        return None if key[row] == _MALFORMED_KEY else text.written(row, records)

    def native_written(row: int) -> Written:
        form = bodies.families.text(int(bodies.native_metric[row]), 0, 0.0)
        return Written(*form, records[int(owners[bodies.native_body[row]])].reading, False)

    key = np.concatenate(
        (
            text.key,
            np.full(len(text.malformed_part), _MALFORMED_KEY),
            np.maximum(mix(bodies.key, context[owners[bodies.body]]), np.uint64(2)),
        )
    )
    return Scraped(
        request=request.astype(np.int32),
        key=key,
        time_ns=time_ns,
        start_ns=np.concatenate((np.zeros(first, np.int64), bodies.start_ns)),
        value=np.concatenate((text.lines.value, np.zeros(len(text.malformed_part)), bodies.value)),
        is_stamped=is_stamped,
        written=written,
        exemplars=_exemplars(text.lines, time_ns),
        lines=text.lines,
        bodies=bodies,
        native_request=owners[bodies.native_body].astype(np.int32),
        native_key=np.maximum(mix(bodies.native_key, context[owners[bodies.native_body]]), np.uint64(2)),
        native_time_ns=scrape_ns[owners[bodies.native_body]],
        native_written=native_written,
    )


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
    part, malformed_part = (np.searchsorted(begins, at, side="right") - 1 for at in (lines.at, lines.malformed))
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


def _ids(labels: pl.Series, name: str, digits: int) -> pa.Array:
    """The ids that a label has, as bytes; none where it has another length."""
    written = labels.str.extract(rf'[{{,]\s*{name}="([0-9a-fA-F]{{{digits}}})"')
    return written.fill_null("").str.decode("hex", strict=False).fill_null(b"").to_arrow().cast(pa.binary())
