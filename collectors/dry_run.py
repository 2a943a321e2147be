"""A dry run of policies: what they would make of requests that were received, compared with other ones. Pure.

The very code of the edge runs, with states of its own that nobody keeps: once with the policies that are compared with,
once with those that are tried, and once keeping everything, which knows the streams. Every series carries the number of
the rule of the *tried* policies that its streams match, so what each rule does can be told: in series, in rows and
bytes of a flush, in attributes.

The bytes are those of encoded envelopes, one a tenant and flush, of whose rows each rule has a share.
Flushes are simulated at the times when requests were received. Rows of rules with a ``flush`` of their own are counted
when they would leave. Budgets are lifted: a series that is folded would not be seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pyarrow as pa

from catchment.algebra.merge import merge
from catchment.algebra.text import compact
from catchment.columns import LANES
from catchment.config_policies import Policies
from catchment.envelope import encode, seal
from catchment.limits import Limits
from catchment.units import about
from collectors.catalog import Catalog
from collectors.edge import Edge
from collectors.lives import Lives
from collectors.policy import Decision, Policy
from collectors.records import Outcome, Received
from collectors.seen import SeenPoints
from collectors.treatment import Treatment

EVERYTHING = Policies(default_drop=())
UNMATCHED = -1
_UNLIMITED = 1 << 40
# Names and values beyond this many are counted as "so many or more".
DISTINCT_MAX = 1000
# What a row and a bucket take in memory, about.
_ROW_BYTES, _BUCKET_BYTES = 150, 16
# The least that a row takes encoded: padding hides what a few take.
_ENCODED_ROW_BYTES_MIN = 20


@dataclass(frozen=True, slots=True)
class _Marked(Treatment):
    """A treatment and the rule of the tried policies that the streams of the series match."""

    rule: int = UNMATCHED


@dataclass
class Change:
    """What a rule does to one attribute: how many streams have it, and its values, up to `DISTINCT_MAX`."""

    streams: int = 0
    values: set[str] = field(default_factory=set)


@dataclass
class Size:
    """What some policies make of the streams of one rule, over the whole run."""

    series: int = 0
    rows: int = 0
    size_bytes: float = 0


@dataclass
class Effect:
    """What a rule does: ``before`` is what the policies that are compared with make of the same streams."""

    rule: int
    streams: int = 0
    metrics: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    gone: dict[str, Change] = field(default_factory=lambda: defaultdict(Change))
    back: dict[str, Change] = field(default_factory=lambda: defaultdict(Change))
    before: Size = field(default_factory=Size)
    after: Size = field(default_factory=Size)


class _MarkingPolicy(Policy):
    """Decides as some policies do, and marks what it decides with the rule of others."""

    def __init__(self, policies: Policies, tried: Policy) -> None:
        super().__init__(policies)
        self._tried = tried

    def decide(self, tenant: str, metric: str, attributes: Mapping[str, object]) -> Decision:
        decision = super().decide(tenant, metric, attributes)
        return replace(decision, treatment=_marked(decision.treatment, self._tried, tenant, metric, attributes))


def _marked(treatment: Treatment, tried: Policy, tenant: str, metric: str, attributes: Mapping[str, object]) -> _Marked:
    said = {each.name: getattr(treatment, each.name) for each in fields(Treatment)}
    return _Marked(**said, rule=tried.decide(tenant, metric, attributes).rule)


class _NotingPolicy(_MarkingPolicy):
    """Keeps everything, and notes what becomes of the attributes of each stream."""

    def __init__(self, before: Policy, tried: Policy, effects: dict[int, Effect]) -> None:
        super().__init__(EVERYTHING, tried)
        self._before = before
        self._effects = effects

    def decide(self, tenant: str, metric: str, attributes: Mapping[str, object]) -> Decision:
        tried = self._tried.decide(tenant, metric, attributes)
        before = self._before.decide(tenant, metric, attributes)
        effect = self._effects[tried.rule]
        _add(effect.metrics, metric)
        if tried.kept is None:
            _add(effect.dropped, metric)
        now, then = before.kept or {}, tried.kept or {}
        if tried.kept is not None and before.kept is not None:
            for changes, names in ((effect.gone, now.keys() - then), (effect.back, then.keys() - now)):
                for name in names - {"service.name", "service.namespace"}:
                    if name in changes or len(changes) < DISTINCT_MAX:
                        changes[name].streams += 1
                        _add(changes[name].values, str(attributes[name]))
        return super().decide(tenant, metric, attributes)


def _add(values: set[str], value: str) -> None:
    if len(values) < DISTINCT_MAX:
        values.add(value)


class _Trial:
    """One edge under some policies, and what leaves it."""

    def __init__(self, policy: Policy, limits: Limits, window_seconds: int, flush_seconds: float) -> None:
        unlimited = replace(
            limits,
            series_per_tenant_max=_UNLIMITED,
            series_per_metric_max=_UNLIMITED,
            series_bytes_per_tenant_max=_UNLIMITED,
        )
        self.edge = Edge(
            unlimited,
            policy,
            window_seconds=window_seconds,
            catalog=Catalog(unlimited),
            lives=Lives(0),
            seen=SeenPoints(limits.seen_points_max, 0),
        )
        self._flush_seconds = flush_seconds
        self._held: dict[tuple[int, str, float], list[pa.Table]] = defaultdict(list)
        self.envelopes_bytes = 0.0
        self.sizes: dict[int, Size] = defaultdict(Size)

    def take(self, requests: Sequence[Received], payloads: Sequence[bytes]) -> int:
        """Take requests in; how many points they held."""
        outcomes, staged = self.edge.stage(requests, payloads)
        good = [one for one, outcome in zip(requests, outcomes, strict=True) if isinstance(outcome, Outcome)]
        self.edge.apply(staged, good)
        return sum(outcome.points for outcome in outcomes if isinstance(outcome, Outcome))

    def flush(self, before_ns: int, now_ns: int, *, last: bool) -> None:
        """Let leave what is due at a flush."""
        drained = self.edge.drain(now_ns)
        catalog = self.edge.catalog
        for tenant, table in drained.rows.items():
            codes = catalog.treatments_of(drained.partials[tenant]["series_id"].to_numpy().astype(np.int64))
            for code in np.unique(codes).tolist():
                treatment = catalog.treatments[code]
                assert isinstance(treatment, _Marked)
                period = treatment.flush_seconds or self._flush_seconds
                self._held[treatment.rule, tenant, period].append(table.filter(codes == code))
        leaving: dict[str, dict[int, list[pa.Table]]] = defaultdict(lambda: defaultdict(list))
        for (rule, tenant, period), tables in list(self._held.items()):
            period_ns = int(max(period, self._flush_seconds) * 1e9)
            if last or period <= self._flush_seconds or before_ns // period_ns != now_ns // period_ns:
                leaving[tenant][rule].append(merge(pa.concat_tables(tables), LANES["metrics_cluster"].columns))
                del self._held[rule, tenant, period]
        for tenant, by_rule in leaving.items():
            self._count(tenant, {rule: pa.concat_tables(tables) for rule, tables in by_rule.items()})

    def _count(self, tenant: str, by_rule: dict[int, pa.Table]) -> None:
        """Count the rows of a tenant's envelope; its bytes are shared by what rows and buckets take in memory."""
        rows = pa.concat_tables(by_rule.values())
        weights = {rule: _weight(table) for rule, table in by_rule.items()}
        total, size_bytes = sum(weights.values()), _encoded_bytes(rows, tenant)
        # What it takes to have an envelope at all is no rule's doing: an envelope of one row, but for that row.
        first = compact(rows.slice(0, 1))
        others_bytes = size_bytes - _encoded_bytes(first, tenant)
        share = total / (total - _weight(first)) if rows.num_rows > 1 else 0.0
        rows_bytes = min(max(others_bytes * share, _ENCODED_ROW_BYTES_MIN * rows.num_rows), size_bytes)
        self.envelopes_bytes += size_bytes - rows_bytes
        for rule, table in by_rule.items():
            self.sizes[rule].rows += table.num_rows
            self.sizes[rule].size_bytes += rows_bytes * weights[rule] / total

    def series(self) -> dict[int, Size]:
        """What left by rule, with the series that it is of."""
        for series in self.edge.catalog.series:
            assert isinstance(series.treatment, _Marked)
            self.sizes[series.treatment.rule].series += 1
        return self.sizes


