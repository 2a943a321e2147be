"""Changes of policies: lives go on, envelopes name their version, what was dropped does not come back as a jump."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catchment.config_policies import MetricPolicy, Policies
from catchment.envelope import decode
from catchment.errors import Invalid, Retry
from catchment.limits import Limits
from catchment.policy_document import policies_of, text_of
from catchment.reach import Reach
from collectors.catalog import OVERFLOW_ATTRIBUTES
from collectors.flush import Flusher
from collectors.policy_history import History, Kept
from collectors.state_records import PolicyRow
from tests.durable_edge import DurableEdge, metric_rows
from tests.edge_harness import total
from tests.model.test_collector_state import failing_after
from tests.otlp import body, counter, explicit, exponential, exponential_histogram, gauge, histogram, number

KEEP = Policies(label="keep", default_drop=())
DROP = Policies(label="drop", metrics=(MetricPolicy(match="hits", drop_metric=True),))


def _hits(edge: DurableEdge, at: float, value: int, start: float = 1, **names: str) -> None:
    attributes = {name.replace("_", "."): text for name, text in names.items()}
    edge.send(body(counter("hits", number(at, value, start=start, attributes=attributes))), at)


def _versions(edge: DurableEdge) -> dict[str, int]:
    """Points of metrics by the policy version of their envelopes."""
    found: dict[str, int] = {}
    for row in edge.outbox():
        header = decode(row.value).header
        if row.lane == "metrics_cluster":
            found[header.policy_version] = found.get(header.policy_version, 0) + header.totals.points
    return found


def test_a_stream_goes_on_in_another_series_and_its_envelopes_name_the_policies(tmp_path: Path) -> None:
    """The increase over the change is counted once, in the new series; what came before left under the old version."""
    edge = DurableEdge(tmp_path, Limits())
    for at, value in ((10, 5), (20, 7)):
        _hits(edge, at, value, k8s_pod_name="p")
    before = edge.edge.policy.version
    edge.change(KEEP, 25)
    _hits(edge, 30, 12, k8s_pod_name="p")
    edge.flush(40)
    found = {row["attributes"]: row["sum_int"] for row in metric_rows(edge.outbox())}
    assert found == {"{}": 7, '{"k8s.pod.name":"p"}': 5}
    assert _versions(edge) == {before: 2, KEEP.version: 1}
    assert KEEP.version.startswith("keep+")


def test_the_inbox_is_replayed_under_the_policies_that_it_was_taken_under(tmp_path: Path) -> None:
    """A crash after a change whose requests no flush has taken, and a restart with a third: each has its version."""
    edge = DurableEdge(tmp_path, Limits(), KEEP)
    _hits(edge, 10, 5, pod="a")
    other = Policies(label="other", default_drop=("pod",))
    edge.change(other, 15)
    _hits(edge, 20, 7, pod="a")
    edge.crash(DROP)
    assert edge.edge.policy.version == DROP.version
    _hits(edge, 30, 9, pod="a")
    edge.flush(40)
    found = {row["attributes"]: row["sum_int"] for row in metric_rows(edge.outbox())}
    assert found == {'{"pod":"a"}': 5, "{}": 2}
    assert _versions(edge) == {KEEP.version: 1, other.version: 1}
    assert edge.edge.tally.drain() == {}


def test_an_inbox_of_two_versions_is_replayed_under_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flush before a change at a start failed, so the inbox holds requests of before and of after when it dies."""

    def full(*_: object, **__: object) -> None:
        raise Retry("disk full")

    edge = DurableEdge(tmp_path, Limits(), KEEP)
    _hits(edge, 10, 5, pod="a")
    other = Policies(label="other", default_drop=("pod",))
    with monkeypatch.context() as patched:
        patched.setattr(Flusher, "flush", full)
        edge.crash(other)
    _hits(edge, 20, 7, pod="a")
    assert [request.policy_version for _, request in edge.inbox] == [KEEP.version, other.version]
    edge.crash()
    edge.flush(30)
    found = {row["attributes"]: row["sum_int"] for row in metric_rows(edge.outbox())}
    assert found == {'{"pod":"a"}': 5, "{}": 2}
    assert _versions(edge) == {KEEP.version: 1, other.version: 1}
    assert [row.version for row in edge.state.policies()] == [other.version]


def test_policies_are_kept_as_long_as_they_may_be_needed(tmp_path: Path) -> None:
    """After a flush only those in force are, and for a day those that dropped metrics."""
    edge = DurableEdge(tmp_path, Limits(), KEEP)
    edge.change(DROP, 10)
    assert {row.version for row in edge.state.policies()} == {KEEP.version, DROP.version}
    edge.change(Policies(), 20)
    assert {row.version for row in edge.state.policies()} == {DROP.version, Policies().version}
    edge.crash()
    edge.flush(30)
    assert {row.version for row in edge.state.policies()} == {DROP.version, Policies().version}
    edge.flush(20 + 86_400 + 1)
    assert [row.version for row in edge.state.policies()] == [Policies().version]


