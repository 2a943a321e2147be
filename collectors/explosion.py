"""What made a budget of series overflow, told in a line of the log: which attribute, of which metric, and what to do.

Rules:

1. A line for the same tenant and metric comes at most once in ``overflow_log_seconds``, and one line a flush at most,
   of what folded the most streams: a flood of series is no flood of lines, and looking costs a fraction of a second.
2. The catalog is looked at, which holds the series that were there when the budget was reached, also before a restart.
3. A look is bounded, whatever senders call their attributes: of a metric with more than ``_LOOKED_BYTES_MAX`` of
   attributes each n-th series is looked at, and names of attributes beyond ``_NAMES_MAX`` are only counted.
4. What is blamed is what there is most of among the metric's series: the values of one attribute, or names of
   attributes, services or clusters. Where the tenant's budget is reached, the metrics themselves, if they are many
   times what each of them has of anything.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from catchment.limits import Limits
from catchment.windows import NANOSECONDS
from collectors.catalog import OVERFLOW_ATTRIBUTES, OVERFLOW_METRIC, Catalog

# Names are the sender's choice; a line stays a line.
_NAME_CHARACTERS_MAX = 200
_ANY = ""
# 50,000 series of usual length; it takes a second at most.
_LOOKED_BYTES_MAX = 8 << 20
_NAMES_MAX = 1024
_MANY_METRICS = 10
_METRICS, _ATTRIBUTES = "metrics", "names of attributes"
_PER_METRIC = "series_per_metric_max"


@dataclass(frozen=True)
class Explosion:
    """A metric with too many series, and the attribute of them that has the most values.

    ``attribute`` is "" where none stands out; ``values`` are then of what ``others`` names. ``is_sampled``: there are
    more of them than were counted.
    """

    tenant: str
    metric: str
    attribute: str
    values: int
    series: int
    limit: str
    others: str = ""
    is_sampled: bool = False

    @property
    def text(self) -> str:
        """The line of the log."""
        metric, attribute = repr(_shown(self.metric)), repr(_shown(self.attribute))
        values = f"{'at least ' if self.is_sampled else ''}{self.values:,}"
        says = f"{self.limit} is reached by tenant {self.tenant}: "
        folds = "further streams fold into otel.metric.overflow=true. "
        raises = f"raise limits.{self.limit}"
        if self.attribute:
            says += f"metric {metric} has {self.series:,} series, since its attribute {attribute} has {values} values"
            remedy = (
                f"Drop it in the sender or by policy (policies.metrics: [{{match: {metric}, drop: [{attribute}]}}])"
            )
        elif self.others == _METRICS:
            says += f"it has {values} metrics, none with more series than {metric}, which has {self.series:,}"
            remedy = "Drop what nobody needs in the sender or by policy (drop_metric: true)"
        elif self.others == _ATTRIBUTES:
            says += f"metric {metric} has {self.series:,} series, since they have {values} names of attributes"
            remedy = f"Keep those that are needed by policy (policies.metrics: [{{match: {metric}, keep: [...]}}])"
        else:
            says += f"metric {metric} has {self.series:,} series, which are of {values} {self.others}"
            return f"{says}; {folds}{raises.capitalize()} if all are needed"
        return f"{says}; {folds}{remedy}, or {raises}"

    @property
    def fields(self) -> dict[str, object]:
        """The same for programs that read the log."""
        names = {"tenant": self.tenant, "metric": _shown(self.metric), "attribute": _shown(self.attribute)}
        others = {"others": self.others} if self.others else {}
        return {**names, **others, "values": self.values, "series": self.series, "limit": self.limit}


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
            return self._explosion(tenant, metric, _PER_METRIC)
        limit = self._catalog.full(tenant) or "series_per_tenant_max"
        return self._explosion(tenant, self._catalog.largest_metric(tenant), limit)

    def _explosion(self, tenant: str, metric: str, limit: str) -> Explosion:
        of_metric = self._catalog.series_of(tenant, metric)
        series = [each for each in of_metric if each.attributes != OVERFLOW_ATTRIBUTES]
        every = sum(len(each.attributes) for each in series) // _LOOKED_BYTES_MAX + 1
        attribute, values, names = _most_values(each.attributes for each in series[::every])
        most = {
            _ATTRIBUTES: names,
            "services": len({each.service for each in series}),
            "clusters": len({each.place for each in series}),
        }
        others = max(most, key=lambda name: most[name])
        count = most[others]
        if limit != _PER_METRIC and (metrics := self._catalog.metrics_of(tenant)) > _MANY_METRICS * max(values, count):
            others, count = _METRICS, metrics
        elif values >= count and values > 1:
            return Explosion(tenant, metric, attribute, values, len(series), limit, is_sampled=every > 1)
        is_sampled = every > 1 and others == _ATTRIBUTES
        return Explosion(tenant, metric, "", count, len(series), limit, others, is_sampled)


def _most_values(canonical: Iterable[str]) -> tuple[str, int, int]:
    """The attribute with the most values ("" for none), how many these are, and how many names there are at all."""
    values: dict[str, array[int]] = {}
    further = array("q")
    for attributes in canonical:
        for name, value in json.loads(attributes).items():
            of_name = values.get(name)
            if of_name is None:
                if len(values) >= _NAMES_MAX:
                    further.append(hash(name))
                    continue
                of_name = values[name] = array("q")
            of_name.append(hash(value if isinstance(value, str) else json.dumps(value)))
    counts = {name: _distinct(of_name) for name, of_name in values.items()}
    attribute = max(counts, key=lambda name: (counts[name], name), default="")
    return attribute, counts.get(attribute, 0), len(values) + _distinct(further)


def _distinct(hashes: array[int]) -> int:
    return len(np.unique(np.frombuffer(hashes, np.int64)))


def _shown(name: str) -> str:
    """A name that is safe on a terminal."""
    name = name[:_NAME_CHARACTERS_MAX]
    return name if name.isprintable() else ascii(name)[1:-1]
