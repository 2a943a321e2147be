"""What requests hold, as flat columns: resources, scopes, metrics, and the points of each shape."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.messages import NUMBER, parsed

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


class Shape(IntEnum):
    """The message type of a data point."""

    NUMBER = 0
    HISTOGRAM = 1
    EXPONENTIAL = 2
    SUMMARY = 3


@dataclass(frozen=True)
class Raw:
    """Byte strings: their hashes, and themselves for those that were never seen before."""

    hashes: UInt64s
    array: pa.Array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> bytes:
        value = self.array[index].as_py()
        assert isinstance(value, bytes)
        return value


@dataclass(frozen=True)
class Metrics:
    """One row per metric message, with what its points share."""

    request: Int32s  # which of the payloads
    resource: Int32s  # row in ``Decoded.resources``
    scope: Int32s  # row in ``Decoded.scopes``
    names: Raw
    units: Raw


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
        kind: `Kind`, or `UNKNOWN_KIND`
        monotonic: of the metric; numbers only
        start_ns, time_ns: UTC; a time beyond int64 shows as negative, which validation refuses
        attributes: hash of the attributes as they came
        number_int, number_float, is_int, has_number: the value of gauges and sums
        count, sum, has_sum, min, max: histograms and summaries; NaN where min, max are absent
    """

    shape: Shape
    metric: Int32s
    kind: Int32s
    monotonic: Bools
    start_ns: Int64s
    time_ns: Int64s
    flags: npt.NDArray[np.uint32]
    attributes: UInt64s
    raw: pa.Array  # numbers: the points; others: the attributes of each
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

    def attribute_fields(self, rows: Rows) -> list[list[bytes]]:
        """The attributes of some points, each a serialised key-value."""
        chosen = self.raw.take(pa.array(rows))
        if self.shape is Shape.NUMBER:
            chosen = parsed(NUMBER, chosen).field("attributes")
        fields: list[list[bytes]] = chosen.to_pylist()
        return fields


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
    resources: Raw
    resource_request: Int32s
    scopes: Raw
    metrics: Metrics
    points: tuple[Points, ...]
