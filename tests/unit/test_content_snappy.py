"""Snappy blocks: read whole, or refused within the bound."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.errors import Invalid
from collectors.content import SNAPPY, TooLarge, decompress

CODEC = pa.Codec("snappy")


def packed(plain: bytes) -> bytes:
    """A snappy block."""
    block: bytes = CODEC.compress(plain, asbytes=True)
    return block


@given(plain=st.binary(max_size=2000))
def test_what_was_packed_comes_out(plain: bytes) -> None:
    """A block is read up to the limit's size."""
    assert decompress(packed(plain), SNAPPY, max(len(plain), 1)) == plain


def test_a_bomb_is_refused_by_the_size_at_its_head() -> None:
    """Before anything is unpacked."""
    with pytest.raises(TooLarge):
        decompress(packed(bytes(1 << 20)), SNAPPY, (1 << 20) - 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xff\xff\xff\xff\x01",
        b"\xff\xff\xff\x07abc",
        packed(b"x" * 100)[:-1],
        packed(b"x" * 100) + b"y",
        b"\x05" + packed(b"x" * 100)[1:],
        b"\xff\x06\x00\x00sNaPpY",
    ],
)
def test_what_is_no_block_is_invalid(body: bytes) -> None:
    """Empty, endless, short, long, lying and framed ones; none is given the memory that it claims."""
    with pytest.raises(Invalid):
        decompress(body, SNAPPY, 1 << 30)


@given(body=st.binary(max_size=300))
def test_any_bytes_give_bytes_or_invalid(body: bytes) -> None:
    """No other error comes out, whatever was sent."""
    try:
        assert isinstance(decompress(body, SNAPPY, 1000), bytes)
    except Invalid:
        pass
