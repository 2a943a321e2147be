"""The stated bounds of the histogram, as assertions on adversarial data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ExponentialHistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

from catchment import histogram
from catchment.histogram import table
from tests.histogram_reference import (
    Point,
    explicit_histogram,
    exponential_histogram,
    histograms_of,
    nearest_rank,
    total,
)

SMALLEST, LARGEST = 2.0**-125, 2.0**127
QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0)
WORST_AT_SCALE_5 = 0.011

_edges = st.integers(-124 * 32, 127 * 32).map(lambda index: float(table.BOUNDS[index - table.FIRST_BOUND]))
_beside_edges = st.builds(lambda edge, up: math.nextafter(edge, math.inf if up else 0.0), _edges, st.booleans())
_any_magnitude = st.floats(SMALLEST, LARGEST)
_close_together = st.floats(1.0, 2.0)
magnitudes = st.one_of(_edges, _beside_edges, _any_magnitude, _close_together)
values_of_both_signs = st.one_of(magnitudes, magnitudes.map(lambda value: -value), st.just(0.0))
many_magnitudes = st.one_of(
    st.lists(magnitudes, min_size=1, max_size=40),
    st.builds(lambda value, times: [value] * times, magnitudes, st.integers(1, 40)),
)


def _within_bracket(values: Sequence[float], merged: histogram.Histograms) -> None:
    for q in QUANTILES:
        exact = nearest_rank(q, values)
        low, high = histogram.quantile_bounds(q, merged.keys, merged.counts)
        assert low <= exact <= high
        estimate = histogram.quantile(q, merged.keys, merged.counts, min(values), max(values))
        assert min(values) <= estimate <= max(values) or (math.isinf(low) and math.isinf(high))


def _worst_error(values: Sequence[float], merged: histogram.Histograms) -> float:
    errors = []
    for q in QUANTILES:
        exact = nearest_rank(q, values)
        errors.append(abs(histogram.quantile(q, merged.keys, merged.counts) - exact) / abs(exact))
    return max(errors)


@given(many_magnitudes, st.integers(5, 20), st.booleans())
def test_error_at_scale_five_and_finer(values: list[float], scale: int, negative: bool) -> None:
    """The estimate of every quantile is within 1.1 % of the nearest rank: at edges, beside them, and over any range."""
    values = [-value for value in values] if negative else values
    assert _worst_error(values, exponential_histogram(values, scale)) <= WORST_AT_SCALE_5


@given(many_magnitudes, st.integers(0, 4))
def test_error_at_coarser_scales(values: list[float], scale: int) -> None:
    """A coarser scale s gives (γ - 1) / (γ + 1) with γ = 2**(2**-s), but for the rounding of bounds to float32."""
    gamma = 2.0 ** (2.0**-scale)
    assert _worst_error(values, exponential_histogram(values, scale)) <= (gamma - 1) / (gamma + 1) + 1e-6


@given(
    st.lists(
        st.tuples(
            st.lists(values_of_both_signs, min_size=1, max_size=15),
            st.integers(0, 20),
            st.one_of(st.just(0.0), magnitudes),
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(
        st.tuples(
            st.lists(values_of_both_signs, min_size=1, max_size=15),
            st.lists(values_of_both_signs, max_size=8, unique=True).map(sorted),
        ),
        max_size=4,
    ),
)
def test_the_nearest_rank_is_inside_the_bracket(
    exponential: list[tuple[list[float], int, float]], explicit: list[tuple[list[float], list[float]]]
) -> None:
    """Mixed scales 0 to 20, zero thresholds and explicit bounds, both signs: the true value is never outside."""
    histograms = [exponential_histogram(*each) for each in exponential]
    histograms += [explicit_histogram(*each) for each in explicit]
    values = [value for each in exponential for value in each[0]] + [v for each in explicit for v in each[0]]
    merged = total(histograms)
    assert int(merged.counts.sum()) == len(values)
    _within_bracket(values, merged)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30), st.integers(-10, 20))
def test_the_bracket_holds_beyond_float32(values: list[float], scale: int) -> None:
    """Subnormal and enormous values, which float32 does not have, stay inside their brackets at any scale."""
    _within_bracket(values, exponential_histogram(values, scale))


@given(
    st.lists(values_of_both_signs, min_size=1, max_size=30),
    st.lists(values_of_both_signs, min_size=1, max_size=30),
    values_of_both_signs,
)
def test_count_below_is_between_certain_and_at_most(left: list[float], right: list[float], x: float) -> None:
    """How many values are <= x, x being resolved to float32, lies between what is certain and what is possible."""
    merged = total([exponential_histogram(left, 3, 0.25), explicit_histogram(right, [-1.0, 0.0, 1.5])])
    certain, at_most, estimate = histogram.count_below(x, merged.keys, merged.counts)
    (x_low,), (x_high,) = histogram.unpack(histogram.pack([x], [x]))
    values = [*left, *right]
    assert certain <= sum(value <= x_high for value in values)
    assert sum(value <= x_low for value in values) <= at_most
    assert certain <= estimate <= at_most


@given(
    st.lists(values_of_both_signs, max_size=25),
    st.lists(values_of_both_signs, max_size=25),
    st.integers(-10, 20),
    st.integers(-10, 20),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_increases_of_a_rescaling_sender_add_up(
    first: list[float], more: list[float], scale: int, step: int, threshold: float, raised: float
) -> None:
    """Baseline + increase = what is there now, in the common buckets, whatever the sender's scale and threshold did."""
    after_scale, after_threshold = min(scale, step), max(threshold, raised)
    now, then = histogram.align(
        exponential_histogram([*first, *more], after_scale, after_threshold),
        np.array([after_scale], np.int32),
        np.array([after_threshold]),
        exponential_histogram(first, scale, threshold),
        np.array([scale], np.int32),
        np.array([threshold]),
    )
    increase, fell = histogram.subtract(now, then)
    assert not fell.any()
    assert int(increase.counts.sum()) == len(more)
    together = total([then, increase])
    np.testing.assert_array_equal(together.keys, now.keys)
    np.testing.assert_array_equal(together.counts, now.counts)


