"""Prometheus samples, of a scrape or of remote write, as points: numbers, classic histograms and summaries.

Rules:

1. A whole number is an integer, so that it is summed exactly (doubles are exact up to 2^53, as Prometheus' own are).
2. The samples of one histogram or summary at one time and of one request are one point, in whatever order they stand.
   Bucket counts are cumulative over bounds; ``+Inf`` stands for the count where there is no ``_count``. What does not
   rise over bounds, or is no whole number, makes a point that validation refuses.
3. ``_created`` is the start of its point. Without it the start is 0: the first point is a baseline.
4. A stale marker ends a gauge; a counter, histogram or summary has nothing to end, and its sample is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.identity import mix
from collectors.decode.attributes import AttributeReader
from collectors.decode.families import Role
from collectors.decode.points import Buckets, Described, Exemplars, Points, Shape
from collectors.decode.series_table import SeriesTable
from collectors.decode.views import nothing
from collectors.kinds import Kind
from collectors.reasons import Reason

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

STALE_BITS = np.uint64(0x7FF0000000000002)
"""The NaN by which Prometheus says that a series has ended."""
STALE = STALE_BITS.view(np.float64)
_NO_RECORDED_VALUE = np.uint32(1)
_EXACT_MAX = 2.0**53
_OF_HISTOGRAM = np.zeros(len(Role), np.bool_)
_OF_HISTOGRAM[[Role.BUCKET, Role.COUNT, Role.SUM]] = True
_OF_SUMMARY = np.zeros(len(Role), np.bool_)
_OF_SUMMARY[[Role.QUANTILE, Role.SUMMARY_COUNT, Role.SUMMARY_SUM]] = True


@dataclass(frozen=True)
class Samples:
    """Samples, one row each.

    Columns:
        request: which of the payloads
        slot: row of the `SeriesTable`
        time_ns, start_ns: UTC; a start of 0 is none
        value: a stale marker where the series ended
    """

    request: Int32s
    slot: Int32s
    time_ns: Int64s
    start_ns: Int64s
    value: Float64s

    def __len__(self) -> int:
        return len(self.slot)

    def take(self, rows: Rows | Bools) -> Samples:
        """Some rows."""
        return Samples(self.request[rows], self.slot[rows], self.time_ns[rows], self.start_ns[rows], self.value[rows])


@dataclass(frozen=True)
class PrometheusPoints:
    """The `Decoded` of Prometheus' protocols. ``metric`` of points is a slot of the table."""

    requests: int
    points: tuple[Points, ...]
    table: SeriesTable[Any]

    def keys(self, places: Int32s) -> UInt64s:
        """See `Decoded.keys`."""
        request = np.concatenate([points.request for points in self.points])
        group = np.concatenate([points.attributes for points in self.points])
        return mix(group, places[request].astype(np.uint64) + np.uint64(1))

    def describe(self, rows: Rows, reader: AttributeReader) -> Iterator[Described | Reason]:
        """See `Decoded.describe`."""
        return self.table.describe(np.concatenate([points.metric for points in self.points])[rows], reader)


def assemble(
    table: SeriesTable[Any], requests: int, samples: Samples, exemplars: Exemplars | None = None
) -> PrometheusPoints:
    """The points that samples make.

    Args:
        table: what slots stand for.
        requests: how many payloads there were.
        samples: of all of them; those of one histogram that do not stand together are brought together.
        exemplars: of samples; ``point`` is a row of them.
    """
    role = table.role[samples.slot]
    samples = _with_created(table, role, samples)
    found = []
    rows = np.flatnonzero((role == Role.GAUGE) | (role == Role.COUNTER))
    if len(rows):
        found.append(with_exemplars(_numbers(table, samples.take(rows)), exemplars, len(samples), rows, None))
    for shape, member in ((Shape.HISTOGRAM, _OF_HISTOGRAM), (Shape.SUMMARY, _OF_SUMMARY)):
        rows = np.flatnonzero(member[role])
        if len(rows):
            rows, first = _grouped(table, samples, rows)
            points = (
                _histograms(table, samples, rows, first)
                if shape is Shape.HISTOGRAM
                else _summaries(table, samples, rows, first)
            )
            point = np.cumsum(first) - 1
            found.append(with_exemplars(points, exemplars, len(samples), rows, point))
    return PrometheusPoints(requests, tuple(found), table)


def _with_created(table: SeriesTable[Any], role: npt.NDArray[np.int8], samples: Samples) -> Samples:
    """Samples with the start that a ``_created`` of their group and request says."""
    created = np.flatnonzero((role == Role.CREATED) & np.isfinite(samples.value))
    if not len(created):
        return samples
    group = mix(table.group[samples.slot], samples.request.astype(np.uint64))
    of_created, first = np.unique(group[created], return_index=True)
    at = np.minimum(np.searchsorted(of_created, group), len(of_created) - 1)
    known = (of_created[at] == group) & (role != Role.GAUGE)
    seconds = np.clip(samples.value[created[first]], 0, 9e9)
    return replace(
        samples, start_ns=np.where(known, np.rint(seconds * 1e3).astype(np.int64)[at] * 10**6, samples.start_ns)
    )


