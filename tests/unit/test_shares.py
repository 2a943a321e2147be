"""What tenants share: one alone gets nearly all, and none keeps the others out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.receive.shares import Shares


@pytest.mark.parametrize("hogs", [1, 2, 10])
def test_something_is_left_whoever_takes_what_it_can(hogs: int) -> None:
    """Tenants that take all they get leave places for the next one, and get what they gave back again."""
    shares = Shares(1024)
    had = {f"hog-{number}": 0 for number in range(hogs)}
    for _ in range(1024):
        for hog in had:
            had[hog] += shares.take(hog)
    assert sum(had.values()) >= 900
    assert [shares.take("late") for _ in range(9)] == [True] * 9
    assert not shares.take("hog-0")
    shares.give("hog-0", 100)
    assert shares.take("hog-0")


def test_one_request_is_never_stuck() -> None:
    """A body within the limit is taken whole by a tenant that has no other, and none beyond it."""
    shares = Shares(100)
    assert all(shares.take("acme", 10, for_one=10 * number) for number in range(10))
    assert not shares.take("acme", 1, for_one=100)
    assert shares.take("acme", 0)
    shares.give("acme", 100)
    assert shares.take("acme", 100)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.booleans()), max_size=60))
def test_never_more_than_there_is(steps: list[tuple[str, int, bool]]) -> None:
    """Whatever is taken and given back: all together have at most the limit, and in the end all is free."""
    shares, taken = Shares(100), dict.fromkeys("abc", 0)
    for tenant, amount, gives in steps:
        if gives:
            amount = min(amount, taken[tenant])
            shares.give(tenant, amount)
            taken[tenant] -= amount
        elif shares.take(tenant, amount):
            taken[tenant] += amount
        assert sum(taken.values()) <= 100
    for tenant, amount in taken.items():
        shares.give(tenant, amount)
    assert shares.take("d", 100)
