"""A sender of endless new series against a collector with a budget: memory, time, and whether all still adds up.

    python -m benchmarks.cardinality

A collector process whose tenant may have 100,000 series is offered 1,000,000 over HTTP, a sixth of each kind, told
apart by an attribute as senders make them by mistake (``request.id``). Then each of their streams sends once more.
Afterwards what the collector forwarded is added up, kind by kind, and compared with what was sent, to the last unit:
all values are integers or quarters. Another collector, whose ``streams_max`` is 200,000, is offered the same: there
each point must be in a row, or counted as refused.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from benchmarks.edge import Collector, collector, post_all
from benchmarks.harness import process_cpu_seconds, record, resident_mebibytes
from catchment.columns import regional_topic
from catchment.envelope import decode
from catchment.log.sqlite import SqliteLog
from collectors.catalog import OVERFLOW_ATTRIBUTES

BUDGET = 100_000
STREAMS = 200_000
_PER_BODY = 10_000
_KINDS = ("counter", "delta", "gauge", "histogram", "exponential", "summary")
_DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
_SECOND_NS = 1_000_000_000
_FLUSH_SECONDS = 5

Sums = Counter[tuple[str, str]]


def body(first: int, turn: int, start_ns: int) -> bytes:
    """Points of the streams from ``first`` on: their first (``turn`` 1) or second one."""
    message = ExportMetricsServiceRequest()
    metrics = message.resource_metrics.add().scope_metrics.add().metrics
    of = {name: metrics.add(name=name) for name in _KINDS}
    of["counter"].sum.is_monotonic = of["delta"].sum.is_monotonic = True
    of["counter"].sum.aggregation_temporality = _CUMULATIVE
    of["delta"].sum.aggregation_temporality = _DELTA
    of["histogram"].histogram.aggregation_temporality = _CUMULATIVE
    of["exponential"].exponential_histogram.aggregation_temporality = _CUMULATIVE
    points = {
        "counter": of["counter"].sum.data_points,
        "delta": of["delta"].sum.data_points,
        "gauge": of["gauge"].gauge.data_points,
        "histogram": of["histogram"].histogram.data_points,
        "exponential": of["exponential"].exponential_histogram.data_points,
        "summary": of["summary"].summary.data_points,
    }
    time_ns = start_ns + turn * _SECOND_NS
    for stream in range(first, first + _PER_BODY):
        kind, value = _KINDS[stream % len(_KINDS)], stream % 1_000 + 1
        times = {"start_time_unix_nano": start_ns, "time_unix_nano": time_ns}
        if kind == "counter":
            point = points[kind].add(as_int=turn * value, **times)
        elif kind == "delta":
            point = points[kind].add(as_int=value, start_time_unix_nano=time_ns - _SECOND_NS, time_unix_nano=time_ns)
        elif kind == "gauge":
            point = points[kind].add(as_double=value / 4, time_unix_nano=time_ns)
        elif kind == "summary":
            point = points[kind].add(count=turn * value, sum=turn * value / 4, **times)
        elif kind == "histogram":
            point = points[kind].add(count=turn * value, sum=turn * value / 4, **times)
            point.explicit_bounds.append(1.0)
            point.bucket_counts.extend([0, turn * value])
        else:
            point = points[kind].add(count=turn * value, sum=turn * value / 4, scale=stream % 6, **times)
            point.positive.bucket_counts.append(turn * value)
        for key, text in (("request.id", f"{stream:032x}"), ("route", f"/route/{stream % 20}")):
            point.attributes.append(KeyValue(key=key, value=AnyValue(string_value=text)))
    data: bytes = message.SerializeToString()
    return data


def expected(streams: int, turns: int) -> Sums:
    """What the rows must add up to."""
    sums: Sums = Counter()
    for number, kind in enumerate(_KINDS):
        of_kind = np.arange(number, streams, len(_KINDS))
        values = int((of_kind % 1_000 + 1).sum())
        points = turns * len(of_kind)
        sums[kind, "points"] = points
        counts_points = kind in ("counter", "delta", "gauge")
        sums[kind, "count"] = points if counts_points else turns * values
        sums[kind, "sum_int"] = turns * values if kind in ("counter", "delta") else 0
        sums[kind, "sum_quarters"] = 0 if kind in ("counter", "delta") else turns * values
        sums[kind, "buckets"] = turns * values if kind in ("histogram", "exponential") else 0
    return +sums


def forwarded(folder: Path, lane: str) -> Iterator[pa.Table]:
    """The rows of a lane that the collector has forwarded, an envelope's at a time."""

    async def read() -> list[bytes]:
        log = SqliteLog.open(folder / "log" / "log.db")
        topic, position, values = regional_topic("catchment", "local", lane), 0, []
        while messages := await log.poll(topic, 0, position, messages_max=100, bytes_max=1 << 28, wait_seconds=0.1):
            values += [message.value for message in messages]
            position = messages[-1].offset + 1
        await log.close()
        return values

    for value in asyncio.run(read()):
        yield decode(value).rows


