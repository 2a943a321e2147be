"""Identity: golden values that no release may change, and what ids depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from catchment.identity import canonical_attributes, hash_parts, mix, point_hashes, series_id, value_hash


def _hashes(*values: int) -> Any:
    return np.array(values, np.uint64)


@pytest.mark.parametrize(
    ("parts", "golden"),
    [
        ((), 3244421341483603138),  # XXH3-64 of no bytes, as published with the algorithm
        (("a", "b"), 6513058324832141774),
        (("ab",), 10085243045608453076),
        (("é", "\ud800"), 17765818417454899544),
    ],
)
def test_hashes_of_parts_are_golden(parts: tuple[str, ...], golden: int) -> None:
    """XXH3-64 of length-prefixed UTF-8, lone surrogates included."""
    assert hash_parts(*parts) == golden


def test_a_series_id_is_golden() -> None:
    """The id of one series, for ever."""
    attributes = canonical_attributes({"status": 200, "route": "/é"})
    identity = series_id("acme", "shop/cart", "http.server.requests", "counter", "{request}", attributes)
    assert identity == 4300851715590908163


def test_hashes_of_values_are_golden() -> None:
    """What sketches of an attribute's values hold: a text, a number and a truth are different values."""
    golden = [
        10837732654677171859,
        17229875379400859664,
        15995094415750606649,
        4664556114322093609,
        15406888703702484385,
    ]
    assert [value_hash(value) for value in ("200", 200, "é\ud800", True, ["a", 1.5])] == golden


def test_point_hashes_are_golden() -> None:
    """What a digest sums, and the mixing that it is made of."""
    top = 2**64 - 1
    assert mix(_hashes(0, 1, top), _hashes(0, 2, top)).tolist() == [
        16294208416658607535,
        13819372491320860226,
        13029008266876403067,
    ]
    hashes = point_hashes(_hashes(1, top), np.array([0, -1]), np.array([1, 2**63 - 1]))
    assert hashes.tolist() == [665842078763389778, 4521640098126589914]


@pytest.mark.parametrize(
    ("attributes", "canonical"),
    [
        ({}, "{}"),
        ({"b": 1, "a": "x"}, '{"a":"x","b":1}'),
        (
            {"a": True, "b": 1.0, "c": 0.1, "d": None, "e": [1, "1"], "f": {"z": 1, "y": 2}},
            '{"a":true,"b":1.0,"c":0.1,"d":null,"e":[1,"1"],"f":{"y":2,"z":1}}',
        ),
        ({"k": 'é\n"'}, '{"k":"é\\n\\""}'),
    ],
)
def test_canonical_attributes_are_golden(attributes: dict[str, object], canonical: str) -> None:
    """Keys sorted, no spaces, types kept, UTF-8 as it is."""
    assert canonical_attributes(attributes) == canonical


def test_every_part_of_a_series_counts() -> None:
    """Changing any one part, the tenant first of all, changes the id."""
    parts = ("acme", "shop", "requests", "counter", "1", "{}")
    ids = {series_id(*parts)}
    for index in range(len(parts)):
        changed = list(parts)
        changed[index] += "x"
        ids.add(series_id(*changed))
    assert len(ids) == 7


def test_separators_cannot_be_forged() -> None:
    """Moving a character over the border of two parts gives another id."""
    assert hash_parts("a", "bc") != hash_parts("ab", "c")


def test_point_hashes_tell_start_from_time() -> None:
    """Exchanging start and time, or the stream, gives another hash; the same point gives the same."""
    one, two = np.array([1]), np.array([2])
    found = {int(point_hashes(_hashes(s), a, b)[0]) for s in (1, 2) for a, b in ((one, two), (two, one))}
    assert len(found) == 4
    assert point_hashes(_hashes(1), one, two) == point_hashes(_hashes(1), one, two)