def _numbers(table: SeriesTable[Any], samples: Samples) -> Points:
    value = samples.value
    stale = value.view(np.uint64) == STALE_BITS
    is_int = _is_whole(value)
    is_counter = table.role[samples.slot] == Role.COUNTER
    whole = np.where(is_int, value, 0.0).astype(np.int64)
    return replace(
        _empty(Shape.NUMBER, table, samples),
        kind=np.where(is_counter, np.int32(Kind.COUNTER), np.int32(Kind.GAUGE)),
        monotonic=is_counter,
        flags=np.where(stale, _NO_RECORDED_VALUE, np.uint32(0)),
        number_int=whole,
        number_float=np.where(is_int | stale, 0.0, value),
        is_int=is_int,
        has_number=~stale,
    )


def _is_whole(value: Float64s) -> Bools:
    with np.errstate(invalid="ignore"):  # a stale marker is a NaN that signals
        whole: Bools = (value == np.floor(value)) & (np.abs(value) <= _EXACT_MAX)
    return whole


def _grouped(table: SeriesTable[Any], samples: Samples, rows: Rows) -> tuple[Rows, Bools]:
    """Rows of one point side by side, buckets first and by bound, and where each point begins."""
    slot = samples.slot[rows]
    role, bound = table.role[slot], table.bound[slot]
    group, request, time_ns = table.group[slot], samples.request[rows], samples.time_ns[rows]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (group[1:] != group[:-1]) | (request[1:] != request[:-1]) | (time_ns[1:] != time_ns[:-1])
    runs = mix(mix(group[first], request[first].astype(np.uint64)), time_ns[first].view(np.uint64))
    # Buckets first and rising; the order of what is behind them means nothing.
    bucket = role == Role.BUCKET
    disordered = ~first[1:] & bucket[1:] & ~(bucket[:-1] & (bound[1:] > bound[:-1]))
    if len(np.unique(runs)) == len(runs) and not disordered.any():
        return rows, first
    # Points stay in the order in which they came.
    _, at, inverse = np.unique(runs, return_index=True, return_inverse=True)
    point = at[inverse][np.cumsum(first) - 1]
    order = np.lexsort((bound, role, point))
    # A sample that came twice counts once.
    point, role, bound = point[order], role[order], bound[order]
    twice = np.zeros(len(order), np.bool_)
    same_bound = (bound[1:] == bound[:-1]) | (np.isnan(bound[1:]) & np.isnan(bound[:-1]))
    quantile = role[1:] == Role.QUANTILE
    twice[1:] = (point[1:] == point[:-1]) & (role[1:] == role[:-1]) & same_bound & ~quantile
    point = point[~twice]
    return rows[order[~twice]], np.append(True, point[1:] != point[:-1])


def _histograms(table: SeriesTable[Any], samples: Samples, rows: Rows, first: Bools) -> Points:
    """Classic histograms from their samples in the order of `_grouped`."""
    own = samples.take(rows)
    role, bound = table.role[own.slot], table.bound[own.slot]
    heads = np.flatnonzero(first)
    n, point = len(heads), np.cumsum(first) - 1
    value, stale = own.value, np.zeros(n, np.bool_)
    stale[point[value.view(np.uint64) == STALE_BITS]] = True
    is_bucket, is_count = role == Role.BUCKET, _is_whole(value) & (value >= 0)
    count, has_count = _one_each(n, point, value, role == Role.COUNT)
    total, has_sum = _one_each(n, point, value, role == Role.SUM)
    top, has_top = _one_each(n, point, value, is_bucket & (bound == np.inf))
    count = np.where(has_count, count, top)
    # Where +Inf has no sample of its own, the count stands for it: one bucket more than bounds either way.
    finite = np.flatnonzero(is_bucket & (bound < np.inf))
    bounds_of = np.bincount(point[finite], minlength=n)
    has_buckets = (bounds_of > 0) | has_top
    offsets = np.concatenate(([0], np.cumsum(np.where(has_buckets, bounds_of + 1, 0))))
    cumulative = np.zeros(offsets[-1])
    bound_offsets = np.concatenate(([0], np.cumsum(bounds_of)))
    cumulative[np.arange(len(finite)) + np.repeat(offsets[:-1] - bound_offsets[:-1], bounds_of)] = value[finite]
    cumulative[offsets[1:][has_buckets] - 1] = np.where(has_top, top, count)[has_buckets]
    bad = np.zeros(n, np.bool_)
    bad[point[(is_bucket | (role == Role.COUNT)) & ~is_count]] = True
    counts = np.where(np.abs(cumulative) <= _EXACT_MAX, cumulative, 0.0).astype(np.int64)
    begins = offsets[:-1][has_buckets]
    steps = np.diff(counts, prepend=0)
    steps[begins] = counts[begins]
    owner = np.repeat(np.arange(n), np.diff(offsets))
    bad[owner[steps < 0]] = True
    whole = np.where(np.abs(count) <= _EXACT_MAX, count, 0.0).astype(np.uint64)
    # Buckets that do not add up to the count are what validation refuses; without any, a count that no limit allows.
    whole[bad] = np.where(has_buckets, 1 + np.bincount(owner, np.maximum(steps, 0), n), 2.0**63)[bad].astype(np.uint64)
    zeros = np.zeros(n, np.int32)
    return replace(
        _empty(Shape.HISTOGRAM, table, own.take(heads)),
        kind=np.full(n, Kind.HISTOGRAM, np.int32),
        flags=np.where(stale, _NO_RECORDED_VALUE, np.uint32(0)),
        count=whole,
        sum=total,
        has_sum=has_sum,
        buckets=Buckets(
            offsets=offsets,
            counts=np.maximum(steps, 0).astype(np.uint64),
            bound_offsets=bound_offsets,
            bounds=bound[finite],
            scale=zeros,
            zero_count=np.zeros(n, np.uint64),
            zero_threshold=np.zeros(n),
            positive_start=zeros,
            negative_start=zeros,
            negative_offsets=np.zeros(n + 1, np.int64),
            negative_counts=np.zeros(0, np.uint64),
        ),
    )


