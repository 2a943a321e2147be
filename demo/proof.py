"""The proof: what senders were told is in SQL at every confluence, exactly once. Pure.

Rules:

1. A line holds if every figure that it has equals the line's above: points, counters, digest. Nothing is rounded.
2. Sums could agree by two faults that cancel out, so each station and each cloud is compared alone, too.
3. An exact quantile must lie in its bracket, and as many observations must be in SQL as were acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from demo.accounts import Accounts, Totals
from demo.questions import Quantile, Sums
from demo.station import ENERGY, FAILED, REQUESTS, SERVICES, SESSIONS


@dataclass(frozen=True)
class Line:
    """One line of the proof: a level and what it holds; None where the level cannot know a figure."""

    name: str
    points: int
    requests: int | None
    failed: int | None
    energy: int | None
    digest: int | None
    holds: bool = True


@dataclass(frozen=True)
class OneByOne:
    """How many places agree with the simulator, each alone; ``unequal`` names some that do not."""

    stations: int
    stations_equal: int
    clouds: int
    clouds_equal: int
    unequal: tuple[str, ...]


@dataclass(frozen=True)
class Tail:
    """The tail of the latencies: what SQL says beside the exact value (nearest rank)."""

    quantile: Quantile
    exact: float
    observations: int

    @property
    def holds(self) -> bool:
        """Whether the bracket holds the exact value, over as many observations."""
        return self.quantile.low < self.exact <= self.quantile.high and self.quantile.count == self.observations


@dataclass(frozen=True)
class Proof:
    """The whole proof."""

    lines: tuple[Line, ...]
    one_by_one: OneByOne
    tail: Tail

    @property
    def holds(self) -> bool:
        """Whether everything adds up."""
        one = self.one_by_one
        each = one.stations == one.stations_equal and one.clouds == one.clouds_equal
        return all(line.holds for line in self.lines) and each and self.tail.holds


@dataclass(frozen=True)
class Evidence:
    """What the levels say of themselves: SQL's sums by place, the control totals by level, the edge's own state."""

    edge: tuple[int, int]
    stations: Mapping[str, Sums]
    zones: Mapping[str, Sums]
    regions: Mapping[str, Sums]
    globe: Mapping[str, Sums]
    control_totals: Mapping[str, tuple[int, int, int]]
    quantile: Quantile


def prove(accounts: Accounts, exact_p99: float, evidence: Evidence) -> Proof:
    """Compare what the simulator knows with what the levels say."""
    fleet = accounts.fleet()
    first = _told(fleet)
    edge_points, edge_digest = evidence.edge
    lines = [Line("acknowledged to senders", first.points, first.requests, first.failed, first.energy, None)]
    lines.append(
        Line("accepted by collectors", edge_points, None, None, None, edge_digest, edge_points == first.points)
    )
    for unit, level, places in (
        ("stations", "cluster", evidence.stations),
        ("zones", "zone", evidence.zones),
        ("regions", "region", evidence.regions),
        ("", "globe", evidence.globe),
    ):
        name = f"Σ {len(places):,} {unit}" if unit else "globe"
        lines.append(_line(name, first, edge_digest, places, evidence.control_totals.get(level, (0, 0, 0))))
    tail = Tail(evidence.quantile, exact_p99, fleet.observations)
    return Proof(tuple(lines), _one_by_one(accounts, evidence), tail)


def _line(name: str, first: Sums, edge_digest: int, places: Mapping[str, Sums], totals: tuple[int, int, int]) -> Line:
    held = _sum(places)
    stated, stored, digest = totals
    told = (first.points, first.requests, first.failed, first.energy, first.sessions)
    equal = told == (held.points, held.requests, held.failed, held.energy, held.sessions)
    holds = equal and stated == stored == held.points and digest == edge_digest
    return Line(name, held.points, held.requests, held.failed, held.energy, digest, holds)


def _one_by_one(accounts: Accounts, evidence: Evidence) -> OneByOne:
    sites = {cluster: account for cloud in accounts.by_cloud.values() for cluster, account in cloud.items()}
    wanted = {cluster: _told(Totals.of([account])) for cluster, account in sites.items() if account.requests}
    clouds = {name: _told(accounts.cloud(name)) for name in accounts.by_cloud if accounts.cloud(name).requests}
    unequal = _unequal(clouds, evidence.zones), _unequal(wanted, evidence.stations)
    return OneByOne(
        stations=len(wanted),
        stations_equal=len(wanted) - len(unequal[1]),
        clouds=len(clouds),
        clouds_equal=len(clouds) - len(unequal[0]),
        unequal=(*unequal[0], *unequal[1]),
    )


def _unequal(wanted: Mapping[str, Sums], found: Mapping[str, Sums]) -> list[str]:
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def _told(totals: Totals) -> Sums:
    """What senders know, as a place would hold it."""
    told = totals.increments
    return Sums(
        places=1,
        points=totals.points,
        requests=sum(told[REQUESTS, service] for service in SERVICES),
        failed=sum(told[FAILED, service] for service in SERVICES),
        energy=told[ENERGY, "charging"],
        sessions=told[SESSIONS, "charging"],
    )


def _sum(places: Mapping[str, Sums]) -> Sums:
    every = places.values()
    return Sums(
        places=len(every),
        points=sum(place.points for place in every),
        requests=sum(place.requests for place in every),
        failed=sum(place.failed for place in every),
        energy=sum(place.energy for place in every),
        sessions=sum(place.sessions for place in every),
    )
