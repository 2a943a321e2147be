"""Prometheus' native histograms, of integers or floats, exponential or with custom buckets, as points.

Rules:

1. Prometheus' bucket i ends at base^i, OTLP's begins there: indexes differ by one.
2. Buckets are sparse (spans) and come as differences of neighbours (integers) or as they are (floats). Here they become
   dense, at scale 5 at most, and coarser where a range would take more than ``buckets_max``, or all of them together
   more than a few million.
3. Schema -53 has explicit bounds of its own (custom values).
4. A float histogram whose counts are no whole numbers, and spans that do not fit their buckets, make a point that
   validation refuses; so does a gauge histogram (reset hint), whose kind is unknown.

Sources: https://prometheus.io/docs/specs/native_histograms/ and prompb/types.proto of Prometheus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.points import Buckets, Points, Shape
from collectors.decode.prometheus import STALE_BITS
from collectors.decode.raw import lengths_of
from collectors.decode.remote_wire import nanoseconds
from collectors.decode.views import nothing, optional, values_of
from collectors.kinds import UNKNOWN_KIND, Kind
from collectors.validate import SCALE_MAX, SCALE_MIN

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_CUSTOM = -53
_FINEST = 5
# Dense buckets of one decode, 64 MB; an honest sender has a tenth of it. Beyond, each histogram gets a few.
_CELLS_MAX = 1 << 23
_FEW = 64
_RESET, _GAUGE = 1, 3
_COUNT_MAX = 2.0**53
_NO_RECORDED_VALUE = np.uint32(1)
# Spans reach no further than doubles do, at the finest schema.
_INDEX_MAX = 1 << 31


@dataclass(frozen=True)
class NativePoints:
    """Points of one shape and the messages that they are; their series are yet to be named (``metric``)."""

    rows: Rows
    points: Points


@dataclass(frozen=True)
class _Entries:
    """Buckets of one sign, one row each: whose they are, Prometheus' index, and count; ``bad`` by histogram."""

    owner: Int64s
    index: Int64s
    count: Int64s
    bad: Bools

    def of(self, histograms: Bools) -> _Entries:
        """The buckets of some histograms."""
        kept = histograms[self.owner]
        return _Entries(self.owner[kept], self.index[kept], self.count[kept], self.bad)


def native_points(messages: pa.StructArray, request: Int32s, buckets_max: int) -> list[NativePoints]:
    """The points of some native histograms.

    Args:
        messages: parsed ``NativeHistogram`` messages.
        request: which of the payloads each came in.
        buckets_max: the most dense buckets of one histogram.
    """
    schema = values_of(messages.field("schema"), np.int32)
    positive = _entries(messages, "positive")
    negative = _entries(messages, "negative")
    is_custom = schema == _CUSTOM
    parts = []
    if len(rows := np.flatnonzero(~is_custom)):
        points = _exponential(messages, rows, request, schema, positive, negative, buckets_max)
        parts.append(NativePoints(rows, points))
    if len(rows := np.flatnonzero(is_custom)):
        parts.append(NativePoints(rows, _custom(messages, rows, request, positive, negative)))
    return parts


def _entries(messages: pa.StructArray, sign: str) -> _Entries:
    """The buckets of all histograms of one sign."""
    n = len(messages)
    spans = messages.field(f"{sign}_spans")
    span_offsets = spans.offsets.to_numpy().astype(np.int64)
    lengths = values_of(spans.values.field("length"), np.uint32).astype(np.int64)
    gaps = values_of(spans.values.field("offset"), np.int32).astype(np.int64)
    deltas, floats = messages.field(f"{sign}_deltas"), messages.field(f"{sign}_counts")
    delta_offsets, float_offsets = (lists.offsets.to_numpy().astype(np.int64) for lists in (deltas, floats))
    delta_counts, float_counts = lengths_of(delta_offsets), lengths_of(float_offsets)
    span_owner = np.repeat(np.arange(n), lengths_of(span_offsets))
    # Lengths are a sender's claim: nothing is made of them that does not fit the buckets that are there.
    said = np.bincount(span_owner, lengths, n)
    bad = (delta_counts > 0) & (float_counts > 0) | (said != delta_counts + float_counts)
    counts_of = np.where(bad, 0, delta_counts + float_counts)
    owner = np.repeat(np.arange(n), counts_of)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts_of) - counts_of, counts_of)
    lengths[bad[span_owner]] = 0
    before = np.cumsum(lengths) - lengths
    reach = np.cumsum(gaps + lengths)
    first_span = span_offsets[:-1][span_owner]
    # Index of a span's first bucket: all gaps up to it and all lengths before it, within its histogram.
    begins = reach - lengths - np.where(first_span > 0, reach[first_span - 1], 0)
    span_of = np.repeat(np.arange(len(lengths)), lengths)
    index = begins[span_of] + np.arange(len(span_of)) - before[span_of]
    bad[owner[np.abs(index) > _INDEX_MAX]] = True
    is_float = (float_counts > 0)[owner]
    count, whole = _counts(deltas, floats, delta_offsets, float_offsets, owner, place, is_float)
    bad[owner[~whole]] = True
    kept = ~bad[owner] & (count > 0)
    return _Entries(owner[kept], index[kept], count[kept], bad)


