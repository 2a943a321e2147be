"""From raw identity to lives: which stream a point belongs to, found by hash, decoded only when never seen before.

A point's *raw key* mixes the raw identity that its decoder gives (`Decoded.keys`) with its kind, and with its start
where the kind is cumulative. `HashIndex` maps raw keys to lives; several raw keys may lead to one life
(attributes in another order). A raw key that cannot be used is remembered too, with its reason, so that a bad sender
costs no more than a good one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catchment.identity import canonical_attributes, hash_parts, mix, series_id
from catchment.limits import Limits
from collectors.cardinality import Cardinality
from collectors.catalog import Catalog
from collectors.decode.attributes import AttributeReader, Attributes, Unreadable, merged, service_of
from collectors.decode.points import Decoded, Described
from collectors.hash_index import ABSENT, HashIndex, first_seen
from collectors.kinds import HAS_START, Kind
from collectors.lives import Lives
from collectors.policy import Policy
from collectors.policy_history import Past
from collectors.reasons import Reason

Int32s = npt.NDArray[np.int32]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Notes = Counter[tuple[int, Reason]]

# Values of the raw index below this one are reasons, negated.
_REASON_BASE = -2
# The part of the table that is for tenants with less than that part of it.
_RESERVED = 10
# How many keys are read along behind one that was looked up.
_READ_ALONG = 32


@dataclass(frozen=True)
class Identified:
    """The lives of points by shape, -reason where an identity is unusable; notes by (place, reason), one a stream."""

    lives: list[Int32s]
    notes: Notes


class Identifier:
    """Finds and, where need be, makes the life of each point.

    Of several tenants one leaves room to the others: the last tenth of ``streams_max`` is for those that have less than
    a tenth of it.

    ``replays``: what comes was acknowledged, in batches of other sizes. Who found the last room then may not come first
    now, so a batch that finds any room is taken whole, and tenants with little always.
    """

    def __init__(self, limits: Limits, policy: Policy, catalog: Catalog, lives: Lives) -> None:
        self._limits = limits
        self._policy = policy
        self.past: Sequence[Past] = ()
        self.replays = False
        self._streams_of: Counter[str] | None = None
        self._catalog = catalog
        self._lives = lives
        self.cardinality = Cardinality(limits, catalog)
        self._raw = HashIndex()
        self._key_of_life: UInt64s = np.zeros(0, np.uint64)
        self._reader = AttributeReader(limits)

    def forget_evicted(self, moved: Int32s) -> None:
        """Follow `Lives.evict`: raw keys of lives that are gone are forgotten, and so are those of bad identities."""
        keys, values = self._raw.items()
        values = np.where(values >= 0, moved[np.maximum(values, 0)], -1).astype(np.int32)
        self._streams_of = None
        self._keep(keys, values, values >= 0)

    def look_again(self, lives: Bools) -> None:
        """Let some lives be looked at again when they come: there may be room for a series of their own now."""
        if lives.any():
            keys, values = self._raw.items()
            self._keep(keys, values, (values < 0) | ~lives[np.maximum(values, 0)])

    def _keep(self, keys: UInt64s, values: Int32s, kept: Bools) -> None:
        self._raw = HashIndex(int(kept.sum()))
        self._key_of_life = np.zeros(0, np.uint64)
        self._insert(keys[kept], values[kept])

    def change(self, policy: Policy, past: Sequence[Past]) -> None:
        """Put another policy in force: every stream is looked at again when it comes. Its life goes on.

        Args:
            policy: from now on.
            past: those before it that dropped metrics.
        """
        self._policy, self.past = policy, past
        self._raw = HashIndex()
        self._key_of_life = np.zeros(0, np.uint64)

    def identify(self, decoded: Decoded, places: Int32s, usable: list[Bools]) -> Identified:
        """The life of each point.

        Args:
            decoded: the requests.
            places: catalog slot of the place of each request.
            usable: points to look at, by shape; the others get 0.
        """
        if not decoded.points:
            return Identified([], Counter())
        # All shapes at once: every step has a fixed cost.
        kind = np.concatenate([points.kind for points in decoded.points])
        start_ns = np.where(HAS_START[kind], np.concatenate([points.start_ns for points in decoded.points]), 0)
        keys = mix(decoded.keys(places) + kind.astype(np.uint64), start_ns.view(np.uint64))
        found = self._find(keys)
        found[~np.concatenate(usable)] = 0
        if self._lives.any_dead:
            # Raw keys may still lead to a life that was evicted for a younger one.
            rows = np.flatnonzero((found >= 0) & np.concatenate(usable))
            found[rows[self._lives.columns.dead[found[rows]]]] = ABSENT
        unknown = np.flatnonzero(found == ABSENT)
        notes: Notes = Counter()
        if len(unknown):
            first, of_first = first_seen(keys[unknown])
            new = unknown[first]
            values = self._make(decoded, kind, places, start_ns, new, notes)
            self._make_room(len(values))
            self._insert(keys[new], values)
            found[unknown] = values[of_first]
        lives = np.where(found <= _REASON_BASE, found - _REASON_BASE, found).astype(np.int32)
        return Identified(np.split(lives, np.cumsum([len(points) for points in decoded.points])[:-1]), notes)

    def known(self, keys: UInt64s, kind: Kind, start_ns: npt.NDArray[np.int64]) -> Int32s:
        """The life of each stream by its raw key (`Decoded.keys`), negative where it has none that can be used."""
        starts = (start_ns if HAS_START[kind] else np.zeros_like(start_ns)).view(np.uint64)
        found = self._find(mix(keys + np.uint64(kind), starts))
        found[(found >= 0) & self._lives.columns.dead[np.maximum(found, 0)]] = ABSENT
        return found

    def _find(self, keys: UInt64s) -> Int32s:
        """The life of each raw key.

        Senders repeat their streams in the order in which these became lives. So every some keys one is looked up, and
        for those behind it the lives behind its own are tried first, which is reading along, not jumping about.
        """
        if not len(self._key_of_life) or self._lives.any_dead:
            return self._raw.find(keys)  # a dead life still has the key that led to it
        heads = np.maximum(self._raw.find(keys[::_READ_ALONG]), 0)
        ahead = np.arange(len(keys), dtype=np.int32) % np.int32(_READ_ALONG)
        last = np.int32(len(self._key_of_life) - 1)
        found: Int32s = np.minimum(np.repeat(heads, _READ_ALONG)[: len(keys)] + ahead, last)
        others = np.flatnonzero(self._key_of_life[found] != np.maximum(keys, np.uint64(1)))
        found[others] = self._raw.find(keys[others])
        return found

    def _insert(self, keys: UInt64s, values: Int32s) -> None:
        self._raw.insert(keys, values)
        if len(self._key_of_life) < len(self._lives):
            grown = np.zeros(2 * len(self._lives), np.uint64)
            grown[: len(self._key_of_life)] = self._key_of_life
            self._key_of_life = grown
        good = values >= 0
        self._key_of_life[values[good]] = np.maximum(keys[good], np.uint64(1))

    def _make_room(self, wanted: int) -> None:
        """Raw keys are the senders' choice: beyond two a stream, those of bad identities are forgotten, then all."""
        room = 2 * self._limits.streams_max - wanted
        if len(self._raw) <= room:
            return
        keys, values = self._raw.items()
        good = values >= 0
        self._raw = HashIndex()
        if good.sum() <= room:
            self._raw.insert(keys[good], values[good])

    def _make(
        self,
        decoded: Decoded,
        kinds: Int32s,
        places: Int32s,
        starts: npt.NDArray[np.int64],
        rows: npt.NDArray[np.intp],
        notes: Notes,
    ) -> Int32s:
        """Lives (or reasons) of points never seen before, one row each; a loop, but only over what is new."""
        values = np.zeros(len(rows), np.int32)
        streams: list[_Stream | None] = []
        place_of = places[np.concatenate([points.request for points in decoded.points])[rows]].tolist()
        described = decoded.describe(rows, self._reader)
        for i, (place, kind, found) in enumerate(zip(place_of, kinds[rows].tolist(), described, strict=True)):
            try:
                if isinstance(found, Reason):
                    raise Unreadable(found)
                streams.append(self._stream(place, Kind(kind), found))
            except Unreadable as error:
                values[i] = _REASON_BASE - error.reason
                streams.append(None)
        readable = np.flatnonzero(values == 0)
        ids = np.array([stream.stream_id for stream in streams if stream is not None], np.uint64)
        known = self._lives.find(ids, starts[rows[readable]])
        values[readable] = known
        series = np.zeros(len(rows), np.int32)
        dropped: list[int] = []
        # Of known lives too: they may come from before a restart, and the policy may be another since.
        for i in readable.tolist():
            stream = streams[i]
            assert stream is not None
            try:
                series[i] = self._series(stream, notes, values[i])
            except Unreadable as error:
                if error.reason is Reason.DROPPED_BY_POLICY and values[i] != ABSENT:
                    dropped.append(values[i])
                values[i] = _REASON_BASE - error.reason
        self._lives.drop(np.array(dropped, np.int32))
        of_known = readable[(known != ABSENT) & (values[readable] >= 0)]
        self._move_series(values[of_known], series[of_known], HAS_START[kinds[rows[of_known]]])
        new = readable[known == ABSENT]
        new = new[values[new] == ABSENT]
        has_room = self._has_room([stream.place for stream in (streams[i] for i in new.tolist()) if stream])
        values[new[~has_room]] = _REASON_BASE - Reason.STREAMS_FULL
        new = new[has_room]
        if len(new):
            values[new] = self._add_lives(
                np.array([s.stream_id for s in (streams[i] for i in new.tolist()) if s], np.uint64),
                starts[rows[new]],
                series[new],
            )
            if self.past:
                self._begin_late(values[new], [streams[i] for i in new.tolist()], starts[rows[new]])
        return values

    def _has_room(self, places: list[int]) -> Bools:
        """Which of some new streams, by their places, find room in the table."""
        size, limit = len(self._lives), self._limits.streams_max
        reserved = limit // _RESERVED
        if size + len(places) <= limit - reserved:
            self._streams_of = None
            return np.ones(len(places), np.bool_)
        if self._streams_of is None:
            self._streams_of = self._catalog.count_by_tenant(self._lives.columns.series[:size])
        is_alone = len({place.tenant for place in self._catalog.places}) == 1
        has_room = np.zeros(len(places), np.bool_)
        taken = size
        for i, place in enumerate(places):
            tenant = self._catalog.places[place].tenant
            has_little = not is_alone and self._streams_of[tenant] < reserved
            if self.replays:
                has_room[i] = has_little or size < limit
            else:
                has_room[i] = taken < (limit if is_alone or has_little else limit - reserved)
            if has_room[i]:
                taken += 1
                self._streams_of[tenant] += 1
        return has_room

    def _move_series(self, lives: Int32s, series: Int32s, cumulative: Bools) -> None:
        """Give known lives the series that policy says today, also where it has dropped them until now."""
        columns = self._lives.columns
        again = np.flatnonzero(columns.dropped[lives])
        if len(again):
            self._lives.take_again(lives[again], cumulative[again])
        rows = np.flatnonzero(columns.series[lives] != series)
        columns.series[lives[rows]] = series[rows]
        columns.touched[lives[rows]] = True

    def _begin_late(self, lives: Int32s, streams: list[_Stream | None], starts: npt.NDArray[np.int64]) -> None:
        """Let new lives begin with a baseline that were dropped until now."""
        for life, stream, start_ns in zip(lives.tolist(), streams, starts.tolist(), strict=True):
            assert stream is not None
            attributes, tenant = merged(stream.point, stream.resource), self._catalog.places[stream.place].tenant
            if any(past.dropped(tenant, stream.metric, attributes, start_ns) for past in self.past):
                self._lives.columns.floor_ns[life] = max(int(self._lives.columns.floor_ns[life]), start_ns)

    def _add_lives(self, ids: UInt64s, starts: npt.NDArray[np.int64], series: Int32s) -> Int32s:
        """Begin lives; two raw keys of one stream (its attributes in another order) share one."""
        pairs = mix(ids, starts.view(np.uint64))
        _, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
        distinct = np.sort(first)
        rows = self._lives.add(ids[distinct], starts[distinct], series[distinct])
        return rows[np.searchsorted(distinct, first[inverse])]

    def _stream(self, place: int, kind: Kind, found: Described) -> _Stream:
        name = self._name(found.name, required=True)
        unit = self._name(found.unit, required=False)
        where = self._catalog.places[place]
        stream_id = hash_parts(
            "stream",
            where.tenant,
            where.cluster,
            found.resource_text,
            found.scope,
            name,
            unit,
            kind.name,
            canonical_attributes(found.point),
        )
        return _Stream(stream_id, place, name, unit, kind, found.point, found.resource)

    def _series(self, stream: _Stream, notes: Notes, life: int) -> int:
        """The series of a stream by policy; ``life`` is the one that it has already, or `ABSENT`."""
        attributes = merged(stream.point, stream.resource)
        if len(attributes) > self._limits.attribute_count_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_MANY)
        decision = self._policy.decide(self._catalog.places[stream.place].tenant, stream.metric, attributes)
        if decision.kept is None:
            raise Unreadable(Reason.DROPPED_BY_POLICY)
        # What rules may ask for all the same is a column of its own.
        service = service_of(attributes)
        kept = {name: decision.kept[name] for name in decision.kept if name in attributes}
        canonical = canonical_attributes(kept)
        if len(canonical) > self._limits.attributes_bytes_max:
            raise Unreadable(Reason.ATTRIBUTES_TOO_LARGE)
        series, folded = self._catalog.slot(
            stream.place, service, stream.metric, stream.kind.row_kind, stream.unit, canonical, decision.treatment
        )
        # A stream is told of when it begins, and when policy gives it another series: that is what budgets see.
        if life == ABSENT or self._series_id(series) != self._series_id(self._lives.columns.series[life]):
            if folded:
                notes[stream.place, Reason[folded.upper()]] += 1
            key = (service, stream.metric, stream.kind.row_kind, stream.unit, canonical)
            identity = series_id(self._catalog.places[stream.place].tenant, *key)
            self.cardinality.add(stream.place, stream.metric, kept, identity, is_folded=bool(folded))
        return series

    def _series_id(self, slot: int) -> int:
        return self._catalog.series[slot].series_id

    def _name(self, raw: bytes, *, required: bool) -> str:
        if required and not raw:
            raise Unreadable(Reason.NO_NAME)
        if len(raw) > self._limits.metric_name_bytes_max:
            raise Unreadable(Reason.NAME_TOO_LONG)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise Unreadable(Reason.NAME_MALFORMED) from error


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream that was not looked up by its raw key before."""

    stream_id: int
    place: int
    metric: str
    unit: str
    kind: Kind
    point: Attributes
    resource: Attributes
