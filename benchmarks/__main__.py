"""Run every benchmark, each in a process of its own, and write RESULTS.md: ``make bench``."""

from __future__ import annotations

from benchmarks.harness import run_alone

MODULES = (
    "benchmarks.core",
    "benchmarks.scrape",
    "benchmarks.remote_write",
    "benchmarks.edge",
    "benchmarks.cardinality",
    "benchmarks.senders",
    "benchmarks.rollup",
    "benchmarks.loader",
)


def main() -> None:
    """Run them one after the other: side by side they would measure each other."""
    for module in MODULES:
        run_alone(module)


if __name__ == "__main__":
    main()
