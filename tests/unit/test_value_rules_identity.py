"""Streams and series: which points belong together, and what a payload cannot change."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from catchment.identity import series_id
from catchment.limits import Limits
from collectors.records import Outcome
from tests.edge_harness import EdgeHarness, total
from tests.otlp import any_value, body, counter, gauge, ns, number, request


def _hits(time: float, value: int, attributes: dict[str, Any], **more: Any) -> bytes:
    return body(counter("hits", number(time, value, start=0, attributes=attributes)), **more)


def test_order_of_attributes_does_not_matter() -> None:
    """Every permutation of attributes, of point and resource, is the same stream."""
    edge = EdgeHarness()
    attributes = {"a": "1", "b": 2, "c": [True, 1.5], "d": None}
    resource = {"service.name": "shop", "zone": "z", "host.arch": "arm64"}
    orders = zip(
        itertools.permutations(attributes.items()),
        itertools.cycle(itertools.permutations(resource.items())),
        strict=False,
    )
    for i, (point, of_resource) in enumerate(orders):
        edge.send(_hits(10 + i, 5 + i, dict(point), resource=dict(of_resource)), at=10 + i)
    assert len(edge.lives) == 1
    rows = edge.flush(60)
    assert total(rows, "hits", "sum_int") == 5 + 23
    assert edge.tally == {}


def test_order_of_attributes_in_one_body() -> None:
    """Two writings of one stream in one request, both never seen before, are one life."""
    edge = EdgeHarness()
    points = [
        number(10, 5, start=0, attributes={"a": "1", "b": "2"}),
        number(20, 7, start=0, attributes={"b": "2", "a": "1"}),
    ]
    edge.send(body(counter("hits", *points)), at=20)
    assert len(edge.lives) == 1
    assert total(edge.flush(21), "hits", "sum_int") == 7


def test_duplicate_attribute_keys_are_one_attribute() -> None:
    """OTLP forbids them; the last one stands, deterministically, and nothing breaks."""
    edge = EdgeHarness()
    made = request(counter("hits", number(10, 5, start=0, attributes={"a": "1"})))
    point = made.resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points[0]
    again = point.attributes.add(key="a")
    again.value.CopyFrom(any_value("2"))
    edge.send(made.SerializeToString(), at=10)
    edge.send(_hits(20, 8, {"a": "2"}), at=20)
    rows = edge.flush(21)
    assert [(row["attributes"], row["sum_int"]) for row in rows] == [('{"a":"2"}', 8)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "1"}, {"a": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": True}, {"a": 1}),
        ({"a": None}, {}),
        ({"a": "null"}, {"a": None}),
        ({"a": ["x"]}, {"a": "x"}),
        ({"a": {"b": "c"}}, {"a.b": "c"}),
        ({"ab": "c"}, {"a": "bc"}),
        ({"a": 'x","b":"y'}, {"a": "x", "b": "y"}),
        ({"a": None, "": "v"}, {"a": "v", "": None}),
        ({"": None, "a": "v"}, {"a": "v"}),
    ],
)
def test_attributes_that_differ_are_different_series(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Type, nesting and spelling all matter; no separator can be forged."""
    edge = EdgeHarness()
    edge.send(_hits(10, 5, one), _hits(10, 50, other), at=10)
    edge.send(_hits(20, 6, one), _hits(20, 60, other), at=20)
    rows = edge.flush(21)
    assert sorted(row["sum_int"] for row in rows) == [6, 60]


def test_attributes_whose_bytes_join_to_the_same_are_different_series() -> None:
    """Where one key-value ends and the next begins is part of the identity, though their bytes side by side agree."""
    value = any_value("v")
    edge = EdgeHarness()
    for i, pairs in enumerate(
        ([KeyValue(key="a"), KeyValue(value=value)], [KeyValue(key="a", value=value), KeyValue()])
    ):
        for time in (10, 20):
            point = number(time, time * 10**i, start=0)
            point.attributes.extend(pairs)
            edge.send(body(counter("hits", point)), at=time)
    assert sorted(row["sum_int"] for row in edge.flush(21)) == [20, 200]


