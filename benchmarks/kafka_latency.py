"""From acknowledgement to SQL through a real Kafka at a steady load, and how long a kill of each role is felt there.

    python -m benchmarks.kafka_latency [--seconds N]

Collector, aggregator and store are processes; one broker; all on this machine. Ten times a second a request of 1,000
points is acknowledged, with one delta of 1 in it that numbers it: the sum of these in SQL says which request is the
latest that can be queried, since all are of one series and so of one partition. It is asked for ever anew.

A *kill* is SIGKILL and an immediate start of the same role, as a supervisor does it, or nothing where another process
is there to take over. Its cost: how far SQL was behind at most, and how long until it was as close as before again.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import kafka_setting
from benchmarks.harness import record
from catchment.cli.exits import EnvironmentFault
from catchment.errors import CatchmentError
from tests import otlp
from tests.faults.stack import SECOND_AGGREGATOR, Stack
from tests.integration.end_to_end import now, post
from tests.kafka.broker import Broker

_PERIOD_SECONDS = 0.1
_POINTS = 1_000
_SESSION_SECONDS = 6
_COUNT = "SELECT toUInt64(sum(m.sum_int)) AS requests FROM metrics_region_1m AS m WHERE m.metric = 'bench.requests'"


@dataclass
class Course:
    """What happened, by `time.monotonic`: when each request was acknowledged, and how many SQL knew when."""

    acknowledged: list[float] = field(default_factory=list)
    seen: list[tuple[float, int]] = field(default_factory=list)

    def latencies(self) -> list[float]:
        """Seconds from the acknowledgement of each request to the first answer that had it."""
        found: list[float] = []
        for at, count in self.seen:
            found += [at - then for then in self.acknowledged[len(found) : count]]
        return found

    def behind(self, since: float) -> list[tuple[float, float]]:
        """(time, age of the oldest acknowledged request that SQL did not have) of each answer since then."""
        return [
            (at, at - self.acknowledged[count] if count < bisect_right(self.acknowledged, at) else 0.0)
            for at, count in self.seen
            if at >= since
        ]


_numbers = itertools.count(1).__next__


class Load:
    """Sends and asks in threads of its own until it is closed."""

    def __init__(self, stack: Stack) -> None:
        self.course = Course()
        self._stack = stack
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._ask)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """No more requests; returns when SQL has all that was acknowledged."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            number += 1
            at = now() - 1
            points = [otlp.number(at, i, attributes={"key": str(i)}) for i in range(_POINTS - 1)]
            one = otlp.number(at + number * 1e-6, 1, start=at + (number - 1) * 1e-6)
            one_more = otlp.counter("bench.requests", one, temporality=otlp.DELTA)
            body = otlp.body(otlp.gauge("bench.level", *points), one_more, resource={"service.name": "bench"})
            # A request that was not answered is sent again as it was, and counts once.
            while not self._acknowledged(body):
                time.sleep(0.05)
            self.course.acknowledged.append(time.monotonic())
            due = max(due + _PERIOD_SECONDS, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0))

    def _acknowledged(self, body: bytes) -> bool:
        try:
            return post(self._stack, body).status == 200
        except EnvironmentFault:
            return False

    def _ask(self) -> None:
        while not self._stop.is_set() or self._missing():
            try:
                count = int(self._stack.rows(_COUNT)[0]["requests"])
            except (OSError, CatchmentError, LookupError):
                count = 0  # the store is away
            self.course.seen.append((time.monotonic(), max(count, self.course.seen[-1][1] if self.course.seen else 0)))
            time.sleep(0.02)

    def _missing(self) -> bool:
        return not self.course.seen or self.course.seen[-1][1] < len(self.course.acknowledged)


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def _steady(folder: Path, broker: Broker, name: str, seconds: float, **changes: str) -> tuple[str, str]:
    with kafka_setting.stack(folder, broker.plain, f"steady-{name}", session_seconds=_SESSION_SECONDS) as stack:
        stack.start("collector", "aggregator", "store", **changes)
        stack.wait_ready("collector", "aggregator", "store")
        load = Load(stack)
        time.sleep(seconds)
        load.close()
        found = load.course.latencies()[len(load.course.acknowledged) // 5 :]  # the first fifth warms up
    settings = ", ".join(f"{key} {value}" for key, value in changes.items())
    figures = f"p50 {statistics.median(found):.2f} s, p99 {_percentile(found, 0.99):.2f} s ({len(found)} requests)"
    return f"acknowledged to queryable, {settings}", figures


def _recovery(
    folder: Path, broker: Broker, name: str, kill: Callable[[Stack], None], *roles: str, seconds: float
) -> tuple[str, str]:
    fast = {"flush": "200ms", "aggregator": "{linger: 50ms}"}
    with kafka_setting.stack(folder, broker.plain, f"kill-{_numbers()}", session_seconds=_SESSION_SECONDS) as stack:
        stack.start(*roles, **fast)
        stack.wait_ready(*roles)
        load = Load(stack)
        time.sleep(8)
        usual = _percentile(load.course.latencies()[20:], 0.99)
        since = time.monotonic()
        kill(stack)
        time.sleep(seconds)
        load.close()
        behind = load.course.behind(since)
        late = [at for at, age in behind if age > 1.5 * usual]
        answered = max(b - a for a, b in zip(load.course.acknowledged, load.course.acknowledged[1:], strict=False))
        stack.end()
    most, over = max(age for _, age in behind), (max(late) - since if late else 0.0)
    figures = f"SQL at most {most:.1f} s behind, as before after {over:.1f} s; senders waited {answered:.1f} s at most"
    return f"kill -9 of {name}", figures


def _again(role: str) -> Callable[[Stack], None]:
    def kill(stack: Stack) -> None:
        stack.kill(role)
        stack.start(role, flush="200ms", aggregator="{linger: 50ms}")

    return kill


def _busiest(stack: Stack) -> str:
    """The aggregator that has the partition which all of the load is in."""
    aggregators = ("aggregator", SECOND_AGGREGATOR)
    return max(aggregators, key=lambda role: stack.metric(role, "catchment_rollup_rows_in_total"))


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="of each steady load")
    seconds = parser.parse_args().seconds
    roles = ("collector", "aggregator", "store")
    with kafka_setting.broker() as (folder, broker):

        def restart_broker(_: Stack) -> None:
            broker.kill()
            broker.start()

        rows = [
            _steady(folder, broker, "fast", seconds, flush="200ms", aggregator="{linger: 50ms}"),
            _steady(folder, broker, "usual", seconds, flush="5s", aggregator="{linger: 1s}"),
            *(_recovery(folder, broker, f"the {role}", _again(role), *roles, seconds=15) for role in roles),
            _recovery(
                folder,
                broker,
                "the aggregator, another takes over (session_timeout 6s)",
                lambda stack: stack.kill(_busiest(stack)),
                *(*roles, SECOND_AGGREGATOR),
                seconds=20,
            ),
            _recovery(folder, broker, "the broker", restart_broker, *roles, seconds=30),
        ]
    record("Kafka: from acknowledgement to SQL, 10,000 points/s, all on two cores", rows)


if __name__ == "__main__":
    main()
