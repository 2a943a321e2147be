"""Bad payloads against a running stack: the specification's answer, the reason in SQL, the good beside it kept.

Every test sends as a tenant of its own, so that its account in `pipeline_drops` is exact; all of them watch the
collector: its memory stays bounded and it is never restarted.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import psutil
import pytest
import zstandard
from google.rpc import code_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from catchment.limits import Limits
from tests import otlp
from tests.faults.stack import UP, Stack
from tests.integration.end_to_end import now, start_up, write_tenants
from tests.integration.test_receive_grpc import export, status_of
from tests.integration.test_receive_http import Answer, post

LIMITS = Limits()
# Of the collector, whatever is thrown at it: idle it takes 170 MiB, and a body of the limit is unpacked at a time.
RSS_BYTES_MAX = 400 << 20
BOMB_BYTES = 1 << 30
PROTOBUF, JSON = "application/x-protobuf", "application/json"


class Watch:
    """Looks at the collector until it is told to stop."""

    def __init__(self, stack: Stack) -> None:
        self._state = stack.data / "run" / "collector.json"
        self._pid = self._read()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.rss_bytes_max = 0
        self._thread.start()

    def check(self) -> None:
        """Fail if the collector was restarted or took too much memory."""
        self._stop.set()
        self._thread.join()
        assert self._read() == self._pid, "the collector was restarted"
        assert self.rss_bytes_max < RSS_BYTES_MAX, f"{self.rss_bytes_max >> 20} MiB"

    def _look(self) -> None:
        process = psutil.Process(self._pid)
        while not self._stop.wait(0.01):
            self.rss_bytes_max = max(self.rss_bytes_max, process.memory_info().rss)

    def _read(self) -> int:
        pid: int = json.loads(self._state.read_text("utf-8"))["pid"]
        return pid


TENANTS = ("requests", "bombs", "points", "attributes", "grpc", "noise")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running `catchment up` with default limits, in which every name of `TENANTS` is a tenant, cluster and token."""
    folder = tmp_path_factory.mktemp("bad-payloads")
    write_tenants(folder / "tenants.json", {name: (name, name) for name in TENANTS})
    with Stack(folder) as stack:
        start_up(stack, folder / "tenants.json", limits="{retry_after_seconds: 1}")
        yield stack
        stack.stop(UP)


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """The stack, whose collector is watched during the test."""
    watch = Watch(running)
    yield running
    watch.check()


def offer(
    stack: Stack, tenant: str, body: bytes, content_type: str = PROTOBUF, encoding: str = "", method: str = "POST"
) -> Answer:
    """One request over HTTP."""
    headers = {"content-type": content_type, "authorization": f"Bearer {tenant}"}
    headers |= {"content-encoding": encoding} if encoding else {}
    return post(stack.ports["otlp_http"], body, {k: v for k, v in headers.items() if v}, method=method)


def drops(stack: Stack, tenant: str) -> dict[tuple[str, str], int]:
    """The account of a tenant: count by reason and unit."""
    rows = stack.rows(
        "SELECT reason, unit, sum(d.count) AS dropped FROM pipeline_drops AS d "
        f"WHERE tenant = '{tenant}' AND tier = 'collector' AND place = 'cluster:{tenant}' GROUP BY reason, unit"
    )
    return {(row["reason"], row["unit"]): row["dropped"] for row in rows}


def kept(stack: Stack, tenant: str) -> dict[str, int]:
    """Sum of each metric of a tenant."""
    rows = stack.rows(
        f"SELECT metric, sum(m.sum_int) AS total FROM metrics_region_1d AS m WHERE tenant = '{tenant}' GROUP BY metric"
    )
    return {row["metric"]: row["total"] for row in rows}


def good(name: str, value: int = 7) -> pb.Metric:
    """A metric with nothing wrong, that is no repeat of any other."""
    metric = otlp.counter(name, otlp.number(0, value), temporality=otlp.DELTA)
    (point,) = metric.sum.data_points
    point.time_unix_nano = time.time_ns()
    point.start_time_unix_nano = point.time_unix_nano - 1
    return metric


