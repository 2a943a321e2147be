"""OTLP metrics protobuf → flat columns, many requests at once, never a loop over points.

``ptars`` (Rust) parses with the trimmed, wire-compatible messages of ``trimmed_metrics.proto``; this module views the
nested Arrow lists it gives as numpy columns and flattens them (`collectors.decode.points`). Points of gauges and sums
are one group and read in place where they are plain (`collectors.decode.plain`). Identity (resource, scope, name, unit,
attributes) is hashed here and stays raw bytes. Pure: bytes in, columns out, or `Invalid`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.errors import Invalid
from collectors.decode.exemplars import exemplars_of
from collectors.decode.messages import METRICS, SHALLOW, SUMMARY, parsed
from collectors.decode.numbers import NumberPart, numbers_of
from collectors.decode.otlp import Metrics, OtlpMetrics
from collectors.decode.points import Buckets, Points, Raw, Shape
from collectors.decode.raw import hashes_of, joined_fields, lengths_of
from collectors.decode.temporality import kinds_of
from collectors.decode.views import children, nothing, optional, or_nan, values_of

Int32s = npt.NDArray[np.int32]
UInt64s = npt.NDArray[np.uint64]

_FIELDS = {
    Shape.HISTOGRAM: "histogram",
    Shape.EXPONENTIAL: "exponential_histogram",
    Shape.SUMMARY: "summary",
}
_LISTED = ("gauge", "sum", *_FIELDS.values())


def decode(payloads: Sequence[bytes]) -> OtlpMetrics:
    """Flatten OTLP metrics requests.

    Args:
        payloads: serialised ``ExportMetricsServiceRequest`` messages.

    Raises:
        Invalid: at least one payload is no such message. Which one is for the caller to find, one at a time.
    """
    try:
        batch = METRICS.list_to_record_batch(list(payloads))
    except ValueError as error:
        raise Invalid(str(error)) from error
    request, resource_rows = children(batch.column(0))
    resource, scope_rows = children(resource_rows.field("scope_metrics"))
    scope, metric_rows = children(scope_rows.field("metrics"))
    shared = [
        resource_rows.field("resource"),
        scope_rows.field("scope"),
        metric_rows.field("name"),
        metric_rows.field("unit"),
    ]
    groups = [group for shape in Shape if (group := _found(shape, metric_rows))]
    hashes = hashes_of([*shared, *(column for group in groups for column in group.hashed)])
    resources, scopes, names, units = (Raw(*pair) for pair in zip(hashes, shared, strict=False))
    start = len(shared)
    request_of_metric = request[resource[scope]]
    points = []
    for group in groups:
        end = start + len(group.hashed)
        points.append(group.points(request_of_metric, hashes[start:end]))
        start = end
    return OtlpMetrics(
        requests=len(payloads),
        resources=resources,
        resource_request=request,
        scopes=scopes,
        metrics=Metrics(resource=resource[scope], scope=scope, names=names, units=units),
        points=tuple(points),
    )


def count_messages(payload: bytes) -> int:
    """How many points a request holds, or metrics, scopes or resources if these are more; a fifth of `decode`'s cost.

    An empty point takes two bytes of a request and 200 once decoded: what is large is counted first.

    Raises:
        Invalid: the payload is no such message.
    """
    try:
        batch = SHALLOW.list_to_record_batch([payload])
    except ValueError as error:
        raise Invalid(str(error)) from error
    resources = batch.column(0).values
    scopes = resources.field("scope_metrics").values
    metrics = scopes.field("metrics").values
    points = sum(len(metrics.field(name).field("data_points").values) for name in _LISTED)
    return max(points, len(metrics), len(scopes), len(resources))


@dataclass(frozen=True)
class _Group:
    """The points of one shape before their strings are hashed.

    ``hashed``: binary columns to be hashed; ``points`` makes the points from each metric's request and their hashes.
    """

    hashed: list[pa.Array]
    points: Callable[[Int32s, list[UInt64s]], Points]


def _found(shape: Shape, metric_rows: pa.StructArray) -> _Group | None:
    """The points of a shape, if there are any."""
    if shape is Shape.NUMBER:
        parts = [NumberPart.of(metric_rows.field("gauge"), is_sum=False)]
        parts.append(NumberPart.of(metric_rows.field("sum"), is_sum=True))
        present = [part for part in parts if part is not None]
        return _Group([part.halves for part in present], partial(numbers_of, present)) if present else None
    data = metric_rows.field(_FIELDS[shape])
    metric, rows = children(data.field("data_points"))
    if not len(rows):
        return None
    if shape is Shape.SUMMARY:
        rows = parsed(SUMMARY, rows)
    lists = rows.field("attributes")
    joined, cuts = joined_fields(lists)
    kind = kinds_of(shape, data)[metric]
    shaped = partial(_histograms, shape, rows, metric, kind)
    return _Group([joined], lambda requests, hashes: shaped(requests[metric], hashes[0] + cuts))


def _histograms(
    shape: Shape, rows: pa.StructArray, metric: Int32s, kind: Int32s, request: Int32s, attributes: UInt64s
) -> Points:
    """The points of histograms or summaries."""
    n = len(rows)
    low = high = nothing(n, np.float64)
    if shape is Shape.SUMMARY:
        total, has_total = values_of(rows.field("sum"), np.float64), np.ones(n, bool)
        low = high = np.full(n, np.nan)
    else:
        total, has_total = optional(rows.field("sum"), np.float64)
        low, high = (or_nan(*optional(rows.field(name), np.float64)) for name in ("min", "max"))
    return Points(
        shape=shape,
        request=request,
        metric=metric,
        kind=kind,
        monotonic=nothing(n, np.bool_),
        start_ns=values_of(rows.field("start_time_unix_nano"), np.int64),
        time_ns=values_of(rows.field("time_unix_nano"), np.int64),
        flags=values_of(rows.field("flags"), np.uint32),
        attributes=attributes,
        raw=rows.field("attributes"),
        exemplars=None if shape is Shape.SUMMARY else exemplars_of(rows.field("exemplars")),
        number_int=nothing(n, np.int64),
        number_float=nothing(n, np.float64),
        is_int=nothing(n, np.bool_),
        has_number=nothing(n, np.bool_),
        count=values_of(rows.field("count"), np.uint64),
        sum=total,
        has_sum=has_total,
        min=low,
        max=high,
        buckets=None if shape is Shape.SUMMARY else _buckets(shape, rows),
        quantiles=lengths_of(rows.field("quantile_values").offsets.to_numpy()).astype(np.int64)
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
            counts=values_of(counts.values, np.uint64),
            bound_offsets=bounds.offsets.to_numpy().astype(np.int64),
            bounds=values_of(bounds.values, np.float64),
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
        counts=values_of(positive_counts.values, np.uint64),
        bound_offsets=empty_offsets,
        bounds=np.zeros(0),
        scale=values_of(rows.field("scale"), np.int32),
        zero_count=values_of(rows.field("zero_count"), np.uint64),
        zero_threshold=values_of(rows.field("zero_threshold"), np.float64),
        positive_start=values_of(positive.field("offset"), np.int32),
        negative_start=values_of(negative.field("offset"), np.int32),
        negative_offsets=negative_counts.offsets.to_numpy().astype(np.int64),
        negative_counts=values_of(negative_counts.values, np.uint64),
    )