def test_a_change_that_cannot_be_written_is_not_made(tmp_path: Path) -> None:
    """The disk fails while the new policies are noted: the old ones stay in force, here and after a restart."""
    edge = DurableEdge(tmp_path, Limits(), KEEP)
    _hits(edge, 10, 5)
    for statements in range(3):
        edge.flush(20)
        with pytest.raises(Retry), failing_after(edge.state, statements):
            edge.policies.change(DROP, 20)
        assert edge.edge.policy.version == KEEP.version
    edge.crash()
    assert edge.edge.policy.version == KEEP.version
    _hits(edge, 30, 9)
    edge.flush(40)
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == 9


def test_requests_of_policies_that_nobody_knows_are_replayed_under_those_in_force(tmp_path: Path) -> None:
    """As after an update from a program that kept none: nothing is lost."""
    edge = DurableEdge(tmp_path, Limits(), KEEP)
    _hits(edge, 10, 5)
    edge.state.keep_policies([])
    edge.crash(Policies())
    edge.flush(20)
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == 5
    edge.state.keep_policies([PolicyRow("odd", '{"metrics": [{"later": 1}]}', 7), *edge.state.policies()])
    edge.crash()
    assert edge.edge.policy.version == Policies().version


@pytest.mark.parametrize("crash", [False, True])
def test_what_was_dropped_does_not_come_back_as_one_jump(tmp_path: Path, crash: bool) -> None:
    """A cumulative stream that is kept again begins with a baseline; what was counted before stays counted once."""
    edge = DurableEdge(tmp_path, Limits(), KEEP)
    for at, value, policies in ((10, 5, DROP), (20, 105, None), (30, 205, KEEP), (40, 305, None), (50, 308, None)):
        _hits(edge, at, value)
        if crash:
            edge.crash()
        if policies is not None:
            edge.change(policies, at + 1)
    _hits(edge, 60, 309)
    edge.flush(70)
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == 5 + 3 + 1


def test_a_stream_without_points_while_its_metric_was_dropped_goes_on(tmp_path: Path) -> None:
    """Nothing of it was dropped, so all of its increase counts."""
    edge = DurableEdge(tmp_path, Limits(), KEEP)
    _hits(edge, 10, 5)
    edge.change(DROP, 11)
    edge.change(KEEP, 21)
    _hits(edge, 30, 9)
    edge.flush(40)
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == 9


def test_a_stream_that_began_while_its_metric_was_dropped_begins_with_a_baseline(tmp_path: Path) -> None:
    """Its value so far was dropped; a stream that began later counts from zero, and so does one of another metric."""
    edge = DurableEdge(tmp_path, Limits(), DROP)
    _hits(edge, 10, 100, pod="a")
    edge.change(KEEP, 20)
    edge.crash()
    _hits(edge, 30, 107, pod="a")
    _hits(edge, 30, 7, start=25, pod="b")
    edge.send(body(counter("other", number(30, 4, start=1))), 30)
    _hits(edge, 40, 109, pod="a")
    edge.flush(50)
    rows = metric_rows(edge.outbox())
    found = {json.loads(row["attributes"]).get("pod"): row["sum_int"] for row in rows if row["metric"] == "hits"}
    assert found == {"a": 2, "b": 7}
    assert total(rows, "other", "sum_int") == 4


def test_histograms_and_gauges_are_taken_again_too(tmp_path: Path) -> None:
    """Histograms begin with a baseline, and are no resets; a gauge shows its next value."""
    everything = Policies(metrics=(MetricPolicy(match="*", drop_metric=True),))
    edge = DurableEdge(tmp_path, Limits(), KEEP)
    for at, n, policies in ((10, 1, everything), (20, 5, KEEP), (30, 9, None), (40, 11, None)):
        edge.send(
            body(
                histogram("lat", explicit(at, [n, n], [1.0], total=float(n), start=1)),
                exponential_histogram("exp", exponential(at, 3, 0, [n, n], total=float(n), start=1)),
                gauge("level", number(at, n)),
            ),
            at,
        )
        if policies is not None:
            edge.change(policies, at + 1)
    edge.flush(50)
    rows = metric_rows(edge.outbox())
    assert total(rows, "lat", "count") == total(rows, "exp", "count") == 2 * (1 + 2)
    assert sum(count for row in rows for count in row["histogram"].values()) == 12
    assert total(rows, "level", "sum_int") == 1 + 9 + 11
    drops = [each for row in edge.outbox() if row.lane == "drops" for each in decode(row.value).rows.to_pylist()]
    assert {row["reason"] for row in drops} == {"baseline", "dropped_by_policy"}


