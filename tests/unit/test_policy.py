"""Policies: which attributes make a series, and which metrics are dropped."""

from __future__ import annotations

import json
from pathlib import Path

from catchment.config_policies import MetricPolicy, Policies
from catchment.envelope import decode
from catchment.limits import Limits
from catchment.reach import Reach
from collectors.lane_rows import metric_lanes
from collectors.policy import Policy
from collectors.records import Outcome
from tests.durable_edge import DurableEdge
from tests.edge_harness import EdgeHarness, Row
from tests.otlp import body, counter, gauge, number

ATTRIBUTES = {"route": "/", "k8s.pod.name": "p", "host.name": "h", "zone": "z", "resource.k8s.pod.name": "q"}


def _kept(policies: Policies, metric: str = "http.server.duration") -> list[str] | None:
    kept = Policy(policies).decide("acme", metric, ATTRIBUTES).kept
    return None if kept is None else sorted(kept)


def test_the_default_drops_what_names_an_instance() -> None:
    """Pods, hosts and the like go, also where they lost their name to a point's attribute."""
    assert _kept(Policies()) == ["route", "zone"]


def test_keep_keeps_only_what_it_names_even_what_the_default_drops() -> None:
    """A list of what to keep replaces the default."""
    rule = MetricPolicy(match="http.*", keep=("k8s.pod.*", "route"))
    assert _kept(Policies(metrics=(rule,))) == ["k8s.pod.name", "resource.k8s.pod.name", "route"]
    assert _kept(Policies(metrics=(rule,)), "other") == ["route", "zone"]


def test_drop_drops_besides() -> None:
    """A list of what to drop adds to the default."""
    rule = MetricPolicy(match="http.*", drop=("zo?e",))
    assert _kept(Policies(metrics=(rule,))) == ["route"]


def test_drop_wins_over_keep() -> None:
    """What is in both lists goes."""
    rule = MetricPolicy(match="*", keep=("route", "zone"), drop=("zone",))
    assert _kept(Policies(metrics=(rule,))) == ["route"]


def test_the_first_entry_that_matches_decides() -> None:
    """Order matters: later entries for the same metric are not looked at."""
    rules = (
        MetricPolicy(match="http.server.*", keep=("zone",)),
        MetricPolicy(match="http.*", drop_metric=True),
        MetricPolicy(match="*", keep=("route",)),
    )
    assert _kept(Policies(metrics=rules)) == ["zone"]
    assert _kept(Policies(metrics=rules), "http.client.duration") is None
    assert _kept(Policies(metrics=rules), "rpc") == ["route"]


def test_globs_match_whole_names_and_their_case() -> None:
    """A glob is no substring search and knows capitals; regex characters mean themselves."""
    rule = MetricPolicy(match="Http.Server", drop_metric=True)
    assert _kept(Policies(metrics=(rule,)), "http.server") is not None
    assert _kept(Policies(metrics=(rule,)), "HttpXServer") is not None
    assert _kept(Policies(metrics=(rule,)), "Http.Server.x") is not None
    assert _kept(Policies(metrics=(rule,)), "Http.Server") is None


def test_names_with_newlines_cannot_slip_through() -> None:
    """A hostile name is matched like any other."""
    policy = Policy(Policies(metrics=(MetricPolicy(match="secret*", drop_metric=True),)))
    assert policy.decide("t", "secret\nthing", {}).kept is None
    kept = Policy(Policies(default_drop=("user.*",))).decide("t", "m", {"user.\nid": 1, "user.id": 2}).kept
    assert kept == {}


def test_the_memory_of_names_is_bounded() -> None:
    """However many names senders make up, only some thousands are remembered, and the answers stay right."""
    policy = Policy()
    for i in range(10_000):
        assert policy.decide("t", "m", {f"made.up.{i}": 1}).kept != {}
    assert policy._default.is_kept.cache_info().currsize <= 4096  # type: ignore[union-attr]
    assert policy.decide("t", "m", {"k8s.pod.name": 1}).kept == {}


