"""OTLP metrics protobuf → flat columns, many requests at once, never a loop over points.

``ptars`` (Rust) parses with the trimmed, wire-compatible messages of ``trimmed_metrics.proto``; this module views the
nested Arrow lists it gives as numpy columns and flattens them. Identity (resource, scope, name, unit, attributes)
stays raw bytes here. Pure: bytes in, columns out, or `Invalid`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import ptars
import pyarrow as pa

from catchment.errors import Invalid
from collectors.decode import trimmed_metrics_pb2 as trimmed

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

_ZERO = bytes(8)
# Another one in every process, so that nobody can prepare attributes whose hashes collide.
_SEED = secrets.randbits(63)
_POOL = ptars.HandlerPool([trimmed.DESCRIPTOR])
_HANDLER = _POOL.get_for_message(trimmed.DESCRIPTOR.message_types_by_name["MetricsData"])
_SHALLOW_HANDLER = _POOL.get_for_message(trimmed.DESCRIPTOR.message_types_by_name["ShallowMetricsData"])
# An odd number: 2^64 over the golden ratio.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Shape(IntEnum):
    """The message type of a data point."""

    GAUGE = 0
    SUM = 1
    HISTOGRAM = 2
    EXPONENTIAL = 3
    SUMMARY = 4


@dataclass(frozen=True)
class RawBytes:
    """Byte strings as offsets into one buffer; ``parts`` tells how each is cut into fields: equal for equal cuts."""

    array: pa.Array
    parts: Int64s
    fields: pa.ListArray | None = None  # the same strings as lists of their fields

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> bytes:
        value = self.array[index].as_py()
        assert isinstance(value, bytes)
        return value

    @staticmethod
    def split_all(parts: list[RawBytes], rows: npt.NDArray[np.intp]) -> list[list[bytes]]:
        """The fields of some strings of several columns, numbered through."""
        lists = pa.concat_arrays([part.fields for part in parts])
        fields: list[list[bytes]] = lists.take(pa.array(rows)).to_pylist()
        return fields

    @staticmethod
    def hashes_of(parts: list[RawBytes]) -> UInt64s:
        """An in-memory hash of each string of several columns, for look-ups within this process (not `identity`'s)."""
        joined = pa.concat_arrays([part.array for part in parts])
        hashed: UInt64s = pl.Series(pl.from_arrow(joined)).hash(_SEED).to_numpy()
        return hashed ^ (np.concatenate([part.parts for part in parts]).view(np.uint64) * _SPREAD)


@dataclass(frozen=True)
class Metrics:
    """One row per metric message, with what its points share."""

    request: Int32s  # which of the payloads
    resource: Int32s  # row in ``Decoded.resources``
    scope: Int32s  # row in ``Decoded.scopes``
    names: RawBytes
    units: RawBytes


@dataclass(frozen=True)
class Exemplars:
    """Exemplars of a shape's points; ``point`` is the row of the point that each belongs to."""

    point: Int64s
    value: Float64s
    time_ns: Int64s
    trace_ids: pa.Array
    span_ids: pa.Array


@dataclass(frozen=True)
class Points:
    """The data points of one shape, one row each.

    Columns:
        metric: row in `Metrics`
        start_ns, time_ns: UTC; a time beyond int64 shows as negative, which validation refuses
        number_int, number_float, is_int, has_number: the value of gauges and sums
        count, sum, has_sum, min, max: histograms and summaries; NaN where min, max are absent
        temporality, monotonic: of the metric
    """

    shape: Shape
    metric: Int32s
    start_ns: Int64s
    time_ns: Int64s
    flags: npt.NDArray[np.uint32]
    attributes: RawBytes
    temporality: Int32s
    monotonic: Bools
    exemplars: Exemplars | None
    number_int: Int64s
    number_float: Float64s
    is_int: Bools
    has_number: Bools
    count: UInt64s
    sum: Float64s
    has_sum: Bools
    min: Float64s
    max: Float64s
    buckets: Buckets | None = None
    quantiles: Int64s | None = None  # summaries: how many quantile values each point carried

    def __len__(self) -> int:
        return len(self.metric)


@dataclass(frozen=True)
class Buckets:
    """Ragged bucket columns: row i has ``counts[offsets[i]:offsets[i + 1]]``.

    Explicit histograms use ``offsets``/``counts`` and ``bound_offsets``/``bounds``. Exponential ones use ``offsets``/
    ``counts`` for the positive range, ``negative_*`` for the other, and scale, zero_count, zero_threshold.
    """

    offsets: Int64s
    counts: UInt64s
    bound_offsets: Int64s
    bounds: Float64s
    scale: Int32s
    zero_count: UInt64s
    zero_threshold: Float64s
    positive_start: Int32s
    negative_start: Int32s
    negative_offsets: Int64s
    negative_counts: UInt64s


@dataclass(frozen=True)
class Decoded:
    """All that some payloads hold. ``resource_request`` is the payload that each resource came in."""

    requests: int
    resources: RawBytes
    resource_request: Int32s
    scopes: RawBytes
    metrics: Metrics
    points: tuple[Points, ...]


def decode(payloads: Sequence[bytes]) -> Decoded:
    """Flatten OTLP metrics requests.

    Args:
        payloads: serialised ``ExportMetricsServiceRequest`` messages.

    Raises:
        Invalid: at least one payload is no such message. Which one is for the caller to find, one at a time.
    """
    try:
        batch = _HANDLER.list_to_record_batch(list(payloads))
    except ValueError as error:
        raise Invalid(str(error)) from error
    request, resource_rows = _children(batch.column(0))
    resource, scope_rows = _children(resource_rows.field("scope_metrics"))
    scope, metric_rows = _children(scope_rows.field("metrics"))
    metrics = Metrics(
        request=request[resource[scope]],
        resource=resource[scope],
        scope=scope,
        names=_raw(metric_rows.field("name")),
        units=_raw(metric_rows.field("unit")),
    )
    points = tuple(p for p in (_shape_points(shape, metric_rows) for shape in Shape) if len(p))
    return Decoded(
        requests=len(payloads),
        resources=_raw(resource_rows.field("resource")),
        resource_request=request,
        scopes=_raw(scope_rows.field("scope")),
        metrics=metrics,
        points=points,
    )


def count_messages(payload: bytes) -> int:
    """How many points a request holds, or metrics, scopes or resources if these are more; a fifth of `decode`'s cost.

    An empty point takes two bytes of a request and 200 once decoded: what is large is counted first.

    Raises:
        Invalid: the payload is no such message.
    """
    try:
        batch = _SHALLOW_HANDLER.list_to_record_batch([payload])
    except ValueError as error:
        raise Invalid(str(error)) from error
    resources = batch.column(0).values
    scopes = resources.field("scope_metrics").values
    metrics = scopes.field("metrics").values
    points = sum(len(metrics.field(name).field("data_points").values) for name in _FIELDS.values())
    return max(points, len(metrics), len(scopes), len(resources))


def _children(lists: pa.ListArray) -> tuple[Int32s, pa.StructArray]:
    """The row of the parent of each child, and the children."""
    offsets = lists.offsets.to_numpy()
    return np.repeat(np.arange(len(lists), dtype=np.int32), np.diff(offsets)), lists.values


def _raw(array: pa.Array) -> RawBytes:
    return RawBytes(array, np.ones(len(array), np.int64))


def _attributes(lists: pa.ListArray) -> RawBytes:
    """Each point's attributes as one slice: the key-values of a point lie side by side in the values' buffer."""
    list_offsets = lists.offsets.to_numpy()
    _, offsets, data = lists.values.buffers()
    kv_offsets = np.frombuffer(offsets, np.int32, len(lists.values) + 1) if offsets else np.zeros(1, np.int32)
    joined = pa.Array.from_buffers(
        pa.binary(), len(lists), [None, pa.py_buffer(kv_offsets[list_offsets]), data or pa.py_buffer(b"")]
    )
    # Bytes that join to the same may be cut elsewhere: the number of fields and the sum of their places tell.
    counts = np.diff(list_offsets).astype(np.int64)
    sums = np.concatenate(([0], np.cumsum(kv_offsets[:-1], dtype=np.int64)))[list_offsets]
    places = np.diff(sums) - counts * kv_offsets[list_offsets[:-1]]
    return RawBytes(joined, counts ^ (places << 16), lists)


_FIELDS = {
    Shape.GAUGE: "gauge",
    Shape.SUM: "sum",
    Shape.HISTOGRAM: "histogram",
    Shape.EXPONENTIAL: "exponential_histogram",
    Shape.SUMMARY: "summary",
}


def _shape_points(shape: Shape, metric_rows: pa.StructArray) -> Points:
    data = metric_rows.field(_FIELDS[shape])
    metric, rows = _children(data.field("data_points"))
    n = len(rows)
    is_number = shape in (Shape.GAUGE, Shape.SUM)
    is_histogram = shape in (Shape.HISTOGRAM, Shape.EXPONENTIAL)
    temporality = (
        _ints32(data.field("aggregation_temporality"))[metric]
        if shape
        not in (
            Shape.GAUGE,
            Shape.SUMMARY,
        )
        else np.zeros(n, np.int32)
    )
    monotonic = (
        data.field("is_monotonic").to_numpy(zero_copy_only=False).astype(bool)[metric]
        if shape is Shape.SUM
        else np.zeros(n, bool)
    )
    number_int, has_int = _optional(rows.field("as_int"), np.int64) if is_number else _none(n, np.int64)
    number_float, has_float = _optional(rows.field("as_double"), np.float64) if is_number else _none(n, np.float64)
    if shape is Shape.SUMMARY:
        total, has_total = rows.field("sum").to_numpy(), np.ones(n, bool)
    else:
        total, has_total = _optional(rows.field("sum"), np.float64) if is_histogram else _none(n, np.float64)
    low, has_low = _optional(rows.field("min"), np.float64) if is_histogram else _none(n, np.float64)
    high, has_high = _optional(rows.field("max"), np.float64) if is_histogram else _none(n, np.float64)
    return Points(
        shape=shape,
        metric=metric,
        start_ns=_times(rows.field("start_time_unix_nano")),
        time_ns=_times(rows.field("time_unix_nano")),
        flags=rows.field("flags").to_numpy(),
        attributes=_attributes(rows.field("attributes")),
        temporality=temporality,
        monotonic=monotonic,
        exemplars=None if shape is Shape.SUMMARY else _exemplars(rows.field("exemplars")),
        number_int=number_int,
        number_float=number_float,
        is_int=has_int,
        has_number=has_int | has_float,
        count=_none(n, np.uint64)[0] if is_number else rows.field("count").to_numpy(),
        sum=total,
        has_sum=has_total,
        min=_or_nan(low, has_low),
        max=_or_nan(high, has_high),
        buckets=_buckets(shape, rows) if is_histogram else None,
        quantiles=np.diff(rows.field("quantile_values").offsets.to_numpy()).astype(np.int64)
        if shape is Shape.SUMMARY
        else None,
    )


def _buckets(shape: Shape, rows: pa.StructArray) -> Buckets:
    n = len(rows)
    empty_offsets, no_counts = np.zeros(n + 1, np.int64), np.zeros(0, np.uint64)
    zeros32, zeros64 = np.zeros(n, np.int32), np.zeros(n, np.uint64)
    if shape is Shape.HISTOGRAM:
        counts, bounds = rows.field("bucket_counts"), rows.field("explicit_bounds")
        return Buckets(
            offsets=counts.offsets.to_numpy().astype(np.int64),
            counts=counts.values.to_numpy(),
            bound_offsets=bounds.offsets.to_numpy().astype(np.int64),
            bounds=bounds.values.to_numpy(),
            scale=zeros32,
            zero_count=zeros64,
            zero_threshold=np.zeros(n),
            positive_start=zeros32,
            negative_start=zeros32,
            negative_offsets=empty_offsets,
            negative_counts=no_counts,
        )
    positive, negative = rows.field("positive"), rows.field("negative")
    positive_counts, negative_counts = positive.field("bucket_counts"), negative.field("bucket_counts")
    return Buckets(
        offsets=positive_counts.offsets.to_numpy().astype(np.int64),
        counts=positive_counts.values.to_numpy(),
        bound_offsets=empty_offsets,
        bounds=np.zeros(0),
        scale=rows.field("scale").to_numpy(),
        zero_count=rows.field("zero_count").to_numpy(),
        zero_threshold=rows.field("zero_threshold").to_numpy(),
        positive_start=_ints32(positive.field("offset")),
        negative_start=_ints32(negative.field("offset")),
        negative_offsets=negative_counts.offsets.to_numpy().astype(np.int64),
        negative_counts=negative_counts.values.to_numpy(),
    )


def _exemplars(lists: pa.ListArray) -> Exemplars | None:
    if not len(lists.values):
        return None
    point, rows = _children(lists)
    as_int, is_int = _optional(rows.field("as_int"), np.int64)
    as_double, is_double = _optional(rows.field("as_double"), np.float64)
    return Exemplars(
        point=point.astype(np.int64),
        # One without a value is none: NaN is left out later.
        value=np.where(is_int, as_int.astype(np.float64), _or_nan(as_double, is_double)),
        time_ns=_times(rows.field("time_unix_nano")),
        trace_ids=rows.field("trace_id"),
        span_ids=rows.field("span_id"),
    )


def _times(array: pa.Array) -> Int64s:
    times: Int64s = array.to_numpy().view(np.int64)
    return times


def _ints32(array: pa.Array) -> Int32s:
    """Values of a field of an absent message are 0."""
    values: Int32s = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return values


def _optional(array: pa.Array, dtype: type[Scalar]) -> tuple[npt.NDArray[Scalar], Bools]:
    """Values (0 where absent) and where they are present."""
    if not array.null_count:
        return array.to_numpy(zero_copy_only=False), np.ones(len(array), bool)
    present = array.is_valid().to_numpy(zero_copy_only=False)
    return array.fill_null(0).to_numpy(zero_copy_only=False), present


def _or_nan(values: Float64s, present: Bools) -> Float64s:
    return values if present.all() else np.where(present, values, np.nan)


def _none(n: int, dtype: type[Scalar]) -> tuple[npt.NDArray[Scalar], Bools]:
    # Views of one zero: a column that the shape does not have takes no memory.
    return np.ndarray(n, dtype, _ZERO, strides=(0,)), np.ndarray(n, np.bool_, _ZERO, strides=(0,))
