"""Builders of OTLP metrics requests with `opentelemetry-proto`. Times are seconds after `T0`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

SECOND_NS = 1_000_000_000
# The start of a minute, an hour and a day: 2024-01-01T00:00:00Z.
T0_NS = 1_704_067_200 * SECOND_NS
DELTA = pb.AGGREGATION_TEMPORALITY_DELTA
CUMULATIVE = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
NO_RECORDED_VALUE = pb.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK

Attributes = Mapping[str, Any]


def ns(seconds: float) -> int:
    """Nanoseconds, UTC, of a time in seconds after `T0`."""
    return T0_NS + round(seconds * SECOND_NS)


def any_value(value: Any) -> AnyValue:
    """A Python value as OTLP has it."""
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    result = AnyValue()
    if isinstance(value, Mapping):
        result.kvlist_value.values.extend(key_values(value))
        result.kvlist_value.SetInParent()
    elif value is not None:
        result.array_value.values.extend(any_value(item) for item in value)
        result.array_value.SetInParent()
    return result


def key_values(attributes: Attributes) -> list[KeyValue]:
    """Attributes as OTLP has them, in the order given."""
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def _times(point: Any, time: float, start: float | None, attributes: Attributes | None, flags: int) -> None:
    point.time_unix_nano = ns(time)
    if start is not None:
        point.start_time_unix_nano = ns(start)
    point.attributes.extend(key_values(attributes or {}))
    point.flags = flags


def number(
    time: float,
    value: int | float | None,
    *,
    start: float | None = None,
    attributes: Attributes | None = None,
    flags: int = 0,
    exemplars: Sequence[pb.Exemplar] = (),
) -> pb.NumberDataPoint:
    """A point of a gauge or sum: ``as_int`` for an int, ``as_double`` for a float, neither for None."""
    point = pb.NumberDataPoint()
    _times(point, time, start, attributes, flags)
    if isinstance(value, int):
        point.as_int = value
    elif value is not None:
        point.as_double = value
    point.exemplars.extend(exemplars)
    return point


def exemplar(value: float, time: float, trace: bytes = b"", span: bytes = b"") -> pb.Exemplar:
    """An exemplar."""
    result = pb.Exemplar(time_unix_nano=ns(time), trace_id=trace, span_id=span)
    if isinstance(value, int):
        result.as_int = value
    else:
        result.as_double = value
    return result


def explicit(
    time: float,
    counts: Sequence[int],
    bounds: Sequence[float],
    *,
    count: int | None = None,
    total: float | None = 0.0,
    low: float | None = None,
    high: float | None = None,
    start: float | None = None,
    attributes: Attributes | None = None,
    flags: int = 0,
    exemplars: Sequence[pb.Exemplar] = (),
) -> pb.HistogramDataPoint:
    """A point of a histogram with explicit bounds; ``count`` is that of all buckets unless given."""
    point = pb.HistogramDataPoint(count=sum(counts) if count is None else count, sum=total, min=low, max=high)
    _times(point, time, start, attributes, flags)
    point.bucket_counts.extend(counts)
    point.explicit_bounds.extend(bounds)
    point.exemplars.extend(exemplars)
    return point


def exponential(
    time: float,
    scale: int,
    offset: int,
    counts: Sequence[int],
    *,
    negative_offset: int = 0,
    negative: Sequence[int] = (),
    zeros: int = 0,
    zero_threshold: float = 0.0,
    count: int | None = None,
    total: float | None = 0.0,
    low: float | None = None,
    high: float | None = None,
    start: float | None = None,
    attributes: Attributes | None = None,
    flags: int = 0,
) -> pb.ExponentialHistogramDataPoint:
    """A point of an exponential histogram."""
    in_all = sum(counts) + sum(negative) + zeros if count is None else count
    point = pb.ExponentialHistogramDataPoint(
        count=in_all, sum=total, min=low, max=high, scale=scale, zero_count=zeros, zero_threshold=zero_threshold
    )
    _times(point, time, start, attributes, flags)
    point.positive.offset = offset
    point.positive.bucket_counts.extend(counts)
    point.negative.offset = negative_offset
    point.negative.bucket_counts.extend(negative)
    return point


def quantiles(
    time: float,
    count: int,
    total: float,
    *,
    values: Mapping[float, float] | None = None,
    start: float | None = None,
    attributes: Attributes | None = None,
    flags: int = 0,
) -> pb.SummaryDataPoint:
    """A point of a summary."""
    point = pb.SummaryDataPoint(count=count, sum=total)
    _times(point, time, start, attributes, flags)
    for quantile, value in (values or {}).items():
        point.quantile_values.add(quantile=quantile, value=value)
    return point


def gauge(name: str, *points: pb.NumberDataPoint, unit: str = "") -> pb.Metric:
    """A gauge."""
    return pb.Metric(name=name, unit=unit, gauge=pb.Gauge(data_points=points))


def counter(
    name: str, *points: pb.NumberDataPoint, unit: str = "", temporality: int = CUMULATIVE, monotonic: bool = True
) -> pb.Metric:
    """A sum; cumulative and monotonic unless said otherwise."""
    data = pb.Sum(data_points=points, is_monotonic=monotonic)
    data.aggregation_temporality = temporality  # type: ignore[assignment]  # unknown values are tested too
    return pb.Metric(name=name, unit=unit, sum=data)


def histogram(name: str, *points: pb.HistogramDataPoint, unit: str = "", temporality: int = CUMULATIVE) -> pb.Metric:
    """A histogram with explicit bounds."""
    data = pb.Histogram(data_points=points)
    data.aggregation_temporality = temporality  # type: ignore[assignment]  # unknown values are tested too
    return pb.Metric(name=name, unit=unit, histogram=data)


def exponential_histogram(
    name: str, *points: pb.ExponentialHistogramDataPoint, unit: str = "", temporality: int = CUMULATIVE
) -> pb.Metric:
    """An exponential histogram."""
    data = pb.ExponentialHistogram(data_points=points)
    data.aggregation_temporality = temporality  # type: ignore[assignment]  # unknown values are tested too
    return pb.Metric(name=name, unit=unit, exponential_histogram=data)


def summary(name: str, *points: pb.SummaryDataPoint, unit: str = "") -> pb.Metric:
    """A summary."""
    return pb.Metric(name=name, unit=unit, summary=pb.Summary(data_points=points))


def request(*metrics: pb.Metric, resource: Attributes | None = None, scope: str = "") -> ExportMetricsServiceRequest:
    """One request of one resource and scope; the resource is service ``shop`` unless given."""
    result = ExportMetricsServiceRequest()
    of_resource = result.resource_metrics.add()
    of_resource.resource.attributes.extend(key_values({"service.name": "shop"} if resource is None else resource))
    of_scope = of_resource.scope_metrics.add()
    of_scope.scope.name = scope
    of_scope.metrics.extend(metrics)
    return result


def body(*metrics: pb.Metric, resource: Attributes | None = None, scope: str = "") -> bytes:
    """`request`, serialised."""
    serialised: bytes = request(*metrics, resource=resource, scope=scope).SerializeToString()
    return serialised