def _summaries(table: SeriesTable[Any], samples: Samples, rows: Rows, first: Bools) -> Points:
    own = samples.take(rows)
    role = table.role[own.slot]
    heads = np.flatnonzero(first)
    n, point = len(heads), np.cumsum(first) - 1
    counted = role == Role.SUMMARY_COUNT
    count, _ = _one_each(n, point, own.value, counted)
    total, has_sum = _one_each(n, point, own.value, role == Role.SUMMARY_SUM)
    stale = np.zeros(n, np.bool_)
    stale[point[(own.value.view(np.uint64) == STALE_BITS) & (role != Role.QUANTILE)]] = True
    return replace(
        _empty(Shape.SUMMARY, table, own.take(heads)),
        kind=np.full(n, Kind.SUMMARY, np.int32),
        flags=np.where(stale, _NO_RECORDED_VALUE, np.uint32(0)),
        # A count that is none is refused as too large.
        count=np.where((count >= 0) & (count <= _EXACT_MAX), count, 2.0**63).astype(np.uint64),
        sum=total,
        has_sum=has_sum,
        quantiles=np.bincount(point[role == Role.QUANTILE], minlength=n).astype(np.int64),
    )


def _one_each(n: int, point: Int64s, value: Float64s, where: Bools) -> tuple[Float64s, Bools]:
    """The value that each point has among some rows (0 where none), and whether it has one."""
    values, has = np.zeros(n), np.zeros(n, np.bool_)
    values[point[where]] = value[where]
    has[point[where]] = True
    return values, has


def _empty(shape: Shape, table: SeriesTable[Any], samples: Samples) -> Points:
    """Points of a shape without their values; a sample for each."""
    n = len(samples)
    return Points(
        shape=shape,
        request=samples.request,
        metric=samples.slot,
        kind=nothing(n, np.int32),
        monotonic=nothing(n, np.bool_),
        start_ns=samples.start_ns,
        time_ns=samples.time_ns,
        flags=nothing(n, np.uint32),
        attributes=table.group[samples.slot],
        raw=pa.nulls(0),
        exemplars=None,
        number_int=nothing(n, np.int64),
        number_float=nothing(n, np.float64),
        is_int=nothing(n, np.bool_),
        has_number=nothing(n, np.bool_),
        count=nothing(n, np.uint64),
        sum=nothing(n, np.float64),
        has_sum=nothing(n, np.bool_),
        min=np.full(n, np.nan),
        max=np.full(n, np.nan),
    )


def with_exemplars(
    points: Points, exemplars: Exemplars | None, samples: int, rows: Rows, point: Int64s | None
) -> Points:
    """Points with the exemplars of their samples; ``point`` is the point of each of ``rows``, themselves if None."""
    if exemplars is None:
        return points
    point_of = np.full(samples, -1, np.int64)
    point_of[rows] = np.arange(len(rows)) if point is None else point
    own = np.flatnonzero(point_of[exemplars.point] >= 0)
    if not len(own):
        return points
    taken = pa.array(own)
    return replace(
        points,
        exemplars=Exemplars(
            point_of[exemplars.point[own]],
            exemplars.value[own],
            exemplars.time_ns[own],
            exemplars.trace_ids.take(taken),
            exemplars.span_ids.take(taken),
        ),
    )
