"""Quantiles along the whole path: OTLP bytes → edge → envelopes → roll-up → store → SQL, against the nearest rank.

Senders are simulated from raw values, so that for each group of rows (a cluster's window, a region's hour, the globe)
the exact quantile is known. Every quantile has to be inside the bracket that SQL returns; where all buckets of a metric
are of some scale or finer, its estimate has to be as near as that scale promises.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from aggregators.rollup import roll_up
from catchment.envelope import decode, encode, seal
from catchment.histogram import table
from collectors.flush import Source, rows_of
from tests import otlp
from tests.edge_harness import EdgeHarness
from tests.histogram_reference import bucket_index, nearest_rank
from tests.integration.store_support import Store, opened

QUANTILES = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)
REGIONS = {"jp": ("tokyo", "osaka"), "eu": ("berlin", "oslo")}
CLUSTERS = tuple((region, cluster) for region, clusters in REGIONS.items() for cluster in clusters)
# Seconds after T0 at which senders export; the second and third end in the window that the first one opened.
TIMES = (20.0, 45.0, 60.0, 130.0)
WINDOW_SECONDS = 60
BUCKETS_MAX = 160
# Bounds are rounded outward to float32.
ROUNDING = 1e-6

_index = lru_cache(1 << 18)(bucket_index)


def promised(scale: int) -> float:
    """The relative error that a sender's coarsest scale allows."""
    gamma = 2.0 ** (2.0**-scale)
    return 0.011 if scale >= 5 else (gamma - 1) / (gamma + 1) + ROUNDING


@dataclass
class Stream:
    """One sender's histogram; an export for each of `TIMES`.

    ``scales`` and ``thresholds`` are those of each export, for an exponential histogram; ``bounds`` make it explicit.
    """

    place: tuple[str, str]
    values: list[list[float]]
    cumulative: bool
    scales: Sequence[int] = ()
    thresholds: Sequence[float] = ()
    bounds: Sequence[float] = ()

    def points(self, export: int) -> list[pb.Metric]:
        """What its SDK writes at one export, without a name."""
        values = list(itertools.chain(*self.values[: export + 1])) if self.cumulative else self.values[export]
        start = 0.0 if self.cumulative or not export else TIMES[export - 1]
        temporality = otlp.CUMULATIVE if self.cumulative else otlp.DELTA
        if not values and not self.cumulative:
            return []
        if self.bounds:
            places = np.searchsorted(np.array(self.bounds), np.array(values), side="left")
            counts = np.bincount(places, minlength=len(self.bounds) + 1).tolist()
            explicit = otlp.explicit(TIMES[export], counts, self.bounds, total=math.fsum(values), start=start)
            return [otlp.histogram("", explicit, temporality=temporality)]
        point = _exponential(values, self.scales[export], self.thresholds[export] if self.thresholds else 0.0)
        point.time_unix_nano, point.start_time_unix_nano = otlp.ns(TIMES[export]), otlp.ns(start)
        return [otlp.exponential_histogram("", point, temporality=temporality)]


