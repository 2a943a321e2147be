"""The samples that metrics in protobuf have, as the text formats would list them, by columns: no loop over samples.

Rules:

1. The type of its family says which field of a metric is read. A metric without that field is a sample that is none.
2. A count that is a float overrides an integer, unless it is 0.
3. A histogram has a bucket ``+Inf``: its count, where the target left it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.client_exemplars import exemplars_of
from collectors.decode.client_messages import FamilyType, timestamps_ns
from collectors.decode.points import Exemplars
from collectors.decode.raw import binary_buffers, lengths_of
from collectors.decode.views import children, values_of

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


class Part(IntEnum):
    """What a sample is to its metric; in the order in which those of one histogram stand."""

    VALUE = 0
    BUCKET = 1
    QUANTILE = 2
    COUNT = 3
    SUM = 4
    MALFORMED = 5


@dataclass(frozen=True)
class ClientSamples:
    """Samples, those of one metric side by side.

    Columns:
        metric: row of its metric
        part: `Part`
        number: bound or quantile
        value
        start_ns: UTC; 0 where it is not said
    """

    metric: Int64s
    part: Int64s
    number: Float64s
    value: Float64s
    start_ns: Int64s
    exemplars: Exemplars | None


@dataclass(frozen=True)
class _Sort:
    """Samples of one part, with an exemplar each, which may be empty, or with none at all."""

    metric: Int64s
    part: Int64s
    number: Float64s
    value: Float64s
    start_ns: Int64s
    exemplar: pa.Array | None = None


def has_field(metrics: pa.StructArray, types: Int32s, name: str, *of_types: FamilyType) -> Bools:
    """Which metrics have the field that the type of their family asks for."""
    valid: Bools = metrics.field(name).is_valid().to_numpy(zero_copy_only=False)
    return valid & np.isin(types, of_types)


def samples_of(metrics: pa.StructArray, types: Int32s, left_out: Bools) -> ClientSamples:
    """The samples of some metrics.

    Args:
        metrics: parsed ``Metric`` messages.
        types: of their families.
        left_out: which are native histograms and nothing else.

    Raises:
        Invalid: an exemplar is none.
    """
    sorts = [sort for sort in _sorts(metrics, types, left_out) if len(sort.metric)]
    if not sorts:
        empty = np.zeros(0, np.int64)
        return ClientSamples(empty, empty, np.zeros(0), np.zeros(0), empty, None)
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(sort, field.name) for sort in sorts])
        for field in fields(_Sort)
        if field.name != "exemplar"
    }
    # Sorts are in order by themselves, which a stable sort makes use of.
    order = np.argsort(columns["metric"] * len(Part) + columns["part"], kind="stable")
    return ClientSamples(
        **{name: column[order] for name, column in columns.items()}, exemplars=_exemplars(sorts, order)
    )


def _sorts(metrics: pa.StructArray, types: Int32s, left_out: Bools) -> Iterator[_Sort]:
    """All samples, part by part."""
    read = left_out.copy()
    for name, of_type in (
        ("counter", FamilyType.COUNTER),
        ("gauge", FamilyType.GAUGE),
        ("untyped", FamilyType.UNTYPED),
    ):
        own = has_field(metrics, types, name, of_type)
        read |= own
        data, rows = metrics.field(name), np.flatnonzero(own)
        starts = timestamps_ns(data.field("created_timestamp")) if name == "counter" else np.zeros(len(own), np.int64)
        exemplar = data.field("exemplar") if name == "counter" else None
        yield _sort(rows, Part.VALUE, values_of(data.field("value"), np.float64), starts, None, exemplar, rows)
    own = has_field(metrics, types, "summary", FamilyType.SUMMARY)
    read |= own
    yield from _summaries(metrics.field("summary"), own)
    own = has_field(metrics, types, "histogram", FamilyType.HISTOGRAM, FamilyType.GAUGE_HISTOGRAM) & ~left_out
    read |= own
    yield from _histograms(metrics.field("histogram"), own)
    rows = np.flatnonzero(~read)
    yield _sort(rows, Part.MALFORMED, np.zeros(len(read)), np.zeros(len(read), np.int64), None, None, rows)


def _summaries(data: pa.StructArray, own: Bools) -> Iterator[_Sort]:
    starts, rows = timestamps_ns(data.field("created_timestamp")), np.flatnonzero(own)
    owner, each = children(data.field("quantile"))
    at = np.flatnonzero(own[owner])
    quantile, value = (values_of(each.field(name), np.float64) for name in ("quantile", "value"))
    yield _sort(owner[at], Part.QUANTILE, value, starts, quantile, None, at)
    count = values_of(data.field("sample_count"), np.uint64).astype(np.float64)
    yield _sort(rows, Part.COUNT, count, starts, None, None, rows)
    yield _sort(rows, Part.SUM, values_of(data.field("sample_sum"), np.float64), starts, None, None, rows)


def _histograms(data: pa.StructArray, own: Bools) -> Iterator[_Sort]:
    starts, rows = timestamps_ns(data.field("created_timestamp")), np.flatnonzero(own)
    owner, each = children(data.field("bucket"))
    at = np.flatnonzero(own[owner])
    bound = values_of(each.field("upper_bound"), np.float64)
    cumulative = either_count(each, "cumulative_count")
    yield _sort(owner[at], Part.BUCKET, cumulative, starts, bound, each.field("exemplar"), at)
    count = either_count(data, "sample_count")
    open_above = own.copy()
    open_above[owner[bound == np.inf]] = False
    above = np.flatnonzero(open_above)
    yield _sort(above, Part.BUCKET, count, starts, np.full(len(own), np.inf), None, above)
    yield _sort(rows, Part.COUNT, count, starts, None, None, rows)
    yield _sort(rows, Part.SUM, values_of(data.field("sample_sum"), np.float64), starts, None, None, rows)


def _sort(
    metric: npt.NDArray[np.integer[Any]],
    part: Part,
    value: Float64s,
    starts: Int64s,
    number: Float64s | None,
    exemplar: pa.Array | None,
    at: Rows,
) -> _Sort:
    """Samples of one part: of ``metric`` the rows ``at`` of all other columns but ``starts``, which are by metric."""
    return _Sort(
        metric.astype(np.int64),
        np.full(len(at), part, np.int64),
        np.zeros(len(at)) if number is None else number[at],
        value[at],
        starts[metric],
        None if exemplar is None else exemplar.take(pa.array(at)),
    )


def either_count(data: pa.StructArray, name: str) -> Float64s:
    """A count that is an integer, or a float of another field."""
    as_float = values_of(data.field(f"{name}_float"), np.float64)
    return np.where(as_float != 0, as_float, values_of(data.field(name), np.uint64).astype(np.float64))


def _exemplars(sorts: list[_Sort], order: Rows) -> Exemplars | None:
    """The exemplars of all samples, which come in another order."""
    rows, raw, begin = [], [], 0
    for sort in sorts:
        if sort.exemplar is not None:
            some = np.flatnonzero(lengths_of(binary_buffers(sort.exemplar)[0]))
            rows.append(begin + some)
            raw.append(sort.exemplar.take(pa.array(some)))
        begin += len(sort.metric)
    if not rows:
        return None
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return exemplars_of(place[np.concatenate(rows)], pa.concat_arrays(raw))
