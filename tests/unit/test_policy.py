"""Policies: which attributes make a series, and which metrics are dropped."""

from __future__ import annotations

import json

from catchment.config import MetricPolicy, Policies
from catchment.reach import Reach
from collectors.lane_rows import LaneRows, by_reach
from collectors.policy import Policy
from collectors.records import Outcome
from tests.edge_harness import EdgeHarness
from tests.otlp import body, counter, number

ATTRIBUTES = {"route": "/", "k8s.pod.name": "p", "host.name": "h", "zone": "z", "resource.k8s.pod.name": "q"}


def _kept(policies: Policies, metric: str = "http.server.duration") -> list[str] | None:
    kept = Policy(policies).kept(metric, ATTRIBUTES)
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
    assert policy.kept("secret\nthing", {}) is None
    kept = Policy(Policies(default_drop=("user.*",))).kept("m", {"user.\nid": 1, "user.id": 2})
    assert kept == {}


def test_the_memory_of_names_is_bounded() -> None:
    """However many names senders make up, only some thousands are remembered, and the answers stay right."""
    policy = Policy()
    for i in range(10_000):
        assert policy.kept("m", {f"made.up.{i}": 1}) != {}
    assert policy._default.cache_info().currsize <= 4096  # type: ignore[attr-defined]
    assert policy.kept("m", {"k8s.pod.name": 1}) == {}


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


def test_the_reach_of_a_metric_is_that_of_its_entry_or_the_default() -> None:
    """The first entry that matches decides, and the policy's own reach where that says nothing of it."""
    rules = (
        MetricPolicy(match="sli.*", reach=Reach.GLOBAL),
        MetricPolicy(match="debug.*", keep=("route",), reach=Reach.CLUSTER),
        MetricPolicy(match="http.*", drop=("zone",)),
        MetricPolicy(match="http.server", reach=Reach.CLUSTER),
    )
    policy = Policy(Policies(reach=Reach.REGION, metrics=rules))
    found = [policy.reach(metric).value for metric in ("sli.up", "debug.x", "http.server", "other")]
    assert found == ["global", "cluster", "region", "region"]
    assert Policy().reach("other") is Reach.GLOBAL


def test_rows_are_parted_by_reach_when_they_leave() -> None:
    """Each reach is a table with its own texts only, and the digest goes with one of them; one reach is left whole."""
    harness = EdgeHarness()
    body_ = body(*(counter(name, number(60, 5, start=1)) for name in ("sli.up", "debug.x", "other")))
    harness.send(body_, at=60)
    harness.flush(60)
    (table,) = harness.drained[-1].rows.values()
    policy = Policy(Policies(reach=Reach.REGION, metrics=(MetricPolicy(match="sli.*", reach=Reach.GLOBAL),)))
    parts = by_reach(LaneRows("metrics_cluster", "t", table, 77), policy.reach)
    assert [part.reach.value for part in parts] == ["region", "global"]
    assert [sorted(part.table["metric"].unique().to_pylist()) for part in parts] == [["debug.x", "other"], ["sli.up"]]
    assert [len(part.table["metric"].chunk(0).dictionary) for part in parts] == [2, 1]
    assert sum(part.digest for part in parts) == 77
    (whole,) = by_reach(LaneRows("metrics_cluster", "t", table, 77), lambda _: Reach.CLUSTER)
    assert whole.table is table and (whole.reach, whole.digest) == (Reach.CLUSTER, 77)
