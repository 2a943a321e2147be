"""Alerts on the pipeline itself: the file is what the values say, and Prometheus fires them when it should."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from catchment.telemetry import OwnMetric
from collectors.reasons import Reason
from dashboards.alert_rules import ALERTS, REFUSED_POINTS, Alert, rules_file
from tests.clients.promtool import promtool
from tests.unit.alert_cases import CASES, Case

FILE = Path("dashboards/alerts/catchment.rules.yml")


def test_the_file_is_generated() -> None:
    """The rule file that users load is what the code says today."""
    assert FILE.read_text("utf-8") == rules_file()


def test_prometheus_takes_the_file() -> None:
    """Every expression parses, every template expands and no rule is there twice."""
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", str(FILE))


def test_every_alert_says_what_to_do() -> None:
    """docs/operate.md has a heading for each alert and none for others, and its severity is one that we explain."""
    page = Path("docs/operate.md").read_text("utf-8").splitlines()
    headings = [line.removeprefix("### ") for line in page if line.startswith("### Catchment")]
    assert sorted(headings) == sorted(alert.name for alert in ALERTS)
    assert {alert.severity for alert in ALERTS} == {"warning", "critical"}


def test_points_refused_are_all_that_the_collector_refuses() -> None:
    """A new reason for refusing points is alerted on too."""
    assert set(REFUSED_POINTS) == {reason.text for reason in Reason if reason.refused}


def test_every_alert_has_its_case() -> None:
    """No alert goes untested."""
    assert list(CASES) == [alert.name for alert in ALERTS]


def test_cases_name_metrics_that_exist() -> None:
    """The cases are about our own metrics, not about misspelt ones."""
    known = {metric.value.name for metric in OwnMetric} | {"up"}
    assert {name for case in CASES.values() for name in (*case.fires, *case.quiet)} <= known


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_it_fires_when_it_should(alert: Alert, tmp_path: Path) -> None:
    """The alert fires at the minute that its ``for`` demands with what it says, not a minute before, and not without
    a cause.
    """
    case = CASES[alert.name]
    said = {"summary": case.summary, "description": alert.description, "runbook_url": alert.runbook}
    fired = {"exp_labels": {**case.alert_labels, "severity": alert.severity}, "exp_annotations": said}
    tests = [
        _test(alert, case, case.fires, [(case.minute - 1, []), (case.minute, [fired])]),
        _test(alert, case, case.quiet, [(minute, []) for minute in range(20, 60)]),
    ]
    file = tmp_path / "alerts.test.yml"
    # JSON is YAML.
    file.write_text(json.dumps({"rule_files": [str(FILE.resolve())], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(file))


def _test(alert: Alert, case: Case, metrics: Mapping[str, str], expected: list[tuple[int, list[Any]]]) -> Any:
    labels = ",".join(f'{name}="{value}"' for name, value in case.labels.items())
    return {
        "interval": "1m",
        "input_series": [{"series": f"{name}{{{labels}}}", "values": values} for name, values in metrics.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert.name, "exp_alerts": alerts} for minute, alerts in expected
        ],
    }
