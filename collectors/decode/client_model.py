"""What targets answer in Prometheus' protobuf → flat columns of samples, and native histograms; no loop over samples.

Rules:

1. A body is messages of `MetricFamily`, each preceded by its length. ``ptars`` parses all of all bodies at once.
2. A histogram with spans or a zero bucket is a native one, and its classic buckets, if it has any too, are left out.
3. Series are told apart by a hash of their family and labels; their text is made only where one was never seen before.

Source: https://github.com/prometheus/client_model and https://prometheus.io/docs/specs/native_histograms/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import ptars
import pyarrow as pa
from google.protobuf.message import DecodeError

from catchment.errors import Invalid
from catchment.identity import mix
from collectors.decode import client_model_pb2 as trimmed
from collectors.decode.attributes import Unreadable
from collectors.decode.raw import hashes_of, joined_fields, lengths_of
from collectors.decode.views import children, optional, values_of
from collectors.reasons import Reason

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_POOL = ptars.HandlerPool([trimmed.DESCRIPTOR])
_FAMILY: Final[Any] = _POOL.get_for_message(trimmed.DESCRIPTOR.message_types_by_name["MetricFamily"])
_LABEL: Final[Any] = trimmed
_TYPES = ("counter", "gauge", "summary", "unknown", "histogram", "gaugehistogram")
_GAUGE_HISTOGRAM = 5
_RESET_HINT_GAUGE = 3
# What a sample is to its metric, and the label that has its number.
_SUFFIXES = ("", "_count", "_sum", "_bucket", "")
_VALUE, _COUNT, _SUM, _BUCKET, _QUANTILE = range(5)
_NUMBERED = {_BUCKET: "le", _QUANTILE: "quantile"}


@dataclass(frozen=True)
class Families:
    """The families of some bodies, and their metrics.

    Columns of families: name, type, unit. Of metrics: family, labels.
    """

    name: pa.Array
    type: npt.NDArray[np.int32]
    unit: pa.Array
    family: npt.NDArray[np.int32]
    labels: pa.ListArray

    def text(self, metric: int, part: int, number: float) -> tuple[bytes, bytes, bytes]:
        """A series as exposition text writes it, and the lines that declare its type and unit.

        Args:
            metric: row of its metric.
            part: what its samples are to the metric.
            number: bound or quantile.

        Raises:
            Unreadable: its labels are none.
        """
        family = int(self.family[metric])
        name, unit = self.name[family].as_py(), self.unit[family].as_py()
        pairs = [_pair(raw) for raw in self.labels[metric].as_py()]
        if part in _NUMBERED:
            pairs.append((_NUMBERED[part].encode(), (b"+Inf" if number == np.inf else repr(number).encode())))
        labels = b",".join(
            [_quoted(name + _SUFFIXES[part].encode()), *(_quoted(k) + b"=" + _quoted(v) for k, v in pairs)]
        )
        kind = _TYPES[int(self.type[family])] if 0 <= self.type[family] < len(_TYPES) else "unknown"
        declared = b"# TYPE %s %s" % (name, kind.encode())
        return b"{" + labels + b"}", declared, b"# UNIT %s %s" % (name, unit) if unit else b""


@dataclass(frozen=True)
class Bodies:
    """The samples of some bodies, those of one histogram or summary side by side.

    Columns of samples:
        body: which of the bodies
        key: of its series, in this process
        time_ms: 0 where it has none of its own
        start_ns: 0 where it is not said
        value
        metric, part, number: what `Families.text` makes its series of

    ``natives`` are native histograms as messages of remote write, with 0 for times that they do not have; ``native_body``,
    ``native_key`` and ``native_metric`` say whose they are.
    """

    families: Families
    body: Int64s
    key: UInt64s
    time_ms: Int64s
    start_ns: Int64s
    value: Float64s
    metric: Int64s
    part: Int64s
    number: Float64s
    natives: pa.StructArray
    native_body: Int64s
    native_key: UInt64s
    native_metric: Int64s


def read_bodies(bodies: Sequence[bytes]) -> Bodies:
    """The samples of some protobuf bodies.

    Raises:
        Invalid: one of them is none.
    """
    messages, body_of = [], []
    for i, body in enumerate(bodies):
        for message in _delimited(body):
            messages.append(message)
            body_of.append(i)
    try:
        batch = _FAMILY.list_to_record_batch(messages)
    except ValueError as error:
        raise Invalid(f"not a MetricFamily: {error}") from error
    columns = {field.name: batch.column(i) for i, field in enumerate(batch.schema)}
    family, metrics = children(columns["metric"])
    joined, cuts = joined_fields(metrics.field("label"))
    names, units, labels = hashes_of([columns["name"], columns["unit"], joined])
    types = values_of(columns["type"], np.int32)
    shared = mix(mix(names, units), types.astype(np.uint64))
    families = Families(columns["name"], types, columns["unit"], family, metrics.field("label"))
    owner = np.array(body_of, np.int64)[family]
    return _collected(families, metrics, owner, mix(shared[family], labels + cuts))


def _collected(families: Families, metrics: pa.StructArray, body: Int64s, identity: UInt64s) -> Bodies:
    """The samples of all metrics."""
    histogram = metrics.field("histogram")
    is_native = histogram.is_valid().to_numpy(zero_copy_only=False) & _native(histogram)
    found = _samples(metrics, is_native)
    metric, part, number = (np.concatenate(columns) for columns in list(zip(*found, strict=True))[:3])
    value, start_ns = (np.concatenate(columns) for columns in list(zip(*found, strict=True))[3:])
    order = np.argsort(metric, kind="stable")
    metric, part, number = metric[order], part[order], number[order]
    natives = np.flatnonzero(is_native)
    salt = mix(part.astype(np.uint64), number.view(np.uint64))
    times = values_of(metrics.field("timestamp_ms"), np.int64)
    return Bodies(
        families=families,
        body=body[metric],
        key=mix(identity[metric], salt),
        time_ms=times[metric],
        start_ns=start_ns[order],
        value=value[order],
        metric=metric,
        part=part,
        number=number,
        natives=_messages(histogram, natives, families, times),
        native_body=body[natives],
        native_key=identity[natives],
        native_metric=natives,
    )


_Columns = tuple[Int64s, Int64s, Float64s, Float64s, Int64s]


def _samples(metrics: pa.StructArray, is_native: Bools) -> Iterator[_Columns]:
    """Metric, part, number, value and start of all samples, sort by sort."""

    def rows_of(name: str) -> tuple[Rows, pa.StructArray]:
        data = metrics.field(name)
        return np.flatnonzero(data.is_valid().to_numpy(zero_copy_only=False)), data

    def sort(metric: Rows, part: int, value: Float64s, start_ns: Int64s, number: Float64s | None = None) -> _Columns:
        numbers = np.zeros(len(metric)) if number is None else number
        return metric, np.full(len(metric), part), numbers, value, start_ns

    for name in ("gauge", "untyped", "counter"):
        rows, data = rows_of(name)
        starts = _start_ns(data)[rows] if name == "counter" else np.zeros(len(rows), np.int64)
        yield sort(rows, _VALUE, values_of(data.field("value"), np.float64)[rows], starts)
    for name, listed in (("summary", "quantile"), ("histogram", "bucket")):
        rows, data = rows_of(name)
        rows = rows[~is_native[rows]] if name == "histogram" else rows
        start_ns = _start_ns(data)
        owner, each = children(data.field(listed))
        kept = np.flatnonzero(np.isin(owner, rows))
        if name == "summary":
            number, value = (values_of(each.field(part), np.float64) for part in ("quantile", "value"))
            count = values_of(data.field("sample_count"), np.uint64).astype(np.float64)
        else:
            number = values_of(each.field("upper_bound"), np.float64)
            value = _or_float(each, "cumulative_count")
            count = _or_float(data, "sample_count")
        part = _QUANTILE if name == "summary" else _BUCKET
        yield sort(owner[kept].astype(np.int64), part, value[kept], start_ns[owner[kept]], number[kept])
        yield sort(rows, _COUNT, count[rows], start_ns[rows])
        yield sort(rows, _SUM, values_of(data.field("sample_sum"), np.float64)[rows], start_ns[rows])


def _or_float(data: pa.StructArray, name: str) -> Float64s:
    """A count that is an integer, or a float of another field."""
    whole = values_of(data.field(name), np.uint64).astype(np.float64)
    return np.where(whole > 0, whole, values_of(data.field(f"{name}_float"), np.float64))


def _start_ns(data: pa.StructArray) -> Int64s:
    """When it was created; 0 where that is not said."""
    created = data.field("created_timestamp")
    seconds = np.clip(optional(created.field("seconds"), np.int64)[0], 0, 9 * 10**9)
    nanos = np.clip(optional(created.field("nanos"), np.int32)[0], 0, 10**9 - 1).astype(np.int64)
    said = created.is_valid().to_numpy(zero_copy_only=False)
    return np.where(said, seconds * 10**9 + nanos, 0)


def _native(histogram: pa.StructArray) -> Bools:
    spans = sum(lengths_of(histogram.field(f"{sign}_span").offsets.to_numpy()) for sign in ("positive", "negative"))
    zeros = values_of(histogram.field("zero_count"), np.uint64) > 0
    threshold = values_of(histogram.field("zero_threshold"), np.float64) > 0
    native: Bools = (np.asarray(spans) > 0) | zeros | threshold
    return native


def _messages(histogram: pa.StructArray, rows: Rows, families: Families, times: Int64s) -> pa.StructArray:
    """Native histograms as the messages that `collectors.decode.native_histograms` reads."""
    chosen = histogram.take(pa.array(rows))
    n = len(rows)
    is_gauge = families.type[families.family[rows]] == _GAUGE_HISTOGRAM
    fields: dict[str, pa.Array] = {
        "sum": chosen.field("sample_sum"),
        "schema": chosen.field("schema"),
        "zero_threshold": chosen.field("zero_threshold"),
        "reset_hint": pa.array(np.where(is_gauge, _RESET_HINT_GAUGE, 0).astype(np.int32)),
        "timestamp": pa.array(times[rows]),
        "start_timestamp": pa.array(_start_ns(chosen) // 10**6),
        "custom_values": pa.array([[]] * n, pa.list_(pa.float64())),
    }
    for name, source in (("count", "sample_count"), ("zero_count", "zero_count")):
        as_float = values_of(chosen.field(f"{source}_float"), np.float64)
        is_float = as_float > 0
        fields[f"{name}_int"] = pa.array(values_of(chosen.field(source), np.uint64), mask=is_float)
        fields[f"{name}_float"] = pa.array(as_float, mask=~is_float)
    for sign in ("positive", "negative"):
        for name in ("span", "delta", "count"):
            fields[f"{sign}_{name}s"] = chosen.field(f"{sign}_{name}")
    return pa.StructArray.from_arrays(list(fields.values()), list(fields))


def _delimited(body: bytes) -> Iterator[bytes]:
    """The messages of a body, each preceded by its length as a varint."""
    at = 0
    while at < len(body):
        size = shift = 0
        while True:
            if at >= len(body) or shift > 28:
                raise Invalid("not delimited protobuf: a length does not end")
            byte = body[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if at + size > len(body):
            raise Invalid("not delimited protobuf: a message is cut off")
        yield body[at : at + size]
        at += size


def _pair(raw: bytes) -> tuple[bytes, bytes]:
    try:
        pair = _LABEL.LabelPair.FromString(raw)
    except DecodeError as error:
        raise Unreadable(Reason.LINE_MALFORMED) from error
    return pair.name, pair.value


def _quoted(text: bytes) -> bytes:
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n") + b'"'
