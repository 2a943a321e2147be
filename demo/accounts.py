"""What the simulated senders know to be true: the other side of the proof that the numbers add up."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from demo.station import Report


@dataclass
class Account:
    """Of one station: what was acknowledged, exactly."""

    points: int = 0
    requests: int = 0
    retries: int = 0
    refused: int = 0  # requests answered with an error that forbids a retry
    rejected_points: int = 0  # of requests that were accepted in part
    body_bytes: int = 0  # before compression, acknowledged requests, each once
    sent_bytes: int = 0  # gzipped, acknowledged requests, each once
    increments: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (metric, service): the cumulative value that was acknowledged last, which is the increase since the start."""
    latencies_seconds: array[float] = field(default_factory=lambda: array("d"))
    _refused_latencies: array[float] = field(default_factory=lambda: array("d"))

    def acknowledge(self, report: Report, sent_bytes: int, rejected_points: int) -> None:
        """Book an acknowledged request."""
        self.requests += 1
        self.points += report.points - rejected_points
        self.rejected_points += rejected_points
        self.body_bytes += len(report.body)
        self.sent_bytes += sent_bytes
        self.increments = dict(report.increments)
        self.latencies_seconds.extend(self._refused_latencies)
        self.latencies_seconds.extend(report.latencies_seconds)
        del self._refused_latencies[:]

    def refuse(self, report: Report) -> None:
        """Book a request that must not be sent again: its observations are in the next one, which is cumulative."""
        self.refused += 1
        self._refused_latencies.extend(report.latencies_seconds)


@dataclass(frozen=True)
class Totals:
    """The sum of accounts: of a cloud, a region or the fleet."""

    stations: int
    points: int
    requests: int
    retries: int
    refused: int
    rejected_points: int
    body_bytes: int
    sent_bytes: int
    increments: Counter[tuple[str, str]]
    observations: int

    @classmethod
    def of(cls, accounts: Iterable[Account]) -> Totals:
        """Add accounts up."""
        every = list(accounts)
        increments: Counter[tuple[str, str]] = Counter()
        for account in every:
            increments.update(account.increments)
        return cls(
            stations=sum(account.requests > 0 for account in every),
            points=sum(account.points for account in every),
            requests=sum(account.requests for account in every),
            retries=sum(account.retries for account in every),
            refused=sum(account.refused for account in every),
            rejected_points=sum(account.rejected_points for account in every),
            body_bytes=sum(account.body_bytes for account in every),
            sent_bytes=sum(account.sent_bytes for account in every),
            increments=increments,
            observations=sum(len(account.latencies_seconds) for account in every),
        )


@dataclass(frozen=True)
class Accounts:
    """All accounts: by cloud name, then by cluster."""

    by_cloud: dict[str, dict[str, Account]]

    def cloud(self, name: str) -> Totals:
        """The totals of one cloud."""
        return Totals.of(self.by_cloud[name].values())

    def fleet(self) -> Totals:
        """The totals of all."""
        return Totals.of(account for cloud in self.by_cloud.values() for account in cloud.values())

    def latency_quantile_seconds(self, q: float, cloud: str | None = None) -> float:
        """The exact q-quantile (nearest rank) of the acknowledged latencies of a cloud or of all; NaN without any."""
        chosen = [self.by_cloud[cloud]] if cloud is not None else list(self.by_cloud.values())
        values = np.concatenate(
            [np.zeros(0)] + [np.array(a.latencies_seconds) for each in chosen for a in each.values()]
        )
        if not len(values):
            return math.nan
        rank = max(1, math.ceil(q * len(values)))
        return float(np.partition(values, rank - 1)[rank - 1])
