"""Series of remote write read in place give what the parser gives, whatever the bytes."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from catchment.errors import Invalid
from collectors.decode.remote_wire import decode_1, labels_of
from tests import remote_write as rw

LABELS = st.dictionaries(
    st.text(max_size=5), st.one_of(st.text(max_size=20), st.just("\x12\x10\t" + "x" * 15)), max_size=5
)
SAMPLES = st.lists(
    st.tuples(
        st.one_of(st.floats(), st.just(0.0)),
        st.one_of(st.integers(1_600_000_000_000, 1_800_000_000_000), st.integers(-(2**63), 2**63 - 1)),
    ),
    max_size=3,
)


def parsed(body: bytes) -> list[tuple[dict[bytes, bytes], list[tuple[bytes, int]]]]:
    """What protobuf itself reads."""
    found = []
    for series in rw.pb.WriteRequest.FromString(body).timeseries:
        labels = [rw.pb.Label.FromString(raw) for raw in series.labels]
        samples = [(np.float64(s.value).tobytes(), int(np.clip(s.timestamp, -9e12, 9e12))) for s in series.samples]
        found.append(({label.name: label.value for label in labels}, samples))
    return found


def decoded(body: bytes) -> list[tuple[dict[bytes, bytes], list[tuple[bytes, int]]]]:
    """What is read here."""
    requests = decode_1([body])
    found: list[tuple[dict[bytes, bytes], list[tuple[bytes, int]]]] = []
    for row in range(len(requests.request)):
        labels = labels_of(requests.raw(row))
        found.append(({name.encode(): value.encode() for name, value in labels.items()}, []))
    for row, time_ns, value in zip(requests.series, requests.time_ns, requests.value, strict=True):
        found[row][1].append((value.tobytes(), int(time_ns) // 10**6))
    return found


def build(series: list[tuple[dict[str, str], list[tuple[float, int]]]]) -> bytes:
    """A request."""
    request = rw.pb.WriteRequest()
    for labels, samples in series:
        one: Any = request.timeseries.add()
        for name, value in labels.items():
            one.labels.append(rw.pb.Label(name=name.encode(), value=value.encode()).SerializeToString())
        for sample, time in samples:
            one.samples.add(value=sample, timestamp=time)
    body: bytes = request.SerializeToString()
    return body


@given(series=st.lists(st.tuples(LABELS.filter(lambda labels: "" not in labels), SAMPLES), max_size=6))
def test_what_is_read_is_what_was_written(series: list[tuple[dict[str, str], list[tuple[float, int]]]]) -> None:
    """Plain or not, with any values, times, and labels that look like samples."""
    body = build(series)
    assert decoded(body) == parsed(body)


@given(seed=st.integers(0, 2**32))
def test_changed_bytes_are_read_as_protobuf_reads_them(seed: int) -> None:
    """A byte that is another one gives the same as the parser, or is refused as it refuses."""
    random = Random(seed)
    body = bytearray(build([({"__name__": "a", "b": "c"}, [(float(i), 1_700_000_000_000)]) for i in range(3)]))
    body[random.randrange(len(body))] = random.randrange(256)
    try:
        found = decode_1([bytes(body)])
    except Invalid:
        return
    expected = rw.pb.WriteRequest.FromString(bytes(body))
    assert len(found.request) == len(expected.timeseries)
    values = [sample.value for series in expected.timeseries for sample in series.samples]
    assert np.array_equal(found.value, np.array(values, np.float64), equal_nan=True)


def test_equal_series_have_equal_keys_in_a_batch() -> None:
    """Requests that are decoded together tell a series by its labels, whatever its sample."""
    one = build([({"__name__": "a"}, [(0.0, 1_700_000_000_000)]), ({"__name__": "b"}, [(1.0, 1_700_000_000_000)])])
    other = build([({"__name__": "a"}, [(2.0, 1_700_000_015_000)])])
    keys = decode_1([one, other]).keys
    assert keys[0] == keys[2] != keys[1]
