"""Keys of remote write 2.0's series: by the texts that they refer to, whatever the request's table of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.decode import remote_write_pb2
from collectors.decode.remote_wire import Malformed, decode_2, labels_of

_TEXTS = [b"", b"__name__", b"up", b"job", b"node", b"le", b"0.5"]
_REFS = st.lists(st.integers(0, len(_TEXTS)), max_size=8)
_ORDERS = st.permutations(_TEXTS)


def _request(order: list[bytes], series: list[list[int]]) -> bytes:
    """A request that refers to `_TEXTS` by a table in another order; a number beyond them refers to nothing."""
    places = [order.index(text) for text in _TEXTS] + [len(order) + 5]
    request = remote_write_pb2.Request(symbols=order)  # type: ignore[attr-defined]
    for refs in series:
        request.timeseries.add(labels_refs=[places[ref] for ref in refs])
    return bytes(request.SerializeToString())


@given(st.lists(st.tuples(_ORDERS, st.lists(_REFS, max_size=12)), min_size=1, max_size=3))
def test_keys_tell_series_apart_by_their_texts(requests: list[tuple[list[bytes], list[list[int]]]]) -> None:
    """Series have one key exactly if they name the same texts in the same places, in whichever request they are."""
    found = decode_2([_request(order, series) for order, series in requests])
    named = [tuple(refs) for _, series in requests for refs in series]
    for row, refs in enumerate(named):
        is_whole = len(refs) > 0 and len(refs) % 2 == 0 and len(_TEXTS) not in refs
        try:
            labels = labels_of(found.raw(row))
        except Malformed:
            names = [_TEXTS[ref] for ref in refs[::2]] if is_whole else []
            assert not is_whole or b"" in names or len(set(names)) < len(names)
            continue
        assert is_whole
        texts = [_TEXTS[ref].decode() for ref in refs]
        assert labels == dict(zip(texts[::2], texts[1::2], strict=True))
        same = {other for other, theirs in enumerate(named) if theirs == refs}
        assert {other for other in range(len(named)) if found.keys[other] == found.keys[row]} == same


def test_a_series_of_very_many_references_is_refused_alone() -> None:
    """References beyond any limit are not looked up; the series beside it keeps its labels."""
    request = remote_write_pb2.Request(symbols=_TEXTS)  # type: ignore[attr-defined]
    request.timeseries.add(labels_refs=[1, 2] * 600)
    request.timeseries.add(labels_refs=[1, 2])
    found = decode_2([request.SerializeToString()])
    assert labels_of(found.raw(1)) == {"__name__": "up"}
    with pytest.raises(Malformed):
        found.raw(0)
