"""Roll-up: input rows per CPU-second of decode + merge to cluster rows + merge to region rows + encode.

    python -m benchmarks.rollup [--profile]

Load: 1,000 clusters x 100 series (50 % counters, 30 % gauges, 20 % histograms of 12 to 20 buckets) = 100,000 keys, in
envelopes of a stated number of rows, and every key in a stated number of flushes of the same window.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import pyarrow as pa

from aggregators.rollup import roll_up
from benchmarks.harness import record
from catchment.columns import LANES
from catchment.envelope import decode, encode, seal
from catchment.identity import canonical_attributes, series_id

TENANT = "default"
REGION = "jp-east"
WINDOW_START_NS = 1_763_900_040_000_000_000
SERIES = 100
_SCHEMA = LANES["metrics_cluster"].schema


def _dictionary(codes: np.ndarray, values: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(values))


def make_rows(clusters: range, flush: int, rng: np.random.Generator) -> pa.Table:
    """One flush of ``clusters``, `SERIES` rows each, in ``LANES["metrics_cluster"]``."""
    n = len(clusters) * SERIES
    series = np.tile(np.arange(SERIES), len(clusters))
    kind = np.select([series < 50, series < 80], [0, 1], 2)
    gauge, histogram = kind == 1, kind == 2
    kinds, services = ["counter", "gauge", "histogram"], [f"shop/service-{i}" for i in range(5)]
    metrics = [f"http.server.metric.{i}" for i in range(20)]
    attributes = [canonical_attributes({"method": "GET", "route": f"/v1/{i}", "status": 200}) for i in range(SERIES)]
    ids = [
        series_id(TENANT, services[i % 5], metrics[i % 20], kinds[kind[i]], "1", attributes[i]) for i in range(SERIES)
    ]
    points = rng.integers(1, 7, n).astype(np.uint64)
    value = rng.gamma(2.0, 50.0, n)
    time_ns = WINDOW_START_NS + flush * 5_000_000_000 + rng.integers(0, 5_000_000_000, n)
    lengths = np.where(histogram, 12 + series % 9, 0)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    bucket_keys = (position + np.repeat(series % 7, lengths)).astype(np.int64) << 32 | position
    buckets = pa.MapArray.from_arrays(offsets, bucket_keys, rng.integers(1, 100, offsets[-1]).astype(np.uint64))
    traced = histogram & (rng.random(n) < 0.5)
    columns = {
        "window_start_ns": np.full(n, WINDOW_START_NS),
        "window_seconds": np.full(n, 60, np.uint32),
        "cluster": _dictionary(np.repeat(np.arange(len(clusters)), SERIES), [f"cluster-{i:05d}" for i in clusters]),
        "service": _dictionary(series % 5, services),
        "metric": _dictionary(series % 20, metrics),
        "kind": _dictionary(kind, kinds),
        "unit": _dictionary(series * 0, ["1"]),
        "attributes": _dictionary(series, attributes),
        "series_id": np.array(ids, np.uint64)[series],
        "points": points,
        "count": points,
        "sum_int": pa.array(np.where(kind == 0, (value * 10).astype(np.int64), 0)).cast(pa.decimal128(38, 0)),
        "sum_float": np.where(kind == 0, 0.0, value),
        "min": pa.array(value, mask=kind == 0),
        "max": pa.array(value + 1, mask=kind == 0),
        "last_time_ns": pa.array(time_ns, mask=~gauge),
        "last_value": pa.array(value, mask=~gauge),
        "integral": np.where(gauge, value * 5, 0.0),
        "observed_seconds": np.where(gauge, 5.0, 0.0),
        "histogram": buckets,
        "exemplar_value": pa.array(value, mask=~traced),
        "exemplar_time_ns": pa.array(time_ns, mask=~traced),
        "exemplar_trace_id": pa.array([f"{i:032x}" for i in range(n)], mask=~traced),
        "exemplar_span_id": pa.array([f"{i:016x}" for i in range(n)], mask=~traced),
    }
    return pa.table(columns, schema=_SCHEMA)


def make_envelopes(keys: int, flushes: int, envelope_rows: int) -> list[bytes]:
    """Encoded envelopes that hold each of ``keys`` keys ``flushes`` times."""
    rng = np.random.default_rng(7)
    step = max(envelope_rows // SERIES, 1)
    sealed: list[bytes] = []
    for flush in range(flushes):
        for first in range(0, keys // SERIES, step):
            rows = make_rows(range(first, min(first + step, keys // SERIES)), flush, rng)
            sequence = len(sealed) + 1
            sealed.append(
                encode(seal("metrics_cluster", rows, tenant=TENANT, region=REGION, producer="b", sequence=sequence))
            )
    return sealed


def run(envelopes: list[bytes]) -> int:
    """Decode, roll up and encode once; returns the bytes that went out."""
    outputs = roll_up([decode(data) for data in envelopes], producer="benchmark", sequence=1)
    return sum(len(encode(output)) for output in outputs)


def measure(keys: int, flushes: int, envelope_rows: int, repeats: int) -> tuple[float, int, int]:
    """Best input rows per CPU-second of ``repeats`` runs, bytes in and bytes out."""
    envelopes = make_envelopes(keys, flushes, envelope_rows)
    best = float("inf")
    bytes_out = 0
    for _ in range(repeats):
        started = time.process_time()
        bytes_out = run(envelopes)
        best = min(best, time.process_time() - started)
    return keys * flushes / best, sum(map(len, envelopes)), bytes_out


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="where the CPU-seconds go, by function")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    rows = []
    for flushes, envelope_rows in ((1, 10_000), (4, 10_000), (4, 1_000), (12, 10_000)):
        rate, bytes_in, bytes_out = measure(100_000, flushes, envelope_rows, arguments.repeats)
        rows.append(
            (
                f"{flushes} flushes a window, {envelope_rows:,} rows an envelope",
                f"{rate / 1e6:.2f} M rows per CPU-second ({bytes_in / 1e6:.1f} MB in, {bytes_out / 1e6:.1f} MB out)",
            )
        )
    record("Roll-up: decode + cluster rows + region rows + encode, all kinds mixed", rows)
    if arguments.profile:
        envelopes = make_envelopes(100_000, 4, 10_000)
        profile = cProfile.Profile()
        profile.runcall(run, envelopes)
        pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
