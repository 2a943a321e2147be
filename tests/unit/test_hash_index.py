"""The hash index against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from collectors.hash_index import ABSENT, HashIndex

# Few distinct high bits: keys that fight for the same slots, at the end of the table too.
KEYS = st.one_of(
    st.integers(1, 2**64 - 1),
    st.integers(1, 50),
    st.integers(2**64 - 50, 2**64 - 1),
    st.integers(0, 50).map(lambda low: (7 << 60) + low),
)


def _keys(keys: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(keys, np.uint64)


@given(st.lists(st.dictionaries(KEYS, st.integers(-(2**31), 2**31 - 1), max_size=60), max_size=8), st.lists(KEYS))
def test_index_is_a_dict(batches: list[dict[int, int]], others: list[int]) -> None:
    """Inserted in batches, keys that come again with another value included, it finds what a dict finds."""
    index, expected = HashIndex(), dict[int, int]()
    for batch in batches:
        index.insert(_keys(list(batch)), np.array(list(batch.values()), np.int32))
        expected.update(batch)
    asked = [*expected, *others]
    assert index.find(_keys(asked)).tolist() == [expected.get(key, ABSENT) for key in asked]
    assert len(index) == len(expected)
    keys, values = index.items()
    assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == expected


def test_index_grows_and_keeps_everything() -> None:
    """A hundred thousand keys, all found, none invented, in a table of at most four slots a key."""
    rng = np.random.default_rng(7)
    keys = np.unique(rng.integers(1, 2**64 - 1, 100_000, np.uint64))
    index = HashIndex()
    for part in np.array_split(keys, 13):
        index.insert(part, np.arange(len(part), dtype=np.int32))
    assert len(index) == len(keys)
    assert np.array_equal(index.find(keys), np.concatenate([np.arange(len(p)) for p in np.array_split(keys, 13)]))
    assert (index.find(keys ^ np.uint64(1)) == ABSENT).sum() > 99_000
    assert index.size_bytes <= len(keys) * 4 * 12


def test_key_zero_is_a_key() -> None:
    """The key that marks free slots can be stored; it shares its place with 1, as documented."""
    index = HashIndex()
    assert index.find(_keys([0])).tolist() == [ABSENT]
    index.insert(_keys([0]), np.array([5], np.int32))
    assert index.find(_keys([0, 1])).tolist() == [5, 5]


def test_inserting_again_does_not_grow() -> None:
    """The same keys over and over take no more room."""
    index = HashIndex()
    keys = np.arange(1, 2000, dtype=np.uint64) << np.uint64(40)
    for value in range(20):
        index.insert(keys, np.full(len(keys), value, np.int32))
    assert len(index) == len(keys)
    assert index.size_bytes <= 8_192 * 12
    assert set(index.find(keys).tolist()) == {19}


def test_nothing_is_found_in_nothing() -> None:
    """Empty look-ups and inserts are no special case."""
    index = HashIndex()
    index.insert(_keys([]), np.array([], np.int32))
    assert index.find(_keys([])).tolist() == []
