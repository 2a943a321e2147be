"""The benchmarks' load is what it says, so that their figures are of work that was really done."""

from pathlib import Path

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from benchmarks import harness, load
from benchmarks.peer_loop import Loop

SMALL = load.Shape(resources=7, points_per_body=300, seed=5)


@pytest.mark.parametrize("counts_from_zero", [False, True])
def test_expected_totals_are_those_of_a_plain_loop(counts_from_zero: bool) -> None:
    """What the load says must come out is what a loop over protobuf objects finds in its bodies."""
    made = load.Load(SMALL)
    loop = Loop(counts_from_zero=counts_from_zero)
    for interval in (1, 2, 3):
        for body in made.bodies(interval):
            loop.add(body)
    expected = made.expected(3, counts_from_zero=counts_from_zero)
    found = {(key[0], key[1], dict(key[2])["http.request.method"]): sums for key, sums in loop.series.items()}
    series = [(service, metric.name, method) for service, metric, method in made.series()]
    assert len(loop.previous) == made.streams - sum(metric.value == "gauge" for metric in load.METRICS) * 70
    assert sorted(found) == sorted(series)
    assert [found[each].points for each in series] == expected.points.tolist()
    assert [found[each].count for each in series] == expected.count.tolist()
    assert [found[each].sum for each in series] == expected.sum.tolist()
    for value, buckets in (("histogram", expected.explicit_buckets), ("exponential", expected.exponential_buckets)):
        of_value = [(s, metric.name, method) for s, metric, method in made.series() if metric.value == value]
        assert [list(found[each].buckets.values()) for each in of_value] == buckets.tolist()


def test_bodies_are_what_a_protobuf_library_would_write() -> None:
    """Nothing is unknown to the official schema, and the points are many, of all kinds, with five attributes."""
    made = load.Load(SMALL)
    points = 0
    for body in made.bodies(2):
        request = ExportMetricsServiceRequest.FromString(body)
        assert request.SerializeToString() == body
        for resource_metrics in request.resource_metrics:
            for metric in resource_metrics.scope_metrics[0].metrics:
                data = getattr(metric, metric.WhichOneof("data"))
                points += len(data.data_points)
                assert {len(point.attributes) for point in data.data_points} == {5}
                assert {point.time_unix_nano for point in data.data_points} == {made.time_ns(2)}
    assert points == made.streams == 700


def test_load_is_deterministic_and_grows() -> None:
    """The same seed gives the same bytes, another interval or seed others of the same length."""
    made = load.Load(SMALL)
    assert made.bodies(3) == load.Load(SMALL).bodies(3)
    assert made.bodies(3) != made.bodies(4)
    assert [len(body) for body in made.bodies(1)] == [len(body) for body in made.bodies(load.INTERVALS_MAX)]
    assert made.bodies(3) != load.Load(load.Shape(resources=7, points_per_body=300, seed=6)).bodies(3)


def test_full_load_has_the_stated_size() -> None:
    """100,000 streams make 20,000 series, in bodies of about 220 bytes a point."""
    made = load.Load()
    bodies = made.bodies(1)
    assert (made.streams, len(made.series()), len(bodies)) == (100_000, 20_000, 10)
    assert 210 <= sum(map(len, bodies)) / made.streams <= 230
    values = np.array([metric.value for metric in load.METRICS])[made.metric_of].tolist()
    assert [values.count(kind) // 1_000 for kind in ("int", "double", "gauge", "histogram", "exponential")] == [
        40,
        10,
        30,
        10,
        10,
    ]


def test_record_replaces_its_own_section_only(tmp_path: Path) -> None:
    """Recording twice leaves one section with the newer figures, and the others as they were."""
    results = tmp_path / "RESULTS.md"
    harness.record("First", [("rate", "1 M")], results)
    harness.record("Second", [("rate", "2 M")], results)
    between = results.read_text()
    harness.record("First", [("rate", "1 M")], results)
    assert results.read_text() == between
    harness.record("First", [("rate", "3 M")], results)
    text = results.read_text()
    assert (text.count("## First"), "1 M" in text, "| rate | 2 M |" in text, "| rate | 3 M |" in text) == (
        1,
        False,
        True,
        True,
    )
