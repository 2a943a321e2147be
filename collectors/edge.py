"""The edge's pure core: requests in, rows out; no clock, no socket, no disk.

    stage(requests)   decode, check, identify           → outcomes for the senders, points to apply
    apply(staged)     only after the requests are durable → accumulated partial rows
    drain(now_ns)     at a flush                         → rows of all lanes by tenant, and what to persist with them

Rules:
1. `apply` is called in the order of the inbox. What is applied is exactly what a later replay of the inbox would apply.
2. `drain` hands out everything applied since the last one. If its flush fails, `put_back` takes it back whole; rows are
   partials, so nothing has to be undone in the state of lives.
3. Lives are evicted after a drain only. Those that staged points name by row stay, and the points follow their rows.
4. A policy is changed when nothing is staged or accumulated: what comes before it and what after is told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.errors import Invalid
from catchment.limits import Limits
from catchment.windows import NANOSECONDS, of_increases
from collectors.cardinality import Sketches
from collectors.catalog import Catalog
from collectors.contributions import Contribution, Contributions, named
from collectors.decode.forms import Decoder, Form, decoders, form_of
from collectors.decode.points import Decoded
from collectors.decode.remote_wire import WriteRequests
from collectors.explosion import Explosion, Explosions
from collectors.heard import Heard, HeardIn, SignsOfLife
from collectors.histograms import HistogramPoints, cumulative_histograms, histogram_deltas
from collectors.identify import Identifier
from collectors.kinds import Kind
from collectors.lives import Lives
from collectors.numbers import NumberPoints, counters, deltas, gauges, sweep_stale
from collectors.partials import Partials
from collectors.policy import Policy
from collectors.policy_history import Past
from collectors.reasons import MEANING
from collectors.records import Outcome, Received
from collectors.remote_write import RemoteWrite
from collectors.seen import SeenPoints
from collectors.staged import Staged, refusal_message, stage
from collectors.tally import Tally

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

# A chunk is bounded by its buckets too: this many take about the memory of a point.
_BUCKETS_PER_POINT = 8


@dataclass
class Drained:
    """What a flush takes.

    Rows by tenant, and as the edge keeps them; digests by place, treatment (`Catalog.treatments`) and window; sketches
    and counts by place; heartbeats by place and window.
    """

    rows: dict[str, pa.Table]
    partials: dict[str, pa.Table]
    digests: Counter[tuple[int, int, int]]
    cardinality: Sketches
    tally: dict[tuple[int, str, str], int]
    heard: HeardIn


class Edge:
    """One collector's decoding, state and accumulators."""

    def __init__(
        self,
        limits: Limits,
        policy: Policy,
        *,
        window_seconds: int,
        catalog: Catalog,
        lives: Lives,
        seen: SeenPoints,
    ) -> None:
        self.limits = limits
        self.policy = policy
        self.window_seconds = window_seconds
        self.catalog = catalog
        self.lives = lives
        self.seen = seen
        self.tally = Tally(catalog, lives)
        self._outstanding: list[Staged] = []
        self._decoders = decoders(limits)
        self._identifier = Identifier(limits, policy, catalog, lives)
        self._explosions = Explosions(limits, catalog)
        self.remote = RemoteWrite(limits, catalog, self.tally)
        self._pending = Staged()
        self._partials = Partials(catalog, self.tally, window_seconds, limits.histogram_intervals_max)
        self._signs = SignsOfLife(window_seconds=window_seconds, late_seconds=limits.late_heartbeat_seconds_max)

    def stage(self, requests: Sequence[Received], payloads: Sequence[bytes]) -> tuple[list[Outcome | Invalid], Staged]:
        """Decode, check and identify requests, all in one go.

        Args:
            requests: as received.
            payloads: their plain bytes, one each.

        Returns:
            The outcome of each request (`Invalid` for one that cannot be decoded; it hurts no other), and the points.
        """
        outcomes: list[Outcome | Invalid] = [Outcome()] * len(requests)
        members: dict[Form, list[int]] = {}
        for i, request in enumerate(requests):
            members.setdefault(form_of(request.content_type), []).append(i)
        staged = Staged()
        for form, of_form in members.items():
            staged.take_in(self._stage_form(self._decoders[form], of_form, requests, payloads, outcomes))
        return outcomes, self.hand_out(staged)

    def _stage_form(
        self,
        decoder: Decoder,
        members: list[int],
        requests: Sequence[Received],
        payloads: Sequence[bytes],
        outcomes: list[Outcome | Invalid],
    ) -> Staged:
        """Stage the requests of one form; ``outcomes`` get theirs."""
        try:
            decoded, good = decoder.decode([payloads[i] for i in members]), members
        except Invalid:
            good = _each_alone(decoder, members, payloads, outcomes)
            if not good:
                return Staged()
            decoded = decoder.decode([payloads[i] for i in good])
        places = np.array([self.catalog.place(requests[i].tenant, requests[i].cluster) for i in good], np.int32)
        received_ns = np.array([requests[i].received_ns for i in good], np.int64)
        if isinstance(decoded, WriteRequests):
            return self._stage_writes(decoded, good, places, received_ns, outcomes)
        staged = stage(decoded, places, received_ns, self._identifier, self.limits)
        for i, points, refused in zip(good, _points_of(decoded).tolist(), staged.refused, strict=True):
            outcomes[i] = Outcome(refused.total(), refusal_message(refused, MEANING), points)
        return staged

    def _stage_writes(
        self,
        decoded: WriteRequests,
        members: list[int],
        places: Int32s,
        received_ns: Int64s,
        outcomes: list[Outcome | Invalid],
    ) -> Staged:
        checked = self.remote.stage(decoded, places, received_ns)
        staged = Staged(writes=[checked.staged])
        for i, place, refused, told, written in zip(
            members, places.tolist(), checked.refused, checked.told, checked.written, strict=True
        ):
            for reason, count in refused.items():
                staged.tally[place, reason.text, "points"] += count
            points = written.samples + written.histograms + told.total()
            outcomes[i] = Outcome(told.total(), refusal_message(told, MEANING), points, written)
        return staged

    def count_points(self, request: Received, payload: bytes) -> int:
        """How many points a request holds, or more: what is large is counted before it is staged.

        Raises:
            Invalid: the payload is malformed.
        """
        return self._decoders[form_of(request.content_type)].count(payload)

    def hand_out(self, staged: Staged) -> Staged:
        """Note that staged points are on their way to `apply` or `discard`."""
        self._outstanding.append(staged)
        return staged

    def _take_back(self, staged: Staged) -> None:
        self._outstanding = [other for other in self._outstanding if other is not staged]

    def apply(self, staged: Staged, requests: Sequence[Received]) -> None:
        """Take staged points of durable requests into account."""
        self._take_back(staged)
        for (place, reason, unit), count in staged.tally.items():
            self.tally.add(place, reason, unit, count)
        staged.tally.clear()
        for request in requests:
            heard = Heard(request.labels, request.received_ns, request.policy_version)
            self.hear(request.tenant, request.cluster, heard)
        writes, staged.writes = staged.writes, []
        for write in writes:
            self.remote.apply(write)
        self._pending.take_in(staged)
        pending = self._pending.points + self.remote.pending_samples
        if self.remote.series.is_full:
            self._aggregate(sweep_now_ns=None)
            self.remote.forget()
        elif pending + self._pending.buckets // _BUCKETS_PER_POINT >= self.limits.points_per_chunk_max:
            self._aggregate(sweep_now_ns=None)

    @property
    def staged_outstanding(self) -> int:
        """How many batches of staged points are on their way to `apply` or `discard`."""
        return len(self._outstanding)

    @property
    def rows_bytes(self) -> int:
        """Memory of the rows that wait for the next flush; may be read on any thread."""
        return self._partials.size_bytes

    def discard(self, staged: Staged) -> None:
        """Forget staged points: their requests were not made durable and were refused."""
        self._take_back(staged)

    def drain(self, now_ns: int) -> Drained:
        """Hand out all that was applied.

        Args:
            now_ns: the time of the flush: gauges whose staleness is over by then are integrated.
        """
        self._aggregate(sweep_now_ns=now_ns)
        partials, digests = self._partials.drain()
        rows = {tenant: named(table, self.catalog) for tenant, table in partials.items()}
        sketches = self._identifier.cardinality.drain()
        return Drained(rows, partials, digests, sketches, self.tally.drain(), self._signs.drain(now_ns))

    def put_back(self, drained: Drained) -> None:
        """Take back what a failed flush drained."""
        self._partials.put_back(drained.partials, drained.digests)
        self._identifier.cardinality.put_back(drained.cardinality)
        self.tally.put_back(drained.tally)
        self._signs.put_back(drained.heard)

    def evict_idle(self, now_ns: int) -> int:
        """Drop lives without points for ``stream_idle_seconds``, dead ones, and the oldest where the table is full.

        Returns:
            How many lives were dropped, or series if no lives were; 0 means that none has another number now.
        """
        size = len(self.lives)
        if self._pending.points or self._partials:
            return 0
        self.remote.forget_idle(now_ns)
        if not size:
            return 0
        state = self.lives.columns
        # By arrival too: a sender that is days late, or whose clock is, is not idle.
        active_ns = np.maximum(state.time_ns[:size], state.heard_ns[:size])
        keep = ~state.dead[:size] & (
            (active_ns >= now_ns - self.limits.stream_idle_seconds * NANOSECONDS) | state.held[:size]
        )
        if keep.sum() >= self.limits.streams_max * 0.9:
            # Nearly full: the tenth that was idle longest makes room, before new streams have to be refused, of tenants
            # that have more than others. Streams in use stay: each of them would come back with a baseline and lose
            # an increase.
            active_ns[~self._is_crowding(state.series[:size])] = np.iinfo(np.int64).max
            oldest = np.argpartition(active_ns, size // 10)[: size // 10]
            keep[oldest[active_ns[oldest] < now_ns - self.limits.staleness_seconds * NANOSECONDS]] = False
        for staged in self._outstanding:
            for lives in staged.lives():
                keep[lives] = True
        dropped = int(size - keep.sum())
        # Renumbering costs; a few rows more do not.
        if dropped > size // 100:
            moved = self.lives.evict(keep)
            self._identifier.forget_evicted(moved)
            for staged in self._outstanding:
                staged.follow(moved)
        else:
            dropped = 0
        state, size = self.lives.columns, len(self.lives)
        used = np.zeros(len(self.catalog.series), np.bool_)
        used[state.series[:size]] = True
        stale = int(len(used) - used.sum())
        # Series go with their lives; those that lives have left for others, once they are many.
        if not dropped and stale <= len(used) // 4:
            return 0
        state.series[:size] = self.catalog.compact(used)[state.series[:size]]
        self._identifier.look_again(self.catalog.folds_in_vain()[state.series[:size]])
        return dropped or stale

    def _is_crowding(self, series: Int32s) -> npt.NDArray[np.bool_]:
        """Whether the streams of some series are of tenants that have at least as many as there are on average."""
        streams_of = self.catalog.count_by_tenant(series)
        is_large = [streams_of[place.tenant] * len(streams_of) >= len(series) for place in self.catalog.places]
        of_place: npt.NDArray[np.bool_] = np.array(is_large)
        return of_place[self.catalog.places_of(series.astype(np.int64))]

    def replay(self, *, begins: bool) -> None:
        """Note that what is staged from now on was acknowledged before, or that this is over."""
        self._identifier.replays = begins

    def settle(self) -> None:
        """Let the next drain take in what is held only because more of it might still come."""
        self.remote.reassembly.settle()

    def remember(self, past: Sequence[Past]) -> None:
        """Know the policies that dropped metrics before the one in force; at start."""
        self._identifier.past = past

    def change_policy(self, policy: Policy, past: Sequence[Past]) -> None:
        """Put another policy in force; all that was staged is applied and drained (rule 4)."""
        self.policy = policy
        self._identifier.change(policy, past)
        self.catalog.count_anew()

    def exploded(self, now_ns: int) -> Explosion | None:
        """What there is to tell of series that were folded since the last flush."""
        return self._explosions.look(self._identifier.cardinality.folded(), now_ns)

    def hear(self, tenant: str, cluster: str, heard: Heard) -> None:
        """Take note of a sign of life."""
        self._signs.hear(self.catalog.place(tenant, cluster), heard)

    def _aggregate(self, sweep_now_ns: int | None) -> None:
        """Turn pending points into partial rows."""
        # What leaves the range of a float becomes infinite, and is counted when it leaves (`collectors.flush`).
        with np.errstate(over="ignore", invalid="ignore"):
            self._aggregate_pending(sweep_now_ns)

    def _aggregate_pending(self, sweep_now_ns: int | None) -> None:
        pending, self._pending = self._pending, Staged()
        for natives in self.remote.natives():
            pending.take_in(stage(*natives, self._identifier, self.limits))
        remote = self.remote.points(sweep_now_ns)
        if remote is not None:
            pending.take_in(stage(*remote, None, self._identifier, self.limits))
        pending.exemplars.extend(self.remote.exemplars(self._identifier))
        for (place, reason, unit), count in pending.tally.items():
            self.tally.add(place, reason, unit, count)
        out = Contributions(self.window_seconds)
        staleness_ns = self.limits.staleness_seconds * NANOSECONDS
        for kind, number_parts in pending.numbers.items():
            numbers = NumberPoints.concat(number_parts)
            if kind is Kind.COUNTER:
                counters(self.lives, numbers, out, self.tally)
            elif kind is Kind.DELTA:
                deltas(self.lives, numbers, out, self.seen, self.tally)
            else:
                gauges(self.lives, numbers, out, self.seen, staleness_ns, self.tally)
        scales = self.catalog.histogram_scales()
        for kind, histogram_parts in pending.histograms.items():
            histograms = HistogramPoints.concat(histogram_parts)
            of_kind = scales if kind in (Kind.EXPONENTIAL, Kind.EXPONENTIAL_DELTA) else None
            if kind in (Kind.HISTOGRAM_DELTA, Kind.EXPONENTIAL_DELTA):
                histogram_deltas(self.lives, histograms, out, self.seen, self.tally, of_kind)
            else:
                is_explicit = kind is Kind.HISTOGRAM
                cumulative_histograms(self.lives, histograms, out, self.tally, explicit=is_explicit, scales=of_kind)
        for life, instant_ns, exemplars in pending.exemplars:
            window_ns = of_increases(instant_ns, self.window_seconds)
            out.add(Contribution(self.lives.columns.series[life], window_ns, exemplars=exemplars))
        if sweep_now_ns is not None:
            sweep_stale(self.lives, sweep_now_ns, staleness_ns, out)
        rows = out.rows()
        if rows is not None:
            # Not of rows that only a held gauge makes, and before they are widened.
            has_points = rows.table["points"].to_numpy() > 0
            places = self.catalog.places_of(rows.series[has_points].astype(np.int64))
            self._signs.points(places, rows.table["window_start_ns"].to_numpy()[has_points])
            self._partials.add(rows)
        # Only now: every point applied so far was counted before its life could have to go.
        self.lives.limit_siblings(self.limits.lives_per_stream_max)


def _points_of(decoded: Decoded) -> Int64s:
    """How many points each payload holds."""
    counts = np.zeros(decoded.requests, np.int64)
    for points in decoded.points:
        counts += np.bincount(points.request, minlength=decoded.requests)
    return counts


def _each_alone(
    decoder: Decoder, members: list[int], payloads: Sequence[bytes], outcomes: list[Outcome | Invalid]
) -> list[int]:
    """Find out which payloads of a failed decode are bad; returns the good ones."""
    good = []
    for i in members:
        try:
            decoder.decode([payloads[i]])
            good.append(i)
        except Invalid as error:
            outcomes[i] = error
    return good
