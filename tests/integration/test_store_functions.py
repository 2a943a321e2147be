from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest

from catchment.algebra.distinct import estimate, registers_of
from catchment.histogram.keys import pack, unpack
from catchment.histogram.quantile import count_below, quantile, quantile_bounds
from store.engine.chdb import ChdbEngine
from store.functions import FUNCTIONS


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbEngine]:
    """An engine with the functions and no tables."""
    found = ChdbEngine(tmp_path_factory.mktemp("functions"))
    for function in FUNCTIONS:
        found.execute(function.sql)
    yield found
    found.close()


def numbers(engine: ChdbEngine, sql: str) -> list[float]:
    """The one row of a query."""
    return [float(text) for text in engine.query(sql, database="default").data.decode().split()]


def literal(keys: list[int], counts: list[int]) -> str:
    """A histogram in SQL."""
    pairs = ", ".join(f"toInt64({key}), toUInt64({count})" for key, count in zip(keys, counts, strict=True))
    return f"CAST(map({pairs}), 'Map(Int64, UInt64)')"


BOUNDS = [-math.inf, -1e30, -4.0, -2.0, -1e-30, 0.0, 1e-45, 0.1, 1.0, 2.0, 5.0, 1e38, math.inf]


def test_bounds_of_keys_are_those_that_were_packed(engine: ChdbEngine) -> None:
    """Lower and upper of every sign, of zero, of denormals and infinities come back as Python unpacks them."""
    keys = pack(BOUNDS[:-1], BOUNDS[1:])
    lower, upper = unpack(keys)
    for key, low, high in zip(keys, lower, upper, strict=True):
        found = numbers(engine, f"SELECT catchmentBucketLower(toInt64({key})), catchmentBucketUpper(toInt64({key}))")
        assert found == [low, high]


@pytest.mark.parametrize("seed", range(40))
def test_functions_agree_with_the_reference(engine: ChdbEngine, seed: int) -> None:
    """Brackets are equal to the bit, estimates and counts within rounding; intervals overlap and may be open."""
    random_ = random.Random(seed)
    pairs = [sorted(random_.sample(BOUNDS, 2)) for _ in range(random_.randint(1, 9))]
    pairs += [[x, x * 2 ** (1 / 32)] for x in (random_.lognormvariate(0, 3) for _ in range(5))]
    keys = np.unique(pack([low for low, _ in pairs], [high for _, high in pairs]))
    counts = np.array([random_.randint(1, 40) for _ in keys], np.uint64)
    q = random_.choice([0.0, 1.0, 0.5, 0.99, random_.random()])
    x = random_.choice([*BOUNDS[1:-1], random_.gauss(0, 3)])
    shuffled = random_.sample(range(len(keys)), len(keys))
    h = literal([int(keys[i]) for i in shuffled], [int(counts[i]) for i in shuffled])
    low, high, estimate, below = numbers(
        engine,
        f"WITH {h} AS h SELECT catchmentQuantileBounds({q!r}, h).1, catchmentQuantileBounds({q!r}, h).2, "
        f"catchmentQuantile({q!r}, h), catchmentCountBelow({x!r}, h)",
    )
    assert (low, high) == quantile_bounds(q, keys, counts)
    assert estimate == pytest.approx(quantile(q, keys, counts), rel=1e-12, nan_ok=True)
    assert below == pytest.approx(count_below(x, keys, counts)[2], rel=1e-12)


@pytest.mark.parametrize("count", [0, 1, 300, 2_559, 2_600, 100_000])
def test_distinct_things_are_counted_as_the_reference_does(engine: ChdbEngine, count: int) -> None:
    """The estimate from registers is the rounded one of the reference."""
    index, ranks = registers_of(np.random.default_rng(3).integers(0, 2**64, count, np.uint64))
    registers: dict[int, int] = {}
    for register, rank in zip(index.tolist(), ranks.tolist(), strict=True):
        registers[register] = max(registers.get(register, 0), rank)
    text = literal(list(registers), list(registers.values())) if registers else "CAST(map(), 'Map(Int64, UInt64)')"
    assert numbers(engine, f"SELECT catchmentDistinct({text})") == [round(estimate(registers))]


def test_an_empty_histogram_has_no_quantile(engine: ChdbEngine) -> None:
    """Nothing is NaN, not zero, and no value is below anything."""
    empty = "CAST(map(), 'Map(Int64, UInt64)')"
    estimate, below = numbers(engine, f"SELECT catchmentQuantile(0.5, {empty}), catchmentCountBelow(1, {empty})")
    assert math.isnan(estimate)
    assert below == 0


@pytest.mark.parametrize(
    ("smallest", "largest", "expected"), [("NULL", "NULL", 1.5), ("1.75", "2.", 1.75), ("NULL", "1.25", 1.25)]
)
def test_known_extremes_clamp_the_estimate(engine: ChdbEngine, smallest: str, largest: str, expected: float) -> None:
    """An estimate outside of what min and max say is moved there; NULL says nothing."""
    h = literal([int(pack(0.0, 3.0)[0])], [4])
    assert numbers(engine, f"SELECT catchmentQuantileWithin(0.5, {h}, {smallest}, {largest})") == [expected]
