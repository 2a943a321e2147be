"""Builders of Prometheus remote write requests. Times are seconds after `tests.otlp.T0`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from collectors.decode import remote_write_pb2
from collectors.decode.families import MetricType
from tests.otlp import ns

pb: Any = remote_write_pb2
STALE = struct.unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))[0]

Series = tuple[Mapping[str, str], Sequence[tuple[float, float]]]


def labels(name: str, **others: str) -> dict[str, str]:
    """The labels of a series, sorted as senders sort them."""
    return dict(sorted({"__name__": name, "job": "shop", "instance": "a:80", **others}.items()))


def ms(seconds: float) -> int:
    """Milliseconds, UTC, of a time in seconds after T0."""
    return ns(seconds) // 10**6


def body(*series: Series, metadata: Mapping[str, MetricType] | None = None) -> bytes:
    """A request of 1.0: series are their labels and (time, value) pairs."""
    request = pb.WriteRequest()
    for names, samples in series:
        one = request.timeseries.add()
        for name, text in names.items():
            one.labels.append(pb.Label(name=name.encode(), value=text.encode()).SerializeToString())
        for time, value in samples:
            one.samples.add(value=value, timestamp=ms(time))
    for family, of_type in (metadata or {}).items():
        request.metadata.add(type=of_type, metric_family_name=family.encode())
    encoded: bytes = request.SerializeToString()
    return encoded


def histogram(
    name: str, time: float, counts: Sequence[int], total: float, bounds: Sequence[float], **others: str
) -> list[Series]:
    """The series of a classic histogram at one time; ``counts`` are of the buckets, not cumulative."""
    series: list[Series] = []
    cumulative = 0
    for bound, count in zip([*bounds, float("inf")], counts, strict=True):
        cumulative += count
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        series.append((labels(f"{name}_bucket", le=le, **others), [(time, cumulative)]))
    series.append((labels(f"{name}_sum", **others), [(time, total)]))
    series.append((labels(f"{name}_count", **others), [(time, cumulative)]))
    return series


def body_2(
    *series: Series,
    metadata: Mapping[str, tuple[MetricType, str]] | None = None,
    starts: Mapping[str, float] | None = None,
    natives: Mapping[str, Sequence[Any]] | None = None,
) -> bytes:
    """A request of 2.0; type and unit, the start of samples, and native histograms are by the series' name."""
    request = pb.Request()
    symbols = {"": 0}
    for names, samples in series:
        one = request.timeseries.add()
        for pair in names.items():
            one.labels_refs.extend(symbols.setdefault(text, len(symbols)) for text in pair)
        name = names.get("__name__", "")
        of_type, unit = (metadata or {}).get(name, (MetricType.UNKNOWN, ""))
        one.metadata.type, one.metadata.unit_ref = of_type, symbols.setdefault(unit, len(symbols))
        start = (starts or {}).get(name)
        for time, value in samples:
            one.samples.add(value=value, timestamp=ms(time), start_timestamp=0 if start is None else ms(start))
        for native in (natives or {}).get(name, ()):
            one.histograms.append(native.SerializeToString())
    request.symbols.extend(text.encode() for text in symbols)
    encoded: bytes = request.SerializeToString()
    return encoded


def native(
    time: float,
    schema: int,
    buckets: Mapping[int, int],
    *,
    total: float = 0.0,
    zeros: int = 0,
    negative: Mapping[int, int] | None = None,
    as_float: bool = False,
    custom: Sequence[float] = (),
    start: float | None = None,
    hint: int = 0,
) -> Any:
    """A native histogram; buckets are by Prometheus' index, and every gap makes a new span."""
    message = pb.NativeHistogram(
        sum=total, schema=schema, zero_threshold=1e-9, timestamp=ms(time), custom_values=custom, reset_hint=hint
    )
    count = sum(buckets.values()) + sum((negative or {}).values()) + zeros
    if start is not None:
        message.start_timestamp = ms(start)
    if as_float:
        message.count_float, message.zero_count_float = count, zeros
    else:
        message.count_int, message.zero_count_int = count, zeros
    for sign, own in (("positive", buckets), ("negative", negative or {})):
        end, before = 0, 0
        spans = getattr(message, f"{sign}_spans")
        for index, number in sorted(own.items()):
            if not spans or index != end:
                spans.add(offset=index - end, length=0)
            spans[-1].length += 1
            if as_float:
                getattr(message, f"{sign}_counts").append(number)
            else:
                getattr(message, f"{sign}_deltas").append(number - before)
            end, before = index + 1, number
    return message
