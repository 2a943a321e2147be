"""Attributes from raw bytes: types kept, limits held, service and names as the design has them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from catchment.identity import canonical_attributes
from catchment.limits import Limits
from collectors.decode.attributes import AttributeReader, Unreadable, merged, service_of
from collectors.reasons import Reason
from tests.otlp import key_values


def _raw(attributes: dict[str, Any]) -> list[bytes]:
    return [pair.SerializeToString() for pair in key_values(attributes)]


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("x", '"x"'),
        (1, "1"),
        (-(2**63), "-9223372036854775808"),
        (1.0, "1.0"),
        (True, "true"),
        (None, "null"),
        (b"\x00\xff", '"AP8="'),
        ([1, "a", None], '[1,"a",null]'),
        ({"b": 1, "a": [False]}, '{"a":[false],"b":1}'),
        (math.nan, '"nan"'),
        (-math.inf, '"-inf"'),
    ],
)
def test_values_keep_their_type(value: Any, canonical: str) -> None:
    """Every sort of AnyValue has its canonical text."""
    attributes = AttributeReader(Limits()).point(_raw({"k": value}))
    assert canonical_attributes(attributes) == f'{{"k":{canonical}}}'


def test_point_resource_and_scope_are_read_alike() -> None:
    """The same pairs give the same attributes wherever they stand."""
    reader = AttributeReader(Limits())
    pairs = key_values({"a": "1", "b": 2})
    assert reader.point(_raw({"a": "1", "b": 2})) == {"a": "1", "b": 2}
    assert reader.resource(Resource(attributes=pairs).SerializeToString()) == {"a": "1", "b": 2}
    scope = InstrumentationScope(name="n", version="v", attributes=pairs).SerializeToString()
    assert reader.scope(scope) == {"name": "n", "version": "v", "attributes": {"a": "1", "b": 2}}


@pytest.mark.parametrize("where", ["point", "resource", "scope"])
def test_garbage_is_unreadable(where: str) -> None:
    """Bytes that are no message have a reason, not an exception of the library."""
    reader = AttributeReader(Limits())
    with pytest.raises(Unreadable) as caught:
        getattr(reader, where)([b"\xff"] if where == "point" else b"\xff")
    assert caught.value.reason is Reason.ATTRIBUTES_MALFORMED


def test_limits_are_inclusive() -> None:
    """Exactly at the limit is fine; one more is not. A limit of bytes counts bytes, not characters."""
    reader = AttributeReader(Limits(attribute_count_max=2, attribute_value_bytes_max=16, attribute_depth_max=1))
    reader.point(_raw({"a": "é" * 8, "b": ["x" * 16]}))
    for attributes, reason in (
        ({"a": "é" * 8 + "x"}, Reason.ATTRIBUTE_TOO_LONG),
        ({"é" * 9: 1}, Reason.ATTRIBUTE_TOO_LONG),
        ({"a": [["x"]]}, Reason.ATTRIBUTE_TOO_DEEP),
        ({"a": 1, "b": 2, "c": 3}, Reason.ATTRIBUTES_TOO_MANY),
    ):
        with pytest.raises(Unreadable) as caught:
            reader.point(_raw(attributes))
        assert caught.value.reason is reason


def test_what_is_remembered_is_bounded_and_right() -> None:
    """The cache holds only so many short pairs; long ones are read again each time."""
    reader = AttributeReader(Limits(names_cached_max=10))
    for _ in range(2):
        for i in range(100):
            assert reader.point(_raw({"i": i, "long": "x" * 1000})) == {"i": i, "long": "x" * 1000}
    assert 0 < len(reader._known) <= 10
    assert max(map(len, reader._known)) <= 128


def test_a_point_s_attribute_wins_and_the_loser_is_renamed() -> None:
    """Neither input changes."""
    point: dict[str, object] = {"a": 1, "b": 2}
    resource: dict[str, object] = {"a": 10, "c": 3}
    assert merged(point, resource) == {"a": 1, "b": 2, "c": 3, "resource.a": 10}
    assert (point, resource) == ({"a": 1, "b": 2}, {"a": 10, "c": 3})


@pytest.mark.parametrize(
    ("attributes", "service"),
    [
        ({"service.name": "a"}, "a"),
        ({"service.name": "a", "service.namespace": "n"}, "n/a"),
        ({"service.namespace": "n"}, "n/unknown_service"),
        ({"service.name": ""}, "unknown_service"),
        ({"service.name": 7, "service.namespace": None}, "7"),
    ],
)
def test_service_is_taken_out_of_the_attributes(attributes: dict[str, Any], service: str) -> None:
    """It is a column of its own, so it is no attribute any more."""
    rest = {**attributes, "zone": "z"}
    assert service_of(rest) == service
    assert rest == {"zone": "z"}