def body_of(*metrics: pb.Metric) -> bytes:
    """A request of these metrics."""
    return otlp.body(*metrics)


def bad_requests() -> Iterator[tuple[str, int, str, bytes, str, str]]:
    """What is wrong, the status, the reason, and body, content type and encoding."""
    whole, chance = body_of(*(good(f"lost-{number}") for number in range(20))), random.Random(1)
    yield "garbage", 400, "undecodable", b"\xff\xfe\x00" + chance.randbytes(500), PROTOBUF, ""
    yield "truncated", 400, "undecodable", whole[:-3], PROTOBUF, ""
    yield "JSON said to be protobuf", 400, "undecodable", b'{"resourceMetrics": []}', PROTOBUF, ""
    yield "protobuf said to be JSON", 400, "undecodable", whole, JSON, ""
    yield "truncated JSON", 400, "undecodable", b'{"resourceMetrics": [', JSON, ""
    yield "JSON of another shape", 400, "undecodable", b'{"resourceMetrics": [{"scopeMetrics": {"a": [1]}}]}', JSON, ""
    yield "JSON beyond any depth", 400, "undecodable", b'{"a":' + b"[" * 100_000, JSON, ""
    yield "JSON with a bad id", 400, "undecodable", _json_with_id("xyz"), JSON, ""
    yield "plain text", 415, "unsupported_content", b"parcels 7", "text/plain", ""
    yield "no content type", 415, "unsupported_content", whole, "", ""
    yield "brotli", 415, "unsupported_content", whole, PROTOBUF, "br"
    yield "no gzip", 400, "undecodable", whole, PROTOBUF, "gzip"
    yield "truncated gzip", 400, "undecodable", gzip.compress(whole)[:-9], PROTOBUF, "gzip"
    yield "no zstd", 400, "undecodable", whole, PROTOBUF, "zstd"
    yield "truncated zstd", 400, "undecodable", zstandard.compress(whole)[:-4], PROTOBUF, "zstd"
    yield "no deflate", 400, "undecodable", b"\xff" * 40, PROTOBUF, "deflate"
    yield "too large", 413, "request_too_large", bytes(LIMITS.request_bytes_max + 1), PROTOBUF, ""


def _json_with_id(text: str) -> bytes:
    point = {"asInt": "1", "timeUnixNano": "1", "exemplars": [{"asInt": "1", "traceId": text}]}
    metric = {"name": "lost", "gauge": {"dataPoints": [point]}}
    return json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}).encode()


def test_bad_requests_are_refused_and_counted(stack: Stack) -> None:
    """Each gets the specification's status with a google.rpc.Status, is counted, and hurts no request around it."""
    wrong, expected = [], Counter[tuple[str, str]]()
    for number, (what, status, reason, body, content_type, encoding) in enumerate(bad_requests(), 1):
        answer = offer(stack, "requests", body, content_type, encoding)
        said = json.loads(answer.body) if content_type == JSON else {"code": answer.rpc_status.code}
        if (answer.status, said["code"]) != (status, code_pb2.INVALID_ARGUMENT):
            wrong.append((what, answer.status, answer.body))
        expected[reason, "requests"] += 1
        assert offer(stack, "requests", body_of(good("kept", number))).status == 200
    assert wrong == []
    assert offer(stack, "requests", b"", method="GET").status == 405
    assert offer(stack, "nobody", b"").status == 401
    stack.drain()
    assert drops(stack, "requests") == expected
    assert kept(stack, "requests") == {"kept": sum(range(1, number + 1))}
    # Whose they are is not known: the collector's own account.
    own = stack.rows("SELECT reason FROM pipeline_drops WHERE tenant = 'default' AND place = 'cluster:tokyo-1'")
    assert {"not_post", "unauthenticated"} <= {row["reason"] for row in own}


