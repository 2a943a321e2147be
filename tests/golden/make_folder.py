"""Writes a golden data folder: what this program leaves when it is killed with work at every stage of the path.

    python -m tests.golden.make_folder NAME

The archive ``folder_NAME.tar.xz`` is never written again; a later program must go on with it (``test_golden_folders``).
For an older program, check it out, copy this file there and run it there.

Requests 1 to 5 bring the cumulative counter ``orders`` to 10, 30, 70, 150, 310, and the delta counter ``parcels`` by
the same steps. Each is left at another stage: in the tables, in the global log, in the regional log, in the outbox, in
the inbox.
"""

from __future__ import annotations

import sqlite3
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from tests.faults.stack import Stack, wait_until

FOLDER = Path(__file__).parent
TOTALS = (10, 30, 70, 150, 310)
SECOND_NS = 1_000_000_000
PREFIX = "catchment"


def request(turn: int, born_ns: int) -> bytes:
    """The request of a turn, from 1 on; ``born_ns`` is when the streams began."""
    total = 10 * (2**turn - 1)
    before = 10 * (2 ** (turn - 1) - 1)
    message = ExportMetricsServiceRequest()
    resource = message.resource_metrics.add()
    attribute = resource.resource.attributes.add(key="service.name")
    attribute.value.string_value = "golden"
    metrics = resource.scope_metrics.add().metrics
    for name, temporality, value, start in (
        ("orders", AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE, total, 0),
        ("parcels", AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA, total - before, turn - 1),
    ):
        metric = metrics.add(name=name, unit="1")
        metric.sum.aggregation_temporality, metric.sum.is_monotonic = temporality, True
        point = metric.sum.data_points.add(as_int=value)
        point.start_time_unix_nano, point.time_unix_nano = born_ns + start * SECOND_NS, born_ns + turn * SECOND_NS
    body: bytes = message.SerializeToString()
    return body


def post(stack: Stack, body: bytes) -> None:
    """Send a request, which must be acknowledged."""
    address = f"http://127.0.0.1:{stack.ports['otlp_http']}/v1/metrics"
    headers = {"content-type": "application/x-protobuf"}
    with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=10) as answer:
        assert answer.status == 200


def _number(path: Path, sql: str, *values: object) -> int:
    database = sqlite3.connect(path, timeout=10)
    try:
        return int(database.execute(sql, values).fetchone()[0] or 0)
    finally:
        database.close()


def _published(stack: Stack, topic: str) -> int:
    sql = "SELECT sum(next_offset) FROM partitions WHERE topic = ?"
    return _number(stack.data / "log" / "log.db", sql, topic)


def fill(stack: Stack) -> None:
    """Leave one request at each stage."""
    regional, worldwide = f"{PREFIX}.jp-east.metrics_cluster", f"{PREFIX}.global.metrics_cluster"
    # Flushes are far enough from each other to kill a collector between two.
    stack.start("collector", flush="1s")
    stack.start("aggregator", "store")
    stack.wait_ready("collector", "aggregator", "store")
    born_ns = time.time_ns()
    (stack.data / "born_ns").write_text(str(born_ns))
    time.sleep(len(TOTALS) + 1)

    def stored() -> bool:
        return bool(stack.rows("SELECT sum(c.sum_int) AS found FROM metrics_cluster_1m AS c")[0]["found"] == 20)

    post(stack, request(1, born_ns))
    wait_until(stored, "the first request is in the tables")
    stack.kill("store")
    before = _published(stack, worldwide)
    post(stack, request(2, born_ns))
    wait_until(lambda: _published(stack, worldwide) > before, "the second is in the global log")
    stack.kill("aggregator")
    before = _published(stack, regional)
    post(stack, request(3, born_ns))
    wait_until(lambda: _published(stack, regional) > before, "the third is in the regional log")
    lock = sqlite3.connect(stack.data / "log" / "log.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    post(stack, request(4, born_ns))
    waits = "SELECT count(*) FROM outbox WHERE lane = 'metrics_cluster'"
    wait_until(lambda: _number(stack.data / "collector" / "state.db", waits) > 0, "the fourth is in the outbox")
    # Killed with the lock held, so that nothing of it is forwarded, and long before the next flush.
    post(stack, request(5, born_ns))
    stack.kill("collector")
    lock.execute("ROLLBACK")
    lock.close()
    consumed = _number(stack.data / "collector" / "state.db", "SELECT consumed FROM meta")
    assert consumed < stack.edges[0].inbox_end(), "the fifth was flushed: try again"
    assert _number(stack.data / "collector" / "state.db", waits) > 0, "the fourth was forwarded: try again"


def main() -> None:
    """Make the archive."""
    archive = FOLDER / f"folder_{sys.argv[1]}.tar.xz"
    assert not archive.exists(), f"{archive} is never written again"
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        fill(stack)
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            tar.add(stack.data, "data")
    print(f"{archive}: {archive.stat().st_size} bytes")


if __name__ == "__main__":
    main()
