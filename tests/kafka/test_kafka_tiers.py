"""Tiers that stack: zones, their region with a store of its own, and the globe, each a process on a real Kafka."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

from tests import otlp
from tests.faults.stack import REGION, Stack
from tests.faults.totals import differences, stored
from tests.integration.end_to_end import eventually, now, send
from tests.kafka.broker import Broker

COLLECTOR, AGGREGATOR, STORE = "collector", "aggregator", "store"
ZONES = ("jp-east-a", "jp-east-b")
_REACH = "{reach: region, metrics: [{match: sli.*, reach: global}, {match: debug.*, reach: cluster}]}"
_POINTS = "SELECT sum(r.points) FROM metrics_region_1m AS r"


def test_zones_regions_and_the_globe_stack(tmp_path: Path, kafka_broker: Broker) -> None:
    """Each store has the cluster rows that reach it and all region rows; kills at every tier change no sum."""
    kafka = f"kafka: {{brokers: [{kafka_broker.plain}], replication_factor: 1}}\n"
    kafka += f"log: {{topic_prefix: tiers-{uuid.uuid4().hex[:12]}, partitions: 2}}\n"
    with contextlib.ExitStack() as stacks:
        zones = [stacks.enter_context(Stack(tmp_path / zone, f"{kafka}zone: {zone}\n")) for zone in ZONES]
        globe = stacks.enter_context(Stack(tmp_path / "globe", kafka))
        region = stacks.enter_context(Stack(tmp_path / "region", f"{kafka}store: {{scope: region}}\n"))
        globe.start(AGGREGATOR, aggregator="{linger: 50ms, region_store: true}")
        globe.start(STORE)
        region.start(STORE)
        for zone, name in zip(zones, ZONES, strict=True):
            zone.start(COLLECTOR, AGGREGATOR, cluster=f"{{name: {name}-1}}", policies=_REACH)
            zone.wait_ready(COLLECTOR)
        for round_ in range(3):
            for zone in zones:
                points = [otlp.number(now() - 30 + round_, i, attributes={"key": str(i)}) for i in range(10)]
                metrics = [otlp.gauge(name, *points) for name in ("sli.up", "load", "debug.x")]
                send(zone, "", *metrics, resource={"service.name": "s"})
            victims = ((zones[0], AGGREGATOR), (globe, AGGREGATOR), (region, STORE))
            victim, role = victims[round_]
            victim.kill(role)
            victim.start(role, **({"aggregator": "{linger: 50ms, region_store: true}"} if victim is globe else {}))
        for store in (globe, region):
            eventually(store, _POINTS, 2 * 3 * 30, seconds=90)
            eventually(
                store, "SELECT sum(t.points) FROM control_totals AS t WHERE level = 'region'", 2 * 3 * 30, seconds=60
            )
        clusters = "SELECT groupUniqArray(m.cluster) AS c, sum(m.points) AS p FROM metrics_cluster_1m AS m "
        clusters += f"WHERE region = '{REGION}'"
        for store, metric in ((region, "load"), (region, "sli.up"), (globe, "sli.up")):
            eventually(store, f"SELECT p FROM ({clusters} AND metric = '{metric}')", 60, seconds=60)
        at_globe, at_region = stored(globe, "metrics_cluster_1m"), stored(region, "metrics_cluster_1m")
        assert {metric for _, metric, _ in at_globe} == {"sli.up"}
        assert {metric for _, metric, _ in at_region} == {"sli.up", "load"}
        assert {metric for _, metric, _ in stored(globe, "metrics_region_1m")} == {"sli.up", "load", "debug.x"}
        assert not differences(stored(globe, "metrics_region_1m"), stored(region, "metrics_region_1m"))
        assert not differences(at_globe, {key: sums for key, sums in at_region.items() if key[1] == "sli.up"})
        (found,) = region.rows(f"{clusters} AND metric = 'load'")
        assert sorted(found["c"]) == [f"{name}-1" for name in ZONES]
        digests = "SELECT sum(t.digest) AS d, sum(t.points) AS p, sum(t.stored_points) AS s FROM control_totals AS t"
        (totals,) = globe.rows(f"{digests} WHERE level = 'globe' AND lane = 'metrics'")
        acknowledged = [zone.acknowledged()["default"] for zone in zones]
        assert int(totals["d"]) % 2**64 == sum(digest for _, digest in acknowledged) % 2**64
        assert totals["p"] == totals["s"] == sum(points for points, _ in acknowledged)
        for store in (globe, region):
            store.stop(*reversed(store.running()))
        for zone in zones:
            zone.stop(COLLECTOR, AGGREGATOR)
