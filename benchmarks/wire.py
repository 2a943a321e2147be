"""Protobuf's wire format, as much of it as a load needs: by hand, since it is fast and its offsets are known."""

from __future__ import annotations

import struct

_FIXED64 = struct.Struct("<Q")
_DOUBLE = struct.Struct("<d")


def varint(number: int) -> bytes:
    """A non-negative integer as base-128 varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def delimited(field: int, payload: bytes) -> bytes:
    """A length-delimited field: message, string, bytes or packed numbers."""
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def text(field: int, value: str) -> bytes:
    """A string field."""
    return delimited(field, value.encode())


def number(field: int, value: int) -> bytes:
    """A varint field of a non-negative integer."""
    return varint(field << 3) + varint(value)


def zigzag(field: int, value: int) -> bytes:
    """A sint32 field."""
    return number(field, value << 1 if value >= 0 else (-value << 1) - 1)


def fixed64(field: int, value: int = 0) -> bytes:
    """A fixed64 (or sfixed64) field of a non-negative integer."""
    return varint(field << 3 | 1) + _FIXED64.pack(value)


def double(field: int, value: float = 0.0) -> bytes:
    """A double field."""
    return varint(field << 3 | 1) + _DOUBLE.pack(value)


def attribute(field: int, key: str, value: str | int) -> bytes:
    """An OTLP KeyValue: a string or a non-negative integer."""
    any_value = text(1, value) if isinstance(value, str) else number(3, value)
    return delimited(field, text(1, key) + delimited(2, any_value))