@given(st.lists(st.lists(values_of_both_signs, max_size=12), min_size=1, max_size=8), st.randoms())
def test_sums_do_not_depend_on_order_or_grouping(parts: list[list[float]], random: object) -> None:
    """Any order and any nesting of sums gives the same histogram, bit for bit."""
    each = [exponential_histogram(values, 5 - place % 3) for place, values in enumerate(parts)]
    at_once = total(each)
    shuffled = list(each)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    nested = shuffled[0]
    for one in shuffled[1:]:
        nested = total([nested, one])
    np.testing.assert_array_equal(at_once.keys, nested.keys if len(shuffled) > 1 else total([nested]).keys)
    np.testing.assert_array_equal(at_once.counts, nested.counts)


@pytest.mark.parametrize(
    ("spread", "max_size"), [(2.0, 160), (30.0, 160), (1e3, 160), (1e6, 160), (1e6, 40), (1.0, 160)]
)
def test_points_of_the_opentelemetry_sdk(spread: float, max_size: int) -> None:
    """What a real SDK writes gives the promised error at the scale that it chose, and 1.1 % at 5 and finer."""
    random = np.random.default_rng(int(spread) + max_size)
    values = (0.003 * spread ** random.random(3_000)).tolist()
    reader = InMemoryMetricReader()
    view = View(instrument_name="*", aggregation=ExponentialBucketHistogramAggregation(max_size=max_size))
    provider = MeterProvider(metric_readers=[reader], views=[view], shutdown_on_exit=False)
    instrument = provider.get_meter("test").create_histogram("latency", unit="s")
    for value in values:
        instrument.record(value)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    sdk = next(iter(data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points))
    assert isinstance(sdk, ExponentialHistogramDataPoint)
    positive, negative = list(sdk.positive.bucket_counts), list(sdk.negative.bucket_counts)
    merged = histograms_of([Point(sdk.scale, 0.0, sdk.zero_count, sdk.positive.offset, positive, 0, negative)])
    gamma = 2.0 ** (2.0**-sdk.scale)
    promised = WORST_AT_SCALE_5 if sdk.scale >= 5 else (gamma - 1) / (gamma + 1) + 1e-6
    assert int(merged.counts.sum()) == len(values)
    assert _worst_error(values, merged) <= promised
    _within_bracket(values, merged)


_ends = st.one_of(values_of_both_signs, st.sampled_from((math.inf, -math.inf)))
_intervals = st.lists(st.tuples(_ends, _ends).map(sorted).filter(lambda ends: ends[0] < ends[1]), max_size=60)


@given(st.lists(_intervals, max_size=4), st.integers(1, 40))
def test_coarser_intervals_hold_what_they_held(many: list[list[list[float]]], intervals_max: int) -> None:
    """Only histograms of too many intervals change: theirs get wider, no quantile leaves its bracket, counts stay."""
    offsets = np.cumsum([0, *map(len, many)])
    ends = [each for intervals in many for each in intervals]
    keys = histogram.pack([low for low, _ in ends], [high for _, high in ends]) if ends else np.zeros(0, np.int64)
    before = histogram.canonical(histogram.Histograms(offsets, keys, np.arange(1, len(keys) + 1, dtype=np.uint64)))
    after, is_coarser = histogram.coarsened(before, intervals_max)
    for i in range(len(many)):
        old, new = (slice(int(each.offsets[i]), int(each.offsets[i + 1])) for each in (before, after))
        assert after.counts[new].sum() == before.counts[old].sum()
        assert is_coarser[i] == (old.stop - old.start > intervals_max)
        if not is_coarser[i]:
            assert after.keys[new].tolist() == before.keys[old].tolist()
            continue
        for q in QUANTILES:
            low, high = histogram.quantile_bounds(q, before.keys[old], before.counts[old])
            wide_low, wide_high = histogram.quantile_bounds(q, after.keys[new], after.counts[new])
            assert wide_low <= low and high <= wide_high


def test_few_intervals_are_left() -> None:
    """A thousand points with a thousand bounds of their own, over all that a float32 can be, leave 256 intervals."""
    random = np.random.default_rng(7)
    bounds = np.sort(np.exp(random.uniform(-80, 80, (1000, 1000))) * random.choice((-1, 1), (1000, 1000)), axis=1)
    keys = histogram.pack(bounds[:, :-1].ravel(), bounds[:, 1:].ravel())
    one = histogram.canonical(histogram.Histograms(np.array([0, len(keys)]), keys, np.ones(len(keys), np.uint64)))
    after, is_coarser = histogram.coarsened(one, 4096)
    assert is_coarser.all() and after.counts.sum() == len(keys)
    assert len(after.keys) <= 4096
    assert len(histogram.coarsened(one, 256)[0].keys) <= 256
    # A part of a larger array begins and ends anywhere in it.
    part = histogram.Histograms(np.array([7, 600]), one.keys, one.counts)
    assert histogram.coarsened(part, 100)[0].counts.sum() == 593
