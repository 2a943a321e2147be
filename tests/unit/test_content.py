"""Content codings and OTLP/JSON: plain bytes within a bound, or Invalid."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from catchment.errors import Invalid
from collectors.content import ENCODINGS, JSON, PROTOBUF, TooLarge, decompress, json_to_protobuf, to_protobuf
from collectors.records import Received

MIB = 1 << 20
PLAIN = b"".join(b"%d service.name checkout " % i for i in range(50_000))


def raw_deflate(data: bytes) -> bytes:
    """Deflate without the zlib format around it."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def zstd_stream(data: bytes) -> bytes:
    """A zstd frame that does not state its size, as streaming encoders write it."""
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(data) + stream.flush()


CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "none": ("", bytes),
    "gzip": ("gzip", gzip.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd stream": ("zstd", zstd_stream),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
}


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("plain", [b"", b"x", PLAIN], ids=["empty", "one byte", "large"])
def test_every_coding_is_read(coder: str, plain: bytes) -> None:
    """What an encoder made of any size comes out as it was."""
    encoding, encode = CODERS[coder]
    assert decompress(encode(plain), encoding, len(PLAIN)) == plain


@pytest.mark.parametrize("coder", CODERS)
def test_the_bound_is_exact(coder: str) -> None:
    """A body of the bound's size is read, one byte more is refused as too large."""
    encoding, encode = CODERS[coder]
    body = encode(PLAIN)
    assert len(decompress(body, encoding, len(PLAIN))) == len(PLAIN)
    with pytest.raises(TooLarge):
        decompress(body, encoding, len(PLAIN) - 1)


@pytest.mark.parametrize("coder", [name for name in CODERS if name != "none"])
def test_a_bomb_stops_at_the_bound(coder: str) -> None:
    """Gigabytes from a small body are never made: memory stays near the bound."""
    encoding, encode = CODERS[coder]
    bomb = encode(bytes(256 * MIB))
    assert len(bomb) < MIB
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decompress(bomb, encoding, 4 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    finally:
        tracemalloc.stop()


def test_a_gzip_that_lies_about_its_size_is_still_bounded() -> None:
    """The size in a gzip's trailer is a hint only."""
    bomb = gzip.compress(bytes(64 * MIB))
    lying = bomb[:-4] + (10).to_bytes(4, "little")
    with pytest.raises(TooLarge):
        decompress(lying, "gzip", MIB)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_concatenated_members_are_one_body(encoding: str) -> None:
    """Several members or frames are the concatenation of what they hold, and share one bound."""
    encode: Callable[[bytes], bytes] = gzip.compress if encoding == "gzip" else zstandard.compress
    body = encode(b"one ") + encode(b"two")
    assert decompress(body, encoding, 7) == b"one two"
    with pytest.raises(TooLarge):
        decompress(body, encoding, 6)


@pytest.mark.parametrize("coder", [name for name in CODERS if name != "none"])
def test_broken_bodies_are_invalid(coder: str) -> None:
    """Truncated, trailed and foreign bytes are refused, not half read."""
    encoding, encode = CODERS[coder]
    body = encode(PLAIN)
    for broken in (b"", b"garbage", body[: len(body) // 2], body[:-1], body + b"trailing"):
        with pytest.raises(Invalid):
            decompress(broken, encoding, 2 * len(PLAIN))


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "GZIP", "identity"])
def test_other_codings_are_invalid(encoding: str) -> None:
    """A coding that nobody undid is refused by name."""
    with pytest.raises(Invalid, match="is not supported"):
        decompress(b"x", encoding, 10)


@given(
    body=st.binary(max_size=300), encoding=st.sampled_from(ENCODINGS), content_type=st.sampled_from([PROTOBUF, JSON])
)
def test_any_bytes_give_bytes_or_invalid(body: bytes, encoding: str, content_type: str) -> None:
    """Whatever is sent, the answer is bytes or Invalid."""
    received = Received("metrics", "t", "c", "{}", content_type, encoding, 0, "", body)
    try:
        assert isinstance(to_protobuf(received, 1000), bytes)
    except Invalid:
        pass


@given(coder=st.sampled_from([name for name in CODERS if name != "none"]), data=st.data())
def test_a_damaged_body_gives_bytes_or_invalid(coder: str, data: st.DataObject) -> None:
    """A good body with any byte changed is refused, or read within the bound."""
    encoding, encode = CODERS[coder]
    body = bytearray(encode(b"resource attributes " * 20))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.integers(1, 255))
    try:
        assert len(decompress(bytes(body), encoding, 1000)) <= 1000
    except Invalid:
        pass