def found(folder: Path) -> tuple[Sums, int, int]:
    """What the forwarded rows add up to; how many series they have, and how many of these are overflow."""
    sums: Sums = Counter()
    series: set[int] = set()
    overflow: set[int] = set()
    for rows in forwarded(folder, "metrics_cluster"):
        series.update(rows["series_id"].to_pylist())
        pairs = zip(rows["series_id"].to_pylist(), rows["attributes"].to_pylist(), strict=True)
        overflow.update(identity for identity, attributes in pairs if attributes == OVERFLOW_ATTRIBUTES)
        metric = np.array(rows["metric"].to_pylist())
        lengths = np.array([sum(count for _, count in each) for each in rows["histogram"].to_pylist()])
        for name in np.unique(metric).tolist():
            mine = np.flatnonzero(metric == name)
            for column in ("points", "count", "sum_int"):
                sums[name, column] += sum(map(int, rows[column].take(mine).to_pylist()))
            sums[name, "sum_quarters"] += int(4 * rows["sum_float"].to_numpy()[mine].sum())
            sums[name, "buckets"] += int(lengths[mine].sum())
    return +sums, len(series), len(overflow)


def _peak_mebibytes(pid: int) -> float:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def _wait_flushed(folder: Path, points: int) -> tuple[int, int]:
    """Wait until each point is in a row, or counted as refused; how many are which."""
    for _ in range(60):
        accepted = sum(sum(rows["points"].to_pylist()) for rows in forwarded(folder, "metrics_cluster"))
        drops = [row for rows in forwarded(folder, "drops") for row in rows.to_pylist()]
        refused = sum(row["count"] for row in drops if row["reason"] == "streams_full")
        if accepted + refused == points:
            return accepted, refused
        time.sleep(_FLUSH_SECONDS / 2)
    raise AssertionError(f"{accepted} points in rows and {refused} refused are not {points}")


def _send(target: Collector, streams: int, turn: int, start_ns: int) -> tuple[float, float]:
    """Send a point of each stream; wall seconds and CPU-seconds of the collector, without making the bodies."""
    wall = 0.0
    begin_cpu = process_cpu_seconds(target.pid)
    for first in range(0, streams, 4 * _PER_BODY):
        bodies = [body(each, turn, start_ns) for each in range(first, min(first + 4 * _PER_BODY, streams), _PER_BODY)]
        begin = time.monotonic()
        asyncio.run(post_all(target.port, bodies, "", 2, may_reject=True))
        wall += time.monotonic() - begin
    return wall, process_cpu_seconds(target.pid) - begin_cpu


def budget(streams: int) -> list[tuple[str, str]]:
    """Series beyond their budget fold: nothing is refused, all adds up."""
    rows = []
    with collector(f"limits: {{series_per_tenant_max: {BUDGET}, series_per_metric_max: {BUDGET}}}\n") as target:
        time.sleep(2)
        idle = resident_mebibytes(target.pid)
        start_ns = time.time_ns()
        for turn, what in ((1, "each of a new series"), (2, "each of a known one")):
            wall, cpu = _send(target, streams, turn, start_ns)
            _wait_flushed(target.folder, turn * streams)
            peak = _peak_mebibytes(target.pid)
            figure = f"{wall:.0f} s, {cpu:.0f} CPU-seconds, peak resident {peak:.0f} MiB"
            rows.append((f"{streams:,} points, {what}", figure))
        sums, series, overflow = found(target.folder)
    if sums != expected(streams, 2):
        raise AssertionError(f"{sums} is not {expected(streams, 2)}")
    return [
        ("resident when idle", f"{idle:.0f} MiB"),
        *rows,
        ("series in the rows", f"{series:,}, of them overflow: {overflow}"),
        ("points, counts, sums and buckets of every kind, compared with what was sent", "equal"),
    ]


def full(streams: int) -> tuple[str, str]:
    """Streams beyond ``streams_max`` are refused: each point is in a row or counted as refused."""
    limits = f"{{series_per_tenant_max: {BUDGET}, series_per_metric_max: {BUDGET}, streams_max: {STREAMS}}}"
    with collector(f"limits: {limits}\n") as target:
        wall, cpu = _send(target, streams, 1, time.time_ns())
        accepted, refused = _wait_flushed(target.folder, streams)
        peak = _peak_mebibytes(target.pid)
    figure = f"{accepted:,} accepted, {refused:,} refused, {wall:.0f} s, {cpu:.0f} CPU-seconds, peak {peak:.0f} MiB"
    return f"the same {streams:,} new series with streams_max {STREAMS:,}", figure


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000, help="a multiple of 10,000")
    streams: int = parser.parse_args().streams
    section = f"Cardinality: {streams:,} series offered to a budget of {BUDGET:,}"
    rows = budget(streams)
    record(section, rows)
    record(section, [*rows, full(streams)])


if __name__ == "__main__":
    main()
