"""What made a budget of series overflow, told in a line of the log: which attribute, of which metric, and what to do.

Rules:

1. A line for the same tenant and metric comes at most once in ``overflow_log_seconds``, and one line a flush at most,
   of what folded the most streams: a flood of series is no flood of lines, and looking costs a fraction of a second.
2. The catalog is looked at, which holds the series that were there when the budget was reached, also before a restart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from catchment.limits import Limits
from catchment.windows import NANOSECONDS
from collectors.catalog import OVERFLOW_ATTRIBUTES, OVERFLOW_METRIC, Catalog

# Names are the sender's choice; a line stays a line.
_NAME_CHARACTERS_MAX = 200
_ANY = ""


@dataclass(frozen=True)
class Explosion:
    """A metric with too many series, and the attribute of them that has the most values."""

    tenant: str
    metric: str
    attribute: str
    values: int
    series: int
    limit: str

    @property
    def text(self) -> str:
        """The line of the log."""
        metric, attribute = repr(_shown(self.metric)), repr(_shown(self.attribute))
        says = f"{self.limit} is reached by tenant {self.tenant}: metric {metric} has {self.series:,} series"
        if not self.attribute:
            return f"{says}, no attribute stands out: it is the names of metrics or services that are too many"
        return (
            f"{says}, since its attribute {attribute} has {self.values:,} values; further streams fold into "
            f"otel.metric.overflow=true. Drop it in the sender or by policy (policies.metrics: "
            f"[{{match: {metric}, drop: [{attribute}]}}]), or raise limits.{self.limit}"
        )

    @property
    def fields(self) -> dict[str, object]:
        """The same for programs that read the log."""
        names = {"tenant": self.tenant, "metric": _shown(self.metric), "attribute": _shown(self.attribute)}
        return {**names, "values": self.values, "series": self.series, "limit": self.limit}


class Explosions:
    """Decides what is told."""

    def __init__(self, limits: Limits, catalog: Catalog) -> None:
        self._limits = limits
        self._catalog = catalog
        self._told_ns: dict[tuple[str, str], int] = {}

    def look(self, folded: Mapping[tuple[str, str], int], now_ns: int) -> Explosion | None:
        """What there is to tell.

        Args:
            folded: streams that were folded since the last look, by tenant and metric.
            now_ns: the time.
        """
        since_ns = now_ns - self._limits.overflow_log_seconds * NANOSECONDS
        self._told_ns = {key: told_ns for key, told_ns in self._told_ns.items() if told_ns > since_ns}
        counts: Counter[tuple[str, str]] = Counter()
        for (tenant, metric), streams in folded.items():
            # Where the tenant's budget is reached, what folds need not be what took it.
            key = tenant, _ANY if self._catalog.full(tenant) or metric == OVERFLOW_METRIC else metric
            if key not in self._told_ns:
                counts[key] += streams
        if not counts:
            return None
        (tenant, metric), _ = counts.most_common(1)[0]
        self._told_ns[tenant, metric] = now_ns
        if metric != _ANY:
            return self._explosion(tenant, metric, "series_per_metric_max")
        limit = self._catalog.full(tenant) or "series_per_tenant_max"
        return self._explosion(tenant, self._catalog.largest_metric(tenant), limit)

    def _explosion(self, tenant: str, metric: str, limit: str) -> Explosion:
        values: dict[str, set[str]] = {}
        series = 0
        for attributes in self._catalog.attributes_of(tenant, metric):
            if attributes == OVERFLOW_ATTRIBUTES:
                continue
            series += 1
            for name, value in json.loads(attributes).items():
                values.setdefault(name, set()).add(value if isinstance(value, str) else json.dumps(value))
        attribute = max(values, key=lambda name: (len(values[name]), name), default="")
        count = len(values.get(attribute, ()))
        # Where even the largest metric has hardly any series, it is the metrics that are too many.
        return Explosion(tenant, metric, attribute if count > 1 else "", count, series, limit)


def _shown(name: str) -> str:
    """A name that is safe on a terminal."""
    name = name[:_NAME_CHARACTERS_MAX]
    return name if name.isprintable() else ascii(name)[1:-1]