def _encoded_bytes(rows: pa.Table, tenant: str) -> int:
    return len(encode(seal("metrics_cluster", rows, tenant=tenant, region="", producer="", sequence=0)))


def _weight(table: pa.Table) -> int:
    rows: int = table.num_rows
    return _ROW_BYTES * rows + _BUCKET_BYTES * _buckets(table)


def _buckets(table: pa.Table) -> int:
    ends = [chunk.offsets.to_numpy() for chunk in table["histogram"].chunks]
    return sum(int(offsets[-1] - offsets[0]) for offsets in ends)


class DryRun:
    """Tries policies on requests.

    Args:
        tried: the policies.
        before: what they are compared with; `EVERYTHING` for every stream a series of its own.
        limits, window_seconds, flush_seconds: of the collector.
    """

    def __init__(
        self, tried: Policies, before: Policies, limits: Limits, *, window_seconds: int, flush_seconds: float
    ) -> None:
        policy, compared = Policy(tried), Policy(before)
        self._effects = {rule: Effect(rule) for rule in (*range(len(tried.metrics)), UNMATCHED)}
        settings = limits, window_seconds, flush_seconds
        self._streams = _Trial(_NotingPolicy(compared, policy, self._effects), *settings)
        self._before = _Trial(_MarkingPolicy(before, policy), *settings)
        self._after = _Trial(_MarkingPolicy(tried, policy), *settings)
        self._limits = limits
        self._flush_ns = int(flush_seconds * 1e9)
        self._first_ns = self._flushed_ns = self._latest_ns = 0
        self.requests = self.points = self.flushes = 0

    @property
    def seconds(self) -> float:
        """Between the first request and the last."""
        return (self._latest_ns - self._first_ns) / 1e9

    def take(self, requests: Sequence[Received], payloads: Sequence[bytes]) -> None:
        """Take requests in the order in which they were received; many at a time are faster."""
        first = 0
        for place, request in enumerate(requests):
            if not self._first_ns:
                self._first_ns = self._flushed_ns = request.received_ns
            if request.received_ns >= self._flushed_ns + self._flush_ns:
                self._take(requests[first:place], payloads[first:place])
                self._flush(request.received_ns, last=False)
                first = place
            self._latest_ns = max(self._latest_ns, request.received_ns)
        self._take(requests[first:], payloads[first:])

    def _take(self, requests: Sequence[Received], payloads: Sequence[bytes]) -> None:
        if requests:
            self.requests += len(requests)
            self.points += self._streams.take(requests, payloads)
            for trial in (self._before, self._after):
                trial.take(requests, payloads)

    def effects(self) -> list[Effect]:
        """What each rule does, in their order, and what becomes of the streams that match none; ends the run."""
        self._flush(self._latest_ns, last=True)
        before, after = self._before.series(), self._after.series()
        streams = self._streams_by_rule()
        for rule, effect in self._effects.items():
            effect.streams, effect.before, effect.after = streams[rule], before[rule], after[rule]
            # A stream whose process restarted was decided on again.
            for change in (*effect.gone.values(), *effect.back.values()):
                change.streams = min(change.streams, effect.streams)
        return list(self._effects.values())

    def envelopes_bytes(self) -> tuple[float, float]:
        """What envelopes take besides their rows, with the policies that are compared with and with those tried."""
        return self._before.envelopes_bytes, self._after.envelopes_bytes

    def over_budget(self) -> list[str]:
        """Tenants and metrics that would have more series than their budget: those beyond it fold into one."""
        catalog = self._after.edge.catalog
        tenants = Counter(catalog.places[series.place].tenant for series in catalog.series)
        sizes: Counter[str] = Counter()
        for series in catalog.series:
            sizes[catalog.places[series.place].tenant] += series.texts_bytes
        metrics = Counter((catalog.places[series.place].tenant, series.metric) for series in catalog.series)
        said = [
            f"tenant {tenant}: {count} series, limits.series_per_tenant_max is {self._limits.series_per_tenant_max}"
            for tenant, count in sorted(tenants.items())
            if count > self._limits.series_per_tenant_max
        ]
        most = self._limits.series_bytes_per_tenant_max
        said += [
            f"tenant {tenant}: series of {about(size)}, limits.series_bytes_per_tenant_max is {about(most)}"
            for tenant, size in sorted(sizes.items())
            if size > most
        ]
        most = self._limits.series_per_metric_max
        return said + [
            f"metric {metric} of tenant {tenant}: {count} series, limits.series_per_metric_max is {most}"
            for (tenant, metric), count in sorted(metrics.items())
            if count > most
        ]

    def _flush(self, now_ns: int, *, last: bool) -> None:
        self.flushes += 1
        for trial in (self._before, self._after):
            trial.flush(self._flushed_ns, now_ns, last=last)
        self._streams.edge.drain(now_ns)
        self._flushed_ns = now_ns

    def _streams_by_rule(self) -> Counter[int]:
        """Distinct streams by the rule that they match; one of several lives counts once."""
        lives, catalog = self._streams.edge.lives, self._streams.edge.catalog
        state, size = lives.columns, len(lives)
        _, first = np.unique(state.stream_id[:size], return_index=True)
        rules = [getattr(each, "rule", UNMATCHED) for each in catalog.treatments]
        codes = catalog.treatments_of(state.series[:size][first].astype(np.int64))
        return Counter(rules[code] for code in codes.tolist())