def test_point_attribute_wins_over_resource_attribute() -> None:
    """The loser stays as resource.<name>."""
    edge = EdgeHarness()
    edge.send(_hits(10, 5, {"zone": "p", "x": 1}, resource={"service.name": "s", "zone": "r", "y": 2}), at=10)
    row = edge.flush(11)[0]
    assert json.loads(row["attributes"]) == {"resource.zone": "r", "x": 1, "y": 2, "zone": "p"}


def test_service_comes_from_name_and_namespace() -> None:
    """service.name, with its namespace before a slash; a sender without one has a name too."""
    edge = EdgeHarness()
    for resource in ({"service.name": "a"}, {"service.name": "a", "service.namespace": "n"}, {}):
        edge.send(_hits(10, 5, {}, resource=resource), at=10)
    assert sorted(row["service"] for row in edge.flush(11)) == ["a", "n/a", "unknown_service"]


def test_streams_differ_by_everything_that_is_identity() -> None:
    """Scope, unit, name, kind and resource each make a stream of their own; values are never mixed."""
    edge = EdgeHarness()
    bodies = [
        _hits(10, 1, {}),
        _hits(10, 20, {}, scope="other"),
        body(counter("hits", number(10, 300, start=0), unit="By")),
        body(counter("more", number(10, 4000, start=0))),
        body(gauge("hits", number(10, 50000, start=0))),
        _hits(10, 600000, {}, resource={"service.name": "shop", "host.name": "h"}),
    ]
    edge.send(*bodies, at=10)
    rows = edge.flush(11)
    assert len(edge.lives) == 6
    assert sorted(row["sum_int"] for row in rows) == [300, 4000, 50000, 600021]


def test_cluster_and_tenant_are_never_taken_from_the_payload() -> None:
    """Attributes that pose as tenant or cluster are attributes."""
    edge = EdgeHarness()
    posing = {"tenant": "evil", "cluster": "elsewhere", "region": "moon", "catchment.tenant": "evil"}
    payload = _hits(10, 5, posing, resource={"service.name": "shop", **posing})
    edge.send(payload, at=10, tenant="acme", cluster="tokyo-1")
    edge.send(payload, at=10, tenant="umbrella", cluster="tokyo-1")
    edge.send(payload, at=10, tenant="acme", cluster="osaka-1")
    rows = edge.flush(11)
    assert sorted((row["tenant"], row["cluster"], row["sum_int"]) for row in rows) == [
        ("acme", "osaka-1", 5),
        ("acme", "tokyo-1", 5),
        ("umbrella", "tokyo-1", 5),
    ]


def test_tenants_that_share_a_batch_share_no_table() -> None:
    """Rows, dictionaries and digests of tenants are apart, though they were decoded together."""
    edge = EdgeHarness()
    edge.send(_hits(10, 5, {"secret": "of acme"}), at=10, tenant="acme")
    edge.send(_hits(10, 6, {"secret": "of umbrella"}), at=10, tenant="umbrella")
    edge.flush(11)
    tables = edge.drained[-1].rows
    for tenant, table in tables.items():
        texts = {text for chunk in table["attributes"].chunks for text in chunk.dictionary.to_pylist()}
        assert texts == {json.dumps({"secret": f"of {tenant}"}, separators=(",", ":"))}
    ids = {table["series_id"][0].as_py() for table in tables.values()}
    assert len(ids) == 2


def test_series_id_is_the_documented_hash() -> None:
    """Rows carry the golden-tested id of what is left after policy."""
    edge = EdgeHarness()
    edge.send(_hits(10, 5, {"k8s.pod.name": "p", "a": "é"}), at=10)
    row = edge.flush(11)[0]
    assert row["series_id"] == series_id("acme", "shop", "hits", "counter", "", '{"a":"é"}')


def _raw(replacement: bytes, placeholder: bytes) -> bytes:
    """A request whose texts are replaced by bytes of the same length that the library would refuse to write."""
    made = body(counter("M" * 6, number(10, 5, start=0, attributes={"K" * 6: "V" * 6}), unit="U" * 6), scope="S" * 6)
    assert len(placeholder) == len(replacement)
    return made.replace(placeholder, replacement)


