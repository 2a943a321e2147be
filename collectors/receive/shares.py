"""What tenants share, places for requests and room for bodies: none takes so much that others find nothing. Pure.

A tenant may have at most eight times what is free. So one alone gets nearly all, and however many take what they can,
something is left for the next one (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998).
"""

from __future__ import annotations

_TIMES_FREE = 8


class Shares:
    """What is taken of ``limit``, and by whom."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._taken_by: dict[str, int] = {}

    def take(self, tenant: str, amount: int = 1, *, for_one: int = 0) -> bool:
        """Take some, if there is room for this tenant.

        Args:
            amount: how much.
            for_one: what was taken already for the same request. Only what others of the tenant have is compared with
                what is free: a request within the limit is never stuck.
        """
        free = self._limit - self._taken
        has = self._taken_by.get(tenant, 0)
        if amount and (amount > free or has - for_one >= _TIMES_FREE * free):
            return False
        self._taken += amount
        self._taken_by[tenant] = has + amount
        return True

    def give(self, tenant: str, amount: int = 1) -> None:
        """Give back what was taken."""
        self._taken -= amount
        has = self._taken_by.get(tenant, 0) - amount
        if has:
            self._taken_by[tenant] = has
        else:
            self._taken_by.pop(tenant, None)
