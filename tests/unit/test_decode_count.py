"""Counting the points of a request before it is decoded."""

import pytest

from catchment.errors import Invalid
from collectors.decode.wire import count_messages


def _field(tag: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(payload), b""
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return bytes([tag << 3 | 2]) + length + payload


@pytest.mark.parametrize("shape", [5, 7, 9, 10, 11])
def test_empty_points_of_every_shape_are_counted(shape: int) -> None:
    """A request of nothing but empty points, two bytes each, has as many points as it has."""
    points = _field(shape, b"\x0a\x00" * 1000)
    assert count_messages(_field(1, _field(2, _field(2, points)))) == 1000


@pytest.mark.parametrize(
    "body", [b"\x0a\x00" * 700, _field(1, b"\x12\x00" * 700), _field(1, _field(2, b"\x12\x00" * 700))]
)
def test_empty_structure_is_counted_too(body: bytes) -> None:
    """Resources, scopes and metrics without points count like points: they take memory all the same."""
    assert count_messages(body) == 700


def test_garbage_cannot_be_counted() -> None:
    """Bytes that are no request are invalid, as they are to the decoder."""
    with pytest.raises(Invalid):
        count_messages(b"\xff" * 40)
