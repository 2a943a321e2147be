"""What requests hold, as flat columns of points by shape, whatever the protocol that they came in.

Every protocol has a decoder (`collectors.decode.forms`), whose answer is a `Decoded`: the points, a key for the raw
identity of each, and a way to describe those whose key was never seen before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.reasons import Reason

if TYPE_CHECKING:
    from collectors.decode.attributes import AttributeReader, Attributes

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
        request: which of the payloads
        metric, raw: the decoder's own, by which it describes a point
        kind: `Kind`, or `UNKNOWN_KIND`
        monotonic: of the metric; numbers only
        start_ns, time_ns: UTC; a time beyond int64 shows as negative, which validation refuses
        attributes: hash of the attributes as they came
        number_int, number_float, is_int, has_number: the value of gauges and sums
        count, sum, has_sum, min, max: histograms and summaries; NaN where min, max are absent
        resets: said to be the first after a reset
        bounds_vary: explicit bounds may change though the histogram goes on; see `HistogramPoints`
    """

    shape: Shape
    request: Int32s
    metric: Int32s
    kind: Int32s
    monotonic: Bools
    start_ns: Int64s
    time_ns: Int64s
    flags: npt.NDArray[np.uint32]
    attributes: UInt64s
    raw: pa.Array
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
    resets: Bools | None = None
    bounds_vary: bool = False

    def __len__(self) -> int:
        return len(self.request)


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


@dataclass(frozen=True, slots=True)
class Described:
    """The identity of one point, decoded.

    ``resource_text`` and ``scope`` are canonical; name and unit are raw, since they are still to be checked.
    """

    name: bytes
    unit: bytes
    scope: str
    resource: Attributes
    resource_text: str
    point: Attributes


class Decoded(Protocol):
    """All that some payloads hold. Rows number the points through all shapes, in the order of ``points``."""

    @property
    def requests(self) -> int:
        """How many payloads there were."""
        ...

    @property
    def points(self) -> tuple[Points, ...]:
        """The points, by shape; a shape may occur more than once."""
        ...

    def keys(self, places: Int32s) -> UInt64s:
        """The raw identity of each point: a hash of its place and of all that tells its stream but kind and start.

        Equal keys mean one stream; several keys may lead to one stream, too. Good within this process only.

        Args:
            places: catalog slot of the place of each request.
        """
        ...

    def describe(self, rows: Rows, reader: AttributeReader) -> Iterator[Described | Reason]:
        """The identity of some points, in the order of ``rows``, or why it cannot be used."""
        ...
