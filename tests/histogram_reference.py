"""What the histogram is compared with: exact arithmetic on Python integers and decimals, one value at a time."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np

from catchment import histogram
from catchment.histogram.keys import Int64s, UInt64s

_EXACT = Context(prec=60)
_LN_2 = _EXACT.ln(Decimal(2))


class Point(NamedTuple):
    """One exponential histogram point as OTLP has it."""

    scale: int
    zero_threshold: float
    zero_count: int
    positive_offset: int
    positive: list[int]
    negative_offset: int
    negative: list[int]


def bucket_index(magnitude: float, scale: int) -> int:
    """The index i with base**i < magnitude <= base**(i + 1), exactly.

    60 decimals decide: no float64 but a power of two comes so close to a bound.
    """
    mantissa, exponent = math.frexp(magnitude)
    if mantissa == 0.5:
        return ((exponent - 1) << scale if scale >= 0 else -((1 - exponent) >> -scale)) - 1
    log2 = _EXACT.divide(_EXACT.ln(Decimal(magnitude)), _LN_2)
    return math.ceil(_EXACT.multiply(log2, _EXACT.power(Decimal(2), scale))) - 1


def exponential_points(values: Sequence[float], scale: int, zero_threshold: float = 0.0) -> list[Point]:
    """The points that ideal senders would write: several, since a point has at most 160 buckets a side."""
    zero_count = sum(1 for value in values if abs(value) <= zero_threshold)
    points = [Point(scale, zero_threshold, zero_count, 0, [], 0, [])]
    for negative in (False, True):
        side = [abs(value) for value in values if abs(value) > zero_threshold and (value < 0) == negative]
        buckets = Counter(bucket_index(magnitude, scale) for magnitude in side)
        while buckets:
            first = min(buckets)
            counts = [buckets.pop(index, 0) for index in range(first, min(first + 159, max(buckets)) + 1)]
            point = Point(scale, zero_threshold, 0, 0, [], 0, [])
            if negative:
                points.append(point._replace(negative_offset=first, negative=counts))
            else:
                points.append(point._replace(positive_offset=first, positive=counts))
    return points


def exponential_histogram(values: Sequence[float], scale: int, zero_threshold: float = 0.0) -> histogram.Histograms:
    """The one histogram of the values at a scale."""
    return total([histograms_of(exponential_points(values, scale, zero_threshold))])


def histograms_of(points: Sequence[Point]) -> histogram.Histograms:
    """The points' histograms, all in one call."""

    def ragged(lists: list[list[int]]) -> tuple[Int64s, UInt64s]:
        offsets = np.concatenate(([0], np.cumsum([len(counts) for counts in lists]))).astype(np.int64)
        return offsets, np.array([count for counts in lists for count in counts], np.uint64)

    return histogram.exponential_keys(
        np.array([point.scale for point in points], np.int32),
        np.array([point.zero_threshold for point in points], np.float64),
        np.array([point.zero_count for point in points], np.uint64),
        np.array([point.positive_offset for point in points], np.int32),
        *ragged([point.positive for point in points]),
        np.array([point.negative_offset for point in points], np.int32),
        *ragged([point.negative for point in points]),
    )


def explicit_histogram(values: Sequence[float], bounds: Sequence[float]) -> histogram.Histograms:
    """The histogram of values in explicit buckets."""
    offsets, keys = histogram.explicit_keys(np.array([0, len(bounds)]), np.array(bounds, np.float64))
    places = np.searchsorted(np.array(bounds, np.float64), np.array(values, np.float64), side="left")
    return histogram.Histograms(offsets, keys, np.bincount(places, minlength=len(keys)).astype(np.uint64))


def total(histograms: Sequence[histogram.Histograms]) -> histogram.Histograms:
    """The sum of all, as one histogram."""
    lengths = np.concatenate([np.diff(each.offsets) for each in histograms])
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    keys = np.concatenate([each.keys for each in histograms])
    counts = np.concatenate([each.counts for each in histograms])
    return histogram.sum_by_group(offsets, keys, counts, np.zeros(len(lengths), np.int64), 1)


def nearest_rank(q: float, values: Sequence[float]) -> float:
    """The exact q-quantile."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def as_maps(histograms: histogram.Histograms) -> list[dict[tuple[float, float], int]]:
    """Each histogram as a dict from (lower, upper) to count."""
    lower, upper = histogram.unpack(histograms.keys)
    pairs = list(zip(lower.tolist(), upper.tolist(), strict=True))
    counts = histograms.counts.tolist()
    ends = histograms.offsets.tolist()
    return [dict(zip(pairs[start:end], counts[start:end], strict=True)) for start, end in itertools.pairwise(ends)]
