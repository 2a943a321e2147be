"""Prometheus remote write between decoding and points.

    stage   rows of series, refusals that depend on nothing but the request       (may be discarded)
    apply   in the order of the inbox: types are learnt, samples become slots     (requests are durable)
    points  samples of whole points → `Decoded`, the rest is held                 (see `collectors.reassembly`)

What a sample is depends on what earlier requests said, so nothing about it is decided before its request is durable and
has its place in the order: a replay decides the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from catchment.limits import Limits
from catchment.windows import NANOSECONDS
from collectors.catalog import Catalog
from collectors.contributions import Exemplar
from collectors.decode.families import MetricType, Role
from collectors.decode.native_histograms import NativePoints, native_points
from collectors.decode.points import Points, Shape
from collectors.decode.prometheus import PrometheusPoints, Samples, assemble
from collectors.decode.remote_wire import WriteRequests
from collectors.held_table import restored, to_table
from collectors.identify import Identifier
from collectors.metric_types import Learnt, MetricTypes
from collectors.part_index import PartIndex
from collectors.reasons import Reason
from collectors.reassembly import NOTHING_HELD, HeldSamples, Reassembly
from collectors.records import Written
from collectors.remote_exemplars import PendingExemplars, staged_exemplars, usable
from collectors.remote_series import RemoteSeries
from collectors.remote_tables import SavedWrites
from collectors.tally import Tally
from collectors.validate import validate

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_IS_PART = np.zeros(len(Role), np.bool_)
_IS_PART[[Role.BUCKET, Role.COUNT, Role.SUM, Role.SUMMARY_COUNT, Role.SUMMARY_SUM]] = True


@dataclass(frozen=True)
class StagedWrites:
    """Decoded requests whose samples were checked.

    Columns:
        places, received_ns: of each request
        rows: of `RemoteSeries`, of each series; void in another ``generation``
        good: samples that can be used
        exemplars: rows of exemplars that can be used

    ``natives`` are the points of native histograms; validation is still to come, since they are complete.
    """

    requests: WriteRequests
    places: Int32s
    received_ns: Int64s
    rows: Int32s
    generation: int
    good: Bools
    natives: list[NativePoints]
    exemplars: Rows


@dataclass(frozen=True)
class Checked:
    """What `RemoteWrite.stage` found, by request.

    Attributes:
        refused: samples by reason
        told: the same with native histograms, which are refused, and counted, once they are applied
        written: what was taken
    """

    staged: StagedWrites
    refused: list[Counter[Reason]]
    told: list[Counter[Reason]]
    written: list[Written]


class RemoteWrite:
    """The state of remote write: series, types, parts, and what is held."""

    def __init__(self, limits: Limits, catalog: Catalog, tally: Tally) -> None:
        self._limits = limits
        self._catalog = catalog
        self._tally = tally
        self.types = MetricTypes(limits.metric_families_max)
        self.series = RemoteSeries(limits, self.types)
        self.parts = PartIndex(catalog, limits.histogram_parts_max)
        self.reassembly = Reassembly(limits, self.series, self.parts, tally)
        self._pending: list[HeldSamples] = []
        self.pending_samples = 0
        self._natives_pending: list[tuple[Points, Int32s, Int64s]] = []
        self._exemplars: list[PendingExemplars] = []
        self._heard_ns = 0
        self._parts_saved = 0

    def stage(self, requests: WriteRequests, places: Int32s, received_ns: Int64s) -> Checked:
        """Check decoded requests; changes nothing but caches.

        Args:
            requests: of one form.
            places: catalog slot of each request's place.
            received_ns: when each request came.
        """
        rows = self.series.rows(requests.keys, places[requests.request], requests.raw)
        codes = self.series.reason[rows][requests.series]
        request = requests.request[requests.series]
        _check_times(codes, requests.time_ns, requests.start_ns, received_ns[request], self._limits)
        good = codes == Reason.OK
        refused: list[Counter[Reason]] = [Counter() for _ in range(requests.requests)]
        bad = np.flatnonzero(~good)
        for at, code in zip(request[bad].tolist(), codes[bad].tolist(), strict=True):
            refused[at][Reason(code)] += 1
        told = [counts.copy() for counts in refused]
        natives, taken = self._natives(requests, rows, received_ns, told)
        samples = np.bincount(request[good], minlength=requests.requests)
        at = requests.request[requests.exemplars.series]
        known = self.series.reason[rows[requests.exemplars.series]] == Reason.OK
        exemplars = np.flatnonzero(known & usable(requests.exemplars, received_ns[at], self._limits))
        counts = (samples, taken, np.bincount(at[exemplars], minlength=requests.requests))
        written = [Written(*each) for each in zip(*(count.tolist() for count in counts), strict=True)]
        staged = StagedWrites(requests, places, received_ns, rows, self.series.generation, good, natives, exemplars)
        return Checked(staged, refused, told, written)

    def _natives(
        self, requests: WriteRequests, rows: Int32s, received_ns: Int64s, told: list[Counter[Reason]]
    ) -> tuple[list[NativePoints], Int64s]:
        """Points of native histograms, and how many of each request are good; what is refused is told, not tallied."""
        taken = np.zeros(requests.requests, np.int64)
        if requests.natives is None:
            return [], taken
        request = requests.request[requests.native_series]
        natives = native_points(requests.natives, request, self._limits.histogram_buckets_max)
        for native in natives:
            codes = self.series.reason[rows[requests.native_series[native.rows]]]
            codes = np.where(codes == Reason.OK, validate(native.points, received_ns, self._limits), codes)
            for at, code in zip(native.points.request.tolist(), codes.tolist(), strict=True):
                if Reason(code).refused:
                    told[at][Reason(code)] += 1
                else:
                    taken[at] += 1
        return natives, taken

    def apply(self, staged: StagedWrites) -> None:
        """Take durable requests in, in the order of the inbox."""
        requests, rows = staged.requests, staged.rows
        if staged.generation != self.series.generation:
            rows = self.series.rows(requests.keys, staged.places[requests.request], requests.raw)
        self.types.know(len(self._catalog.places))
        news = self._news(staged, rows)
        # Usually there are none, and all requests are one run. A type holds for the samples of its own request.
        begin = 0
        for request in [*sorted(news), requests.requests]:
            self._take(staged, rows, begin, request)
            self._take_natives(staged, rows, begin, request)
            self._take_exemplars(staged, rows, begin, request)
            for learnt, declared in news.get(request, ()):
                if not self.types.learn(learnt, declared=declared):
                    self._tally.add(learnt.place, Reason.FAMILIES_FULL.text, "families", 1)
            begin = request
        table = self.series.table
        for native in staged.natives:
            points = replace(native.points, attributes=table.group[native.points.metric])
            self._natives_pending.append((points, staged.places, staged.received_ns))
            self.pending_samples += len(points)
        self._heard_ns = max(self._heard_ns, int(staged.received_ns.max(initial=0)))

    def _news(self, staged: StagedWrites, rows: Int32s) -> dict[int, list[tuple[Learnt, bool]]]:
        """What each request tells of types where any tells something new; whether it was declared."""
        numbers: dict[tuple[int, bytes], int] = {}
        for request, number, family in staged.requests.metadata:
            known = numbers.get((request, family))
            numbers[request, family] = number if known is None else min(known, number)
        told = [
            (request, learnt, True)
            for (request, family), number in numbers.items()
            if (learnt := self._learnt(int(staged.places[request]), family, number)) is not None
        ]
        told += [(int(staged.requests.request[at]), learnt, False) for at, learnt in self.series.inferred(rows)]
        # All of a family, if any is new: what changes nothing now may do so behind another of the same requests.
        changed = {
            (learnt.place, learnt.family)
            for _, learnt, declared in told
            if self.types.changes(learnt, declared=declared)
        }
        news: dict[int, list[tuple[Learnt, bool]]] = {}
        for request, learnt, declared in told:
            if (learnt.place, learnt.family) in changed:
                news.setdefault(request, []).append((learnt, declared))
        return news

    def _learnt(self, place: int, family: bytes, number: int) -> Learnt | None:
        """A declared type; None where it says nothing, or of a name that no sample can have."""
        if not family or len(family) > self._limits.metric_name_bytes_max:
            return None
        try:
            return Learnt(place, family.decode(), MetricType(number))
        except ValueError:  # not UTF-8, or a type of tomorrow
            return None

    def _take(self, staged: StagedWrites, rows: Int32s, begin: int, end: int) -> None:
        """Take the samples of some requests in, as of the types that are known now."""
        requests = staged.requests
        first, last = np.searchsorted(requests.request, (begin, end)).tolist()
        own = slice(*np.searchsorted(requests.series, (first, last)).tolist())
        series = requests.series[own]
        if not len(series):
            return
        slots = np.zeros(last - first, np.int32)
        usable = self.series.reason[rows[first:last]] == Reason.OK
        slots[usable] = self.series.slots(rows[first:last][usable])
        good = staged.good[own]
        samples = HeldSamples(
            slots[series - np.int32(first)],
            requests.time_ns[own],
            requests.start_ns[own],
            requests.value[own],
            staged.received_ns[requests.request[series]],
        )
        self._pending.append(samples if good.all() else samples.take(good))
        self.pending_samples += len(self._pending[-1])

    def _take_natives(self, staged: StagedWrites, rows: Int32s, begin: int, end: int) -> None:
        """Name the series of native histograms of some requests."""
        for native in staged.natives:
            own = np.flatnonzero((native.points.request >= begin) & (native.points.request < end))
            if len(own):
                native.points.metric[own] = self.series.slots(rows[staged.requests.native_series[native.rows[own]]])

    def _take_exemplars(self, staged: StagedWrites, rows: Int32s, begin: int, end: int) -> None:
        if not len(staged.exemplars):
            return
        requests = staged.requests
        own = requests.exemplars.take(staged.exemplars)
        at = requests.request[own.series]
        own = own.take(np.flatnonzero((at >= begin) & (at < end)))
        # The start is that of the series' samples, if it has any in this request.
        start_ns = np.zeros(len(requests.request), np.int64)
        start_ns[requests.series] = requests.start_ns
        for native in staged.natives:
            start_ns[requests.native_series[native.rows]] = native.points.start_ns
        self._exemplars.append(PendingExemplars(self.series.slots(rows[own.series]), start_ns[own.series], own))
        self.pending_samples += len(own.series)

    def exemplars(self, identifier: Identifier) -> Iterator[tuple[Int32s, Int64s, Exemplar]]:
        """The exemplars that were applied since the last time, as `Staged` has them; after points have their lives."""
        pending, self._exemplars = self._exemplars, []
        return staged_exemplars(pending, self.series, identifier, self._tally)

    def natives(self) -> Iterator[tuple[PrometheusPoints, Int32s, Int64s]]:
        """The native histograms that were applied since the last time, with place and time of each request."""
        pending, self._natives_pending = self._natives_pending, []
        for points, places, received_ns in pending:
            yield PrometheusPoints(len(places), (points,), self.series.table), places, received_ns

    def points(self, now_ns: int | None) -> tuple[PrometheusPoints, Int32s] | None:
        """The points of what was applied since the last time, and what was held until now; the rest is held.

        Args:
            now_ns: the time of the flush, None between flushes.

        Returns:
            Points whose requests are places, and these; None if there are none.
        """
        if not self._pending and not len(self.reassembly.held):
            return None
        samples = HeldSamples.concat([NOTHING_HELD, *self._pending])
        self._pending, self.pending_samples = [], 0
        table = self.series.table
        role = table.role[samples.slot]
        is_part = _IS_PART[role]
        quantiles = role == Role.QUANTILE
        self._tally.places(self.series.places(samples.slot[quantiles]), Reason.SUMMARY_QUANTILES, "values")
        whole = self.reassembly.release(samples.take(is_part), max(self._heard_ns, now_ns or 0))
        samples = HeldSamples.concat([samples.take(~is_part & ~quantiles), whole])
        if not len(samples):
            return None
        places = self.series.places(samples.slot)
        decoded = assemble(
            table,
            len(self._catalog.places),
            Samples(places, samples.slot, samples.time_ns, samples.start_ns, samples.value),
        )
        vary = tuple(replace(points, bounds_vary=points.shape is Shape.HISTOGRAM) for points in decoded.points)
        return replace(decoded, points=vary), np.arange(len(self._catalog.places), dtype=np.int32)

    def unsaved(self) -> SavedWrites:
        """What is to be saved with a flush, after `points`: what changed since the last time, and all that is held."""
        places = self._catalog.places
        # Segments are rewritten whole once they hold three times what there is.
        if self._parts_saved > 3 * len(self.parts) + 1024:
            self.parts.save_whole()
        types = [
            (places[learnt.place].tenant, places[learnt.place].cluster, learnt.family, int(learnt.type))
            for learnt in self.types.unsaved()
        ]
        return SavedWrites(types, to_table(self.reassembly.held, self.series, self._catalog), [self.parts.unsaved()])

    def saved(self, writes: SavedWrites) -> None:
        """What `unsaved` gave is durable."""
        self.types.saved()
        self.parts.saved()
        for parts in writes.parts:
            self._parts_saved = len(parts.group) + (0 if parts.whole else self._parts_saved)

    def restore(self, writes: SavedWrites | None) -> None:
        """Take up what was saved; before anything is staged."""
        if writes is None:
            return
        self.types.restore(
            Learnt(self._catalog.place(tenant, cluster), family, MetricType(number))
            for tenant, cluster, family, number in writes.types
        )
        for parts in writes.parts:
            self.parts.restore(parts)
            self._parts_saved += len(parts.group)
        self.reassembly.held = restored(writes.held, self.series, self._catalog)

    def forget_idle(self, now_ns: int) -> None:
        """Drop the parts of what is idle, and empty caches that are full; after `points` only."""
        idle_ns = now_ns - self._limits.stream_idle_seconds * NANOSECONDS
        forgotten = self.parts.forget_idle(idle_ns, self.parts.of_slots(self.series, self.reassembly.held.slot))
        if forgotten or self.series.is_full:
            self.forget()

    def forget(self) -> None:
        """Empty the caches; after `points` only."""
        held = self.reassembly.held
        slots, at = np.unique(held.slot, return_inverse=True)
        typed = [self.series.typed(slot) for slot in slots.tolist()]
        places = self.series.places(slots)
        self.series.forget()
        self.parts.forget_slots()
        self.reassembly.held = replace(held, slot=self.series.put_back(places, typed)[at])


def _check_times(
    codes: npt.NDArray[np.uint8], time_ns: Int64s, start_ns: Int64s, received_ns: Int64s, limits: Limits
) -> None:
    """Refuse samples by their times, as `collectors.validate` does points; extremes tell whether any can be wrong."""
    if not len(codes):
        return
    past_ns, future_ns = limits.past_seconds_max * NANOSECONDS, limits.future_seconds_max * NANOSECONDS
    first_ns, last_ns = int(time_ns.min()), int(time_ns.max())
    if first_ns < received_ns.max() - past_ns:
        codes[(time_ns < received_ns - past_ns) & (codes == Reason.OK)] = Reason.TOO_OLD
    if last_ns > received_ns.min() + future_ns:
        codes[(time_ns > received_ns + future_ns) & (codes == Reason.OK)] = Reason.TOO_FAR_IN_FUTURE
    if start_ns.min() < 0 or start_ns.max() > first_ns:
        codes[((start_ns > time_ns) | (start_ns < 0)) & (codes == Reason.OK)] = Reason.START_AFTER_TIME
