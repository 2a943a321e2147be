"""What has to come out of the workload of the senders (senders/README.md), and where it differs from what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from catchment.histogram import pack, unpack
from tests.faults.totals import Key, Stored, Totals, differences

BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0)
EXPONENTIAL = "size"
# What SDKs tell of themselves beside the workload.
_OWN = "otel.sdk."


def latencies(rounds: int, key: str) -> list[float]:
    """What is recorded in the explicit histogram."""
    return [(7 * i + 3 * j) % 25 + 0.5 for i in range(1, rounds + 1) for j in range(10) if "ab"[j % 2] == key]


def sizes(rounds: int) -> list[float]:
    """What is recorded in the exponential histogram."""
    return [1.5 * 2.0 ** ((i + j) % 12) for i in range(1, rounds + 1) for j in range(10)]


def expected(service: str, rounds: int, lives: int) -> dict[Key, Totals]:
    """The totals of all series but the exponential histogram's buckets, after a program ran ``lives`` times."""
    integers = {"a": sum(range(1, rounds + 1)), "b": 2 * sum(range(1, rounds + 1))}
    doubles = {"a": 0.5 * sum(range(1, rounds + 1)), "b": 0.25 * rounds}
    totals: dict[Key, Totals] = {}
    for key in "ab":
        totals[service, "orders", key] = Totals(None, lives * integers[key], 0.0)
        totals[service, "volume", key] = Totals(None, 0, lives * doubles[key])
        values = latencies(rounds, key)
        totals[service, "latency", key] = Totals(
            lives * len(values), 0, lives * sum(values), None, {k: lives * n for k, n in _buckets(values).items()}
        )
    # How many points of levels arrive is the SDK's affair: some export once more when they end.
    totals[service, "queue", ""] = Totals(None, None, None, 2.0 * rounds)
    totals[service, "temperature", ""] = Totals(None, None, None, 20.0 + rounds)
    values = sizes(rounds)
    totals[service, EXPONENTIAL, ""] = Totals(lives * len(values), 0, lives * sum(values), None, {})
    return totals


def faults(service: str, rounds: int, lives: int, found: Mapping[Key, Stored]) -> list[str]:
    """All that is stored of a service and should not be, or should be and is not."""
    own = {key: value for key, value in found.items() if key[0] == service and not key[1].startswith(_OWN)}
    wanted = expected(service, rounds, lives)
    size = service, EXPONENTIAL, ""
    said = []
    if size in own:
        values = Counter(lives * sizes(rounds))
        if placed(own[size].histogram, list(values)) != values:
            said.append(f"{size}: {own[size].histogram} does not hold {values}")
        wanted[size].histogram = own[size].histogram
    return said + differences(wanted, own)


def placed(histogram: Mapping[int, int], values: list[float]) -> Counter[float]:
    """How many of each value the buckets hold; the values lie so far apart that no bucket has room for two."""
    lower, upper = unpack(np.array(list(histogram), np.int64))
    counts: Counter[float] = Counter()
    for low, high, count in zip(lower.tolist(), upper.tolist(), histogram.values(), strict=True):
        (value,) = [value for value in values if low < value <= high] or [np.nan]
        counts[value] += count
    return counts


def _buckets(values: list[float]) -> dict[int, int]:
    bounds = (-np.inf, *BOUNDS, np.inf)
    keys = pack(np.array(bounds[:-1]), np.array(bounds[1:])).tolist()
    counts = np.bincount(np.searchsorted(BOUNDS, values), minlength=len(keys)).tolist()
    return {key: count for key, count in zip(keys, counts, strict=True) if count}
