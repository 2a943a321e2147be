"""The fast decoder gives, field by field, what `opentelemetry-proto` gives."""

from __future__ import annotations

import contextlib
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from catchment.errors import Invalid
from collectors.decode import wire
from collectors.decode.otlp import OtlpMetrics, attribute_fields
from collectors.decode.points import Points, Shape
from collectors.kinds import UNKNOWN_KIND, Kind

UINT64 = (0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1)
INT64 = (0, 1, -1, 2**63 - 1, -(2**63))
DOUBLES = (0.0, -0.0, 1.5, -1e300, 5e-324, math.inf, -math.inf, math.nan)
INT32 = (0, 1, -1, 20, -10, 2**31 - 1, -(2**31))
DATA = {
    "gauge": Shape.NUMBER,
    "sum": Shape.NUMBER,
    "histogram": Shape.HISTOGRAM,
    "exponential_histogram": Shape.EXPONENTIAL,
    "summary": Shape.SUMMARY,
}


def _several(rng: Random, most: int = 3) -> range:
    return range(rng.choice((0, 1, most)))


def _text(rng: Random) -> str:
    return rng.choice(("", "a", "é😀", "x" * 200))


def _key_value(rng: Random, pair: KeyValue) -> None:
    pair.key = _text(rng)
    if rng.random() < 0.3:
        pair.value.int_value = rng.choice(INT64)
    elif rng.random() < 0.3:
        pair.value.kvlist_value.values.add(key="k").value.double_value = rng.choice(DOUBLES)
    elif rng.random() < 0.8:
        pair.value.string_value = _text(rng)


def _point(rng: Random, name: str, point: Any) -> None:
    point.time_unix_nano, point.start_time_unix_nano = rng.choice(UINT64), rng.choice(UINT64)
    point.flags = rng.choice((0, 1, 2**32 - 1))
    for _ in _several(rng):
        _key_value(rng, point.attributes.add())
    if name != "summary":
        for _ in _several(rng, 2):
            exemplar = point.exemplars.add(time_unix_nano=rng.choice(UINT64), span_id=rng.randbytes(rng.choice((0, 8))))
            _value(rng, exemplar)
            _key_value(rng, exemplar.filtered_attributes.add())
            exemplar.trace_id = rng.randbytes(rng.choice((0, 16)))
    if name in ("gauge", "sum"):
        _value(rng, point)
        return
    point.count = rng.choice(UINT64)
    if name == "summary":
        point.sum = rng.choice(DOUBLES)
        for _ in _several(rng):
            point.quantile_values.add(quantile=rng.random(), value=rng.choice(DOUBLES))
        return
    for field in ("sum", "min", "max"):
        if rng.random() < 0.7:
            setattr(point, field, rng.choice(DOUBLES))
    if name == "histogram":
        point.bucket_counts.extend(rng.choice(UINT64) for _ in _several(rng, 5))
        point.explicit_bounds.extend(rng.choice(DOUBLES) for _ in _several(rng, 5))
        return
    point.scale, point.zero_count, point.zero_threshold = rng.choice(INT32), rng.choice(UINT64), rng.choice(DOUBLES)
    for side in (point.positive, point.negative):
        if rng.random() < 0.7:
            side.offset = rng.choice(INT32)
            side.bucket_counts.extend(rng.choice(UINT64) for _ in _several(rng, 5))


def _value(rng: Random, into: Any) -> None:
    if rng.random() < 0.4:
        into.as_int = rng.choice(INT64)
    elif rng.random() < 0.8:
        into.as_double = rng.choice(DOUBLES)


