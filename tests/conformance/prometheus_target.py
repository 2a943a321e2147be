"""A program that Prometheus scrapes: counters, gauges, histograms and summaries whose values a test sets."""

from __future__ import annotations

import contextlib
from typing import Self

import numpy as np

from catchment.histogram import pack
from tests.clients.text_server import serving_text
from tests.faults.totals import Key, Totals

BOUNDS = (0.25, 0.5, 1.0, 2.5)
KEYS = tuple(f"k{n}" for n in range(12))


class PrometheusTarget:
    """Serves text exposition on a port of its own.

    After ``turn`` steps every series has a value that is known; a turn moves all of them.
    """

    def __init__(self) -> None:
        self.turn = self.port = 0
        self._serving = contextlib.ExitStack()

    def __enter__(self) -> Self:
        answer = serving_text(lambda: self.exposition(self.turn).encode())
        self.port = self._serving.enter_context(answer)
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.close()

    def exposition(self, turn: int) -> str:
        """What is scraped after so many turns."""
        lines = ["# TYPE orders_total counter"]
        lines += [f'orders_total{{key="{key}"}} {1000 + turn * (n + 1)}' for n, key in enumerate(KEYS)]
        lines.append("# TYPE volume counter")
        lines += [f'volume{{key="{key}"}} {0.5 * turn * (n + 1)}' for n, key in enumerate(KEYS)]
        lines.append("# TYPE depth gauge")
        lines += [f'depth{{key="{key}"}} {turn + n}' for n, key in enumerate(KEYS)]
        lines.append("# TYPE latency_seconds histogram")
        for n, key in enumerate(KEYS):
            cumulative = np.cumsum(_buckets(n)) * turn
            for bound, count in zip((*BOUNDS, "+Inf"), cumulative.tolist(), strict=True):
                lines.append(f'latency_seconds_bucket{{key="{key}",le="{bound}"}} {count}')
            lines.append(f'latency_seconds_sum{{key="{key}"}} {turn * (n + 0.5)}')
            lines.append(f'latency_seconds_count{{key="{key}"}} {cumulative[-1]}')
        lines.append("# TYPE rpc_seconds summary")
        for n, key in enumerate(KEYS):
            lines.append(f'rpc_seconds{{key="{key}",quantile="0.9"}} NaN')
            lines.append(f'rpc_seconds_sum{{key="{key}"}} {turn * 0.25}')
            lines.append(f'rpc_seconds_count{{key="{key}"}} {turn * (n + 2)}')
        return "\n".join(lines) + "\n"


def expected(service: str, turns: int) -> dict[Key, Totals]:
    """The increases of so many turns, and where the gauges are then."""
    totals: dict[Key, Totals] = {}
    intervals = pack([-np.inf, *BOUNDS], [*BOUNDS, np.inf]).tolist()
    for n, key in enumerate(KEYS):
        buckets = _buckets(n)
        histogram = {at: turns * count for at, count in zip(intervals, buckets, strict=True) if count}
        totals[service, "orders_total", key] = Totals(None, turns * (n + 1), 0.0)
        totals[service, "volume", key] = Totals(None, None, None)
        totals[service, "depth", key] = Totals(None, None, None, float(turns + n))
        totals[service, "latency_seconds", key] = Totals(turns * sum(buckets), 0, turns * (n + 0.5), None, histogram)
        totals[service, "rpc_seconds", key] = Totals(turns * (n + 2), 0, turns * 0.25)
    return totals


def volumes(turns: int) -> dict[str, float]:
    """The increase of ``volume`` by key; whole values are integers, so only the sum of both sorts is known."""
    return {key: 0.5 * turns * (n + 1) for n, key in enumerate(KEYS)}


def _buckets(n: int) -> list[int]:
    return [n % 3, 1, 0, (n * n) % 5, 2]
