"""Prometheus samples as points, against a plain reference, in whatever order they come."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.limits import Limits
from collectors.decode.attributes import AttributeReader
from collectors.decode.families import MetricType, Series, series_of
from collectors.decode.points import Described, Points, Shape
from collectors.decode.prometheus import STALE, PrometheusPoints, Samples, assemble
from collectors.decode.series_table import SeriesTable
from collectors.kinds import Kind
from collectors.reasons import Reason
from collectors.validate import validate

TYPES = {
    "hits": MetricType.COUNTER,
    "level": MetricType.GAUGE,
    "seconds": MetricType.HISTOGRAM,
    "latency": MetricType.SUMMARY,
}
TIME_NS = 1_800_000_000_000_000_000
Labels = tuple[tuple[str, str], ...]
Sample = tuple[int, Labels, float]  # request, labels, value


def read(labels: Labels) -> Series:
    """The series of some labels."""
    return series_of(dict(labels), lambda family: TYPES.get(family, MetricType.UNKNOWN))


def decoded(samples: list[Sample], requests: int = 2) -> PrometheusPoints:
    """The points of some samples, all at one time."""
    table = SeriesTable(read)
    labels = [labels for _, labels, _ in samples]
    keys = np.array([hash(each) & (2**64 - 1) for each in labels], np.uint64)
    n = len(samples)
    columns = Samples(
        np.array([request for request, _, _ in samples], np.int32),
        table.slots(keys, labels.__getitem__),
        np.full(n, TIME_NS),
        np.zeros(n, np.int64),
        np.array([value for _, _, value in samples], np.float64),
    )
    return assemble(table, requests, columns)


def shown(found: PrometheusPoints) -> dict[tuple[int, str, str], Any]:
    """What points say, by request, metric and labels; None where they are refused."""
    result: dict[tuple[int, str, str], Any] = {}
    rows = np.arange(sum(map(len, found.points)))
    described = iter(list(found.describe(rows, AttributeReader(Limits()))))
    for points in found.points:
        codes = validate(points, np.full(found.requests, TIME_NS), Limits())
        for i in range(len(points)):
            identity = next(described)
            assert isinstance(identity, Described)
            key = (int(points.request[i]), identity.name.decode(), str(sorted(identity.point.items())))
            assert key not in result
            result[key] = Reason(int(codes[i])) if codes[i] else value_of(points, i)
    return result


def value_of(points: Points, i: int) -> Any:
    """The value of a point in plain Python."""
    if points.shape is Shape.NUMBER:
        value = int(points.number_int[i]) if points.is_int[i] else float(points.number_float[i])
        return Kind(int(points.kind[i])), value, int(points.start_ns[i])
    common = (int(points.count[i]), float(points.sum[i]), int(points.start_ns[i]))
    if points.buckets is None:
        assert points.quantiles is not None
        return (*common, int(points.quantiles[i]))
    buckets = points.buckets
    counts = buckets.counts[buckets.offsets[i] : buckets.offsets[i + 1]].tolist()
    bounds = buckets.bounds[buckets.bound_offsets[i] : buckets.bound_offsets[i + 1]].tolist()
    return (*common, bounds, counts)


def sample(request: int, name: str, value: float, path: str, **labels: str) -> Sample:
    """One sample."""
    return request, (("__name__", name), ("path", path), *labels.items()), value


@st.composite
def families(draw: st.DrawFn) -> tuple[list[Sample], dict[tuple[int, str, str], Any]]:
    """Samples of some families, and what they should become."""
    samples: list[Sample] = []
    expected: dict[tuple[int, str, str], Any] = {}
    created = draw(st.booleans())
    start_ns = 1_799_999_000_250_000_000 if created else 0
    for request in range(2):
        for path in draw(st.lists(st.sampled_from("abc"), unique=True)):
            labels = str([("path", path)])
            hits, level = draw(st.integers(0, 2**53)), draw(st.floats(-1e300, 1e300))
            samples += [sample(request, "hits_total", hits, path), sample(request, "level", level, path)]
            expected[request, "hits_total", labels] = (Kind.COUNTER, hits, start_ns)
            is_whole = level == math.floor(level) and abs(level) <= 2**53
            expected[request, "level", labels] = (Kind.GAUGE, int(level) if is_whole else level, 0)
            bounds = sorted(draw(st.sets(st.sampled_from([-1.0, 0.0, 0.25, 1.0, 2.5, 10.0]))))
            counts = draw(st.lists(st.integers(0, 1000), min_size=len(bounds) + 1, max_size=len(bounds) + 1))
            total = draw(st.floats(-1e6, 1e6))
            buckets = zip([*bounds, math.inf], np.cumsum(counts).tolist(), strict=True)
            samples += [sample(request, "seconds_bucket", n, path, le=str(bound)) for bound, n in buckets]
            samples += [
                sample(request, "seconds_sum", total, path),
                sample(request, "seconds_count", sum(counts), path),
            ]
            expected[request, "seconds", labels] = (sum(counts), total, start_ns, bounds, counts)
            quantiles = draw(st.sets(st.sampled_from(["0.5", "0.9", "0.99"])))
            samples += [sample(request, "latency", math.nan, path, quantile=q) for q in quantiles]
            samples += [sample(request, "latency_sum", total, path), sample(request, "latency_count", 7, path)]
            expected[request, "latency", labels] = (7, total, start_ns, len(quantiles))
            if created:
                samples += [
                    sample(request, f"{family}_created", start_ns / 1e9, path)
                    for family in ("hits", "seconds", "latency")
                ]
    return samples, expected


@given(families(), st.randoms(use_true_random=False), st.booleans())
@settings(deadline=None)
def test_points_are_what_their_samples_say(
    case: tuple[list[Sample], dict[tuple[int, str, str], Any]], rng: random.Random, shuffle: bool
) -> None:
    """Numbers, histograms and summaries come out whole, in order or shuffled, of several requests at once."""
    samples, expected = case
    if not samples:
        return
    if shuffle:
        rng.shuffle(samples)
    assert shown(decoded(samples)) == expected


HISTOGRAM: Mapping[str, float] = {"0.5": 1.0, "1": 3.0, "+Inf": 4.0}


def of_buckets(buckets: Mapping[str, float], **parts: float) -> Any:
    """What a histogram of these buckets, count and sum becomes."""
    samples = [sample(0, "seconds_bucket", value, "/", le=bound) for bound, value in buckets.items()]
    samples += [sample(0, f"seconds_{part}", value, "/") for part, value in parts.items()]
    (value,) = shown(decoded(samples)).values()
    return value


def test_parts_that_are_missing() -> None:
    """+Inf stands for the count and the count for +Inf; without a sum it is 0; without buckets there are none."""
    whole = (4, 2.5, 0, [0.5, 1.0], [1, 2, 1])
    assert of_buckets(HISTOGRAM, count=4, sum=2.5) == whole
    assert of_buckets(HISTOGRAM, sum=2.5) == whole
    assert of_buckets({"0.5": 1.0, "1": 3.0}, count=4, sum=2.5) == whole
    assert of_buckets(HISTOGRAM, count=4) == (4, 0.0, *whole[2:])
    assert of_buckets({}, count=4, sum=2.5) == (4, 2.5, 0, [], [])


def test_what_cannot_be_is_refused() -> None:
    """Buckets that fall, fractions, negative counts and NaN are refused, not guessed."""
    assert of_buckets({**HISTOGRAM, "1": 0.0}, count=4, sum=1) is Reason.BUCKETS_MALFORMED
    assert of_buckets({**HISTOGRAM, "1": 1.5}, count=4, sum=1) is Reason.BUCKETS_MALFORMED
    assert of_buckets({**HISTOGRAM, "0.5": -1}, count=4, sum=1) is Reason.BUCKETS_MALFORMED
    assert of_buckets({**HISTOGRAM, "1": math.nan}, count=4, sum=1) is Reason.BUCKETS_MALFORMED
    assert of_buckets(HISTOGRAM, count=5, sum=1) is Reason.BUCKETS_MALFORMED
    assert of_buckets({}, count=1.5, sum=1) is Reason.COUNT_TOO_LARGE
    assert of_buckets(HISTOGRAM, count=4, sum=math.inf) is Reason.NOT_FINITE


def test_a_sample_that_came_twice_counts_once() -> None:
    """The same bucket twice in one request is one bucket."""
    samples = [sample(0, "seconds_bucket", value, "/", le=bound) for bound, value in HISTOGRAM.items()]
    samples += [samples[1], samples[0], sample(0, "seconds_count", 4, "/"), sample(0, "seconds_sum", 1, "/")]
    assert list(shown(decoded(samples)).values()) == [(4, 1.0, 0, [0.5, 1.0], [1, 2, 1])]


def test_stale_markers() -> None:
    """A stale gauge is a point without a value; of counters, histograms and summaries the stale sample is skipped."""
    stale = float(STALE)
    samples = [sample(0, "level", stale, "/"), sample(0, "hits_total", stale, "/")]
    samples += [sample(0, "seconds_bucket", stale, "/", le=bound) for bound in HISTOGRAM]
    samples += [sample(0, "seconds_count", stale, "/"), sample(0, "latency_count", stale, "/")]
    values = {name: value for (_, name, _), value in shown(decoded(samples)).items()}
    assert values.pop("level") == (Kind.GAUGE, 0.0, 0)
    assert values == dict.fromkeys(("hits_total", "seconds", "latency"), Reason.NO_RECORDED_VALUE)


def test_the_table_forgets_and_reads_again() -> None:
    """A full table is cleared before the next look-up, and what it forgot gets new slots."""
    reads: list[Labels] = []

    def counting(labels: Labels) -> Series:
        reads.append(labels)
        return read(labels)

    table: SeriesTable[Labels] = SeriesTable(counting, slots_max=3)
    labels: list[Labels] = [(("__name__", f"level_{i}"),) for i in range(4)]
    keys = np.arange(1, 5, dtype=np.uint64)
    assert table.slots(keys[[2, 0, 2, 1]], [labels[2], labels[0], labels[2], labels[1]].__getitem__).tolist() == [
        0,
        1,
        0,
        2,
    ]
    assert table.slots(keys, labels.__getitem__).tolist() == [1, 2, 0, 3]
    assert len(reads) == 4
    assert table.slots(keys[:1], labels.__getitem__).tolist() == [0]
    assert len(table) == 1
