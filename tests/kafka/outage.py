"""One outage of minutes with real processes on a real Kafka: ``make outage MINUTES=4``.

    broker killed under load ─▶ all of the ladder ─▶ broker back, all drains ─▶ store killed ─▶ store back, all drains

The limits are small, so that minutes do what hours do with the real ones. What every role says is looked at twice a
second; in the end every series and every digest is what was acknowledged. Prints the figures and writes them into
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from benchmarks.harness import record
from catchment.cli.status import Reading, read_metrics, total
from catchment.telemetry import OwnMetric
from tests.faults.known_data import KnownData
from tests.faults.stack import ROLES, Stack, wait_until
from tests.faults.totals import Key, Totals, differences, disagreements, stored
from tests.kafka.broker import Broker

_LOOK_SECONDS = 0.5
# What one row of a series with a name of its own takes in an envelope, about.
_ROW_BYTES = 35
_STEPS = ("grow", "merge", "5 minutes", "an hour", "push back")


class Sender(Protocol):
    """Makes requests whose sums are known."""

    @property
    def expected(self) -> dict[Key, Totals]:
        """What all requests so far add up to."""
        ...

    def request(self) -> bytes:
        """The next one."""
        ...


class Visits:
    """Requests that count visits as deltas, one a key and request.

    Args:
        service: unique.
        keys: how many in a request. None: as many as ``per_second`` asks for, which nobody has ever seen and which do
            not compress, so that they fill an outbox whatever is merged.
    """

    def __init__(self, service: str, *, keys: int | None = None, per_second: float = 0.0) -> None:
        self._service, self._per_second = service, per_second
        self._chance = random.Random(7)
        self._known = None if keys is None else [f"{service}-{number}" for number in range(keys)]
        self._before = time.monotonic()
        self.expected: dict[Key, Totals] = {}

    def request(self) -> bytes:
        """The next request: from now on expected, once."""
        message = ExportMetricsServiceRequest()
        resource = message.resource_metrics.add()
        resource.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value=self._service)))
        metric = resource.scope_metrics.add().metrics.add(name="visits", unit="1")
        metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        metric.sum.is_monotonic = True
        now_ns = time.time_ns()
        for key in self._known or self._strangers():
            value = self._chance.randrange(1000)
            point = metric.sum.data_points.add(as_int=value, start_time_unix_nano=now_ns - 1_000, time_unix_nano=now_ns)
            point.attributes.append(KeyValue(key="key", value=AnyValue(string_value=key)))
            before = self.expected.get((self._service, "visits", key), Totals())
            count, visits = (before.count or 0) + 1, (before.sum_int or 0) + value
            self.expected[self._service, "visits", key] = Totals(count, visits, 0.0)
        return bytes(message.SerializeToString())

    def _strangers(self) -> list[str]:
        now = time.monotonic()
        count = min(max(1, int((now - self._before) * self._per_second)), 10_000)
        self._before = now
        return [self._chance.randbytes(24).hex() for _ in range(count)]


class Insistent:
    """Offers each request of a sender until it is acknowledged, as SDKs and their queues do."""

    def __init__(self, sender: Sender, port: int) -> None:
        self._sender = sender
        self._url = f"http://127.0.0.1:{port}/v1/metrics"
        self._body: bytes | None = None
        self.acknowledged = self.refused = 0

    def offer(self, *, new: bool = True) -> bool:
        """One try of what is open, or else of a new request; whether nothing is open now."""
        if self._body is None and not new:
            return True
        self._body = self._body or self._sender.request()
        headers = {"content-type": "application/x-protobuf"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self._url, self._body, headers), timeout=60):
                self._body = None
                self.acknowledged += 1
        except urllib.error.HTTPError as error:
            with error:
                assert error.code == 503 and int(error.headers["retry-after"]) >= 1, error.read()
                self.refused += 1
        except OSError as error:
            print(f"no answer: {error}")  # the same request again counts once
        return self._body is None


class Looks:
    """What the roles say, looked at again and again; seconds count from the broker's death."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.began = time.monotonic()
        self.outbox_bytes_max = self.oldest_seconds_max = 0.0
        self.steps: dict[str, float] = {}
        self.pushed_back_until = 0.0
        self.said: dict[str, set[str]] = {role: set() for role in ROLES}

    @property
    def seconds(self) -> float:
        """Since the broker's death."""
        return time.monotonic() - self.began

    def metrics(self, role: str) -> Reading:
        """A role's metrics."""
        with urllib.request.urlopen(f"http://{self._stack.status_address(role)}/metrics", timeout=60) as answer:
            return read_metrics(answer.read().decode())

    def look(self) -> None:
        """Once."""
        reading = self.metrics("collector")
        value = {metric: total(reading, "process", metric) for metric in OwnMetric}
        self.outbox_bytes_max = max(self.outbox_bytes_max, value[OwnMetric.OUTBOX_BYTES])
        self.oldest_seconds_max = max(self.oldest_seconds_max, value[OwnMetric.OUTBOX_OLDEST_SECONDS])
        pushes = value[OwnMetric.PUSHING_BACK_SECONDS] > 0
        width = int(value[OwnMetric.OUTBOX_WINDOW_SECONDS])
        step = _STEPS[4] if pushes else {0: _STEPS[0], 10: _STEPS[1], 300: _STEPS[2], 3600: _STEPS[3]}[width]
        self.steps.setdefault(step, self.seconds)
        for role in self._stack.running():
            self.said[role].add(self._stack.reasons(role).partition("\n")[0])
        if pushes:
            self.pushed_back_until = self.seconds