def test_a_stream_that_is_evicted_while_about_to_be_taken_again_counts_nothing_twice(tmp_path: Path) -> None:
    """Its request was refused, it went idle and comes back later: it begins with a baseline all the same."""
    edge = DurableEdge(tmp_path, Limits(stream_idle_seconds=60), KEEP)
    _hits(edge, 10, 5)
    edge.change(DROP, 11)
    _hits(edge, 20, 6)
    edge.change(KEEP, 21)
    _, request = edge.inbox[-1]
    _, staged = edge.edge.stage([request], [body(counter("hits", number(30, 8, start=1)))])
    edge.edge.discard(staged)
    for at in (31, 400, 800):
        edge.flush(at)
    assert len(edge.edge.lives) == 0
    _hits(edge, 900, 100)
    edge.flush(910)
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == 5


def test_budgets_begin_anew_and_series_of_before_go(tmp_path: Path) -> None:
    """Ten series of ten change into ten others: none overflows, and those of before do not stay in the catalog."""
    edge = DurableEdge(tmp_path, Limits(series_per_tenant_max=10), Policies(default_drop=("pod",)))
    for again in range(3):
        for i in range(10):
            _hits(edge, 10 + 10 * again, again + 1, pod=str(i), route=str(i))
        edge.change(Policies(default_drop=(("pod",), ("route",))[again % 2]), 11 + 10 * again)
        edge.flush(12 + 10 * again)
    for i in range(10):
        _hits(edge, 90, 7, pod=str(i), route=str(i))
    edge.flush(100)
    edge.flush(110)
    rows = metric_rows(edge.outbox())
    assert not any("overflow" in row["attributes"] for row in rows) and total(rows, "hits", "sum_int") == 70
    assert len(edge.edge.catalog.series) == 10
    _hits(edge, 120, 7, pod="new", route="new")
    edge.crash()
    edge.flush(130)
    assert any("overflow" in row["attributes"] for row in metric_rows(edge.outbox()))


def test_budgets_that_began_anew_stay_so_over_restarts(tmp_path: Path) -> None:
    """Once an explosion is dropped by policy its series take no room, whenever a crash comes; those of after do."""
    edge = DurableEdge(tmp_path, Limits(series_per_metric_max=6), Policies(default_drop=()))
    for i in range(5):
        _hits(edge, 10, 1, route="0", user=str(i))
    _hits(edge, 10, 1, route="stays")
    edge.flush(11)
    edge.change(Policies(default_drop=("user",)), 20)
    edge.crash()
    for route in ("1", "2"):
        _hits(edge, 30, 1, route=route)
    _hits(edge, 30, 2, route="stays")
    edge.crash()
    edge.flush(40)
    edge.crash()
    for route in ("3", "4", "5", "6"):
        _hits(edge, 50, 1, route=route)
    edge.flush(60)
    rows = {row["attributes"]: row["sum_int"] for row in metric_rows(edge.outbox()) if "user" not in row["attributes"]}
    overflow = rows.pop(OVERFLOW_ATTRIBUTES)
    assert rows == {'{"route":"stays"}': 2, **{f'{{"route":"{i}"}}': 1 for i in (1, 2, 3, 4, 5)}} and overflow == 1


def test_policies_as_text_read_back_equal() -> None:
    """Dollar signs, globs and every action survive; what a later program wrote is refused, not guessed at."""
    rule = MetricPolicy("a*", ("t${x}",), {"b": "${env:HOME}"}, ("c",), ("d",), False, Reach.REGION)
    policies = Policies(
        label="7", default_drop=("$",), reach=Reach.CLUSTER, metrics=(rule, MetricPolicy("x", drop_metric=True))
    )
    assert policies_of(text_of(policies)) == policies
    with pytest.raises(Invalid, match="later"):
        policies_of('{"metrics": [{"match": "a", "later": 1}]}')


def test_a_history_keeps_the_latest_policies_only() -> None:
    """However often they change, sixteen stay; what comes back into force is not of the past."""
    history = History((Kept(KEEP),))
    for number_ in range(40):
        history = history.changed(Policies(label=str(number_), metrics=DROP.metrics), number_ + 1)
    assert len(history.kept) == 16 and history.in_force.label == "39"
    back = history.changed(Policies(label="30", metrics=DROP.metrics), 99)
    assert back.in_force.label == "30" and len(back.kept) == 16
    assert [past.until_ns for past in back.past(back.in_force.version)][-1] == 99
    assert back.past("unknown") == []