def _counts(
    deltas: pa.ListArray,
    floats: pa.ListArray,
    delta_offsets: Int64s,
    float_offsets: Int64s,
    owner: Int64s,
    place: Int64s,
    is_float: Bools,
) -> tuple[Int64s, Bools]:
    """The count of each bucket, and where it is a whole number that is not negative."""
    running = np.concatenate(([0], np.cumsum(values_of(deltas.values, np.int64))))
    values = np.append(values_of(floats.values, np.float64), 0.0)
    at_delta = np.where(is_float, 0, delta_offsets[:-1][owner] + place)
    at_float = np.where(is_float, float_offsets[:-1][owner] + place, len(values) - 1)
    as_float = values[at_float]
    whole_float = (as_float >= 0) & (as_float <= _COUNT_MAX) & (as_float == np.floor(as_float))
    as_int = running[np.minimum(at_delta + 1, len(running) - 1)] - running[delta_offsets[:-1][owner]]
    count = np.where(is_float, np.where(whole_float, as_float, 0.0).astype(np.int64), as_int)
    return count, np.where(is_float, whole_float, as_int >= 0)


def _either(messages: pa.StructArray, name: str) -> tuple[UInt64s, Bools]:
    """A count that is an integer or a float, and where it is a whole number."""
    as_int, _ = optional(messages.field(f"{name}_int"), np.uint64)
    as_float, is_float = optional(messages.field(f"{name}_float"), np.float64)
    whole = (as_float >= 0) & (as_float <= _COUNT_MAX) & (as_float == np.floor(as_float))
    count = np.where(is_float, np.where(whole, as_float, 0.0).astype(np.uint64), as_int)
    return count, whole | ~is_float


def _exponential(
    messages: pa.StructArray,
    rows: Rows,
    request: Int32s,
    schema: Int32s,
    positive: _Entries,
    negative: _Entries,
    buckets_max: int,
) -> Points:
    n = len(messages)
    possible = (schema >= SCALE_MIN) & (schema <= SCALE_MAX)
    positive, negative = positive.of(possible), negative.of(possible)
    shift = np.where(possible, np.maximum(schema.astype(np.int64) - _FINEST, 0), 0)
    while True:
        ranges = [_range(entries, shift, n) for entries in (positive, negative)]
        lengths = ranges[0][1] + ranges[1][1]
        few = buckets_max if lengths.sum() <= _CELLS_MAX else min(buckets_max, _FEW)
        wide = (lengths > few) & (schema - shift > SCALE_MIN)
        if not wide.any():
            break
        shift = shift + wide
    zeros, zeros_whole = _either(messages, "zero_count")
    bad = positive.bad | negative.bad | ~zeros_whole
    (first, _, offsets, counts), (negative_first, _, negative_offsets, negative_counts) = (
        (*ranges[which][:2], *_dense(entries, shift, *ranges[which], rows))
        for which, entries in enumerate((positive, negative))
    )
    return _points(
        Shape.EXPONENTIAL,
        messages,
        rows,
        request,
        bad,
        Buckets(
            offsets=offsets,
            counts=counts,
            bound_offsets=np.zeros(len(rows) + 1, np.int64),
            bounds=np.zeros(0),
            scale=(schema - shift).astype(np.int32)[rows],
            zero_count=zeros[rows],
            zero_threshold=values_of(messages.field("zero_threshold"), np.float64)[rows],
            positive_start=first.astype(np.int32)[rows],
            negative_start=negative_first.astype(np.int32)[rows],
            negative_offsets=negative_offsets,
            negative_counts=negative_counts,
        ),
    )


def _range(entries: _Entries, shift: Int64s, n: int) -> tuple[Int64s, Int64s]:
    """First OTLP index and number of dense buckets of each histogram."""
    index = (entries.index - 1) >> shift[entries.owner]
    first, last = np.full(n, np.iinfo(np.int64).max), np.full(n, np.iinfo(np.int64).min)
    np.minimum.at(first, entries.owner, index)
    np.maximum.at(last, entries.owner, index)
    some = last >= first
    return np.where(some, first, 0), np.where(some, last - np.where(some, first, 0) + 1, 0)