EXAMPLE = {
    "resourceMetrics": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
            "scopeMetrics": [
                {
                    "scope": {"name": "lib", "unknownField": 1},
                    "metrics": [
                        {
                            "name": "requests",
                            "sum": {
                                "aggregationTemporality": 2,
                                "isMonotonic": True,
                                "dataPoints": [
                                    {
                                        "asInt": "9007199254740993",
                                        "timeUnixNano": "1544712660300000000",
                                        "startTimeUnixNano": 1544712660000000000,
                                        "exemplars": [
                                            {
                                                "asDouble": 1.5,
                                                "traceId": "5B8EFFF798038103D269B633813FC60C",
                                                "spanId": "eee19b7ec3c1b174",
                                            }
                                        ],
                                    }
                                ],
                            },
                        }
                    ],
                }
            ],
        }
    ]
}


def test_json_follows_the_mapping_of_otlp() -> None:
    """Ids are hex, enums integers, 64-bit integers strings or numbers, unknown fields ignored."""
    request = ExportMetricsServiceRequest.FromString(json_to_protobuf(json.dumps(EXAMPLE).encode(), "metrics"))
    metric = request.resource_metrics[0].scope_metrics[0].metrics[0]
    point = metric.sum.data_points[0]
    assert metric.sum.aggregation_temporality == 2
    assert metric.sum.is_monotonic
    assert (point.as_int, point.time_unix_nano, point.start_time_unix_nano) == (
        9007199254740993,
        1544712660300000000,
        1544712660000000000,
    )
    assert point.exemplars[0].trace_id.hex() == "5b8efff798038103d269b633813fc60c"
    assert point.exemplars[0].span_id.hex() == "eee19b7ec3c1b174"
    assert request.resource_metrics[0].resource.attributes[0].value.string_value == "shop"


@pytest.mark.parametrize("kind", ["gauge", "sum", "histogram", "exponentialHistogram"])
def test_exemplar_ids_are_hex_in_every_kind(kind: str) -> None:
    """The ids of exemplars are read as hex wherever exemplars stand; an odd length is refused."""
    point = {"exemplars": [{"traceId": "ab" * 16, "spanId": "cd" * 8}]}
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m", kind: {"dataPoints": [point]}}]}]}]}
    request = ExportMetricsServiceRequest.FromString(json_to_protobuf(json.dumps(body).encode(), "metrics"))
    metric = request.resource_metrics[0].scope_metrics[0].metrics[0]
    (exemplar,) = getattr(metric, metric.WhichOneof("data")).data_points[0].exemplars
    assert (exemplar.trace_id, exemplar.span_id) == (b"\xab" * 16, b"\xcd" * 8)
    point["exemplars"][0]["traceId"] = "abcd"
    with pytest.raises(Invalid, match="traceId has 2 bytes"):
        json_to_protobuf(json.dumps(body).encode(), "metrics")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"resourceMetrics": 5}',
        '{"resourceMetrics": [5]}',
        '{"resourceMetrics": [{"scopeMetrics": {"metrics": 3}}]}',
        '{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "\\ud800"}]}]}]}',
        '{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"sum": {"dataPoints": [{"asInt": 1e400}]}}]}]}]}',
        '{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"sum": {"dataPoints": [{"asInt": "x"}]}}]}]}]}',
        '{"resourceMetrics":' + "[" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        '{"resourceMetrics": ' + "9" * 10_000 + "}",
    ],
)
def test_json_of_another_shape_is_invalid(text: str) -> None:
    """Any JSON that is no request is refused with Invalid, however deep or odd."""
    with pytest.raises(Invalid):
        json_to_protobuf(text.encode(), "metrics")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceMetrics", "scopeMetrics", "metrics", "sum", "gauge", "dataPoints", "exemplars", "traceId"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=15,
)


@given(value=json_values)
def test_any_json_gives_bytes_or_invalid(value: object) -> None:
    """JSON with the right names in the wrong places is translated or refused."""
    try:
        assert isinstance(json_to_protobuf(json.dumps(value).encode(), "metrics"), bytes)
    except Invalid:
        pass