def peak_mebibytes(pid: int) -> float:
    """The most memory that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def globe(stack: Stack) -> int:
    """Points that the tables hold."""
    rows = stack.rows(
        "SELECT sum(t.stored_points) AS n FROM control_totals AS t WHERE lane = 'metrics' AND level = 'globe'"
    )
    return int(rows[0]["n"] or 0)


class Run:
    """One outage of the broker, then one of the store."""

    def __init__(self, stack: Stack, broker: Broker, seconds: float, limit_bytes: int) -> None:
        self._stack, self._broker, self._seconds = stack, broker, seconds
        port = stack.ports["otlp_http"]
        self._known = [KnownData(f"known-{number}", port) for number in range(5)]
        # Merging makes next to nothing of the regulars; the strangers fill the outbox in two thirds of the outage.
        self._regulars = Visits("regulars", keys=2_000)
        self._strangers = Visits("strangers", per_second=1.5 * limit_bytes / _ROW_BYTES / seconds)
        steady: list[Sender] = [*self._known, self._regulars]
        self._senders: list[Sender] = [*steady, self._strangers]
        self._steady = [Insistent(sender, port) for sender in steady]
        self._filling = Insistent(self._strangers, port)
        self._limit_bytes = limit_bytes
        self._looks = Looks(stack)
        self._rows: list[tuple[str, str]] = []

    def run(self) -> list[tuple[str, str]]:
        """All of it; returns the figures."""
        for _ in range(10):
            self._tick(fills=True)
        self._broker_away()
        self._store_away()
        self._compare()
        return self._rows

    def _tick(self, *, fills: bool) -> None:
        began = time.monotonic()
        for sender in self._steady:
            sender.offer()
        self._filling.offer(new=fills)
        self._looks.look()
        time.sleep(max(0.0, _LOOK_SECONDS - (time.monotonic() - began)))

    def _broker_away(self) -> None:
        looks = self._looks = Looks(self._stack)
        self._broker.kill()
        while looks.seconds < self._seconds:
            self._tick(fills=True)
        order = [_STEPS.index(step) for step in looks.steps]
        assert order == sorted(order) and {_STEPS[0], _STEPS[1], _STEPS[-1]} <= looks.steps.keys(), looks.steps
        said = {role: "\n".join(looks.said[role]) for role in ROLES}
        assert "senders have been pushed back" in said["collector"], said
        assert "is retrying" in said["aggregator"], said
        assert "ok\n" in said["store"] + "\n", said
        self._broker.start()
        back = looks.seconds

        def empty() -> bool:
            self._tick(fills=False)
            return total(looks.metrics("collector"), "process", OwnMetric.OUTBOX_BYTES) < 100_000

        wait_until(empty, "the outbox is drained", 300)
        drained = looks.seconds
        took = self._settle() - drained
        peak = looks.outbox_bytes_max
        self._rows += [
            (f"broker killed for {back:.0f} s; limit of the outbox", f"{self._limit_bytes / 2**20:.1f} MiB"),
            ("outbox at its peak", f"{peak / 2**20:.2f} MiB, its oldest {looks.oldest_seconds_max:.0f} s old"),
            *((f"ladder: {step}", f"from second {second:.0f} on") for step, second in looks.steps.items()),
            ("senders let in again", f"{looks.pushed_back_until - back:.1f} s after the broker answered"),
            ("outbox drained", f"{drained - back:.1f} s after the broker answered"),
            ("all in the tables", f"{took:.1f} s later"),
        ]

    def _store_away(self) -> None:
        self._stack.kill("store")
        looks = self._looks = Looks(self._stack)
        while looks.seconds < self._seconds / 2:
            self._tick(fills=True)
        self._stack.wait_ready("collector", "aggregator")
        self._stack.start("store")
        away = looks.seconds
        self._stack.wait_ready("store", seconds=180)
        ready = looks.seconds
        took = self._settle()
        self._rows += [
            (f"store killed for {away:.0f} s; ready again", f"after {ready - away:.1f} s"),
            ("all in the tables", f"{took - ready:.1f} s later"),
            ("peak resident memory of " + ", ".join(ROLES), self._memory()),
        ]

    def _settle(self) -> float:
        """Until all that was acknowledged is in the tables; returns the second."""
        while not all(sender.offer(new=False) for sender in (*self._steady, self._filling)):
            time.sleep(0.1)
        self._stack.drain_collectors(120)

        def there() -> bool:
            return globe(self._stack) == sum(points for points, _ in self._stack.acknowledged().values())

        wait_until(there, "all points are stored", 300, lambda: f"{globe(self._stack)} of {self._stack.acknowledged()}")
        return self._looks.seconds

    def _memory(self) -> str:
        return " / ".join(f"{peak_mebibytes(self._stack.pid(role)):.0f}" for role in ROLES) + " MiB"

    def _compare(self) -> None:
        self._stack.wait_ready(*ROLES, seconds=180)
        expected = {key: totals for each in self._senders for key, totals in each.expected.items()}
        faults = differences(expected, stored(self._stack, "metrics_cluster_1m")) + disagreements(self._stack)
        assert faults == [], "\n".join(faults[:50])
        drops = self._stack.rows(
            "SELECT reason, unit, sum(p.count) AS n FROM pipeline_drops AS p GROUP BY reason, unit"
        )
        assert {(row["reason"], row["unit"]) for row in drops} <= {("pushed_back", "requests")}, drops
        every = [*self._steady, self._filling]
        taken, refused = (sum(getattr(each, name) for each in every) for name in ("acknowledged", "refused"))
        what = "compared at the end: every series, all views, points and digests at every level"
        requests = f"{taken:,} requests acknowledged, {refused:,} times told to come back"
        self._rows.append((what, f"{len(expected):,} series equal; {requests}"))


def main() -> None:
    """Run it and record the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0, help="the broker's outage; the store's is half of it")
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    limit_bytes = max(1 << 20, int(seconds * 16_384))
    limits = (
        f"{{outbox_bytes_max: {limit_bytes}, outbox_merge_bytes: {limit_bytes // 4}, retry_after_seconds: 1, "
        "message_bytes_max: 512KiB, publish_bytes_max: 512KiB, rollup_bytes_max: 1MiB, "
        "series_per_metric_max: 1_000_000, series_per_tenant_max: 1_000_000}"
    )
    with contextlib.ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory()))
        (folder / "broker").mkdir()
        broker = Broker(folder / "broker")
        ending.callback(broker.stop)
        broker.start()
        settings = (
            f"kafka: {{brokers: [{broker.plain}], replication_factor: 1, transaction_timeout: 5s}}\n"
            f"log: {{topic_prefix: outage-{uuid.uuid4().hex[:12]}, partitions: 3}}\n"
        )
        stack = ending.enter_context(Stack(folder / "stack", settings))
        stack.start(*ROLES, limits=limits, flush="1s")
        stack.wait_ready(*ROLES, seconds=180)
        # Started again, a role keeps its limits.
        stack.start = _with(stack.start, limits=limits, flush="1s")  # type: ignore[method-assign]
        rows = Run(stack, broker, seconds, limit_bytes).run()
    print(json.dumps(rows, indent=1))
    record("An outage on Kafka: collector, aggregator, store; three partitions, one broker", rows)


def _with(start: Callable[..., None], **changes: str) -> Callable[..., None]:
    return lambda *roles: start(*roles, **changes)


if __name__ == "__main__":
    main()
