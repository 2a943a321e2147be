"""What OTLP requests hold: resources, scopes and metrics beside their points, and how a point is described by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.identity import canonical_attributes, mix
from collectors.decode.attributes import AttributeReader, Attributes, Unreadable
from collectors.decode.messages import NUMBER, parsed
from collectors.decode.points import Described, Points, Raw, Shape
from collectors.reasons import Reason

Int32s = npt.NDArray[np.int32]
UInt64s = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Metrics:
    """One row per metric message, with what its points share."""

    resource: Int32s  # row in ``OtlpMetrics.resources``
    scope: Int32s  # row in ``OtlpMetrics.scopes``
    names: Raw
    units: Raw


@dataclass(frozen=True)
class OtlpMetrics:
    """The `Decoded` of OTLP. ``resource_request`` is the payload that each resource came in.

    ``metric`` of points is a row of ``metrics``; ``raw`` are the points where they are numbers, else the attributes.
    """

    requests: int
    resources: Raw
    resource_request: Int32s
    scopes: Raw
    metrics: Metrics
    points: tuple[Points, ...]

    def keys(self, places: Int32s) -> UInt64s:
        """See `Decoded.keys`."""
        metrics = self.metrics
        resources = mix(self.resources.hashes, places[self.resource_request].astype(np.uint64) + np.uint64(1))
        shared = mix(resources[metrics.resource], self.scopes.hashes[metrics.scope])
        shared = mix(mix(shared, metrics.names.hashes), metrics.units.hashes)
        metric = np.concatenate([points.metric for points in self.points])
        return mix(shared[metric], np.concatenate([points.attributes for points in self.points]))

    def describe(self, rows: Rows, reader: AttributeReader) -> Iterator[Described | Reason]:
        """See `Decoded.describe`."""
        shared = _Shared(self, reader)
        metric_of = np.concatenate([points.metric for points in self.points])[rows].tolist()
        for metric, fields in zip(metric_of, self._attribute_fields(rows), strict=True):
            try:
                yield shared.described(metric, reader.point(fields))
            except Unreadable as error:
                yield error.reason

    def _attribute_fields(self, rows: Rows) -> list[list[bytes]]:
        """The attributes of some points, numbered through all shapes."""
        fields: list[list[bytes]] = [[] for _ in rows]
        first = 0
        for points in self.points:
            own = np.flatnonzero((rows >= first) & (rows < first + len(points)))
            if len(own):
                for i, each in zip(own.tolist(), attribute_fields(points, rows[own] - first), strict=True):
                    fields[i] = each
            first += len(points)
        return fields


def attribute_fields(points: Points, rows: Rows) -> list[list[bytes]]:
    """The attributes of some points of one shape, each a serialised key-value."""
    chosen = points.raw.take(pa.array(rows))
    if points.shape is Shape.NUMBER:
        chosen = parsed(NUMBER, chosen).field("attributes")
    fields: list[list[bytes]] = chosen.to_pylist()
    return fields


class _Shared:
    """What the points of some requests share, each decoded once: resources and scopes."""

    def __init__(self, decoded: OtlpMetrics, reader: AttributeReader) -> None:
        self._decoded = decoded
        self._reader = reader
        self._resources: dict[int, tuple[Attributes, str] | Reason] = {}
        self._scopes: dict[int, tuple[Attributes, str] | Reason] = {}

    def described(self, metric: int, point: Attributes) -> Described:
        """A point of a metric; raises `Unreadable`."""
        decoded, metrics = self._decoded, self._decoded.metrics
        resource, text = _cached(
            self._resources, int(metrics.resource[metric]), decoded.resources, self._reader.resource
        )
        scope = _cached(self._scopes, int(metrics.scope[metric]), decoded.scopes, self._reader.scope)[1]
        return Described(metrics.names[metric], metrics.units[metric], scope, resource, text, point)


def _cached(
    cache: dict[int, tuple[Attributes, str] | Reason], row: int, raw: Raw, read: Callable[[bytes], Attributes]
) -> tuple[Attributes, str]:
    known = cache.get(row)
    if known is None:
        try:
            attributes = read(raw[row])
            known = attributes, canonical_attributes(attributes)
        except Unreadable as error:
            known = error.reason
        cache[row] = known
    if isinstance(known, Reason):
        raise Unreadable(known)
    return known