def _request(rng: Random) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    for _ in _several(rng, 2):
        of_resource = request.resource_metrics.add(schema_url=_text(rng))
        if rng.random() < 0.8:
            of_resource.resource.dropped_attributes_count = rng.choice((0, 7))
            for _ in _several(rng):
                _key_value(rng, of_resource.resource.attributes.add())
        for _ in _several(rng, 2):
            of_scope = of_resource.scope_metrics.add()
            if rng.random() < 0.8:
                of_scope.scope.name, of_scope.scope.version = _text(rng), _text(rng)
            for _ in _several(rng, 4):
                metric = of_scope.metrics.add(name=_text(rng), unit=_text(rng), description=_text(rng))
                name = rng.choice((*DATA, ""))
                if name:
                    data = getattr(metric, name)
                    data.SetInParent()
                    if hasattr(data, "aggregation_temporality"):
                        data.aggregation_temporality = rng.choice((0, 1, 2, 9))
                    if name == "sum":
                        data.is_monotonic = rng.random() < 0.5
                    for _ in _several(rng, 4):
                        _point(rng, name, data.data_points.add())
    return request


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _check_point(shape: Shape, points: Points, i: int, point: Any) -> None:
    assert (points.time_ns[i], points.start_ns[i]) == (
        _signed(point.time_unix_nano),
        _signed(point.start_time_unix_nano),
    )
    assert points.flags[i] == point.flags
    parts = attribute_fields(points, np.array([i]))[0]
    assert [KeyValue.FromString(part).SerializeToString() for part in parts] == [
        each.SerializeToString() for each in point.attributes
    ]
    if shape is Shape.NUMBER:
        which = point.WhichOneof("value")
        assert (points.has_number[i], points.is_int[i]) == (which is not None, which == "as_int")
        assert points.number_int[i] == (point.as_int if which == "as_int" else 0)
        assert _same(points.number_float[i], point.as_double if which == "as_double" else 0.0)
        return
    assert points.count[i] == point.count
    assert _same(points.sum[i], point.sum)
    if shape is Shape.SUMMARY:
        assert points.quantiles is not None and points.quantiles[i] == len(point.quantile_values)
        assert math.isnan(points.min[i]) and math.isnan(points.max[i])
        return
    assert points.has_sum[i] == point.HasField("sum")
    assert _same(points.min[i], point.min if point.HasField("min") else math.nan)
    assert _same(points.max[i], point.max if point.HasField("max") else math.nan)
    _check_buckets(shape, points, i, point)


def _check_buckets(shape: Shape, points: Points, i: int, point: Any) -> None:
    buckets = points.buckets
    assert buckets is not None
    counts = buckets.counts[buckets.offsets[i] : buckets.offsets[i + 1]].tolist()
    if shape is Shape.HISTOGRAM:
        bounds = buckets.bounds[buckets.bound_offsets[i] : buckets.bound_offsets[i + 1]].tolist()
        assert counts == list(point.bucket_counts)
        assert all(_same(a, b) for a, b in zip(bounds, point.explicit_bounds, strict=True))
        return
    negatives = buckets.negative_counts[buckets.negative_offsets[i] : buckets.negative_offsets[i + 1]].tolist()
    assert (counts, negatives) == (list(point.positive.bucket_counts), list(point.negative.bucket_counts))
    assert (buckets.scale[i], buckets.zero_count[i]) == (point.scale, point.zero_count)
    assert _same(buckets.zero_threshold[i], point.zero_threshold)
    assert (buckets.positive_start[i], buckets.negative_start[i]) == (point.positive.offset, point.negative.offset)


def _check(decoded: OtlpMetrics, requests: list[ExportMetricsServiceRequest]) -> None:
    metrics = [
        (number, of_resource, of_scope, metric)
        for number, request in enumerate(requests)
        for of_resource in request.resource_metrics
        for of_scope in of_resource.scope_metrics
        for metric in of_scope.metrics
    ]
    assert len(decoded.metrics.resource) == len(metrics)
    # Numbers are one group: those of gauges first, then those of sums.
    expected: dict[Shape, list[Any]] = {shape: [] for shape in Shape}
    for name, shape in DATA.items():
        for row, (number, of_resource, of_scope, metric) in enumerate(metrics):
            assert decoded.resource_request[decoded.metrics.resource[row]] == number
            assert decoded.metrics.names[row].decode() == metric.name
            assert decoded.metrics.units[row].decode() == metric.unit
            resource = Resource.FromString(decoded.resources[int(decoded.metrics.resource[row])])
            assert resource.SerializeToString() == of_resource.resource.SerializeToString()
            scope = InstrumentationScope.FromString(decoded.scopes[int(decoded.metrics.scope[row])])
            assert scope.SerializeToString() == of_scope.scope.SerializeToString()
            if metric.WhichOneof("data") == name:
                data = getattr(metric, name)
                expected[shape] += [(row, name, data, point) for point in data.data_points]
    given_points = {points.shape: points for points in decoded.points}
    assert set(given_points) == {shape for shape, points in expected.items() if points}
    for shape, points in given_points.items():
        assert len(points) == len(expected[shape])
        for i, (row, name, data, point) in enumerate(expected[shape]):
            assert points.metric[i] == row
            assert points.request[i] == metrics[row][0]
            assert points.kind[i] == _kind(name, data)
            assert points.monotonic[i] == getattr(data, "is_monotonic", False)
            _check_point(shape, points, i, point)
        _check_exemplars(points, [each[-1] for each in expected[shape]])


