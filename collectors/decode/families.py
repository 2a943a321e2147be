"""What a Prometheus sample is: the metric that it belongs to, and its part in it, by declared type and by name.

Sources: https://prometheus.io/docs/specs/om/open_metrics_spec/ (types, suffixes) and
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/ (job and instance).

Rules:

1. The type that stands for the sample's own name decides; else that of the name without its suffix.
2. Without a declared type, the suffixes ``_total``, ``_bucket``, ``_count`` and ``_sum`` mean a counter, for each of
   them only rises; everything else is a gauge. So it is with the type ``unknown``.
3. Classic histograms and summaries become one point of all their samples, named as the family.
4. The label ``job`` is the service (``namespace/name``, or the name alone), ``instance`` its instance; both are of the
   resource, as OpenTelemetry has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from catchment.identity import hash_parts

NAME = "__name__"


class MetricType(IntEnum):
    """Types with the numbers that remote write gives them."""

    UNKNOWN = 0
    COUNTER = 1
    GAUGE = 2
    HISTOGRAM = 3
    GAUGE_HISTOGRAM = 4
    SUMMARY = 5
    INFO = 6
    STATE_SET = 7


class Role(IntEnum):
    """What a sample is to its point."""

    GAUGE = 0
    COUNTER = 1
    BUCKET = 2
    COUNT = 3
    SUM = 4
    QUANTILE = 5
    SUMMARY_COUNT = 6
    SUMMARY_SUM = 7
    CREATED = 8


_RISING = ("_total", "_bucket", "_count", "_sum")
# By type: suffix → role.
_PARTS: Mapping[MetricType, Mapping[str, Role]] = {
    MetricType.COUNTER: {"_total": Role.COUNTER, "_created": Role.CREATED},
    MetricType.HISTOGRAM: {
        "_bucket": Role.BUCKET,
        "_count": Role.COUNT,
        "_sum": Role.SUM,
        "_created": Role.CREATED,
    },
    MetricType.SUMMARY: {
        "_count": Role.SUMMARY_COUNT,
        "_sum": Role.SUMMARY_SUM,
        "_created": Role.CREATED,
    },
}
_SUFFIXES = ("_total", "_bucket", "_count", "_sum", "_created")


@dataclass(frozen=True, slots=True)
class Series:
    """One Prometheus series.

    Attributes:
        metric: name of the metric that its samples are points of, or parts of points.
        unit: as declared; "" if it is not.
        role: what a sample is.
        bound: upper bound of a bucket; NaN else.
        labels: of the point, without those that name it, its bound or its resource.
        resource: service and instance.
        group_name: the name by which samples are brought together: the metric's; of a time of creation that of what
            was created.
    """

    metric: str
    unit: str
    role: Role
    bound: float
    labels: Mapping[str, str]
    resource: Mapping[str, str]
    group_name: str

    @property
    def group(self) -> int:
        """A number that all samples of one point share, and a counter with its time of creation."""
        labels = [text for pair in sorted(self.labels.items()) for text in pair]
        resource = [text for pair in sorted(self.resource.items()) for text in pair]
        return hash_parts(self.group_name, self.unit, str(len(labels)), *labels, *resource)


def series_of(labels: Mapping[str, str], type_of: Callable[[str], MetricType], unit: str = "") -> Series:
    """The series that some labels name.

    Args:
        labels: all of them, ``__name__`` among them; those without a value are none.
        type_of: the declared type of a family, `MetricType.UNKNOWN` where there is none.
        unit: as declared.
    """
    rest = {name: value for name, value in labels.items() if value}
    name = rest.pop(NAME, "")
    resource = _resource(rest)
    metric, role = _role(name, rest, type_of)
    is_of_counter = role is Role.CREATED and type_of(metric) is MetricType.COUNTER
    bound = math.nan
    if role is Role.BUCKET:
        bound = float(rest.pop("le"))
    elif role is Role.QUANTILE:
        rest.pop("quantile")
    return Series(metric, unit, role, bound, rest, resource, f"{metric}_total" if is_of_counter else metric)


def _role(name: str, labels: Mapping[str, str], type_of: Callable[[str], MetricType]) -> tuple[str, Role]:
    """The metric that a sample belongs to, and its role."""
    own = type_of(name)
    if own is MetricType.COUNTER:
        return name, Role.COUNTER
    if own is MetricType.SUMMARY and "quantile" in labels:
        return name, Role.QUANTILE
    if own is not MetricType.UNKNOWN:
        return name, Role.GAUGE
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
    base = name.removesuffix(suffix)
    of_base = type_of(base) if suffix and base else MetricType.UNKNOWN
    role = _PARTS.get(of_base, {}).get(suffix)
    if role is Role.BUCKET and not _is_bound(labels.get("le", "")):
        role = Role.GAUGE
    if role is not None:
        return (name if role in (Role.COUNTER, Role.GAUGE) else base), role
    if of_base is not MetricType.UNKNOWN:
        return name, Role.GAUGE
    return name, Role.COUNTER if suffix in _RISING else Role.GAUGE


def _is_bound(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _resource(labels: dict[str, str]) -> dict[str, str]:
    """Take ``job`` and ``instance`` out of labels."""
    resource = {}
    namespace, _, service = labels.pop("job", "").rpartition("/")
    if service:
        resource["service.name"] = service
    if namespace:
        resource["service.namespace"] = namespace
    instance = labels.pop("instance", "")
    if instance:
        resource["service.instance.id"] = instance
    return resource
