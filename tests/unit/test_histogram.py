import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from catchment import histogram
from catchment.histogram import addition, table
from tests.histogram_reference import Point, as_maps, explicit_histogram, exponential_histogram, histograms_of, total

GOLDEN = Path(__file__).parent.parent / "golden" / "histogram_mantissas.txt"
LARGEST = float(np.finfo(np.float32).max)


def _point(**fields: object) -> Point:
    return Point(5, 0.0, 0, 0, [], 0, [])._replace(**fields)  # type: ignore[arg-type]


def test_mantissas_are_the_golden_ones() -> None:
    """The 32 mantissas never change: they are what every stored exponential interval was made of."""
    assert [mantissa.hex() for mantissa in table.MANTISSAS] == GOLDEN.read_text().split()


def test_mantissas_are_correctly_rounded() -> None:
    """No float64 is nearer to 2**(i/32) than mantissa i, by exact integer arithmetic."""
    for index, mantissa in enumerate(table.MANTISSAS):
        half_step = Fraction(1, 2**53)
        below, above = Fraction(mantissa) - half_step, Fraction(mantissa) + half_step
        assert below**32 < 2**index < above**32


def test_bounds_are_scaled_mantissas() -> None:
    """Every bound between the ends is a mantissa times a power of two, exactly, and they ascend."""
    for index in range(table.FIRST_BOUND + 1, table.LAST_BOUND):
        expected = math.ldexp(table.MANTISSAS[index % 32], index // 32)
        assert table.BOUNDS[index - table.FIRST_BOUND] == expected
    assert (np.diff(table.BOUNDS) > 0).all()


def test_keys_have_their_golden_values() -> None:
    """The packing is what the SQL functions read: it never changes."""
    keys = histogram.pack([0.0, 1.0, -2.0, -np.inf, 1.0, -0.0], [0.0, 2.0, -1.0, 0.5, np.inf, 1.0])
    assert keys.tolist() == [
        2147483648,
        4575657224629649408,
        -4611686021640224769,
        -9187343240926330880,
        4575657225695002624,
        3212836864,
    ]


def test_keys_unpack_to_what_was_packed() -> None:
    """Bounds that float32 has come back unchanged, negative and infinite ones too."""
    lower = np.array([-np.inf, -3.5, -1e-45, 0.0, 0.0, 1.5, LARGEST])
    upper = np.array([-LARGEST, -1.25, 0.0, 0.0, 1e-45, np.inf, np.inf])
    lower, upper = lower.astype(np.float32).astype(float), upper.astype(np.float32).astype(float)
    back = histogram.unpack(histogram.pack(lower, upper))
    np.testing.assert_array_equal(back, (lower, upper))


def test_minus_zero_is_zero() -> None:
    """-0 and 0 are one bound, as are numbers that round to -0."""
    np.testing.assert_array_equal(histogram.pack([-0.0], [-0.0]), histogram.pack([0.0], [0.0]))
    lower, upper = histogram.unpack(histogram.pack([-1.0], [-1e-300]))
    assert (lower[0], upper[0], math.copysign(1, upper[0])) == (-1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("bound", "below", "above"),
    [
        (0.1, 0.09999999403953552, 0.10000000149011612),
        (1e39, LARGEST, math.inf),
        (-1e39, -math.inf, -LARGEST),
        (1e-60, 0.0, 1.401298464324817e-45),
        (-1e-60, -1.401298464324817e-45, 0.0),
    ],
)
def test_packing_rounds_outward(bound: float, below: float, above: float) -> None:
    """A bound that float32 does not have moves away from the interval's inside."""
    lower, upper = histogram.unpack(histogram.pack([bound], [bound]))
    assert (lower[0], upper[0]) == (below, above)


def test_explicit_buckets_are_open_at_both_ends() -> None:
    """n bounds make n + 1 intervals from -inf to +inf, per point, and no bounds make one."""
    offsets, keys = histogram.explicit_keys(np.array([0, 2, 2, 3]), np.array([1.0, 2.0, 8.0]))
    assert offsets.tolist() == [0, 3, 4, 6]
    lower, upper = histogram.unpack(keys)
    inf = math.inf
    assert lower.tolist() == [-inf, 1.0, 2.0, -inf, -inf, 8.0]
    assert upper.tolist() == [1.0, 2.0, inf, inf, 8.0, inf]


def test_explicit_buckets_of_a_slice() -> None:
    """Offsets need not begin at zero: the bounds are those between the first and the last."""
    offsets, keys = histogram.explicit_keys(np.array([1, 2]), np.array([7.0, 1.0, 9.0]))
    assert offsets.tolist() == [0, 2]
    assert histogram.unpack(keys)[1].tolist() == [1.0, math.inf]


def test_exponential_buckets_at_scale_zero() -> None:
    """Bucket i at scale 0 is (2**i, 2**(i + 1)], negative ones mirrored, and empty ones are left out."""
    point = _point(scale=0, zero_count=4, positive_offset=-1, positive=[1, 0, 3], negative_offset=2, negative=[5, 6])
    histograms = histograms_of([point])
    assert as_maps(histograms) == [{(-16.0, -8.0): 6, (-8.0, -4.0): 5, (0.0, 0.0): 4, (0.5, 1.0): 1, (2.0, 4.0): 3}]
    assert (np.diff(histograms.keys) > 0).all()


def test_finer_scales_fold_to_scale_five() -> None:
    """Scale 7 folds four buckets into one of scale 5, also across zero, by arithmetic shift."""
    point = _point(scale=7, positive_offset=-5, positive=[1, 2, 3, 4, 5, 6], negative_offset=3, negative=[7, 8])
    bounds = dict(enumerate(table.BOUNDS, table.FIRST_BOUND))
    expected = {-2: 1, -1: 2 + 3 + 4 + 5, 0: 6}
    maps = as_maps(histograms_of([point]))[0]
    assert [count for (lower, _), count in maps.items() if lower > 0] == list(expected.values())
    assert [count for (lower, _), count in maps.items() if lower < 0] == [8, 7]
    for (lower, upper), index in zip([pair for pair in maps if pair[0] > 0], expected, strict=True):
        assert lower <= bounds[index] <= lower * (1 + 2**-23)
        assert upper * (1 - 2**-23) <= bounds[index + 1] <= upper


def test_zero_bucket_reaches_from_minus_threshold_to_threshold() -> None:
    """The zero bucket is (-t, t], and (0, 0] without a threshold."""
    maps = as_maps(histograms_of([_point(zero_threshold=0.5, zero_count=3), _point(zero_count=2), _point()]))
    assert maps == [{(-0.5, 0.5): 3}, {(0.0, 0.0): 2}, {}]


def test_negative_buckets_inside_the_zero_bucket_are_sorted() -> None:
    """A sender's buckets that overlap its zero bucket break no order."""
    point = _point(scale=0, zero_threshold=8.0, zero_count=1, negative_offset=0, negative=[2, 3])
    histograms = histograms_of([point])
    assert as_maps(histograms) == [{(-8.0, 8.0): 1, (-4.0, -2.0): 3, (-2.0, -1.0): 2}]
    assert (np.diff(histograms.keys) > 0).all()


@pytest.mark.parametrize("scale", range(-10, 21))
def test_absurd_offsets_saturate(scale: int) -> None:
    """Buckets beyond float32 become (0, x] or (x, inf] without error, their counts kept."""
    points = [_point(scale=scale, positive_offset=offset, positive=[1, 2, 3]) for offset in (-(2**31), 2**31 - 1)]
    for (lower, upper), count in ((next(iter(each.items()))) for each in as_maps(histograms_of(points))):
        assert count == 6
        assert lower == 0.0 or upper == math.inf
        assert lower < upper


@pytest.mark.parametrize("scale", range(-10, 6))
def test_rescaling_gives_what_the_coarser_sender_would_have_written(scale: int) -> None:
    """Folding fine buckets to a coarser scale equals the buckets of that scale, beyond float32 too."""
    magnitudes = [1e-300, 1e-39, 2.0**-126, 1e-5, 0.37, 1.0, 1.0000001, 3.0, 1e20, 2.0**127, 2.0**128, 1e39, 1e300]
    values = magnitudes + [-value for value in magnitudes] + [0.0]
    fine, coarse = (exponential_histogram(values, each) for each in (5, scale))
    folded, threshold = histogram.rescale(fine, np.array([scale], np.int32), np.zeros(1))
    assert as_maps(folded) == as_maps(coarse)
    assert threshold.tolist() == [0.0]


def test_rescaling_folds_buckets_into_a_larger_zero_bucket() -> None:
    """Wholly covered buckets fold into the zero bucket; a bucket that begins at its threshold does not."""
    fine = histograms_of([_point(scale=0, zero_count=1, positive=[2, 4, 8], negative=[16, 32])])
    folded, threshold = histogram.rescale(fine, np.array([0], np.int32), np.array([2.0]))
    assert as_maps(folded) == [{(-4.0, -2.0): 32, (-2.0, 2.0): 1 + 2 + 16, (2.0, 4.0): 4, (4.0, 8.0): 8}]
    assert threshold.tolist() == [2.0]


def test_a_partly_covered_bucket_widens_the_zero_bucket() -> None:
    """No value leaves its interval: a bucket that the threshold cuts takes the zero bucket with it."""
    fine = histograms_of([_point(scale=0, positive=[2, 4], negative=[16])])
    folded, threshold = histogram.rescale(fine, np.array([0], np.int32), np.array([1.5]))
    assert as_maps(folded) == [{(-2.0, 2.0): 2 + 16, (2.0, 4.0): 4}]
    assert threshold.tolist() == [2.0]


def test_a_threshold_on_a_bound_covers_nothing_beyond_it() -> None:
    """A threshold that is a bucket's own bound, rounded to float32 in its key, does not swallow the next bucket."""
    bound = float(table.BOUNDS[7 - table.FIRST_BOUND])
    point = _point(zero_threshold=bound, zero_count=1, positive_offset=7, positive=[5])
    once, threshold = histogram.rescale(histograms_of([point]), np.array([5], np.int32), np.array([bound]))
    twice, _ = histogram.rescale(once, np.array([5], np.int32), threshold)
    assert as_maps(once) == as_maps(twice) == as_maps(histograms_of([point]))


def test_rescaling_leaves_coarser_buckets() -> None:
    """A bucket coarser than the target keeps its width."""
    coarse = histograms_of([_point(scale=0, positive=[1, 2])])
    assert as_maps(histogram.rescale(coarse, np.array([4], np.int32), np.zeros(1))[0]) == as_maps(coarse)


def test_sum_by_group_adds_in_any_order() -> None:
    """Histograms of a group are added by interval; a group without any is empty; order does not matter."""
    points = [_point(scale=0, positive=[1, 2]), _point(scale=0, positive=[0, 5]), _point(scale=0, zero_count=7)]
    histograms = histograms_of(points)
    summed = histogram.sum_by_group(*histograms, np.array([2, 0, 2]), 4)
    assert as_maps(summed) == [{(2.0, 4.0): 5}, {}, {(0.0, 0.0): 7, (1.0, 2.0): 1, (2.0, 4.0): 2}, {}]


@pytest.mark.parametrize("groups", [1, 50, 40_000])
def test_sum_by_group_agrees_with_a_loop(groups: int) -> None:
    """Dense tables, sorting and hashing with stray keys give the very sums of a loop."""
    random = np.random.default_rng(groups)
    points = 3_000
    lengths = random.integers(0, 12, points)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    keys = random.integers(-(2**62), 2**62, 9_000)[random.integers(0, 9_000, offsets[-1])]
    counts = random.integers(0, 2**60, offsets[-1]).astype(np.uint64)
    group = random.integers(0, groups, points)
    expected: dict[tuple[int, int], int] = {}
    for owner, key, count in zip(np.repeat(group, lengths).tolist(), keys.tolist(), counts.tolist(), strict=True):
        if count:
            expected[owner, key] = (expected.get((owner, key), 0) + count) % 2**64
    summed = histogram.sum_by_group(offsets, keys, counts, group, groups)
    owners = np.repeat(np.arange(groups), np.diff(summed.offsets)).tolist()
    found = list(zip(owners, summed.keys.tolist(), strict=True))
    assert found == sorted(expected)
    assert summed.counts.tolist() == [expected[each] for each in found]


def test_ranks_are_places_among_the_distinct_keys() -> None:
    """Keys that collide in the hash table get their rank all the same."""
    keys = np.random.default_rng(3).integers(-(2**62), 2**62, 100_000)
    distinct, ranks = addition.rank(keys)
    np.testing.assert_array_equal(distinct, np.unique(keys))
    np.testing.assert_array_equal(distinct[ranks], keys)


def test_sums_stay_integers() -> None:
    """Counts beyond 2**53 lose no unit."""
    offsets, keys = np.array([0, 1, 2]), np.array([5, 5])
    summed = histogram.sum_by_group(offsets, keys, np.array([2**60, 1], np.uint64), np.array([0, 0]), 1)
    assert summed.counts.tolist() == [2**60 + 1]


def test_canonical_leaves_out_empty_intervals() -> None:
    """Explicit buckets without counts disappear; the sum is the same."""
    sparse = histogram.canonical(explicit_histogram([0.5, 0.5, 7.0], [1.0, 2.0, 5.0]))
    assert as_maps(sparse) == [{(-math.inf, 1.0): 2, (5.0, math.inf): 1}]


def test_subtract_gives_the_increase() -> None:
    """The increase holds only the intervals that grew, also where new ones appeared."""
    before = histograms_of([_point(scale=0, positive=[1, 2]), _point(scale=0, positive=[4]), _point()])
    after = histograms_of([_point(scale=0, positive=[1, 5, 1]), _point(scale=0, positive=[4]), _point(zero_count=2)])
    increase, fell = histogram.subtract(after, before)
    assert as_maps(increase) == [{(2.0, 4.0): 3, (4.0, 8.0): 1}, {}, {(0.0, 0.0): 2}]
    assert fell.tolist() == [False, False, False]


def test_subtract_takes_a_fall_for_a_reset() -> None:
    """A count that fell, or an interval that vanished, is a reset of that histogram alone: all of it is increase."""
    before = [_point(scale=0, positive=[3, 3]), _point(scale=0, positive=[3, 3]), _point(scale=0, positive=[1, 1])]
    after = [_point(scale=0, positive=[9, 2]), _point(scale=0, positive=[9]), _point(scale=0, positive=[1, 2])]
    increase, fell = histogram.subtract(histograms_of(after), histograms_of(before))
    assert as_maps(increase) == [{(1.0, 2.0): 9, (2.0, 4.0): 2}, {(1.0, 2.0): 9}, {(2.0, 4.0): 1}]
    assert fell.tolist() == [True, True, False]


def test_subtract_of_explicit_histograms_with_empty_buckets() -> None:
    """Buckets with a count of 0 take part, and an empty bucket that vanishes is no reset."""
    bounds = [1.0, 2.0]
    before, after = explicit_histogram([0.5], bounds), explicit_histogram([0.5, 0.7, 9.0], bounds)
    increase, fell = histogram.subtract(after, before)
    assert as_maps(increase) == [{(-math.inf, 1.0): 1, (2.0, math.inf): 1}]
    increase, fell_sparse = histogram.subtract(histogram.canonical(after), before)
    assert as_maps(increase) == [{(-math.inf, 1.0): 1, (2.0, math.inf): 1}]
    assert not (fell | fell_sparse).any()


def test_align_brings_a_pair_to_common_buckets() -> None:
    """A sender that rescaled and raised its zero threshold between two points leaves an exact increase."""
    first = [0.001, 0.3, 5.0, 6.0]
    second = [*first, 0.0005, 400.0, 400.0]
    now, then = histogram.align(
        exponential_histogram(second, 1, zero_threshold=0.01),
        np.array([1], np.int32),
        np.array([0.01]),
        exponential_histogram(first, 4),
        np.array([4], np.int32),
        np.array([0.0]),
    )
    increase, fell = histogram.subtract(now, then)
    assert fell.tolist() == [False]
    assert sorted(as_maps(increase)[0].values()) == [1, 2]
    assert int(increase.counts.sum()) == 3


def test_align_widens_both_sides_alike() -> None:
    """A zero threshold that cuts a bucket of the one widens the zero bucket of the other too."""
    before, after = _point(scale=0, positive=[3, 1]), _point(scale=0, zero_threshold=1.5, zero_count=3, positive=[2, 1])
    scale = np.array([0], np.int32)
    now, then = histogram.align(
        histograms_of([after]), scale, np.array([1.5]), histograms_of([before]), scale, np.array([0.0])
    )
    assert as_maps(then) == [{(-2.0, 2.0): 3, (2.0, 4.0): 1}]
    assert as_maps(now) == [{(-2.0, 2.0): 5, (2.0, 4.0): 1}]


def test_quantile_bracket_of_overlapping_intervals() -> None:
    """The bracket takes rank r among the lowers and, apart from that, among the uppers."""
    keys = histogram.pack([0.0, 1.0, 2.0], [10.0, 2.0, 3.0])
    counts = np.array([1, 1, 1], np.uint64)
    assert histogram.quantile_bounds(0.5, keys, counts) == (1.0, 3.0)
    assert histogram.quantile_bounds(1.0, keys, counts) == (2.0, 10.0)
    assert histogram.quantile_bounds(0.0, keys, counts) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("lower", "upper", "estimate"),
    [
        (1.0, 2.0, 4 / 3),
        (-2.0, -1.0, -4 / 3),
        (1.0, 4.0, 2.5),
        (0.0, 4.0, 2.0),
        (-1.0, 1.0, 0.0),
        (0.0, 0.0, 0.0),
        (5.0, math.inf, 5.0),
        (-math.inf, 5.0, 5.0),
    ],
)
def test_estimates(lower: float, upper: float, estimate: float) -> None:
    """The estimate is harmonic for exponential widths, else the middle, and the finite end of a half-open interval."""
    assert histogram.quantile(0.5, histogram.pack([lower], [upper]), np.array([3], np.uint64)) == estimate


