"""The edge's core: decode + identity + aggregation of OTLP bodies, per CPU-second of one thread.

    python -m benchmarks.core

All streams are known (steady state); the bodies are those of `benchmarks.load`, 10,000 points each, two at a time. The
drain at the end, which makes the rows of a flush, is part of what is measured. What comes out is compared with what the
load knows.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")

from benchmarks.harness import cpu_seconds, measure, record, resident_mebibytes
from benchmarks.load import Load
from benchmarks.peer_loop import points_per_cpu_second
from catchment.limits import Limits
from collectors.allocator import keep_memory, without_pandas
from collectors.catalog import Catalog
from collectors.edge import Drained, Edge
from collectors.lives import Lives
from collectors.policy import Policy
from collectors.records import Received
from collectors.seen import SeenPoints

INTERVALS_PER_RUN = 6
RUNS = 5
# What the intake of a busy collector decodes together.
BODIES_PER_BATCH = 2


class Core:
    """An edge without shells, fed with the load."""

    def __init__(self, load: Load) -> None:
        limits = Limits()
        self.load = load
        self.edge = Edge(
            limits,
            Policy(),
            window_seconds=60,
            catalog=Catalog(limits),
            lives=Lives(0),
            seen=SeenPoints(limits.seen_points_max, 0),
        )

    def feed(self, interval: int, bodies: list[bytes]) -> int:
        """Decode, identify and aggregate; returns points."""
        received_ns = self.load.time_ns(interval) + 10**9
        for start in range(0, len(bodies), BODIES_PER_BATCH):
            batch = bodies[start : start + BODIES_PER_BATCH]
            requests = [
                Received("metrics", "t", "c", "{}", "application/x-protobuf", "", received_ns, "", body)
                for body in batch
            ]
            _, staged = self.edge.stage(requests, batch)
            self.edge.apply(staged, requests)
        return self.load.points_per_interval

    def drain(self, interval: int) -> Drained:
        """Make the rows of a flush."""
        return self.edge.drain(self.load.time_ns(interval) + 10**9)


def _received(received_ns: int, body: bytes) -> Received:
    return Received("metrics", "t", "c", "{}", "application/x-protobuf", "", received_ns, "", body)


def _collector_memory() -> None:
    """Use memory as a collector does."""
    without_pandas()
    keep_memory()


def measure_core() -> tuple[float, float]:
    """Points per CPU-second in the steady state, and of the first interval, in which every stream is new."""
    core = Core(Load())
    bodies = core.load.bodies(1)
    begin = cpu_seconds()
    first = core.feed(1, bodies) / (cpu_seconds() - begin)
    core.drain(1)
    interval = 1
    points_expected = points_found = 0

    rates = []
    for _ in range(RUNS):
        batches = [(interval + i, core.load.bodies(interval + i)) for i in range(1, INTERVALS_PER_RUN + 1)]
        interval += INTERVALS_PER_RUN
        drained: list[Drained] = []

        def once(batches: list[tuple[int, list[bytes]]] = batches, drained: list[Drained] = drained) -> int:
            points = sum(core.feed(*batch) for batch in batches)
            drained.append(core.drain(batches[-1][0]))
            return points

        rates.append(measure(once, 1))
        points_expected += INTERVALS_PER_RUN * core.load.points_per_interval
        points_found += sum(drained[0].rows["t"]["points"].to_pylist())
    if points_found != points_expected:
        raise AssertionError(f"{points_found} points in rows, {points_expected} sent")
    return sorted(rates)[len(rates) // 2], first


def profile() -> list[tuple[str, str]]:
    """Where the CPU-seconds go: (function, share of its own time), the largest first."""
    core = Core(Load())
    core.feed(1, core.load.bodies(1))
    core.drain(1)
    batches = [(i, core.load.bodies(i)) for i in range(2, 2 + INTERVALS_PER_RUN)]
    profiler = cProfile.Profile()
    profiler.enable()
    for batch in batches:
        core.feed(*batch)
    core.drain(batches[-1][0])
    profiler.disable()
    own: dict[tuple[str, int, str], Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in own.values())
    rows = []
    for (file, _, name), (_, calls, seconds, _, _) in sorted(own.items(), key=lambda item: -item[1][2])[:20]:
        place = "/".join(Path(file).parts[-2:]) + ": " if "/" in file else ""
        rows.append((f"{place}{name}".replace("|", ""), f"{seconds / total:.1%} in {calls} calls"))
    return rows


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    _collector_memory()
    steady, first = measure_core()
    loop = points_per_cpu_second(Load())
    record(
        "Edge core: decode + identity + aggregation",
        [
            ("steady state, 100,000 streams", f"{steady / 1e6:.2f} M points per CPU-second"),
            ("first interval, all streams new", f"{first / 1e6:.3f} M points per CPU-second"),
            ("a loop over opentelemetry-proto objects, same run", f"{loop / 1e6:.3f} M points per CPU-second"),
            ("ratio to that loop", f"{steady / loop:.1f}"),
            ("resident memory of the benchmark, bodies included", f"{resident_mebibytes():.0f} MiB"),
        ],
    )
    record("Edge core: where the CPU-seconds go", profile())


if __name__ == "__main__":
    main()
