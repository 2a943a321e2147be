"""What the program of ``senders/target`` has counted after so many turns."""

from __future__ import annotations

import itertools

from tests.histogram_reference import bucket_index

KEYS = tuple(f"k{n}" for n in range(5))
BOUNDS = (0.25, 1.0, 4.0, 16.0)
SCHEMA, ZERO_THRESHOLD = 3, 0.001
_OBSERVATIONS = 12


def observed(turn: int, n: int) -> list[float]:
    """What each histogram of a key observes in a turn; the first turn is that before the first scrape."""
    if not turn:
        return [0.0] * _OBSERVATIONS
    powers = [1.37 ** ((turn * 7 + n * 3 + j * 5) % 40) for j in range(1, _OBSERVATIONS)]
    return [0.0, *(0.01 * power * (1 - 2 * (j % 3 // 2)) for j, power in enumerate(powers, 1))]


def all_observed(turns: range, n: int) -> list[float]:
    """What each histogram of a key observes in some turns."""
    return [value for turn in turns for value in observed(turn, n)]


def classic_counts(values: list[float]) -> dict[tuple[float, float], int]:
    """The buckets that a classic histogram has of some values."""
    edges = (float("-inf"), *BOUNDS, float("inf"))
    found = {pair: sum(pair[0] < value <= pair[1] for value in values) for pair in itertools.pairwise(edges)}
    return {pair: count for pair, count in found.items() if count}


def native_counts(values: list[float]) -> dict[tuple[int, int], int]:
    """The buckets that a native histogram has of some values: (sign, index) → count; (0, 0) are the zeros."""
    found: dict[tuple[int, int], int] = {}
    for value in values:
        sign = 0 if abs(value) <= ZERO_THRESHOLD else 1 if value > 0 else -1
        bucket = sign, bucket_index(abs(value), SCHEMA) if sign else 0
        found[bucket] = found.get(bucket, 0) + 1
    return found


def native_bucket(lower: float, upper: float) -> tuple[int, int]:
    """The bucket of `native_counts` that an interval of our rows is."""
    if lower < 0 < upper:
        return 0, 0
    inner = (abs(lower) * abs(upper)) ** 0.5
    return 1 if lower > 0 else -1, bucket_index(inner, SCHEMA)
