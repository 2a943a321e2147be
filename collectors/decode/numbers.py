"""The points of gauges and sums: read in place where they are plain, parsed where they are not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.exemplars import exemplars_of
from collectors.decode.messages import NUMBER, parsed
from collectors.decode.plain import Heads, KnownTails, halves, heads
from collectors.decode.points import Points, Shape
from collectors.decode.raw import hashes_of, joined_fields
from collectors.decode.temporality import kinds_of
from collectors.decode.views import bits_of, children, joined_columns, nothing, optional, values_of
from collectors.kinds import Kind

Int32s = npt.NDArray[np.int32]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

# Of all requests of this process. A tail takes 24 bytes here, and is looked at again when it was forgotten.
_TAILS = KnownTails(tails_max=1 << 18)


@dataclass(frozen=True)
class NumberPart:
    """The points of all gauges, or of all sums."""

    points: pa.Array
    metric: Int32s
    kind: Int32s
    monotonic: Bools
    heads: Heads
    halves: pa.Array

    @staticmethod
    def of(data: pa.StructArray, *, is_sum: bool) -> NumberPart | None:
        """Of the messages of all metrics; None if they have no points."""
        metric, points = children(data.field("data_points"))
        n = len(points)
        if not n:
            return None
        kind, monotonic = np.full(n, Kind.GAUGE, np.int32), nothing(n, np.bool_)
        if is_sum:
            kinds, rising = kinds_of(Shape.NUMBER, data), bits_of(data.field("is_monotonic"))
            # A sum that may fall is a level.
            kinds[(kinds == Kind.COUNTER) & ~rising] = Kind.GAUGE
            kind, monotonic = kinds[metric], rising[metric]
        read = heads(points)
        return NumberPart(points, metric, kind, monotonic, read, halves(points, read))


def numbers_of(parts: list[NumberPart], requests: Int32s, hashes: list[UInt64s]) -> Points:
    """Points from the request of each metric and the hashes of `NumberPart.halves`."""
    metric = joined_columns([part.metric for part in parts])
    tails = [of_both[1::2] for of_both in hashes]
    plain = joined_columns([_TAILS.plain(tail, part.heads) for tail, part in zip(tails, parts, strict=True)])
    bits, is_int = (
        joined_columns([part.heads.bits for part in parts]),
        joined_columns([part.heads.is_int for part in parts]),
    )
    n = len(bits)
    points = Points(
        shape=Shape.NUMBER,
        request=requests[metric],
        metric=metric,
        kind=joined_columns([part.kind for part in parts]),
        monotonic=joined_columns([part.monotonic for part in parts]),
        start_ns=joined_columns([part.heads.start_ns for part in parts]),
        time_ns=joined_columns([part.heads.time_ns for part in parts]),
        flags=nothing(n, np.uint32),
        attributes=joined_columns(tails),
        raw=pa.chunked_array([part.points for part in parts]),
        exemplars=None,
        number_int=np.where(is_int, bits, 0),
        number_float=np.where(is_int, 0.0, bits.view(np.float64)),
        is_int=is_int,
        has_number=plain,
        count=nothing(n, np.uint64),
        sum=nothing(n, np.float64),
        has_sum=nothing(n, np.bool_),
        min=nothing(n, np.float64),
        max=nothing(n, np.float64),
    )
    return points if plain.all() else _parse_others(points, np.flatnonzero(~plain))


def _parse_others(points: Points, rows: Rows) -> Points:
    """The points with those that are not plain, ``rows``, parsed."""
    own = parsed(NUMBER, points.raw.take(pa.array(rows)))
    joined, cuts = joined_fields(own.field("attributes"))
    number_int, is_int = optional(own.field("as_int"), np.int64)
    number_float, is_float = optional(own.field("as_double"), np.float64)
    fill: dict[str, npt.NDArray[Any]] = {
        "start_ns": values_of(own.field("start_time_unix_nano"), np.int64),
        "time_ns": values_of(own.field("time_unix_nano"), np.int64),
        "flags": values_of(own.field("flags"), np.uint32),
        "attributes": hashes_of([joined])[0] + cuts,
        "number_int": number_int,
        "number_float": number_float,
        "is_int": is_int,
        "has_number": is_int | is_float,
    }
    columns: dict[str, Any] = {}
    for name, values in fill.items():
        columns[name] = np.array(getattr(points, name))
        columns[name][rows] = values
    exemplars = exemplars_of(own.field("exemplars"))
    if exemplars is not None:
        exemplars = replace(exemplars, point=rows[exemplars.point])
    return replace(points, exemplars=exemplars, **columns)