def _dense(entries: _Entries, shift: Int64s, first: Int64s, lengths: Int64s, rows: Rows) -> tuple[Int64s, UInt64s]:
    """Offsets and counts of dense buckets of some histograms."""
    own = np.zeros(len(lengths), np.int64)
    own[rows] = lengths[rows]
    offsets = np.concatenate(([0], np.cumsum(own)))
    counts = np.zeros(offsets[-1], np.uint64)
    kept = own[entries.owner] > 0
    owner = entries.owner[kept]
    index = (entries.index[kept] - 1) >> shift[owner]
    np.add.at(counts, offsets[owner] + index - first[owner], entries.count[kept].astype(np.uint64))
    return np.append(offsets[rows], offsets[-1]), counts


def _custom(messages: pa.StructArray, rows: Rows, request: Int32s, positive: _Entries, negative: _Entries) -> Points:
    n = len(messages)
    lists = messages.field("custom_values")
    all_offsets = lists.offsets.to_numpy().astype(np.int64)
    bounds_of = np.zeros(n, np.int64)
    bounds_of[rows] = lengths_of(all_offsets)[rows]
    offsets = np.concatenate(([0], np.cumsum(np.where(np.isin(np.arange(n), rows), bounds_of + 1, 0))))
    bad = positive.bad | (np.bincount(negative.owner, minlength=n) > 0)
    outside = (positive.index < 0) | (positive.index > bounds_of[positive.owner])
    bad[positive.owner[outside]] = True
    counts = np.zeros(offsets[-1], np.uint64)
    kept = ~bad[positive.owner] & (np.diff(offsets)[positive.owner] > 0)
    owner = positive.owner[kept]
    np.add.at(counts, offsets[owner] + positive.index[kept], positive.count[kept].astype(np.uint64))
    bounds = values_of(lists.values, np.float64)
    own = np.repeat(all_offsets[:-1][rows], bounds_of[rows])
    bound_offsets = np.concatenate(([0], np.cumsum(bounds_of[rows])))
    step = np.arange(len(own)) - np.repeat(bound_offsets[:-1], bounds_of[rows])
    zeros = np.zeros(len(rows), np.int32)
    return _points(
        Shape.HISTOGRAM,
        messages,
        rows,
        request,
        bad,
        Buckets(
            offsets=np.append(offsets[rows], offsets[-1]),
            counts=counts,
            bound_offsets=bound_offsets,
            bounds=bounds[own + step],
            scale=zeros,
            zero_count=np.zeros(len(rows), np.uint64),
            zero_threshold=np.zeros(len(rows)),
            positive_start=zeros,
            negative_start=zeros,
            negative_offsets=np.zeros(len(rows) + 1, np.int64),
            negative_counts=np.zeros(0, np.uint64),
        ),
    )


def _points(
    shape: Shape, messages: pa.StructArray, rows: Rows, request: Int32s, bad: Bools, buckets: Buckets
) -> Points:
    n = len(rows)
    count, count_whole = _either(messages, "count")
    total = values_of(messages.field("sum"), np.float64)
    stale = total.view(np.uint64) == STALE_BITS
    hint = values_of(messages.field("reset_hint"), np.int32)[rows]
    kind = np.full(n, Kind.EXPONENTIAL if shape is Shape.EXPONENTIAL else Kind.HISTOGRAM, np.int32)
    kind[hint == _GAUGE] = UNKNOWN_KIND
    whole = count[rows]
    # Buckets that do not add up are what validation refuses.
    whole[(bad | ~count_whole)[rows]] += np.uint64(1)
    return Points(
        shape=shape,
        request=request[rows],
        metric=np.zeros(n, np.int32),
        kind=kind,
        monotonic=nothing(n, np.bool_),
        start_ns=nanoseconds(values_of(messages.field("start_timestamp"), np.int64))[rows],
        time_ns=nanoseconds(values_of(messages.field("timestamp"), np.int64))[rows],
        flags=np.where(stale, _NO_RECORDED_VALUE, np.uint32(0))[rows],
        attributes=np.zeros(n, np.uint64),
        raw=pa.nulls(0),
        exemplars=None,
        number_int=nothing(n, np.int64),
        number_float=nothing(n, np.float64),
        is_int=nothing(n, np.bool_),
        has_number=nothing(n, np.bool_),
        count=whole,
        sum=np.where(stale, 0.0, total)[rows],
        has_sum=np.ones(n, np.bool_),
        min=np.full(n, np.nan),
        max=np.full(n, np.nan),
        buckets=buckets,
        resets=hint == _RESET,
    )
