"""How much a tenant may send: token buckets that push back, and never drop.

Rules:

1. A tenant's bucket holds ``burst`` seconds of its rate, is full at first, and fills at the rate.
2. A request is let in while no bucket of its tenant is empty, and pays when its size is known: a bucket may go below
   zero, by what was in hand at that moment. So the limit holds over time, and one large request is never stuck.
3. Whoever is pushed back is told when all of its buckets have something again.
4. Bytes are those of bodies as unpacked, or a small one that unpacks to much would cost us much and its sender little:
   as received they are paid at once, the rest when it is known (`EdgeIntake.unpacked`).
5. What was refused for another reason has paid for its request and bytes: it has cost us as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from catchment.config_rates import Rate
from catchment.errors import Reject


class RateLimited(Reject):
    """A tenant sends more than it may: answer 429, UNAVAILABLE, with when to come back."""


@dataclass(slots=True)
class _Bucket:
    """``level`` is what may still be sent, as it was at ``at_seconds``."""

    what: str
    per_second: float
    level_max: float
    level: float
    at_seconds: float

    def fill(self, now_seconds: float) -> None:
        """Bring the level up to now."""
        elapsed = max(0.0, now_seconds - self.at_seconds)
        self.level = min(self.level_max, self.level + elapsed * self.per_second)
        self.at_seconds = now_seconds

    @property
    def empty_seconds(self) -> float:
        """How long it takes until there is something again."""
        return -self.level / self.per_second


class Rates:
    """The buckets of all tenants that send to one collector; ``clock`` in seconds, never going back."""

    def __init__(self, rules: Sequence[Rate], clock: Callable[[], float]) -> None:
        self._rules = rules
        self._clock = clock
        self._buckets: dict[str, dict[str, _Bucket]] = {}

    def admit(self, tenant: str) -> None:
        """Let a request in, which pays for itself.

        Raises:
            RateLimited: a bucket of the tenant is empty.
        """
        buckets = self._of(tenant)
        empty = [bucket for bucket in buckets.values() if bucket.level <= 0]
        if empty:
            last = max(empty, key=lambda bucket: bucket.empty_seconds)
            raise RateLimited(
                f"tenant {tenant} sends more than {last.per_second:g} {last.what} a second",
                retry_after_seconds=max(1, math.ceil(last.empty_seconds)),
            )
        self._pay(buckets, "requests", 1)

    def pay(self, tenant: str, what: str, amount: float) -> None:
        """Take ``amount`` of ``what`` (``bytes`` or ``points``) from a tenant's bucket."""
        self._pay(self._of(tenant), what, amount)

    def _pay(self, buckets: dict[str, _Bucket], what: str, amount: float) -> None:
        if what in buckets:
            buckets[what].level -= amount

    def _of(self, tenant: str) -> dict[str, _Bucket]:
        """The buckets of a tenant, filled up to now; none for what has no limit."""
        if not self._rules:
            return {}
        now = self._clock()
        buckets = self._buckets.get(tenant)
        if buckets is None:
            rule = next((rule for rule in self._rules if fnmatchcase(tenant, rule.tenant)), None)
            self._buckets[tenant] = buckets = {} if rule is None else _full(rule, now)
        for bucket in buckets.values():
            bucket.fill(now)
        return buckets


def _full(rule: Rate, now_seconds: float) -> dict[str, _Bucket]:
    rates = {
        "requests": rule.requests_per_second,
        "points": rule.points_per_second,
        "bytes": float(rule.bytes_per_second),
    }
    return {
        what: _Bucket(what, rate, rate * rule.burst_seconds, rate * rule.burst_seconds, now_seconds)
        for what, rate in rates.items()
        if rate
    }


UNLIMITED = Rates((), lambda: 0.0)
"""Lets everything in."""