def test_the_edge_folds_streams_that_differ_in_dropped_attributes() -> None:
    """Ten pods become one series whose increase is theirs; each is differenced alone."""
    edge = EdgeHarness()
    for time in (10, 20):
        for pod in range(10):
            attributes = {"k8s.pod.name": str(pod), "route": "/"}
            edge.send(body(counter("hits", number(time, time * (pod + 1), start=0, attributes=attributes))), at=time)
    rows = edge.flush(21)
    assert [(json.loads(row["attributes"]), row["sum_int"]) for row in rows] == [({"route": "/"}, 20 * 55)]


def test_the_edge_drops_a_metric_counts_it_and_tells_nobody() -> None:
    """Dropped by policy is no error of the sender; the points are counted each time they come."""
    policies = Policies(metrics=(MetricPolicy(match="debug.*", drop_metric=True),))
    edge = EdgeHarness(policies=policies)
    for time in (10, 20):
        outcomes = edge.send(
            body(counter("debug.x", number(time, 5, start=0)), counter("hits", number(time, 5, start=0))), at=time
        )
        assert outcomes == [Outcome()]
    assert {row["metric"] for row in edge.flush(21)} == {"hits"}
    assert edge.points_tallied("dropped_by_policy") == 2


def test_the_edge_keeps_per_metric() -> None:
    """The same attributes make different series for metrics with different policies."""
    policies = Policies(metrics=(MetricPolicy(match="a", keep=("k8s.pod.name",)),))
    edge = EdgeHarness(policies=policies)
    attributes = {"k8s.pod.name": "p", "route": "/"}
    for metric in ("a", "b"):
        edge.send(body(counter(metric, number(10, 5, start=0, attributes=attributes))), at=10)
    found = {row["metric"]: json.loads(row["attributes"]) for row in edge.flush(11)}
    assert found == {"a": {"k8s.pod.name": "p"}, "b": {"route": "/"}}


def test_the_reach_of_a_stream_is_that_of_its_rule_if_it_says_one() -> None:
    """The first rule that matches decides; where it says nothing of reach, the policies' own holds for the rows."""
    rules = (
        MetricPolicy(match="sli.*", reach=Reach.GLOBAL),
        MetricPolicy(match="debug.*", keep=("route",), reach=Reach.CLUSTER),
        MetricPolicy(match="http.*", drop=("zone",)),
        MetricPolicy(match="http.server", reach=Reach.CLUSTER),
    )
    policy = Policy(Policies(reach=Reach.REGION, metrics=rules))
    metrics = ("sli.up", "debug.x", "http.server", "other")
    found = [policy.decide("t", metric, {}).treatment.reach for metric in metrics]
    assert found == [Reach.GLOBAL, Reach.CLUSTER, None, None]


def test_rows_are_parted_by_reach_when_they_leave() -> None:
    """Each reach is a table with its own texts only and the digest of its own points; one reach is left whole."""
    rule = MetricPolicy(match="sli.*", reach=Reach.GLOBAL)
    harness = EdgeHarness(policies=Policies(metrics=(rule,)))
    harness.send(body(*(counter(name, number(60, 5, start=1)) for name in ("sli.up", "debug.x", "other"))), at=60)
    harness.flush(60)
    drained = harness.drained[-1]
    (table,) = drained.rows.values()
    *parts, totals = metric_lanes(drained, harness.catalog, window_seconds=60, reach=Reach.REGION)
    assert sorted(part.reach.value for part in parts) == ["global", "region"]
    parts.sort(key=lambda part: part.reach.value)
    assert [sorted(part.table["metric"].unique().to_pylist()) for part in parts] == [["sli.up"], ["debug.x", "other"]]
    assert [len(part.table["metric"].chunk(0).dictionary) for part in parts] == [1, 2]
    assert all(part.digest for part in parts)
    assert sum(part.digest for part in parts) % 2**64 == totals.digest == totals.table["digest"][0].as_py()
    (whole, _) = metric_lanes(drained, harness.catalog, window_seconds=60, reach=Reach.GLOBAL)
    assert whole.table is table and whole.reach is Reach.GLOBAL


