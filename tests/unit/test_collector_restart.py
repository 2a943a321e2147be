"""A collector that starts again keeps since when it knows streams: only another name of its cluster makes all new."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from catchment.config import Cluster, Config
from catchment.log.sqlite import SqliteLog
from catchment.telemetry import Telemetry
from catchment.tracing import Tracing
from collectors.collector import Collector
from collectors.records import Received
from tests import otlp
from tests.otlp import ns


def opened(folder: Path, cluster: str, at: float) -> Collector:
    """The collector of a folder, which starts at a time."""
    config = replace(Config(), data_dir=folder, cluster=Cluster(name=cluster)).for_collector()
    log = SqliteLog.open(folder / "log.db")
    return Collector(config, log, Telemetry(), Tracing("collector"), lambda: ns(at))


@pytest.mark.parametrize("tenant", ["default", "acme"])
@pytest.mark.parametrize(("cluster", "known_since"), [("tokyo-1", 0), ("tokyo-2", 60)])
def test_known_since(tmp_path: Path, tenant: str, cluster: str, known_since: float) -> None:
    """What was scraped for any tenant is of the same cluster: after a restart what began since the first start still
    counts from zero, and begins anew only where the cluster is called otherwise.
    """
    body = otlp.body(otlp.gauge("level", otlp.number(1, 1.0)))
    request = Received("metrics", tenant, "tokyo-1", "{}", "application/x-protobuf", "", ns(1), "", body)
    first = opened(tmp_path, "tokyo-1", 0)
    try:
        _, staged = first.edge.stage([request], [body])
        first.edge.apply(staged, [request])
        asyncio.run(first._flush_once())
    finally:
        first.close()
    second = opened(tmp_path, cluster, 60)
    try:
        assert second.edge.lives.known_since_ns == ns(known_since)
    finally:
        second.close()