@pytest.mark.parametrize(
    ("placeholder", "reason"),
    [
        (b"M" * 6, "name_malformed"),
        (b"U" * 6, "name_malformed"),
        (b"K" * 6, "attributes_malformed"),
        (b"V" * 6, "attributes_malformed"),
        (b"S" * 6, "attributes_malformed"),
    ],
)
@pytest.mark.parametrize("text", [b"\xff" * 6, b"ab\xed\xa0\x80c", b"abcde\xc3"])
def test_invalid_utf8_is_refused(placeholder: bytes, reason: str, text: bytes) -> None:
    """Text that is not UTF-8 is refused by reason, every time it comes; good points beside it are kept."""
    edge = EdgeHarness()
    bad = _raw(text, placeholder)
    for _ in range(2):
        outcomes = edge.send(bad, _hits(10, 5, {}), at=10)
        assert [outcome.points_rejected for outcome in outcomes] == [1, 0]  # type: ignore[union-attr]
    rows = edge.flush(11)
    assert edge.points_tallied(reason) == 2
    assert [row["metric"] for row in rows] == ["hits"]


def test_unicode_texts_come_out_as_they_went_in() -> None:
    """Any valid text is a name: quotes, control characters, emoji, astral planes."""
    edge = EdgeHarness()
    odd = 'é"\\\n\t\0😀\u2028'
    edge.send(body(counter(odd, number(10, 5, start=0, attributes={odd: odd}), unit=odd)), at=10)
    row = edge.flush(11)[0]
    assert (row["metric"], row["unit"], json.loads(row["attributes"])) == (odd, odd, {odd: odd})


def _deep(levels: int) -> Any:
    return "x" if not levels else [_deep(levels - 1)]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({f"k{i}": "v" for i in range(11)}, "attributes_too_many"),
        ({"k": "v" * 65}, "attribute_too_long"),
        ({"k": "é" * 33}, "attribute_too_long"),
        ({"k": b"v" * 64}, "attribute_too_long"),
        ({"k": ["v" * 65]}, "attribute_too_long"),
        ({"k" * 65: "v"}, "attribute_too_long"),
        ({"k": {"n" * 65: "v"}}, "attribute_too_long"),
        ({"k": _deep(4)}, "attribute_too_deep"),
        ({"k": _deep(45)}, "attribute_too_deep"),
        ({f"k{i}": "v" * 60 for i in range(10)}, "attributes_too_large"),
    ],
)
@pytest.mark.parametrize("where", ["point", "resource"])
def test_huge_or_deep_attributes_are_refused(attributes: dict[str, Any], reason: str, where: str) -> None:
    """Each limit of attributes refuses the point that is over it, by reason, in point and resource alike."""
    limits = Limits(
        attribute_count_max=10, attribute_value_bytes_max=64, attribute_depth_max=3, attributes_bytes_max=512
    )
    edge = EdgeHarness(limits)
    resource = {"service.name": "shop"}
    if where == "resource":
        resource, attributes = attributes, {}
    payload = body(counter("bad", number(10, 5, start=0, attributes=attributes)), resource=resource)
    outcomes = edge.send(payload, _hits(10, 5, {}), at=10)
    rows = edge.flush(11)
    assert [row["metric"] for row in rows] == ["hits"]
    assert set(edge.tally) <= {
        (reason, "points"),
        ("attributes_malformed", "points"),
        ("attributes_too_large", "points"),
    }
    assert isinstance(outcomes[0], Outcome) and outcomes[0].points_rejected == 1


def test_names_are_required_and_bounded() -> None:
    """A metric without a name, or with an endless name or unit, is refused by reason."""
    edge = EdgeHarness(Limits(metric_name_bytes_max=16))
    for name, unit in (("", ""), ("n" * 17, ""), ("é" * 9, ""), ("n", "u" * 17)):
        edge.send(body(counter(name, number(10, 5, start=0), unit=unit)), at=10)
    edge.send(body(counter("n" * 16, number(10, 5, start=0), unit="u" * 16)), at=10)
    assert [row["metric"] for row in edge.flush(11)] == ["n" * 16]
    assert edge.points_tallied("no_name") == 1
    assert edge.points_tallied("name_too_long") == 3