def bombs() -> dict[tuple[str, str], bytes]:
    """Bodies of a few KiB or MiB that unpack to `BOMB_BYTES`, by encoding and kind."""
    piece = bytes(16 << 20)
    pieces = BOMB_BYTES // len(piece)
    packer, deflater = zstandard.ZstdCompressor().compressobj(), zlib.compressobj(1)
    unsized = b"".join(packer.compress(piece) for _ in range(pieces)) + packer.flush()
    return {
        ("gzip", "members"): gzip.compress(piece, 1) * pieces,
        ("gzip", "packed twice"): gzip.compress(gzip.compress(piece, 1) * pieces),
        ("deflate", "stream"): b"".join(deflater.compress(piece) for _ in range(pieces)) + deflater.flush(),
        ("zstd", "of unknown size"): unsized,
        ("zstd", "frames"): zstandard.compress(piece) * pieces,
        ("zstd", "of a stated size"): zstandard.ZstdCompressor().compress(bytes(BOMB_BYTES // 4)),
    }


def test_bombs_are_not_unpacked(stack: Stack) -> None:
    """Small bodies of a GiB of zeros, five of each at once, are refused without taking the memory for it."""
    found = {}
    with ThreadPoolExecutor(5) as pool:
        for (encoding, kind), body in bombs().items():
            answers = pool.map(partial(offer, stack, "bombs", body, PROTOBUF), [encoding] * 5)
            found[encoding, kind] = {answer.status for answer in answers}
    # What is packed twice is a gzip body of 1 MiB of garbage.
    assert found.pop(("gzip", "packed twice")) == {400}
    assert set().union(*found.values()) == {413}
    assert offer(stack, "bombs", gzip.compress(body_of(good("kept"))), encoding="gzip").status == 200
    stack.drain()
    assert drops(stack, "bombs") == {("request_too_large", "requests"): 25, ("undecodable", "requests"): 5}
    assert kept(stack, "bombs") == {"kept": 7}


def bad_points() -> Iterator[tuple[str, pb.Metric]]:
    """A reason and a metric of one point that is refused for it."""
    t, name, delta = now(), "bad", otlp.DELTA

    def one(value: float | None, time: float = t, start: float = t - 1, **options: object) -> pb.Metric:
        return otlp.counter(name, otlp.number(time, value, start=start), temporality=delta, **options)  # type: ignore[arg-type]

    def at(time_unix_nano: int) -> pb.Metric:
        metric = otlp.gauge(name, otlp.number(0, 1))
        metric.gauge.data_points[0].time_unix_nano = time_unix_nano
        return metric

    def buckets(counts: list[int], bounds: list[float], count: int | None = None) -> pb.Metric:
        return otlp.histogram(name, otlp.explicit(t, counts, bounds, count=count, start=t - 1), temporality=delta)

    def scaled(scale: int, counts: list[int]) -> pb.Metric:
        return otlp.exponential_histogram(name, otlp.exponential(t, scale, 0, counts, start=t - 1), temporality=delta)

    yield "too_old", at(0)
    yield "too_old", one(1, t - LIMITS.past_seconds_max - 60, t - LIMITS.past_seconds_max - 61)
    yield "too_far_in_future", at(2**63 - 1)
    yield "too_far_in_future", one(1, t + LIMITS.future_seconds_max + 60)
    yield "start_after_time", one(1, t, t + 1)
    yield "unknown_temporality", otlp.counter(name, otlp.number(t, 1, start=t - 1), temporality=0)
    yield "unknown_temporality", otlp.counter(name, otlp.number(t, 1, start=t - 1), temporality=99)
    yield "unknown_temporality", otlp.histogram(name, otlp.explicit(t, [1], [], start=t - 1), temporality=-5)
    yield "no_value", one(None)
    yield "not_finite", one(math.nan)
    yield "not_finite", otlp.gauge(name, otlp.number(t, -math.inf))
    yield "negative_monotonic", one(-1)
    yield "buckets_malformed", buckets([1, 2, 3], [1.0])
    yield "buckets_malformed", buckets([1, 2], [1.0], count=4)
    yield "bounds_malformed", buckets([1, 2, 3], [2.0, 1.0])
    yield "bounds_malformed", buckets([1, 2, 3], [1.0, math.nan])
    yield "buckets_too_many", scaled(0, [1] * (LIMITS.histogram_buckets_max + 1))
    yield "count_too_large", buckets([LIMITS.histogram_count_max + 1], [])
    yield "scale_out_of_range", scaled(21, [1])
    yield "no_name", otlp.gauge("", otlp.number(t, 1))
    yield "name_too_long", otlp.gauge("x" * (LIMITS.metric_name_bytes_max + 1), otlp.number(t, 1))


def test_bad_points_are_refused_and_the_good_beside_them_are_kept(stack: Stack) -> None:
    """Partial success says how many and why; SQL has the reason and the good metric of the same request."""
    wrong, expected = [], Counter[tuple[str, str]]()
    for number, (reason, metric) in enumerate(bad_points()):
        answer = offer(stack, "points", body_of(metric, good(f"{reason}-{number}"), metric))
        partial = ExportMetricsServiceResponse.FromString(answer.body).partial_success
        if (answer.status, partial.rejected_data_points, reason in partial.error_message) != (200, 2, True):
            wrong.append((reason, number, answer))
        expected[reason, "points"] += 2
    # A newer sender's fields are ignored, not refused.
    assert offer(stack, "points", body_of(good("newer")) + b"\xfa\x3e\x03abc").body == b""
    stack.drain()
    assert wrong == []
    assert drops(stack, "points") == expected
    names = {f"{reason}-{number}" for number, (reason, _) in enumerate(bad_points())}
    assert kept(stack, "points") == dict.fromkeys(names | {"newer"}, 7)


def _field(number: int, *contents: bytes) -> bytes:
    """A protobuf field of bytes."""
    whole = b"".join(contents)
    size, prefix = len(whole), bytearray([number << 3 | 2])
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    return bytes(prefix) + bytes([size]) + whole


def _nested(levels: int) -> bytes:
    """A KeyValue whose value is a list in a list, and so on."""
    value = b""
    for _ in range(levels):
        value = _field(5, _field(1, value))
    return _field(1, b"deep") + _field(2, value)


def with_attributes(raw: list[bytes], *, on_resource: bool) -> bytes:
    """A request of one point with serialised attributes, on itself or on its resource."""
    sum_ = good("bad").sum
    point = sum_.data_points[0].SerializeToString()
    del sum_.data_points[:]
    attributes = [_field(1 if on_resource else 7, one) for one in raw]
    points = _field(1, point, *([] if on_resource else attributes))
    metric = _field(2, pb.Metric(name="bad").SerializeToString(), _field(7, points, sum_.SerializeToString()))
    resource = _field(1, *attributes) if on_resource else b""
    return _field(1, resource, _field(2, metric))


def bad_attributes() -> Iterator[tuple[str, list[bytes]]]:
    """A reason and the serialised attributes of a point."""

    def pairs(attributes: dict[str, object]) -> list[bytes]:
        return [pair.SerializeToString() for pair in otlp.key_values(attributes)]

    yield "attribute_too_long", pairs({"x": "é" * (LIMITS.attribute_value_bytes_max // 2 + 1)})
    yield "attribute_too_long", pairs({"x" * (LIMITS.attribute_value_bytes_max + 1): 1})
    yield "attributes_too_many", pairs({f"x{number}": number for number in range(LIMITS.attribute_count_max + 1)})
    yield "attributes_too_large", pairs({"x": "y" * (8 << 20)})
    yield "attributes_too_large", pairs({f"x{number}": "y" * 4000 for number in range(20)})
    yield "attribute_too_deep", [_nested(LIMITS.attribute_depth_max + 1)]
    yield "attributes_malformed", [_nested(5_000)]
    yield "attributes_malformed", [b"\x0a\x05ab"]
    yield "attributes_malformed", [b"\x0a\x02\xff\xfe\x12\x00"]


def test_deep_and_huge_attributes_are_refused(stack: Stack) -> None:
    """Attributes over a limit, or that cannot be read, cost their point only, on the point and the resource alike."""
    wrong, expected = [], Counter[tuple[str, str]]()
    for number, (reason, raw) in enumerate(bad_attributes()):
        for on_resource in (False, True):
            body = with_attributes(raw, on_resource=on_resource) + body_of(good(f"kept-{number}"))
            answer = offer(stack, "attributes", body)
            partial = ExportMetricsServiceResponse.FromString(answer.body).partial_success
            if (answer.status, partial.rejected_data_points, reason in partial.error_message) != (200, 1, True):
                wrong.append((reason, number, on_resource, answer.status, answer.body[:200]))
            expected[reason, "points"] += 1
    stack.drain()
    assert wrong == []
    assert drops(stack, "attributes") == expected
    assert kept(stack, "attributes") == {f"kept-{number}": 14 for number, _ in enumerate(bad_attributes())}


def test_grpc_refuses_and_keeps_as_http_does(stack: Stack) -> None:
    """INVALID_ARGUMENT for garbage, RESOURCE_EXHAUSTED for what is too large or a bomb, partial success for points."""
    metadata = (("authorization", "Bearer grpc"),)
    with grpc.insecure_channel(f"127.0.0.1:{stack.ports['otlp_grpc']}") as channel:

        def refused(body: bytes, compression: grpc.Compression = grpc.Compression.NoCompression) -> grpc.RpcError:
            with pytest.raises(grpc.RpcError) as caught:
                export(channel, body, metadata=metadata, compression=compression)
            return caught.value

        garbage = refused(b"\xff" * 50)
        assert garbage.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert status_of(garbage).code == code_pb2.INVALID_ARGUMENT
        too_large = bytes(LIMITS.request_bytes_max + 1)
        assert refused(too_large).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        bomb = bytes(BOMB_BYTES // 4)
        assert refused(bomb, grpc.Compression.Gzip).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        del bomb
        mixed = body_of(otlp.gauge("bad", otlp.number(now(), math.nan)), good("kept"))
        answer = ExportMetricsServiceResponse.FromString(export(channel, mixed, metadata=metadata))
        assert answer.partial_success.rejected_data_points == 1
        assert "not_finite" in answer.partial_success.error_message
    stack.drain()
    found = drops(stack, "grpc")
    assert found["not_finite", "points"] == 1 and found["undecodable", "requests"] == 1
    assert kept(stack, "grpc") == {"kept": 7}


def test_noise_beside_good_senders_costs_them_nothing(stack: Stack) -> None:
    """Hundreds of damaged bodies on many connections: each is answered, and every good request counts once."""
    whole = body_of(*(good(f"noise-{number}") for number in range(20)))

    def damaged(number: int) -> int:
        chance, body = random.Random(number), bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        return offer(stack, "noise", bytes(body[: chance.randint(1, 2 * len(body))])).status

    def sound(number: int) -> int:
        return offer(stack, "noise", body_of(good(f"sound-{number}", number))).status

    with ThreadPoolExecutor(8) as pool:
        noise = pool.map(damaged, range(400))
        sounds = pool.map(sound, range(1, 51))
        assert set(noise) <= {200, 400}
        assert set(sounds) == {200}
    stack.drain()
    found = {name: total for name, total in kept(stack, "noise").items() if name.startswith("sound-")}
    assert found == {f"sound-{number}": number for number in range(1, 51)}
    assert drops(stack, "noise")["undecodable", "requests"] > 0
