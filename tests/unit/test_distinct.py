"""Sketches of distinct things: what a rank is, and that a merge is the sketch of both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.algebra.distinct import REGISTERS, RELATIVE_ERROR, estimate, registers_of
from catchment.identity import value_hash


def sketch(hashes: list[int]) -> dict[int, int]:
    """The registers of some hashes."""
    found: dict[int, int] = {}
    for register, rank in zip(*(part.tolist() for part in registers_of(np.array(hashes, np.uint64))), strict=True):
        found[register] = max(found.get(register, 0), rank)
    return found


@pytest.mark.parametrize(
    ("value", "register", "rank"),
    [
        (0, 0, 54),
        (1, 0, 54),
        (2, 0, 53),
        (1 << 53, 0, 1),
        ((1 << 53) - 1, 0, 2),
        ((1 << 54) - 1, 0, 1),
        (1 << 54, 1, 54),
        (2**64 - 1, 1023, 1),
    ],
)
def test_registers_and_ranks_are_what_they_were(value: int, register: int, rank: int) -> None:
    """The upper ten bits choose, the leading zeros of the others rank: golden, since sketches of all versions meet."""
    assert sketch([value]) == {register: rank}


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_a_merge_is_the_sketch_of_both(left: list[int], right: list[int]) -> None:
    """The larger rank of each register is what one sketch of all would have, whatever both have seen."""
    one, other = sketch(left), sketch(right)
    merged = {key: max(one.get(key, 0), other.get(key, 0)) for key in one.keys() | other.keys()}
    assert merged == sketch(left + right) == sketch(right + left + left)


@pytest.mark.parametrize("count", [0, 1, 5, 100, 1_000, 2_500, 10_000, 300_000])
def test_the_estimate_is_near(count: int) -> None:
    """Within three standard errors, and nearly exact while there are few."""
    found = estimate(sketch([value_hash(f"user-{number}") for number in range(count)]))
    assert abs(found - count) <= max(3 * RELATIVE_ERROR * count, 0.5) if count > 5 else round(found) == count


def test_full_registers_have_an_estimate() -> None:
    """With every register at its highest rank the estimate is finite."""
    assert np.isfinite(estimate(dict.fromkeys(range(REGISTERS), 54)))
