"""From raw identity to lives: which stream a point belongs to, found by hash, decoded only when never seen before.

A point's *raw key* mixes the hashes of its place, resource, scope, name, unit, kind and attributes as they came, and
its start where the kind is cumulative. `HashIndex` maps raw keys to lives; several raw keys may lead to one life
(attributes in another order). A raw key that cannot be used is remembered too, with its reason, so that a bad sender
costs no more than a good one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from catchment.identity import canonical_attributes, hash_parts, mix
from catchment.limits import Limits
from collectors.catalog import Catalog
from collectors.decode.attributes import AttributeReader, Attributes, Unreadable, merged, service_of
from collectors.decode.wire import Decoded, Points, RawBytes, Shape
from collectors.hash_index import HashIndex
from collectors.lives import Lives
from collectors.policy import Policy
from collectors.reasons import Reason

Int32s = npt.NDArray[np.int32]
UInt64s = npt.NDArray[np.uint64]
Notes = Counter[tuple[int, Reason]]

_DELTA, _CUMULATIVE = 1, 2
# Values of the raw index below this one are reasons, negated.
_REASON_BASE = -2


class Kind(IntEnum):
    """How the points of a stream become values. Its name is part of the stream's identity."""

    GAUGE = 0  # also a cumulative sum that is not monotonic: its value is a level
    COUNTER = 1
    DELTA = 2
    HISTOGRAM = 3
    HISTOGRAM_DELTA = 4
    EXPONENTIAL = 5
    EXPONENTIAL_DELTA = 6
    SUMMARY = 7

    @property
    def row_kind(self) -> str:
        """What SQL shows."""
        return ("gauge", "counter", "counter", *["histogram"] * 4, "summary")[self]


HAS_START = np.array([False, True, False, True, False, True, False, True])


def kinds_of(points: Points) -> Int32s:
    """The kind of each point; -1 where temporality is neither delta nor cumulative."""
    n = len(points)
    if points.shape is Shape.GAUGE:
        return np.full(n, Kind.GAUGE, np.int32)
    if points.shape is Shape.SUMMARY:
        return np.full(n, Kind.SUMMARY, np.int32)
    cumulative, delta = {
        Shape.SUM: (Kind.COUNTER, Kind.DELTA),
        Shape.HISTOGRAM: (Kind.HISTOGRAM, Kind.HISTOGRAM_DELTA),
        Shape.EXPONENTIAL: (Kind.EXPONENTIAL, Kind.EXPONENTIAL_DELTA),
    }[points.shape]
    kinds = np.where(points.temporality == _CUMULATIVE, cumulative, -1)
    kinds = np.where(points.temporality == _DELTA, delta, kinds)
    if points.shape is Shape.SUM:
        kinds = np.where((points.temporality == _CUMULATIVE) & ~points.monotonic, Kind.GAUGE, kinds)
    return kinds.astype(np.int32)


