"""What the edge is compared with: the value rules of the design in plain Python, one point at a time.

It loops over `opentelemetry-proto` objects and keeps dicts, ints and fractions; slow, and meant to be obviously right.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from catchment.histogram.table import BOUNDS, FIRST_BOUND
from catchment.identity import canonical_attributes, hash_parts
from tests.otlp import SECOND_NS

_MASK = 2**64 - 1
Interval = tuple[float, float]
Key = tuple[str, str, str, str, str, str, str, int]  # tenant … attributes, window start
_WHOLE = (-math.inf, math.inf)


@dataclass
class Cell:
    """The values of one series in one window."""

    points: int = 0
    count: int = 0
    sum_int: int = 0
    sum_float: float = 0.0
    magnitude: float = 0.0
    min: float | None = None
    max: float | None = None
    last: tuple[int, float] | None = None
    integral: float = 0.0
    observed_seconds: float = 0.0
    histogram: Counter[Interval] = field(default_factory=Counter)
    exemplar: tuple[float, int, str, str] | None = None

    def see(self, low: float | None, high: float | None) -> None:
        """Widen min and max."""
        if low is not None and math.isfinite(low):
            self.min = low if self.min is None else min(self.min, low)
        if high is not None and math.isfinite(high):
            self.max = high if self.max is None else max(self.max, high)

    def add(self, value: float) -> None:
        """Add a value to the sum of its type."""
        if isinstance(value, int):
            self.sum_int += value
        else:
            self.sum_float += value
            self.magnitude += abs(value)


@dataclass
class _Life:
    time_ns: int | None = None
    value: Any = None
    held: bool = False
    held_until_ns: int = 0


@dataclass(frozen=True)
class _Distribution:
    """A histogram or summary point, its buckets as intervals or as (sign, index) at a scale."""

    count: int
    sum: float
    min: float | None
    max: float | None
    explicit: dict[Interval, int] | None = None
    scale: int = 0
    zero_threshold: float = 0.0
    zeros: int = 0
    buckets: dict[tuple[int, int], int] = field(default_factory=dict)

    def intervals(self) -> Counter[Interval]:
        """All that has a count."""
        if self.explicit is not None:
            return Counter({interval: count for interval, count in self.explicit.items() if count})
        return _named(self.scale, self.zero_threshold, self.zeros, self.buckets)


class Reference:
    """The edge, slowly."""

    def __init__(self, *, known_since_ns: int, window_seconds: int = 60, staleness_seconds: int = 300) -> None:
        self.known_since_ns = known_since_ns
        self._width_ns = window_seconds * SECOND_NS
        self._staleness_ns = staleness_seconds * SECOND_NS
        self._lives: dict[tuple[Any, ...], _Life] = defaultdict(_Life)
        self._series: dict[tuple[Any, ...], tuple[str, ...]] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._pending: dict[tuple[Any, ...], list[tuple[int, int, Any]]] = defaultdict(list)
        self.cells: dict[Key, Cell] = defaultdict(Cell)
        self.digests: Counter[tuple[str, str, int]] = Counter()
        self.tally: Counter[str] = Counter()

    def apply(self, tenant: str, cluster: str, payload: bytes) -> None:
        """Take a request's points; what is wrong with them must be wrong for `_usable` too."""
        request = ExportMetricsServiceRequest.FromString(payload)
        for of_resource in request.resource_metrics:
            resource = _attributes(of_resource.resource.attributes)
            for of_scope in of_resource.scope_metrics:
                scope = of_scope.scope
                named = {"name": scope.name, "version": scope.version, "attributes": _attributes(scope.attributes)}
                for metric in of_scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data"))
                    for point in data.data_points:
                        kind = _kind(metric, data)
                        if not _usable(kind, point):
                            # A point is refused for one fault, and its times are looked at first.
                            in_time = point.start_time_unix_nano <= point.time_unix_nano
                            self.tally["no_recorded_value"] += bool(kind and in_time and point.flags & 1)
                            continue
                        self._take(tenant, cluster, resource, named, metric, kind, point)

    def _take(self, tenant: str, cluster: str, resource: Any, scope: Any, metric: Any, kind: str, point: Any) -> None:
        attributes = _attributes(point.attributes)
        identity = (
            *("stream", tenant, cluster, canonical_attributes(resource), canonical_attributes(scope)),
            *(metric.name, metric.unit, kind, canonical_attributes(attributes)),
        )
        start_ns = point.start_time_unix_nano
        life = (identity, start_ns if kind in ("COUNTER", "HISTOGRAM", "EXPONENTIAL", "SUMMARY") else 0)
        both = {**resource, **{f"resource.{name}": resource[name] for name in attributes if name in resource}}
        both.update(attributes)
        service = both.pop("service.name", "") or "unknown_service"
        row_kind = {"GAUGE": "gauge", "COUNTER": "counter", "DELTA": "counter", "SUMMARY": "summary"}
        kept = {name: value for name, value in both.items() if name != "k8s.pod.name"}
        self._series[identity] = (
            *(tenant, cluster, str(service), metric.name, row_kind.get(kind, "histogram"), metric.unit),
            canonical_attributes(kept),
        )
        self._pending[life].append((point.time_unix_nano, start_ns, point))

    def drain(self, now_ns: int) -> None:
        """Put all pending points into cells, then end what is stale at ``now_ns``."""
        for (identity, life_start), points in self._pending.items():
            life = self._lives[identity, life_start]
            points.sort(key=lambda each: each[0])  # stable: of equal times the first to arrive is first
            step = {"COUNTER": self._counter, "DELTA": self._delta, "GAUGE": self._gauge}.get(
                identity[7], self._delta_distribution if identity[7].endswith("_DELTA") else self._distribution
            )
            time_before_ns = life.time_ns
            for time_ns, start_ns, point in points:
                step(identity, life, time_ns, start_ns, point, time_before_ns)
        self._pending.clear()
        for (identity, _), life in self._lives.items():
            if life.held and life.time_ns is not None and life.time_ns + self._staleness_ns <= now_ns:
                self._hold(identity, life, life.time_ns + self._staleness_ns)
                life.held, life.held_until_ns = False, life.time_ns + self._staleness_ns

    def _cell(self, identity: tuple[Any, ...], instant_ns: int) -> Cell:
        tenant, cluster, service, metric, kind, unit, attributes = self._series[identity]
        start = instant_ns // self._width_ns * self._width_ns
        return self.cells[tenant, cluster, service, metric, kind, unit, attributes, start]

    def _accept(self, identity: tuple[Any, ...], instant_ns: int, start_ns: int, time_ns: int, bits: int) -> Cell:
        cell = self._cell(identity, instant_ns)
        cell.points += 1
        digest = mix(mix(mix(hash_parts(*identity), start_ns), time_ns), bits)
        place = (identity[1], identity[2], instant_ns // self._width_ns * self._width_ns)
        self.digests[place] = (self.digests[place] + digest) % 2**64
        return cell

    def _not_newer(self, life: _Life, time_ns: int) -> bool:
        if life.time_ns is not None and time_ns <= life.time_ns:
            self.tally["repeated" if time_ns == life.time_ns else "late_cumulative"] += 1
            return True
        return False

    def _young(self, start_ns: int, time_ns: int) -> bool:
        return self.known_since_ns < start_ns < time_ns

    def _counter(self, identity: Any, life: _Life, time_ns: int, start_ns: int, point: Any, _: int | None) -> None:
        _exemplars(self._cell(identity, time_ns - 1), point)
        if self._not_newer(life, time_ns):
            return
        value = number_of(point)
        cell = self._accept(identity, time_ns - 1, start_ns, time_ns, _bits(value))
        cell.count += 1
        if life.time_ns is None:
            if self._young(start_ns, time_ns):
                cell.add(value)
            else:
                self.tally["baseline"] += 1
        elif value < life.value:
            self.tally["reset"] += 1
            cell.add(value)
        elif isinstance(value, int) and isinstance(life.value, int):
            cell.add(value - life.value)
        else:
            cell.add(float(value) - float(life.value))
            cell.magnitude += abs(float(value))
        life.time_ns, life.value = time_ns, value

    def _seen_before(self, identity: Any, start_ns: int, time_ns: int) -> bool:
        if (identity, start_ns, time_ns) in self._seen:
            self.tally["repeated"] += 1
            return True
        self._seen.add((identity, start_ns, time_ns))
        return False

    def _delta(self, identity: Any, life: _Life, time_ns: int, start_ns: int, point: Any, _: int | None) -> None:
        _exemplars(self._cell(identity, time_ns - 1), point)
        if self._seen_before(identity, start_ns, time_ns):
            return
        value = number_of(point)
        cell = self._accept(identity, time_ns - 1, start_ns, time_ns, _bits(value))
        cell.count += 1
        cell.add(value)
        life.time_ns = max(life.time_ns or 0, time_ns)

    def _gauge(self, identity: Any, life: _Life, time_ns: int, start_ns: int, point: Any, before: int | None) -> None:
        ends = bool(point.flags & 1)
        if not ends:
            _exemplars(self._cell(identity, time_ns), point)
        if self._seen_before(identity, start_ns, time_ns):
            return
        late = before is not None and time_ns <= before
        if ends:
            self.tally["no_recorded_value"] += 1
        else:
            value = number_of(point)
            cell = self._accept(identity, time_ns, start_ns, time_ns, _bits(value))
            cell.count += 1
            cell.add(value)
            cell.see(float(value), float(value))
            cell.last = max(cell.last or (0, 0.0), (time_ns, float(value)))
            self.tally["late_gauge"] += late
        if late:
            return
        if life.held and life.time_ns is not None:
            self._hold(identity, life, min(time_ns, life.time_ns + self._staleness_ns))
        life.time_ns, life.held = time_ns, not ends
        life.value = None if ends else float(number_of(point))

    def _hold(self, identity: Any, life: _Life, end_ns: int) -> None:
        at_ns = max(life.time_ns or 0, life.held_until_ns)
        while at_ns < end_ns:
            window_end_ns = (at_ns // self._width_ns + 1) * self._width_ns
            seconds = (min(end_ns, window_end_ns) - at_ns) / SECOND_NS
            cell = self._cell(identity, at_ns)
            cell.integral += life.value * seconds
            cell.magnitude += abs(life.value) * seconds
            cell.observed_seconds += seconds
            at_ns = window_end_ns

    def _delta_distribution(
        self, identity: Any, life: _Life, time_ns: int, start_ns: int, point: Any, _: int | None
    ) -> None:
        _exemplars(self._cell(identity, time_ns - 1), point)
        if self._seen_before(identity, start_ns, time_ns):
            return
        of = distribution(point)
        cell = self._accept(identity, time_ns - 1, start_ns, time_ns, mix(of.count, _bits(of.sum)))
        _whole(cell, of)
        life.time_ns = max(life.time_ns or 0, time_ns)

    def _distribution(self, identity: Any, life: _Life, time_ns: int, start_ns: int, point: Any, _: int | None) -> None:
        _exemplars(self._cell(identity, time_ns - 1), point)
        if self._not_newer(life, time_ns):
            return
        of, before = distribution(point), life.value
        cell = self._accept(identity, time_ns - 1, start_ns, time_ns, mix(of.count, _bits(of.sum)))
        increase = None if before is None else bucket_increase(of, before)
        if before is None:
            if self._young(start_ns, time_ns):
                _whole(cell, of)
            else:
                self.tally["baseline"] += 1
        elif increase is None or of.count < before.count:
            self.tally["reset"] += 1
            _whole(cell, of)
        else:
            cell.count += of.count - before.count
            cell.add(of.sum - before.sum)
            cell.magnitude += abs(of.sum)
            cell.histogram.update(increase)
            moved_low = of.min is not None and before.min is not None and of.min < before.min
            moved_high = of.max is not None and before.max is not None and of.max > before.max
            cell.see(of.min if moved_low else None, of.max if moved_high else None)
        life.time_ns, life.value = time_ns, of


def _whole(cell: Cell, of: _Distribution) -> None:
    cell.count += of.count
    cell.add(of.sum)
    cell.see(of.min, of.max)
    cell.histogram.update(of.intervals())


def bucket_increase(now: _Distribution, before: _Distribution) -> Counter[Interval] | None:
    """What each interval rose by, or None where one fell or the explicit bounds are others."""
    if now.explicit is not None and before.explicit is not None:
        if before.count and now.explicit.keys() != before.explicit.keys():
            return None
        if any(now.explicit.get(interval, 0) < count for interval, count in before.explicit.items()):
            return None
        return Counter({k: rise for k, c in now.explicit.items() if (rise := c - before.explicit.get(k, 0))})
    scale = min(now.scale, before.scale) if before.intervals() else now.scale
    threshold = max(now.zero_threshold, before.zero_threshold) if before.intervals() else now.zero_threshold
    widened = (now.scale, now.zero_threshold) != (before.scale, before.zero_threshold) and bool(before.intervals())
    while True:
        left, left_threshold = folded(now, scale, threshold, widened=widened)
        right, right_threshold = folded(before, scale, threshold, widened=widened)
        if max(left_threshold, right_threshold) == threshold:
            break
        threshold = max(left_threshold, right_threshold)
    if any(left[bucket] < count for bucket, count in right.items()):
        return None
    rises = {bucket: count - right[bucket] for bucket, count in left.items()}
    return _named(scale, threshold, rises.pop((0, 0), 0), rises)


def folded(of: _Distribution, scale: int, threshold: float, *, widened: bool) -> tuple[Counter[tuple[int, int]], float]:
    """Buckets at a coarser scale, those that begin inside the threshold in bucket (0, 0); and what it became."""
    result: Counter[tuple[int, int]] = Counter()
    if of.zeros:
        result[0, 0] += of.zeros
        threshold = max(threshold, of.zero_threshold)
    for (sign, index), count in of.buckets.items():
        coarse = index >> (of.scale - scale)
        if widened and _bound(scale, coarse) < threshold:
            result[0, 0] += count
            threshold = max(threshold, _bound(scale, coarse + 1))
        else:
            result[sign, coarse] += count
    return result, threshold


def distribution(point: Any) -> _Distribution:
    """A histogram, exponential histogram or summary point."""
    if not hasattr(point, "bucket_counts") and not hasattr(point, "scale"):
        return _Distribution(point.count, point.sum, None, None, explicit={})
    low = point.min if point.HasField("min") else None
    high = point.max if point.HasField("max") else None
    total = point.sum if point.HasField("sum") else 0.0
    if hasattr(point, "bucket_counts"):
        bounds = [-math.inf, *point.explicit_bounds, math.inf]
        keys = [(_below(a), _above(b)) for a, b in itertools.pairwise(bounds)]
        counts = list(point.bucket_counts) or [point.count]
        return _Distribution(point.count, total, low, high, explicit=dict(zip(keys, counts, strict=True)))
    scale = min(point.scale, 5)
    buckets: Counter[tuple[int, int]] = Counter()
    for sign, side in ((1, point.positive), (-1, point.negative)):
        for index, count in enumerate(side.bucket_counts, side.offset):
            if count:
                buckets[sign, index >> (point.scale - scale)] += count
    return _Distribution(
        point.count, total, low, high, None, scale, point.zero_threshold, point.zero_count, dict(buckets)
    )


def _named(scale: int, threshold: float, zeros: int, buckets: dict[tuple[int, int], int]) -> Counter[Interval]:
    """Buckets by interval."""
    result: Counter[Interval] = Counter()
    if zeros:
        result[_below(-threshold), _above(threshold)] += zeros
    for (sign, index), count in buckets.items():
        if count:
            near, far = _bound(scale, index), _bound(scale, index + 1)
            result[(_below(near), _above(far)) if sign > 0 else (_below(-far), _above(-near))] += count
    return result


def _bound(scale: int, index: int) -> float:
    """base**index, from the table that has golden values of its own."""
    return float(BOUNDS[(index << (5 - scale)) - FIRST_BOUND])


def _below(bound: float) -> float:
    near = np.float32(bound)
    return float(np.nextafter(near, np.float32(-np.inf)) if float(near) > bound else near) + 0.0


def _above(bound: float) -> float:
    near = np.float32(bound)
    return float(np.nextafter(near, np.float32(np.inf)) if float(near) < bound else near) + 0.0


def mix(left: int, right: int) -> int:
    """`catchment.identity.mix` on Python integers."""
    z = (left * 0x9E3779B97F4A7C15 + right + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def number_of(point: Any) -> float:
    """The value of a number point: an int, or a float."""
    return int(point.as_int) if point.WhichOneof("value") == "as_int" else float(point.as_double)


def _bits(value: float) -> int:
    return value & _MASK if isinstance(value, int) else int(np.float64(value).view(np.uint64))


def _exemplars(cell: Cell, point: Any) -> None:
    for each in getattr(point, "exemplars", ()):
        value = float(number_of(each))
        if math.isfinite(value):
            found = (value, each.time_unix_nano, each.trace_id.hex(), each.span_id.hex())
            cell.exemplar = found if cell.exemplar is None else max(cell.exemplar, found)


def _kind(metric: Any, data: Any) -> str:
    which = metric.WhichOneof("data")
    if which in ("gauge", "summary"):
        return str(which).upper()
    temporality = data.aggregation_temporality
    if temporality not in (1, 2):
        return ""
    if which == "sum":
        return "DELTA" if temporality == 1 else "COUNTER" if data.is_monotonic else "GAUGE"
    name = "HISTOGRAM" if which == "histogram" else "EXPONENTIAL"
    return f"{name}_DELTA" if temporality == 1 else name


def _usable(kind: str, point: Any) -> bool:
    """Whether a point has no fault of those that the generators put in: temporality, flags, times, values."""
    if not kind or (point.flags & 1 and kind != "GAUGE") or point.start_time_unix_nano > point.time_unix_nano:
        return False
    if kind in ("GAUGE", "COUNTER", "DELTA"):
        return bool(point.flags & 1) or (
            point.WhichOneof("value") is not None and math.isfinite(float(number_of(point)))
        )
    return math.isfinite(point.sum)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, which) if which else None
