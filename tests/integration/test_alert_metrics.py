"""What the roles really serve on /metrics, against promtool and against what the alerts ask for."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from dashboards.alert_rules import ALERTS
from tests import otlp
from tests.clients.promtool import promtool
from tests.faults.stack import ROLES, UP, Stack, wait_until
from tests.integration.end_to_end import now, post

# A child that `up` had to start again is counted by `up` alone, once it has happened.
_OF_UP = "catchment_child_restarts_total"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """/metrics of each role after a good point, a refused one, a refused request and a scrape that failed."""
    folder = tmp_path_factory.mktemp("alerts")
    jobs = folder / "prometheus.yml"
    job = {"job_name": "none", "scrape_interval": "1s", "static_configs": [{"targets": ["127.0.0.1:1"]}]}
    jobs.write_text(json.dumps({"scrape_configs": [job]}))
    (folder / "tenants.yaml").touch()
    with Stack(folder, f"scrape: {{file: {jobs}}}\ntenants: {folder}/tenants.yaml\n") as stack:
        stack.start(*ROLES)
        stack.wait_ready(*ROLES)
        points = otlp.number(now(), 1.0), otlp.number(now(), float("nan"))
        assert post(stack, otlp.body(otlp.gauge("level", *points))).status == 200
        assert post(stack, b"no protobuf").status == 400
        stack.drain()
        wait_until(lambda: stack.metric("collector", "catchment_drops_total") >= 2, "both refusals are counted")
        wait_until(lambda: stack.metric("collector", "catchment_scrapes_total") >= 1, "a scrape is counted")
        found: dict[str, str] = {}

        def is_ready(role: str) -> bool:
            found[role] = stack.metrics(role)
            return "catchment_ready 1" in found[role]

        for role in ROLES:
            wait_until(partial(is_ready, role), f"{role} says that it is ready")
        yield found


@pytest.mark.parametrize("role", ROLES)
def test_promtool_has_no_complaint(served: Mapping[str, str], role: str) -> None:
    """Names, units, types and help texts of a role's metrics are as Prometheus wants them."""
    assert "catchment_ready 1" in served[role]
    assert promtool("check", "metrics", text=served[role]) == ""


def test_every_metric_of_the_rules_is_served(served: Mapping[str, str]) -> None:
    """No alert waits for a metric that nobody has."""
    asked = {name for alert in ALERTS for name in re.findall(r"\bcatchment_\w+", alert.expression)}
    names = {name for text in served.values() for name in re.findall(r"^(\w+)[ {]", text, re.MULTILINE)}
    assert asked - names == {_OF_UP}


def test_refusals_have_the_labels_that_rules_ask_for(served: Mapping[str, str]) -> None:
    """A refused point and a refused request are counted by reason and unit."""
    drops = [line for line in served["collector"].splitlines() if line.startswith("catchment_drops_total{")]
    assert sum('reason="not_finite"' in line and 'unit="points"' in line for line in drops) == 1
    assert sum('reason="undecodable"' in line and 'unit="requests"' in line for line in drops) == 1


def test_all_roles_know_their_disk(served: Mapping[str, str]) -> None:
    """The free share of the disk is one."""
    for role, text in served.items():
        (ratio,) = re.findall(r"^catchment_disk_free_ratio (\S+)$", text, re.MULTILINE)
        assert 0 < float(ratio) < 1, role


def test_up_counts_the_child_that_died(tmp_path: Path) -> None:
    """`catchment up` serves all of its children in one text that promtool takes, and counts one that died."""
    with Stack(tmp_path) as stack:
        stack.start(UP)
        stack.wait_ready(UP)
        state = json.loads((stack.data / "run" / "aggregator.json").read_text())
        os.kill(state["pid"], signal.SIGKILL)
        wait_until(lambda: stack.metric(UP, _OF_UP) == 1, "the death is counted")
        stack.wait_ready(UP)
        text = stack.metrics(UP)
    assert re.search(rf'^{_OF_UP}{{.*child="aggregator".*}} 1.0$', text, re.MULTILINE)
    assert promtool("check", "metrics", text=text) == ""