@dataclass
class Metric:
    """Streams of one metric and the error that they allow; None where only the bracket is promised."""

    name: str
    streams: list[Stream]
    error: float | None
    groups: dict[tuple[str, ...], list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for stream in self.streams:
            for time, values in zip(TIMES, stream.values, strict=True):
                # A point's interval is (start, time]: a point at the end of a window belongs to it.
                window = str(int(math.ceil(time / WINDOW_SECONDS) - 1) * WINDOW_SECONDS)
                region, cluster = stream.place
                for group in ((region, cluster, window), (region, cluster), (region, window), (region,), ()):
                    self.groups[group] += values


def _exponential(values: Sequence[float], scale: int, threshold: float) -> pb.ExponentialHistogramDataPoint:
    def side(magnitudes: list[float]) -> tuple[int, list[int]]:
        indexes = [_index(magnitude, scale) for magnitude in magnitudes]
        first = min(indexes, default=0)
        return first, np.bincount(np.array(indexes, np.int64) - first).tolist()

    positive_first, positive = side([value for value in values if value > threshold])
    negative_first, negative = side([-value for value in values if value < -threshold])
    return otlp.exponential(
        0.0,
        scale,
        positive_first,
        positive,
        negative_offset=negative_first,
        negative=negative,
        zeros=sum(abs(value) <= threshold for value in values),
        zero_threshold=threshold,
        total=math.fsum(values),
    )


class Path:
    """Carries metrics to the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._sequence = 0

    def carry(self, metrics: Sequence[Metric]) -> None:
        """Everything that the streams export, flushed twice, rolled up per region and loaded."""
        for region in REGIONS:
            harness = EdgeHarness()
            envelopes = []
            for export, time in enumerate(TIMES):
                self._send(harness, region, metrics, export)
                if export % 2:
                    envelopes += self._flush(harness, region, time + 1)
            assert not harness.tally, f"not all points count: {harness.tally}"
            self._sequence += 1
            outputs = roll_up(map(decode, envelopes), producer="path", sequence=self._sequence)
            for output in outputs:
                self.store.publish(output.header.lane, encode(output))
        self.store.load("metrics_cluster", "metrics_region")

    def _send(self, harness: EdgeHarness, region: str, metrics: Sequence[Metric], export: int) -> None:
        for cluster in REGIONS[region]:
            bodies = []
            streams = [(metric.name, stream) for metric in metrics for stream in metric.streams]
            for number, (name, stream) in enumerate(streams):
                if stream.place == (region, cluster):
                    points = stream.points(export)
                    for point in points:
                        point.name = name
                    # Dropped by the default policy: streams of one cluster become one series.
                    resource = {"service.name": "shop", "service.instance.id": str(number)}
                    bodies.append(otlp.body(*points, resource=resource))
            outcomes = harness.send(*bodies, at=TIMES[export], cluster=cluster)
            assert all(not getattr(outcome, "points_rejected", 1) for outcome in outcomes), outcomes

    def _flush(self, harness: EdgeHarness, region: str, at: float) -> list[bytes]:
        harness.flush(at)
        self._sequence += 1
        source = Source(region, self._sequence, "v1")
        lanes = rows_of(harness.drained[-1], harness.catalog, source, now_ns=otlp.ns(at), window_seconds=WINDOW_SECONDS)
        return [
            encode(seal(lane.lane, lane.table, tenant=lane.tenant, region=region, producer=region, sequence=1))
            for lane in lanes
            if lane.lane == "metrics_cluster"
        ]


# What identifies a group in each view: the columns of `Metric.groups`' keys.
_WINDOW = f"toString(toUnixTimestamp(window_start) - {otlp.T0_NS // otlp.SECOND_NS})"
VIEWS = {
    "metrics_cluster_1m": ("region", "cluster", _WINDOW),
    "metrics_cluster_1h": ("region", "cluster"),
    "metrics_region_1m": ("region", _WINDOW),
    "metrics_region_1h": ("region",),
}


def answers(store: Store, view: str, group: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Count, bracket and estimate of each group of a view's rows and each quantile."""
    keys = f"[{', '.join(f'toString({key})' for key in group)}]::Array(String)"
    listed = ", ".join(f"'{name}'" for name in names)
    return store.rows(
        f"""SELECT metric, groups, q, arraySum(mapValues(merged)) AS n,
            toString(catchmentQuantile(q, merged)) AS estimate,
            toString(catchmentQuantileBounds(q, merged).1) AS low,
            toString(catchmentQuantileBounds(q, merged).2) AS high
        FROM (
            SELECT metric, {keys} AS groups, sumMap(histogram) AS merged FROM {view}
            WHERE tenant = 'acme' AND metric IN ({listed}) GROUP BY metric, groups
        ) ARRAY JOIN {list(QUANTILES)} AS q"""
    )


def check(store: Store, metrics: Sequence[Metric]) -> None:
    """Compare every quantile of every group with the nearest rank of its raw values."""
    by_name = {metric.name: metric for metric in metrics}
    for view, group in (*VIEWS.items(), ("metrics_region_1h", ())):
        compared = 0
        for answer in answers(store, view, group, list(by_name)):
            metric, key, q = by_name[answer["metric"]], tuple(answer["groups"]), answer["q"]
            values = metric.groups.get(key, [])
            low, estimate, high = (float(answer[name]) for name in ("low", "estimate", "high"))
            if not values:
                # Senders that had recorded nothing yet: rows without observations.
                assert (answer["n"], math.isnan(estimate)) == (0, True)
                continue
            exact = nearest_rank(q, values)
            where = f"{view} {metric.name} {key} q={q}: [{low}, {high}] ~ {estimate}, exact {exact}"
            assert answer["n"] == len(values), where
            assert low <= exact <= high, where
            assert low <= estimate <= high or (math.isinf(low) and math.isinf(high)), where
            if metric.error is not None:
                assert abs(estimate - exact) <= metric.error * abs(exact), where
            compared += 1
        groups = {
            (metric.name, key)
            for metric in metrics
            for key, values in metric.groups.items()
            if len(key) == len(group) and (not key or key[-1].isdigit() == (_WINDOW in group)) and values
        }
        assert compared == len(groups) * len(QUANTILES)


def spread(chance: random.Random, scale: int, count: int, *, both_signs: bool = True) -> list[float]:
    """Values over as many buckets of a scale as an SDK keeps, some on a bucket's very bound or beside it."""
    found = []
    for _ in range(count):
        value = 0.3 * 2.0 ** ((chance.random() - 0.5) * (BUCKETS_MAX - 2) / 2**scale)
        if chance.random() < 0.2:
            bound = float(table.BOUNDS[np.searchsorted(table.BOUNDS, value)])
            near = chance.choice([bound, math.nextafter(bound, 0.0), math.nextafter(bound, math.inf)])
            value = near if scale <= 5 else value
        found.append(-value if both_signs and chance.random() < 0.3 else value)
    return found


def exports(chance: random.Random, scale: int, count: int = 50) -> list[list[float]]:
    """Values of each export, some heavy on one value."""
    batches = [spread(chance, scale, count) for _ in TIMES]
    batches[2][:30] = [batches[0][0]] * 30
    return batches


def of_one_scale(scale: int) -> Metric:
    """Cumulative and delta senders of a scale, and one that began finer and dropped to it while it ran."""
    chance = random.Random(scale)
    finer = min(20, scale + 3)
    dropping = [spread(chance, finer, 50), *exports(chance, scale)[1:]]
    streams = [
        Stream(CLUSTERS[0], exports(chance, scale), True, [scale] * 4),
        Stream(CLUSTERS[0], exports(chance, scale), False, [scale] * 4),
        Stream(CLUSTERS[1], dropping, True, [finer, scale, scale, scale]),
        Stream(CLUSTERS[2], exports(chance, scale), False, [scale] * 4),
        Stream(CLUSTERS[3], exports(chance, scale, 3), True, [scale] * 4),
    ]
    return Metric(f"scale_{scale}", streams, promised(scale))


def of_mixed_scales(name: str, scales: Sequence[int]) -> Metric:
    """One sender of each scale in turn around the clusters."""
    chance = random.Random(name)
    streams = [
        Stream(CLUSTERS[i % 4], exports(chance, scale, 12), bool(i % 3), [scale] * 4) for i, scale in enumerate(scales)
    ]
    return Metric(name, streams, promised(min(scales)))


def with_zeros() -> list[Metric]:
    """Zero buckets: exact zeros, and a threshold that grows while the sender runs."""
    chance = random.Random(11)
    values = [[value if chance.random() < 0.6 else 0.0 for value in batch] for batch in exports(chance, 4)]
    exact = [
        Stream(place, values, cumulative, [4] * 4) for place, cumulative in ((CLUSTERS[0], True), (CLUSTERS[3], False))
    ]
    small = [[value / 50 for value in batch] for batch in values]
    growing = [Stream(place, small, True, [4, 3, 3, 3], [0.0, 0.01, 0.01, 0.25]) for place in CLUSTERS]
    growing.append(Stream(CLUSTERS[0], values, False, [4] * 4, [0.0, 0.5, 0.1, 0.0]))
    return [Metric("zeros", exact, promised(4)), Metric("zero_threshold", growing, None)]


def explicit() -> list[Metric]:
    """Explicit bounds: default ones, few, many, negative ones; alone, mixed, and mixed with exponential senders."""
    chance = random.Random(12)
    sets = [
        (0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10000.0),
        (1.0,),
        (-100.0, -1.0, 0.0, 0.1, 0.2, 0.3, 0.7, 3.3),
        tuple(0.1 * 1.1**i for i in range(120)),
    ]
    batches = [[chance.gauss(0, 1) * 10 ** chance.uniform(-2, 4) for _ in range(30)] for _ in TIMES]
    streams = [
        Stream(CLUSTERS[i % 4], batches, bool(i % 3), bounds=bounds) for i, bounds in enumerate((*sets, *sets[1:]))
    ]
    one = [Stream(CLUSTERS[0], batches, True, bounds=sets[0])]
    mixed = [*streams, *of_mixed_scales("", (0, 3, 6, 14)).streams]
    return [Metric("bounds", one, None), Metric("mixed_bounds", streams, None), Metric("mixed_kinds", mixed, None)]


def beyond_float32() -> Metric:
    """Subnormal and enormous magnitudes, for which float32 has no bounds."""
    tiny, huge = [5e-324, 1e-310, 3e-300, -2e-305], [1e300, 1e307, -1e305]
    streams = [Stream(CLUSTERS[0], [tiny] * 4, True, [2] * 4), Stream(CLUSTERS[1], [huge] * 4, False, [1] * 4)]
    return Metric("beyond_float32", streams, None)


def every_metric() -> list[Metric]:
    """All that is sent with fixed seeds."""
    return [
        *(of_one_scale(scale) for scale in range(21)),
        of_mixed_scales("mixed_fine", range(5, 21)),
        of_mixed_scales("mixed_all", range(21)),
        *with_zeros(),
        *explicit(),
        beyond_float32(),
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A migrated store with a way to it."""
    with opened(tmp_path_factory.mktemp("quantiles")) as store:
        yield Path(store)


def test_every_scale_and_every_mix_keeps_its_promise(path: Path) -> None:
    """At every place the true quantile is inside the bracket, and the estimate as near as the coarsest scale allows."""
    metrics = every_metric()
    path.carry(metrics)
    check(path.store, metrics)


_names = (f"drawn_{number}" for number in itertools.count())


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """A sender with exponential buckets whose scale may drop, or with explicit ones."""
    place, cumulative = draw(st.sampled_from(CLUSTERS)), draw(st.booleans())
    scales = sorted(draw(st.lists(st.integers(0, 20), min_size=4, max_size=4)), reverse=True)
    half = BUCKETS_MAX / 2 - 1
    steps = st.floats(-half, half).map(lambda steps: 0.7 * 2.0 ** (steps / 2 ** scales[0]))
    signed = st.one_of(steps, steps.map(lambda value: -value), st.just(0.0))
    values = draw(st.lists(st.lists(signed, max_size=8), min_size=4, max_size=4))
    if draw(st.booleans()):
        return Stream(place, values, cumulative, scales)
    bounds = draw(st.lists(st.floats(-10, 10), min_size=1, max_size=6, unique=True).map(sorted))
    return Stream(place, values, cumulative, bounds=bounds)


@settings(max_examples=6)
@given(drawn=st.lists(st.lists(streams(), min_size=1, max_size=5), min_size=1, max_size=4))
def test_drawn_mixes_keep_their_promise(path: Path, drawn: list[list[Stream]]) -> None:
    """Whatever senders are put together, the bracket holds the true quantile, and the coarsest scale its promise."""
    metrics = []
    for group in drawn:
        coarsest = min((stream.scales[-1] for stream in group if not stream.bounds), default=0)
        is_exponential = not any(stream.bounds for stream in group)
        metrics.append(Metric(next(_names), group, promised(coarsest) if is_exponential else None))
    path.carry(metrics)
    check(path.store, metrics)
