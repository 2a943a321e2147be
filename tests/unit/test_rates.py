"""How much a tenant may send, with time as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.config_rates import Rate
from collectors.rates import RateLimited, Rates


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    """Stands still."""
    return Clock()


def refused_for(rates: Rates, tenant: str = "acme") -> int:
    """After how many seconds a request that is refused may come back; 0 for one that is let in."""
    try:
        rates.admit(tenant)
    except RateLimited as error:
        return error.retry_after_seconds
    return 0


def test_without_a_rule_nothing_is_limited(clock: Clock) -> None:
    """Neither without rules nor for a tenant that no rule names is there a limit."""
    for rates in (Rates((), clock), Rates((Rate("other", requests_per_second=1),), clock)):
        assert [refused_for(rates) for _ in range(1_000)] == [0] * 1_000
        rates.pay("acme", "points", 1e12)
        assert refused_for(rates) == 0


def test_a_burst_then_the_rate(clock: Clock) -> None:
    """A quiet tenant may send a burst at once; after that, requests get in at the rate, and are told when."""
    rates = Rates((Rate("acme", requests_per_second=2, burst_seconds=3),), clock)
    assert [refused_for(rates) for _ in range(7)] == [0] * 6 + [1]
    clock.seconds += 1
    assert [refused_for(rates) for _ in range(3)] == [0, 0, 1]
    clock.seconds += 3_600
    assert [refused_for(rates) for _ in range(7)] == [0] * 6 + [1]


@pytest.mark.parametrize("what", ["points", "bytes"])
def test_one_large_request_is_never_stuck_and_paid_for(clock: Clock, what: str) -> None:
    """A request larger than the bucket gets in; the next ones wait until it is paid for, and are told how long."""
    rule = Rate("acme", points_per_second=100, bytes_per_second=100, burst_seconds=1)
    rates = Rates((rule,), clock)
    assert refused_for(rates) == 0
    rates.pay("acme", what, 1_100)
    assert refused_for(rates) == 10
    clock.seconds += 9.5
    assert refused_for(rates) == 1
    clock.seconds += 0.6
    assert refused_for(rates) == 0


def test_the_longest_wait_is_told(clock: Clock) -> None:
    """Where several buckets are empty, a sender is told when the last of them has something again."""
    rule = Rate("acme", requests_per_second=1, points_per_second=10, bytes_per_second=100, burst_seconds=1)
    rates = Rates((rule,), clock)
    assert refused_for(rates) == 0
    rates.pay("acme", "points", 80)
    rates.pay("acme", "bytes", 300)
    assert refused_for(rates) == 7
    clock.seconds += 7.1
    assert refused_for(rates) == 0


def test_tenants_are_apart_and_the_first_rule_decides(clock: Clock) -> None:
    """Each tenant of a glob has buckets of its own; a rule further up decides alone, also one without limits."""
    rules = (Rate("trial-vip"), Rate("trial-*", requests_per_second=1, burst_seconds=1))
    rates = Rates(rules, clock)
    assert [refused_for(rates, "trial-a") for _ in range(2)] == [0, 1]
    assert [refused_for(rates, "trial-b") for _ in range(2)] == [0, 1]
    assert [refused_for(rates, "trial-vip") for _ in range(3)] == [0, 0, 0]


@given(
    st.floats(0.5, 50),
    st.floats(1, 20),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 400)), min_size=1, max_size=80),
)
def test_over_any_time_no_more_than_burst_and_rate_and_one_request(
    per_second: float, burst_seconds: float, steps: list[tuple[float, int]]
) -> None:
    """Whatever comes when: what got in is at most the burst, the rate over the time, and the last request."""
    clock = Clock()
    rates = Rates((Rate("*", points_per_second=per_second, burst_seconds=burst_seconds),), clock)
    began, let_in, last = clock.seconds, 0, 0
    for pause, points in steps:
        clock.seconds += pause
        wait = refused_for(rates)
        if wait:
            clock.seconds += wait
            again = refused_for(rates)
            assert again in (0, 1)  # a bucket that is exactly empty takes a moment more
            if again:
                continue
        rates.pay("acme", "points", points)
        let_in, last = let_in + points, points
        assert let_in - last <= per_second * (burst_seconds + clock.seconds - began) + 1e-6
