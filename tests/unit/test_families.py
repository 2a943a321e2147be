"""What a Prometheus sample is, by its name and the types that are declared."""

from __future__ import annotations

import math

import pytest

from collectors.decode.families import MetricType, Role, Series, series_of

TYPES = {
    "requests": MetricType.COUNTER,
    "old_counter": MetricType.COUNTER,
    "old_total": MetricType.COUNTER,
    "seconds": MetricType.HISTOGRAM,
    "latency": MetricType.SUMMARY,
    "level": MetricType.GAUGE,
    "level_total": MetricType.GAUGE,
    "ages": MetricType.GAUGE_HISTOGRAM,
    "build": MetricType.INFO,
    "state": MetricType.STATE_SET,
    "some_total": MetricType.UNKNOWN,
}


def read(name: str, **labels: str) -> Series:
    """The series of a sample."""
    return series_of({"__name__": name, **labels}, lambda family: TYPES.get(family, MetricType.UNKNOWN))


@pytest.mark.parametrize(
    ("name", "labels", "metric", "role"),
    [
        ("requests_total", {}, "requests_total", Role.COUNTER),
        ("requests_created", {}, "requests", Role.CREATED),
        ("old_counter", {}, "old_counter", Role.COUNTER),
        ("old_total", {}, "old_total", Role.COUNTER),
        ("seconds_bucket", {"le": "0.5"}, "seconds", Role.BUCKET),
        ("seconds_bucket", {"le": "+Inf"}, "seconds", Role.BUCKET),
        ("seconds_bucket", {}, "seconds_bucket", Role.GAUGE),
        ("seconds_bucket", {"le": "half"}, "seconds_bucket", Role.GAUGE),
        ("seconds_count", {}, "seconds", Role.COUNT),
        ("seconds_sum", {}, "seconds", Role.SUM),
        ("latency", {"quantile": "0.9"}, "latency", Role.QUANTILE),
        ("latency_count", {}, "latency", Role.SUMMARY_COUNT),
        ("latency_sum", {}, "latency", Role.SUMMARY_SUM),
        ("latency_created", {}, "latency", Role.CREATED),
        ("level", {}, "level", Role.GAUGE),
        ("level_total", {}, "level_total", Role.GAUGE),
        ("level_count", {}, "level_count", Role.GAUGE),
        ("ages_bucket", {"le": "1"}, "ages_bucket", Role.GAUGE),
        ("build_info", {"version": "1"}, "build_info", Role.GAUGE),
        ("state", {"state": "on"}, "state", Role.GAUGE),
        ("some_total", {}, "some_total", Role.COUNTER),
        ("never_declared", {}, "never_declared", Role.GAUGE),
        ("never_declared_total", {}, "never_declared_total", Role.COUNTER),
        ("never_declared_bucket", {"le": "1"}, "never_declared_bucket", Role.COUNTER),
        ("never_declared_count", {}, "never_declared_count", Role.COUNTER),
        ("_total", {}, "_total", Role.COUNTER),
    ],
)
def test_roles(name: str, labels: dict[str, str], metric: str, role: Role) -> None:
    """The declared type of the name, then that of the name without its suffix, then the suffix decides."""
    series = read(name, **labels)
    assert (series.metric, series.role) == (metric, role)


def test_bounds_leave_the_labels() -> None:
    """le and quantile are no labels of the point; the bound is a number."""
    bucket = read("seconds_bucket", le="2.5", path="/")
    assert bucket.bound == 2.5
    assert bucket.labels == {"path": "/"}
    quantile = read("latency", quantile="0.5", path="/")
    assert math.isnan(quantile.bound)
    assert quantile.labels == {"path": "/"}
    assert read("never_declared_bucket", le="2.5").labels == {"le": "2.5"}


def test_job_and_instance() -> None:
    """job is the service, with a namespace before a slash, and instance its instance; empty labels are none."""
    series = read("level", job="shop/checkout", instance="10.0.0.1:80", zone="")
    assert series.resource == {
        "service.namespace": "shop",
        "service.name": "checkout",
        "service.instance.id": "10.0.0.1:80",
    }
    assert series.labels == {}
    assert read("level", job="node").resource == {"service.name": "node"}


def test_groups() -> None:
    """The samples of one histogram share a group, a counter and its creation do, and others do not."""
    parts = [read("seconds_bucket", le="1", a="b"), read("seconds_count", a="b"), read("seconds_created", a="b")]
    assert len({part.group for part in parts}) == 1
    assert read("requests_total", a="b").group == read("requests_created", a="b").group
    others = [read("seconds_count"), read("seconds_count", a="c"), read("seconds_count", job="b"), parts[0]]
    assert len({other.group for other in others}) == len(others)
