"""Drives the edge's pure core as the collector does, and reads what it gives as plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catchment.config_policies import Policies
from catchment.errors import Invalid
from catchment.histogram import unpack
from catchment.limits import Limits
from collectors.catalog import Catalog
from collectors.content import PROTOBUF
from collectors.edge import Drained, Edge
from collectors.lives import Lives
from collectors.policy import Policy
from collectors.records import Outcome, Received
from collectors.seen import SeenPoints
from tests.otlp import SECOND_NS, T0_NS, ns

Row = dict[str, Any]


def received(
    body: bytes, at: float, tenant: str = "acme", cluster: str = "tokyo-1", content_type: str = PROTOBUF
) -> Received:
    """A request as the receivers hand it on; ``at`` is in seconds after T0."""
    return Received("metrics", tenant, cluster, "{}", content_type, "", ns(at), "v1", body)


class EdgeHarness:
    """An edge whose folder was born an hour before T0, and all that it gave since."""

    def __init__(
        self,
        limits: Limits | None = None,
        policies: Policies | None = None,
        *,
        window_seconds: int = 60,
        known_since: float = -3600,
    ) -> None:
        self.limits = limits or Limits()
        self.catalog = Catalog(self.limits)
        self.lives = Lives(ns(known_since), self.limits.baseline_buckets_max)
        self.seen = SeenPoints(self.limits.seen_points_max, ns(known_since))
        self.edge = Edge(
            self.limits,
            Policy(policies),
            window_seconds=window_seconds,
            catalog=self.catalog,
            lives=self.lives,
            seen=self.seen,
        )
        self.drained: list[Drained] = []
        self.tally: Counter[tuple[str, str]] = Counter()

    def send(
        self,
        *bodies: bytes,
        at: float = 0.0,
        tenant: str = "acme",
        cluster: str = "tokyo-1",
        content_type: str = PROTOBUF,
    ) -> list[Outcome | Invalid]:
        """Stage and apply requests that arrive together; those that cannot be decoded are not applied."""
        requests = [received(body, at, tenant, cluster, content_type) for body in bodies]
        outcomes, staged = self.edge.stage(requests, bodies)
        good = [request for request, outcome in zip(requests, outcomes, strict=True) if isinstance(outcome, Outcome)]
        self.edge.apply(staged, good)
        return outcomes

    def flush(self, at: float) -> list[Row]:
        """Drain, as a flush at ``at`` does, without saving anything; the rows of all tenants."""
        drained = self.edge.drain(ns(at))
        self.seen.seal(ns(at), self.limits.lateness_seconds * SECOND_NS)
        self.drained.append(drained)
        for (place, reason, unit), count in drained.tally.items():
            del place
            self.tally[reason, unit] += count
        return rows_of(drained.rows)

    def points_tallied(self, reason: str) -> int:
        """Points counted under a reason in all flushes so far."""
        return self.tally[reason, "points"]


def rows_of(tables: Mapping[str, pa.Table]) -> list[Row]:
    """The rows of all tenants as dicts; times become seconds after T0, histograms dicts of (lower, upper) → count."""
    rows = []
    for tenant, table in sorted(tables.items()):
        table.validate(full=True)
        for row in table.to_pylist():
            row["tenant"] = tenant
            row["window"] = (row.pop("window_start_ns") - T0_NS) / SECOND_NS
            row["sum_int"] = int(row["sum_int"])
            row["histogram"] = intervals(row["histogram"])
            rows.append(row)
    return rows


def intervals(pairs: Sequence[tuple[int, int]]) -> dict[tuple[float, float], int]:
    """A histogram's map from interval to count."""
    lower, upper = unpack(np.array([key for key, _ in pairs], np.int64))
    counts = [count for _, count in pairs]
    return dict(zip(zip(lower.tolist(), upper.tolist(), strict=True), counts, strict=True))


def by_window(rows: Sequence[Row], metric: str, value: str) -> dict[float, Any]:
    """One value of a metric's rows by window; two rows of one window (two series) are an error."""
    found = {row["window"]: row[value] for row in rows if row["metric"] == metric}
    assert len(found) == sum(row["metric"] == metric for row in rows), "several series"
    return found


def total(rows: Sequence[Row], metric: str, value: str) -> Any:
    """A value of a metric, summed over all rows."""
    return sum(row[value] for row in rows if row["metric"] == metric)


def add_histograms(rows: Sequence[Row], metric: str) -> dict[tuple[float, float], int]:
    """The histogram of a metric over all rows."""
    result: Counter[tuple[float, float]] = Counter()
    for row in rows:
        if row["metric"] == metric:
            result.update(row["histogram"])
    return dict(result)