def _kind(name: str, data: Any) -> int:
    if name in ("gauge", "summary"):
        return Kind[name.upper()]
    cumulative, delta = {
        "sum": (Kind.COUNTER if getattr(data, "is_monotonic", False) else Kind.GAUGE, Kind.DELTA),
        "histogram": (Kind.HISTOGRAM, Kind.HISTOGRAM_DELTA),
        "exponential_histogram": (Kind.EXPONENTIAL, Kind.EXPONENTIAL_DELTA),
    }[name]
    return {1: delta, 2: cumulative}.get(data.aggregation_temporality, UNKNOWN_KIND)


def _check_exemplars(points: Points, expected: list[Any]) -> None:
    wanted = [(i, each) for i, point in enumerate(expected) for each in getattr(point, "exemplars", ())]
    if points.exemplars is None:
        assert wanted == []
        return
    given_exemplars = points.exemplars
    assert given_exemplars.point.tolist() == [i for i, _ in wanted]
    for row, (_, each) in enumerate(wanted):
        which = each.WhichOneof("value")
        assert _same(given_exemplars.value[row], float(getattr(each, which)) if which else math.nan)
        assert given_exemplars.time_ns[row] == _signed(each.time_unix_nano)
        assert given_exemplars.trace_ids[row].as_py() == each.trace_id
        assert given_exemplars.span_ids[row].as_py() == each.span_id


@settings(max_examples=150)
@given(st.integers(0, 2**63).map(Random))
def test_decode_equals_the_official_library(rng: Random) -> None:
    """Random valid requests, several in one call."""
    requests = [_request(rng) for _ in range(rng.choice((0, 1, 1, 3)))]
    _check(wire.decode([request.SerializeToString() for request in requests]), requests)


@pytest.mark.parametrize("unpacked", [False, True])
def test_decode_takes_packed_and_unpacked_buckets(unpacked: bool) -> None:
    """Repeated numbers may come packed or one by one: a parser must take both."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    point = metric.histogram.data_points.add(count=3)
    packed = b"\x32\x10" + (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    one_by_one = b"\x31" + (1).to_bytes(8, "little") + b"\x31" + (2).to_bytes(8, "little")
    point.MergeFromString(one_by_one if unpacked else packed)
    data = request.SerializeToString()
    if unpacked:
        assert len(one_by_one) == len(packed)
        data = data.replace(packed, one_by_one)
    points = wire.decode([data]).points[0]
    assert points.buckets is not None and points.buckets.counts.tolist() == [1, 2]


def _varint(value: int, least_bytes: int = 1) -> bytes:
    out = bytearray()
    while value > 0x7F or len(out) + 1 < least_bytes:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _odd_point(rng: Random) -> bytes:
    """A number point as no SDK writes it: fields in any order, twice, unknown, with long varints, or cut short."""
    pair = KeyValue(key=_text(rng))
    pair.value.string_value = rng.choice(("", "v", "w" * 200))
    attribute = pair.SerializeToString()
    fields = [
        b"\x11" + rng.randbytes(8),
        b"\x19" + rng.randbytes(8),
        rng.choice((b"\x21", b"\x31")) + rng.randbytes(8),
        *[b"\x3a" + _varint(len(attribute), rng.choice((1, 1, 2, 5))) + attribute for _ in _several(rng)],
    ]
    if rng.random() < 0.4:
        fields.append(
            rng.choice((b"\x40\x01", b"\x40\x00", b"\x2a\x00", b"\x78\x05", b"\x2a\x09\x19" + rng.randbytes(8)))
        )
    if rng.random() < 0.3:
        fields.insert(rng.randrange(len(fields)), rng.choice(fields))
    if rng.random() < 0.3:
        rng.shuffle(fields)
    if rng.random() < 0.3:
        del fields[0]
    point = b"".join(fields)
    return point[: rng.randrange(len(point) + 1)] if rng.random() < 0.1 else point


@settings(max_examples=400)
@given(st.integers(0, 2**63).map(Random))
def test_points_of_any_layout_are_read_as_the_official_library_reads_them(rng: Random) -> None:
    """Plain points are read in place, all others are parsed: nobody can tell which it was."""
    raw = [_odd_point(rng) for _ in range(rng.choice((1, 3, 20)))]
    sum_of = b"".join(b"\x0a" + _varint(len(point)) + point for point in raw) + b"\x10\x02\x18\x01"
    metric = b"\x0a\x01m\x3a" + _varint(len(sum_of)) + sum_of
    scope = b"\x12" + _varint(len(metric)) + metric
    resource = b"\x12" + _varint(len(scope)) + scope
    payload = b"\x0a" + _varint(len(resource)) + resource
    try:
        request = ExportMetricsServiceRequest.FromString(payload)
    except DecodeError:
        with contextlib.suppress(Invalid):  # what is broken inside an attribute is found when it is first used
            wire.decode([payload])
        return
    for _ in range(2):  # the second time its tails are known
        _check(wire.decode([payload]), [request])