def test_a_rule_matches_by_tenant() -> None:
    """Only streams of the tenants that its globs name; the next rule gets the others."""
    rules = (
        MetricPolicy(match="*", tenants=("trial-*", "acme"), keep=("zone",)),
        MetricPolicy(match="*", drop_metric=True),
    )
    policy = Policy(Policies(metrics=rules))
    kept = {tenant: policy.decide(tenant, "m", {"zone": "a", "x": 1}) for tenant in ("acme", "trial-7", "acme-2")}
    assert {tenant: decision.rule for tenant, decision in kept.items()} == {"acme": 0, "trial-7": 0, "acme-2": 1}
    assert kept["trial-7"].kept == {"zone": "a"} and kept["acme-2"].kept is None


def test_a_rule_matches_by_attributes_as_they_were_sent() -> None:
    """All the names must be there with a value that fits, the resource's too, also those that are dropped then."""
    attributes = {"k8s.pod.name": "batch-7", "tries": 3, "spot": True, "resource.zone": "z"}

    def matches(**globs: str) -> bool:
        rule = MetricPolicy(
            match="*", attributes={name.replace("_", "."): glob for name, glob in globs.items()}, keep=("q",)
        )
        return Policy(Policies(metrics=(rule,))).decide("t", "m", attributes).rule == 0

    assert matches(k8s_pod_name="batch-*") and matches(tries="3", spot="true") and matches(resource_zone="*")
    assert not matches(k8s_pod_name="Batch-*")
    assert not matches(k8s_pod_name="batch-*", absent="*")
    assert not matches(spot="True")


def test_a_rule_may_ask_for_the_service_which_no_series_has_as_attribute() -> None:
    """service.name is matched like any attribute and stays a column of its own, whatever keep says."""
    rule = MetricPolicy(match="*", attributes={"service.name": "shop"}, keep=("service.*", "route"))
    edge = EdgeHarness(policies=Policies(metrics=(rule,)))
    for service in ("shop", "cart"):
        point = number(10, 5, attributes={"route": "/", "user": "u"})
        edge.send(body(gauge("level", point), resource={"service.name": service}), at=10)
    found = {row["service"]: json.loads(row["attributes"]) for row in edge.flush(11)}
    assert found == {"shop": {"route": "/"}, "cart": {"route": "/", "user": "u"}}


def test_equal_series_of_different_rules_are_kept_apart_until_they_leave(tmp_path: Path) -> None:
    """Two pods' streams fold to one series id, but one goes to the globe and one stays; so too after a restart."""
    rule = MetricPolicy(match="*", attributes={"k8s.pod.name": "debug-*"}, reach=Reach.CLUSTER)
    edge = DurableEdge(tmp_path, Limits(), Policies(metrics=(rule,)))
    for at in (10.0, 20.0):
        for pod, value in (("debug-1", 1), ("web-1", 2)):
            edge.send(body(gauge("level", number(at, value, attributes={"k8s.pod.name": pod}))), at)
        edge.flush(at)
        edge.crash()
    edge.flush(400.0)
    found: dict[str, list[Row]] = {}
    for envelope in [decode(row.value) for row in edge.outbox() if row.lane == "metrics_cluster"]:
        found.setdefault(envelope.header.reach, []).extend(envelope.rows.to_pylist())
    assert {reach: sum(row["integral"] for row in rows) for reach, rows in found.items()} == {
        "cluster": 1 * 310.0,
        "global": 2 * 310.0,
    }
    assert len({row["series_id"] for rows in found.values() for row in rows}) == 1
