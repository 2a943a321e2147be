"""The loader: rows per second, wall clock, into the finest table with its hour and day tables.

The message: 100,000 rows of 100 clusters × 1,000 series, one minute; 20 % histograms of 12–20 buckets, 40 % counters,
40 % gauges. Each run decodes, plans, records in the ledger and inserts with fsync, as in production; the log is SQLite.

Run ``python -m benchmarks.loader [messages]``.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness import record
from catchment.columns import LANES
from catchment.envelope import encode, seal
from catchment.log.port import OutMessage, Source
from catchment.log.sqlite import SqliteLog
from store.engine.chdb import ChdbEngine
from store.ledger import Ledger
from store.loader import Loader
from store.migrate import migrate

TOPIC = "catchment.global.metrics_cluster"
CLUSTERS, SERIES = 100, 1_000
ROWS = CLUSTERS * SERIES


def message(minute: int) -> bytes:
    """The envelope of one minute."""
    random = np.random.default_rng(minute)
    cluster, series = np.repeat(np.arange(CLUSTERS), SERIES), np.tile(np.arange(SERIES), CLUSTERS)
    is_histogram, is_gauge = series % 100 < 20, series % 100 >= 60
    buckets = np.where(is_histogram, random.integers(12, 21, ROWS), 0)
    offsets = np.concatenate([[0], np.cumsum(buckets)]).astype(np.int32)
    # Keys ascend within a row, as the roll-up writes them.
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], buckets)
    keys = (within * (2**32 + 7)).astype(np.int64)
    start_ns = (1_700_000_000 // 3600 * 3600 + 60 * minute) * 10**9
    values: dict[str, Any] = {
        "window_start_ns": np.full(ROWS, start_ns),
        "window_seconds": np.full(ROWS, 60, np.uint32),
        "cluster": _text(cluster, [f"cluster-{i}" for i in range(CLUSTERS)]),
        "service": _text(series % 10, [f"service-{i}" for i in range(10)]),
        "metric": _text(series % 100, [f"metric.{i}" for i in range(100)]),
        "kind": _text(np.where(is_histogram, 2, np.where(is_gauge, 0, 1)), ["gauge", "counter", "histogram"]),
        "unit": _text(series * 0, ["1"]),
        "attributes": _text(series, [f'{{"http.route":"/v1/items/{i}","zone":"a"}}' for i in range(SERIES)]),
        "series_id": (series.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15),
        "points": np.full(ROWS, 10, np.uint64),
        "count": np.full(ROWS, 10, np.uint64),
        "sum_int": pa.array(random.integers(0, 1000, ROWS)).cast(pa.decimal128(38, 0)),
        "sum_float": random.random(ROWS),
        "min": pa.array(random.random(ROWS), mask=~is_gauge),
        "max": pa.array(random.random(ROWS), mask=~is_gauge),
        "last_time_ns": pa.array(np.full(ROWS, start_ns), mask=~is_gauge),
        "last_value": pa.array(random.random(ROWS), mask=~is_gauge),
        "integral": np.where(is_gauge, random.random(ROWS), 0.0),
        "observed_seconds": np.where(is_gauge, 60.0, 0.0),
        "histogram": pa.MapArray.from_arrays(
            pa.array(offsets), pa.array(keys), pa.array(random.integers(1, 100, len(keys)).astype(np.uint64))
        ),
        "exemplar_value": pa.array(random.random(ROWS), mask=~is_histogram),
        "exemplar_time_ns": pa.array(np.full(ROWS, start_ns), mask=~is_histogram),
        "exemplar_trace_id": pa.array([f"{i:032x}" for i in range(ROWS)], mask=~is_histogram),
        "exemplar_span_id": pa.array([f"{i:016x}" for i in range(ROWS)], mask=~is_histogram),
    }
    schema = LANES["metrics_cluster"].schema
    table = pa.table([pa.array(values[field.name]).cast(field.type) for field in schema], schema=schema)
    return encode(
        seal("metrics_cluster", table, tenant="acme", region="jp-east", producer="benchmark", sequence=minute)
    )


def _text(codes: np.typing.NDArray[Any], values: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(values))


async def measure(folder: Path, messages: int) -> None:
    """Fill a log, load it, record rows per second; check that nothing is missing."""
    log = SqliteLog.open(folder / "log.db")
    await log.create_topics({TOPIC: 1})
    writer = await log.writer(Source("benchmark"))
    size = 0
    for minute in range(messages):
        value = message(minute)
        size += len(value)
        await writer.publish([OutMessage(TOPIC, "acme", value)], consumed=minute + 1)
    engine = ChdbEngine(folder / "store")
    ledger = Ledger(folder / "store", deduplication_window=10_000)
    migrate(engine, ledger, now_ns=time.time_ns())
    loader = Loader(log, engine, ledger, [TOPIC], quarantine_folder=folder / "quarantine")
    wall, cpu = time.perf_counter(), time.process_time()
    await loader.drain_once()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows = messages * ROWS
    for table in ("metrics_cluster_1m", "metrics_cluster_1h", "metrics_cluster_1d"):
        found = int(engine.query(f"SELECT sum(points) FROM {table}").data)
        if found != rows * 10:
            raise SystemExit(f"{table} has {found} points, not {rows * 10}")
    record(
        "Loader: one message = one insert, into finest, hour and day tables",
        [
            (f"{messages} messages of {ROWS:,} rows, {size / messages / 1e6:.1f} MB each", f"{wall:.1f} s wall"),
            ("rows", f"{rows / wall / 1e6:.3f} M rows/s wall"),
            ("rows, background merges included", f"{rows / cpu / 1e6:.3f} M rows per CPU-second"),
        ],
    )
    loader.close()
    engine.close()
    ledger.close()
    await log.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(Path(name), int(sys.argv[1]) if len(sys.argv) > 1 else 20))