def test_estimate_is_clamped_to_min_and_max() -> None:
    """A known minimum or maximum bounds the estimate, in an unbounded interval too."""
    keys, counts = histogram.pack([4.0], [math.inf]), np.array([1], np.uint64)
    assert histogram.quantile(0.5, keys, counts, minimum=6.0, maximum=7.0) == 6.0
    assert histogram.quantile(0.5, keys, counts, maximum=3.5) == 3.5


def test_quantile_of_nothing_is_nan() -> None:
    """An empty histogram has no quantile, one interval without ends no estimate."""
    nothing = np.array([], np.int64)
    assert math.isnan(histogram.quantile(0.5, nothing, nothing.astype(np.uint64)))
    assert math.isnan(histogram.quantile(0.5, histogram.pack([-math.inf], [math.inf]), np.array([1], np.uint64)))


def test_count_below_is_exact_at_a_bound() -> None:
    """At an explicit bound that float32 does not have, such as 0.1, the count is certain."""
    merged = total([explicit_histogram([0.05, 0.1, 0.1, 0.11, 3.0], [0.1, 0.25])])
    assert histogram.count_below(0.1, merged.keys, merged.counts) == (3, 3, 3.0)


def test_count_below_shares_linearly() -> None:
    """Inside an interval the estimate is the linear share between the certain and the most; infinite ones give none."""
    merged = total([explicit_histogram([1.0, 3.0, 3.0, 9.0], [2.0, 4.0])])
    assert histogram.count_below(3.0, merged.keys, merged.counts) == (1, 3, 2.0)
    assert histogram.count_below(5.0, merged.keys, merged.counts) == (3, 4, 3.0)
    assert histogram.count_below(-1.0, merged.keys, merged.counts) == (0, 1, 0.0)
