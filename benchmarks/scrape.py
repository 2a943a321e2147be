"""Scrapes: text to accumulated rows (cut, identify, aggregate), per CPU-second of one thread.

    python -m benchmarks.scrape

A hundred targets with a thousand samples each, as a Go program exposes them: counters, gauges and classic histograms,
half of the samples buckets. All series are known (steady state); the drain that makes the rows of a flush is part of
what is measured. What comes out is compared with what the targets say. The survey of each answer, which decides before
it goes to the inbox whether the target is up, is measured besides.
"""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")

from benchmarks.harness import cpu_seconds, measure, record, resident_mebibytes
from catchment.limits import Limits
from collectors.allocator import keep_memory, without_pandas
from collectors.catalog import Catalog
from collectors.edge import Edge
from collectors.lives import Lives
from collectors.policy import Policy
from collectors.records import Received
from collectors.scrape.record import CONTENT_TYPE, Reading, Record
from collectors.scrape.survey import NOTHING, Surveyor
from collectors.seen import SeenPoints

TARGETS = 100
FAMILIES = 25
INTERVALS_PER_RUN = 4
RUNS = 5
# What a collector with many targets decodes together.
RECORDS_PER_BATCH = 10
BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf")
START_NS = 1_800_000_000_000_000_000


def text(target: int, interval: int) -> bytes:
    """What a target answers in an interval."""
    lines = []
    for family in range(FAMILIES):
        name = f"http_server_{family}"
        lines.append(f"# HELP {name}_requests_total How many requests were served, by code and handler.")
        lines.append(f"# TYPE {name}_requests_total counter")
        lines += [
            f'{name}_requests_total{{code="{code}",handler="/api/v1/query_range"}} {interval * (family + code)}'
            for code in (200, 204, 301, 400, 404, 429, 500, 502, 503, 504)
        ]
        lines.append(f"# HELP {name}_in_flight How many requests are being served.")
        lines.append(f"# TYPE {name}_in_flight gauge")
        lines += [f'{name}_in_flight{{handler="/api/v{i}"}} {interval % 7 + i + target}' for i in range(4)]
        lines.append(f"# HELP {name}_seconds How long requests took.")
        lines.append(f"# TYPE {name}_seconds histogram")
        for method in ("get", "post"):
            labels = f'handler="/api/v1/query_range",method="{method}"'
            lines += [
                f'{name}_seconds_bucket{{{labels},le="{le}"}} {interval * (i + 1)}' for i, le in enumerate(BOUNDS)
            ]
            lines.append(f"{name}_seconds_sum{{{labels}}} {interval * 1.375}")
            lines.append(f"{name}_seconds_count{{{labels}}} {interval * len(BOUNDS)}")
    return "\n".join([*lines, ""]).encode()


def received(interval: int) -> list[Received]:
    """The records of all targets in an interval."""
    time_ns = START_NS + interval * 15 * 10**9
    records = []
    for target in range(TARGETS):
        reading = Reading({"job": "api", "instance": f"10.0.0.{target}:8080"}).line()
        payload = Record(time_ns, reading, b"# TYPE up gauge\nup 1\n", text(target, interval), b"").payload()
        records.append(Received("metrics", "t", "c", "{}", CONTENT_TYPE, "", time_ns, "", payload))
    return records


def measure_scrapes() -> tuple[float, float]:
    """Samples per CPU-second in the steady state, and in the first interval, where every series is new."""
    limits = Limits()
    seen = SeenPoints(limits.seen_points_max, 0)
    edge = Edge(limits, Policy(), window_seconds=60, catalog=Catalog(limits), lives=Lives(0), seen=seen)
    per_interval = TARGETS * (1 + text(0, 1).count(b"\n") - text(0, 1).count(b"# "))
    increases: dict[str, int] = {}

    def feed(records: list[Received]) -> int:
        for start in range(0, len(records), RECORDS_PER_BATCH):
            batch = records[start : start + RECORDS_PER_BATCH]
            _, staged = edge.stage(batch, [each.body for each in batch])
            edge.apply(staged, batch)
        return per_interval

    def drain(interval: int) -> None:
        rows = edge.drain(START_NS + interval * 15 * 10**9).rows["t"]
        for row in rows.select(["metric", "kind", "sum_int", "count"]).to_pylist():
            if row["kind"] != "gauge":
                amount = row["sum_int"] if row["kind"] == "counter" else row["count"]
                increases[row["metric"]] = increases.get(row["metric"], 0) + int(amount)

    begin = cpu_seconds()
    first = feed(received(1)) / (cpu_seconds() - begin)
    drain(1)
    increases.clear()
    interval, rates = 1, []
    for _ in range(RUNS):
        intervals = [(interval + i, received(interval + i)) for i in range(1, INTERVALS_PER_RUN + 1)]
        interval += INTERVALS_PER_RUN

        def once(intervals: list[tuple[int, list[Received]]] = intervals) -> int:
            samples = sum(feed(records) for _, records in intervals)
            drain(intervals[-1][0])
            return samples

        rates.append(measure(once, 1))
    _check(increases, interval - 1)
    return sorted(rates)[len(rates) // 2], first


def measure_surveys() -> float:
    """Samples per CPU-second of the survey alone, of targets whose answers before are known."""
    surveyor, surveys = Surveyor(Limits().request_points_max), [NOTHING] * TARGETS
    rates = []
    for interval in range(1, RUNS + 2):
        records = [Record.of(each.body) for each in received(interval)]

        def once(records: list[Record] = records) -> int:
            surveys[:] = [surveyor.survey(each, before) for each, before in zip(records, surveys, strict=True)]
            return sum(each.samples for each in surveys)

        rates.append(measure(once, 1))
    return sorted(rates[1:])[RUNS // 2]


def _check(increases: dict[str, int], intervals: int) -> None:
    """Raise unless the rows hold what the targets counted."""
    codes = (200, 204, 301, 400, 404, 429, 500, 502, 503, 504)
    for family in range(FAMILIES):
        expected = TARGETS * intervals * sum(family + code for code in codes)
        observed = TARGETS * intervals * 2 * len(BOUNDS)
        found = increases[f"http_server_{family}_requests_total"], increases[f"http_server_{family}_seconds"]
        if found != (expected, observed):
            raise AssertionError(f"family {family}: {found} found, {expected, observed} right")


def main() -> None:
    """Measure and record."""
    without_pandas()
    keep_memory()
    steady, first = measure_scrapes()
    record(
        "Scrape: text to accumulated rows",
        [
            ("steady state, 100 targets", f"{steady / 1e6:.2f} M samples per CPU-second"),
            (
                "survey of answers before they go to the inbox",
                f"{measure_surveys() / 1e6:.2f} M samples per CPU-second",
            ),
            ("first interval, all series new", f"{first / 1e6:.3f} M samples per CPU-second"),
            ("resident memory of the benchmark, texts included", f"{resident_mebibytes():.0f} MiB"),
        ],
    )


if __name__ == "__main__":
    main()