class Identifier:
    """Finds and, where need be, makes the life of each point."""

    def __init__(self, limits: Limits, policy: Policy, catalog: Catalog, lives: Lives) -> None:
        self._limits = limits
        self._policy = policy
        self._catalog = catalog
        self._lives = lives
        self._raw = HashIndex()
        self._reader = AttributeReader(limits)

    def forget_evicted(self, moved: Int32s) -> None:
        """Follow `Lives.evict`: raw keys of lives that are gone are forgotten, and so are those of bad identities."""
        keys, values = self._raw.items()
        values = np.where(values >= 0, moved[np.maximum(values, 0)], -1).astype(np.int32)
        kept = values >= 0
        self._raw = HashIndex(int(kept.sum()))
        self._raw.insert(keys[kept], values[kept])

    def identify(
        self, decoded: Decoded, points: Points, kinds: Int32s, places: Int32s, usable: npt.NDArray[np.bool_]
    ) -> tuple[Int32s, Notes]:
        """The life of each point.

        Args:
            decoded: what ``points`` are part of.
            points: of one shape.
            kinds: of each point.
            places: catalog slot of the place of each request.
            usable: points to look at; the others get 0.

        Returns:
            Lives, or -reason where a point's identity cannot be used; and notes by (place, reason), once a stream.
        """
        metrics = decoded.metrics
        resource_keys = mix(
            decoded.resources.hashes(), places[decoded.resource_request].astype(np.uint64) + np.uint64(1)
        )
        shared = mix(resource_keys[metrics.resource], decoded.scopes.hashes()[metrics.scope])
        shared = mix(mix(shared, metrics.names.hashes()), metrics.units.hashes())
        keys = mix(shared[points.metric] + kinds.astype(np.uint64), points.attributes.hashes())
        starts = np.where(HAS_START[kinds], points.start_ns, 0)
        keys = mix(keys, starts.view(np.uint64))
        found = self._raw.find(keys)
        found[~usable] = 0
        stale = found >= 0
        if len(self._lives):
            stale &= self._lives.columns.dead[np.where(stale, found, 0)]
            stale &= usable
        else:
            stale &= False
        unknown = np.flatnonzero((found == -1) | stale)
        notes: Notes = Counter()
        if len(unknown):
            new_keys, first, inverse = np.unique(keys[unknown], return_index=True, return_inverse=True)
            rows = unknown[first]
            values = self._make(decoded, points, kinds, places, starts, rows, notes)
            self._raw.insert(new_keys, values)
            found[unknown] = values[inverse]
        return np.where(found <= _REASON_BASE, found - _REASON_BASE, found).astype(np.int32), notes

    def _make(
        self,
        decoded: Decoded,
        points: Points,
        kinds: Int32s,
        places: Int32s,
        starts: npt.NDArray[np.int64],
        rows: npt.NDArray[np.intp],
        notes: Notes,
    ) -> Int32s:
        """Lives (or reasons) of points never seen before, one row each; a loop, but only over what is new."""
        raw_attributes = points.attributes.split(rows)
        resources: dict[int, Attributes | Reason] = {}
        scopes: dict[int, Attributes | Reason] = {}
        values = np.empty(len(rows), np.int32)
        for i in np.argsort(rows, kind="stable").tolist():
            row = int(rows[i])
            metric = int(points.metric[row])
            place = int(places[decoded.metrics.request[metric]])
            try:
                resource = _cached(
                    resources, int(decoded.metrics.resource[metric]), decoded.resources, self._reader.resource
                )
                scope = _cached(scopes, int(decoded.metrics.scope[metric]), decoded.scopes, self._reader.scope)
                values[i] = self._life(
                    place,
                    resource,
                    scope,
                    self._name(decoded.metrics.names[metric], required=True),
                    self._name(decoded.metrics.units[metric], required=False),
                    Kind(int(kinds[row])),
                    self._reader.point(raw_attributes[i]),
                    int(starts[row]),
                    notes,
                )
            except Unreadable as error:
                values[i] = _REASON_BASE - error.reason
        return values

    def _name(self, raw: bytes, *, required: bool) -> str:
        if required and not raw:
            raise Unreadable(Reason.NO_NAME)
        if len(raw) > self._limits.metric_name_bytes_max:
            raise Unreadable(Reason.NAME_TOO_LONG)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise Unreadable(Reason.NAME_MALFORMED) from error

    def _life(
        self,
        place: int,
        resource: Attributes,
        scope: Attributes,
        metric: str,
        unit: str,
        kind: Kind,
        point: Attributes,
        start_ns: int,
        notes: Notes,
    ) -> int:
        where = self._catalog.places[place]
        stream_id = hash_parts(
            "stream",
            where.tenant,
            where.cluster,
            canonical_attributes(resource),
            canonical_attributes(scope),
            metric,
            unit,
            kind.name,
            canonical_attributes(point),
        )
        known = self._lives.find(stream_id, start_ns)
        if known >= 0:
            return known
        attributes = merged(point, resource)
        if len(attributes) > self._limits.attribute_count_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_MANY)
        service = service_of(attributes)
        kept = self._policy.kept(metric, attributes)
        if kept is None:
            raise Unreadable(Reason.DROPPED_BY_POLICY)
        if len(self._lives) >= self._limits.streams_max:
            raise Unreadable(Reason.STREAMS_FULL)
        canonical = canonical_attributes(kept)
        if len(canonical) > self._limits.attributes_bytes_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_LARGE)
        series, folded = self._catalog.slot(place, service, metric, kind.row_kind, unit, canonical)
        if folded:
            notes[place, Reason[folded.upper()]] += 1
        return self._lives.add(stream_id, start_ns, series, lives_max=self._limits.lives_per_stream_max)


def _cached(
    cache: dict[int, Attributes | Reason], row: int, raw: RawBytes, read: Callable[[bytes], Attributes]
) -> Attributes:
    known = cache.get(row)
    if known is None:
        try:
            known = read(raw[row])
        except Unreadable as error:
            known = error.reason
        cache[row] = known
    if isinstance(known, Reason):
        raise Unreadable(known)
    return known
