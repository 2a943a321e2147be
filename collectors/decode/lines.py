"""Exposition text (Prometheus and OpenMetrics) cut into samples, by columns: no loop over lines.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.

Rules:

1. Lines end with a newline; labels escape it, so that lines can be cut first. One with fields as every client library
   writes them, single spaces between and nothing behind, is cut where its last spaces and its last brace are; every
   other one (exemplars, tabs, hashes in labels) by a regular expression that runs in linear time.
2. A line that is no sample is reported, and hurts no other. Its series (labels) is not looked into here.
3. A sample belongs to the last ``# TYPE`` before it in its text, and to the ``# UNIT`` behind that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from collectors.decode.prometheus import STALE

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_NEWLINE, _SPACE, _HASH, _CLOSE = 10, 32, 35, 125
_LABELS = r'\{(?:[^"}\\]|"(?:[^"\\]|\\.)*")*\}'
_NUMBER = r"([^\s#{}]+)"
_OTHER = (
    rf"^[ \t]*([^\s{{#]+[ \t]*{_LABELS}|{_LABELS}|[^\s{{#]+[ \t])[ \t]*{_NUMBER}(?:[ \t]+{_NUMBER})?"
    rf"(?:[ \t]+#[ \t]*({_LABELS})[ \t]+{_NUMBER}(?:[ \t]+{_NUMBER})?)?[ \t]*$"
)
_FLOAT = re.compile(rb"[+-]?(?:inf|infinity|nan|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)
STALE_VALUE = b"stale"
"""What stands for a value in the part of a text that says which series have ended."""


@dataclass(frozen=True)
class Declared:
    """The lines that declare types, or units: where they begin, and themselves."""

    at: Int64s
    lines: pa.Array

    def before(self, at: Int64s) -> Int64s:
        """The last one before each of some ascending places; -1 where there is none."""
        return last_before(self.at, at)


@dataclass(frozen=True)
class Lines:
    """The samples of some text, one row each, in its order; then what cannot be read.

    Columns:
        at: where its line begins
        series: name and labels as written
        value: NaN where it is no number, see ``malformed``
        timestamp: as written, in the unit of its format; NaN where there is none
        type, unit: rows of ``types`` and ``units``; -1 where there is none
        malformed: where lines begin that are no samples
        exemplar_row, exemplar_labels, exemplar_value, exemplar_timestamp: of samples that have one
    """

    text: bytes
    at: Int64s
    series: pa.Array
    value: Float64s
    timestamp: Float64s
    type: Int64s
    unit: Int64s
    types: Declared
    units: Declared
    malformed: Int64s
    exemplar_row: Int64s
    exemplar_labels: list[str]
    exemplar_value: Float64s
    exemplar_timestamp: Float64s

    def __len__(self) -> int:
        return len(self.at)


def last_before(begins: Int64s, at: Int64s) -> Int64s:
    """The last of ``begins`` that is not behind each place of ``at``, -1 where there is none; both ascending.

    Few begin and many are, so the few are looked up.
    """
    counts = np.diff(np.searchsorted(at, begins), prepend=0, append=len(at))
    return np.repeat(np.arange(-1, len(begins)), counts)


def cut(text: bytes) -> Lines:
    """The samples of a text whose last line ends with a newline."""
    data = np.frombuffer(text, np.uint8)
    marks = np.flatnonzero((data == _NEWLINE) | (data == _SPACE) | (data == _CLOSE) | (data == _HASH))
    sort = data[marks]
    ends = np.flatnonzero(sort == _NEWLINE)
    line_end = marks[ends]
    line_start = np.concatenate(([0], line_end[:-1] + 1)) if len(ends) else np.zeros(0, np.int64)
    is_comment = data[line_start] == _HASH
    comments = line_start[is_comment], line_end[is_comment]
    types, units = _declared(text, b"# TYPE ", *comments), _declared(text, b"# UNIT ", *comments)
    rows = np.flatnonzero(~is_comment & (line_end > line_start))
    read = _Plain.of(marks, sort, ends, line_start, rows)
    plain = rows[read.is_plain]
    start = line_start[plain]
    fields = _slices(text, start, read.series_end, read.value_start, read.value_end)
    value, is_value = _floats(fields.take(pa.array(np.arange(2, 4 * len(plain), 4))))
    timestamp, is_timestamp = np.full(len(plain), np.nan), np.ones(len(plain), np.bool_)
    timed = np.flatnonzero(read.value_end < line_end[plain])
    if len(timed):
        after = _slices(text, start[timed], start[timed], read.value_end[timed] + 1, line_end[plain[timed]])
        timestamp[timed] = _floats(after.take(pa.array(np.arange(2, 4 * len(timed), 4))))[0]
        is_timestamp[timed] = np.isfinite(timestamp[timed])
    is_read = is_value & is_timestamp
    series = fields.take(pa.array(np.arange(0, 4 * len(plain), 4)))
    part = Lines(
        text,
        start,
        series,
        value,
        timestamp,
        types.before(start),
        units.before(start),
        types,
        units,
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        [],
        np.zeros(0),
        np.zeros(0),
    )
    if is_read.all() and len(plain) == len(rows):
        return part
    others = np.union1d(rows[~read.is_plain], plain[~is_read])
    return _with_others(_chosen(part, np.flatnonzero(is_read)), line_start[others], line_end[others])


@dataclass(frozen=True)
class _Plain:
    """Where the fields of plain lines stand; the columns have a row for each line that is plain."""

    is_plain: Bools
    series_end: Int64s
    value_start: Int64s
    value_end: Int64s

    @staticmethod
    def of(marks: Int64s, sort: npt.NDArray[np.uint8], ends: Rows, line_start: Int64s, rows: Rows) -> _Plain:
        """Of some lines.

        Args:
            marks, sort: newlines, spaces, closing braces and hashes: where they are and what.
            ends: which of them are newlines, one for each line.
            line_start: where each line begins.
            rows: of lines that are no comments.
        """
        end = ends[rows]
        # How many marks a line has before its newline; behind the last line there is none to look at.
        many = end - np.concatenate(([-1], ends))[rows] - 1
        hashes = np.cumsum(sort == _HASH)
        clean = hashes[end] == np.where(rows > 0, hashes[ends[rows - 1]], 0)
        before = [np.maximum(end - back, 0) for back in (1, 2, 3)]
        last, second, third = (sort[mark] for mark in before)
        at_last, at_second, at_third = (marks[mark] for mark in before)
        spaced = clean & (last == _SPACE) & (at_last + 1 < marks[end])
        value_only = (many == 1) | ((many >= 2) & (second == _CLOSE) & (at_second + 1 == at_last))
        timed = (second == _SPACE) & ((many == 2) | ((many >= 3) & (third == _CLOSE) & (at_third + 1 == at_second)))
        timed &= at_second + 1 < at_last
        before_value = np.where(timed, at_second, at_last)
        is_plain = spaced & (value_only | timed) & (before_value > line_start[rows])
        value_end = np.where(timed, at_last, marks[end])
        before_value = before_value[is_plain]
        return _Plain(is_plain, before_value, before_value + 1, value_end[is_plain])


def _declared(text: bytes, keyword: bytes, start: Int64s, end: Int64s) -> Declared:
    """Of some comments those that begin with a keyword."""
    data = np.frombuffer(text, np.uint8)
    rows = np.flatnonzero(end - start > len(keyword))
    # What follows "# " tells most.
    for i in (2, *range(2), *range(3, len(keyword))):
        rows = rows[data[start[rows] + i] == keyword[i]]
    at = start[rows]
    return Declared(at, _slices(text, at, end[rows]).take(pa.array(np.arange(0, 2 * len(at), 2))))


def _slices(text: bytes, *cuts: Int64s) -> pa.Array:
    """The pieces of a text between some places of each row: as many as there are cuts, the last up to the next row."""
    offsets = np.empty(len(cuts) * len(cuts[0]) + 1, np.int32)
    for i, cut_at in enumerate(cuts):
        offsets[i : -1 : len(cuts)] = cut_at
    offsets[-1] = len(text)
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def _texts(written: pa.Array) -> pl.Series:
    """Bytes as text, null where they are not UTF-8."""
    try:
        return pl.Series("", written.cast(pa.string()))
    except pa.ArrowInvalid:
        return pl.Series("", [_text(raw) for raw in written.to_pylist()], pl.String)


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _floats(written: pa.Array) -> tuple[Float64s, Bools]:
    """Numbers as they are written, and which are any; NaN for the others."""
    try:
        read = np.array(written.cast(pa.string()).cast(pa.float64()).to_numpy())
    except pa.ArrowInvalid:
        # One of them is none.
        read = np.array(_texts(written).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy())
    is_number = np.ones(len(read), np.bool_)
    doubtful = np.flatnonzero(np.isnan(read))
    if len(doubtful):
        # Infinities, NaN, and what is no number at all: few different ones where a sender is honest.
        odd = written.take(pa.array(doubtful)).dictionary_encode()
        meant = [_float(text) for text in odd.dictionary.to_pylist()]
        which = odd.indices.to_numpy()
        read[doubtful] = np.array([np.nan if value is None else value for value in meant])[which]
        is_number[doubtful] = np.array([value is not None for value in meant])[which]
    return read, is_number


def _float(text: bytes) -> float | None:
    if text == STALE_VALUE:
        return float(STALE)
    return float(text) if _FLOAT.fullmatch(text) else None


def _with_others(part: Lines, start: Int64s, end: Int64s) -> Lines:
    """Plain lines and all others, the latter read by the regular expression."""
    text = part.text
    raw = _slices(text, start, end).take(pa.array(np.arange(0, 2 * len(start), 2)))
    texts = _texts(raw)
    found = texts.str.extract_groups(_OTHER).struct.unnest()
    series, value, timestamp, labels, exemplar, exemplar_time = (found[name] for name in found.columns)
    numbers, is_number = _floats(value.fill_null("?").cast(pl.Binary).to_arrow())
    times = _floats(timestamp.fill_null("NaN").cast(pl.Binary).to_arrow())[0]
    is_time = np.isfinite(times) | timestamp.is_null().to_numpy()
    good = np.flatnonzero(is_number & is_time)
    # A line of spaces is none.
    is_blank = texts.str.strip_chars(" \t").eq("").fill_null(False)
    bad = np.flatnonzero(~(is_number & is_time) & ~is_blank.to_numpy())
    whole = np.concatenate((part.at, start[good]))
    order = np.argsort(whole, kind="stable")
    columns = pa.concat_arrays([part.series, series.cast(pl.Binary).gather(good).to_arrow().cast(pa.binary())])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    own = np.flatnonzero(labels.is_not_null().to_numpy()[good])
    chosen = good[own]
    exemplar_value, is_value = _floats(exemplar.gather(chosen).fill_null("?").cast(pl.Binary).to_arrow())
    exemplar_value[~is_value] = np.nan
    exemplar_at = _floats(exemplar_time.gather(chosen).fill_null("NaN").cast(pl.Binary).to_arrow())[0]
    at = whole[order]
    return Lines(
        text,
        at,
        columns.take(pa.array(order)),
        np.concatenate((part.value, numbers[good]))[order],
        np.concatenate((part.timestamp, times[good]))[order],
        part.types.before(at),
        part.units.before(at),
        part.types,
        part.units,
        np.concatenate((part.malformed, start[bad])),
        place[len(part) + own],
        labels.gather(chosen).to_list(),
        exemplar_value,
        exemplar_at,
    )


def _chosen(lines: Lines, rows: Rows) -> Lines:
    """Some rows of lines without exemplars."""
    return replace(
        lines,
        at=lines.at[rows],
        series=lines.series.take(pa.array(rows)),
        value=lines.value[rows],
        timestamp=lines.timestamp[rows],
        type=lines.type[rows],
        unit=lines.unit[rows],
    )