def test_a_new_stream_beyond_the_limit_is_refused_and_old_ones_go_on() -> None:
    """A full table refuses only what is new; when streams out of use make room, a stream refused before is taken."""
    edge = EdgeHarness(Limits(streams_max=20, stream_idle_seconds=1000))
    for i in range(20):
        edge.send(_hits(10 + i, 5, {"i": i}), at=10 + i)
    outcome = edge.send(_hits(40, 5, {"i": 99}), _hits(40, 7, {"i": 19}), at=40)
    assert [o.points_rejected for o in outcome] == [1, 0]  # type: ignore[union-attr]
    assert total(edge.flush(41), "hits", "sum_int") == 20 * 5 + 2
    assert edge.points_tallied("streams_full") == 1
    assert edge.edge.evict_idle(ns(42)) == 0
    assert edge.edge.evict_idle(ns(320)) == 2
    outcome = edge.send(_hits(50, 9, {"i": 99}), at=50)
    assert [o.points_rejected for o in outcome] == [0]  # type: ignore[union-attr]


def _new_streams(first: int, count: int, at: float) -> bytes:
    return body(counter("hits", *(number(at, 5, attributes={"i": i}, start=1) for i in range(first, first + count))))


def test_a_tenant_without_end_leaves_room_to_the_others() -> None:
    """The last tenth is for tenants with little; those with much make room, and replay takes what was acknowledged."""
    edge = EdgeHarness(Limits(streams_max=100, stream_idle_seconds=1000))
    edge.send(_new_streams(0, 1, 10), at=10, tenant="small")
    edge.send(_new_streams(0, 150, 11), at=11, tenant="large")
    assert edge.edge.staged_outstanding == 0 and len(edge.lives) == 90
    edge.send(_new_streams(1, 20, 12), at=12, tenant="small")
    assert len(edge.lives) == 99, "but not without end either"
    edge.edge.replay(begins=True)
    edge.send(_new_streams(200, 5, 13), at=13, tenant="third")
    edge.send(_new_streams(200, 5, 13), at=13, tenant="large")
    edge.edge.replay(begins=False)
    assert len(edge.lives) == 104
    edge.flush(14)
    assert edge.points_tallied("streams_full") == 61 + 11 + 5
    assert edge.edge.evict_idle(ns(400)) == 10
    tenants = edge.catalog.count_by_tenant(edge.lives.columns.series[: len(edge.lives)])
    assert tenants == {"small": 10, "large": 79, "third": 5}


def test_several_resources_and_scopes_in_one_request() -> None:
    """Each point belongs to its own resource and scope, in whatever number they come."""
    whole = ExportMetricsServiceRequest()
    for service in range(3):
        for scope in range(2):
            resource = {"service.name": f"s{service}"}
            metric = counter("hits", number(10, 10**service * (scope + 1), start=0, attributes={"a": "b"}))
            whole.MergeFrom(request(metric, resource=resource, scope=str(scope)))
    whole.resource_metrics.add().scope_metrics.add().metrics.add()
    edge = EdgeHarness()
    edge.send(whole.SerializeToString(), at=10)
    assert {row["service"]: row["sum_int"] for row in edge.flush(11)} == {"s0": 3, "s1": 30, "s2": 300}


def test_tables_are_bounded_whatever_identities_a_sender_makes_up() -> None:
    """Countless bad, dropped and refused identities leave no trace that grows with their number."""
    limits = Limits(streams_max=50, names_cached_max=50, series_per_tenant_max=20, series_per_metric_max=20)
    edge = EdgeHarness(limits)
    identifier = edge.edge._identifier
    for i in range(300):
        payloads = [_hits(10, 5, {"i": j}) for j in range(i * 10, i * 10 + 10)]
        payloads.append(_raw(b"%05d\xff" % i, b"V" * 6))
        edge.send(*payloads, at=10)
    assert len(edge.lives) == 50
    assert len(identifier._raw) <= 2 * 50 + 11
    assert len(identifier._reader._known) <= 50
    assert len(edge.catalog.series) <= 50
