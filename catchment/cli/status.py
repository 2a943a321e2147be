"""``catchment status``: rates, lag, oldest unsent, disk and drops of every tier, from its metrics."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from catchment.cli.endpoints import Endpoint, status_options
from catchment.cli.exits import CheckFailed, EnvironmentFault
from catchment.cli.http_client import request
from catchment.cli.options import config_option, json_option, read_config
from catchment.cli.status_screen import printed
from catchment.telemetry import Kind, OwnMetric

# The label that people ask for next; sums are over all other labels.
_DETAIL = {
    OwnMetric.REQUESTS: "answer",
    OwnMetric.DROPS: "reason",
    OwnMetric.SCRAPES: "end",
    OwnMetric.SCRAPE_TARGETS: "state",
    OwnMetric.QUERIES: "result",
    OwnMetric.CONFIG_RELOADS: "result",
    OwnMetric.FILES_REFUSED: "file",
    OwnMetric.CHILD_RESTARTS: "child",
    OwnMetric.PUBLISH_RETRIES: "hop",
}

# (role, metric, value of the label above or "") → sum.
Reading = dict[tuple[str, OwnMetric, str], float]


@click.command()
@status_options
@click.option("--interval", "interval_seconds", type=click.FloatRange(0.1, 60), default=1.0, show_default=True)
@config_option()
@json_option
def status(endpoint: Endpoint, interval_seconds: float, config_file: Path | None, as_json: bool) -> None:
    """Show what every tier does, measured over an interval; exit code 1 if something is not ready."""
    config = read_config(config_file)
    own = config.status.tls
    address = (endpoint.url or f"{own.scheme}://{config.listen.status}").rstrip("/")
    tls = endpoint.files.context(address, None if endpoint.url else own)
    before, started = _read(address, tls), time.monotonic()
    time.sleep(interval_seconds)
    after, elapsed_seconds = _read(address, tls), time.monotonic() - started
    health = json.loads(request(f"{address}/healthz", tls=tls).body)
    # A process of the version before this one knows nothing of what is stalled.
    reasons, stalled = health["reasons"], health.get("stalled", [])
    tiers, details = summary(before, after, elapsed_seconds), details_of(after)
    if as_json:
        said = {"ready": not reasons, "reasons": reasons, "stalled": stalled, "tiers": tiers, "details": details}
        click.echo(json.dumps(said))
    else:
        printed(tiers, details, stalled, reasons, sys.stdout)
    if reasons:
        raise CheckFailed(f"not ready: {'; '.join(reasons)}")


def total(reading: Reading, role: str, metric: OwnMetric) -> float:
    """A metric of a role, over all its labels; 0 where it has none."""
    return sum(value for key, value in reading.items() if key[:2] == (role, metric))


def summary(before: Reading, after: Reading, elapsed_seconds: float) -> dict[str, dict[str, float]]:
    """Per role: counters as their total and rate, gauges as they are; both by name."""
    table: dict[str, dict[str, float]] = {}
    for role, metric in dict.fromkeys((role, metric) for role, metric, _ in after):
        values = table.setdefault(role, {})
        name, value = _name(metric), total(after, role, metric)
        if metric.value.kind is Kind.COUNTER:
            values[name] = value
            values[name.removesuffix("_total") + "_per_second"] = (
                value - total(before, role, metric)
            ) / elapsed_seconds
        elif metric.value.kind is Kind.GAUGE:
            values[name] = value
    return table


def details_of(reading: Reading) -> dict[str, dict[str, dict[str, float]]]:
    """Per role and name: the parts of what is not 0, as drops by reason, requests by answer or targets by state."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for (role, metric, part), value in reading.items():
        if part and value:
            table.setdefault(role, {}).setdefault(_name(metric), {})[part] = value
    return table


def _name(metric: OwnMetric) -> str:
    return metric.value.name.removeprefix("catchment_")


def _read(address: str, tls: ssl.SSLContext | None) -> Reading:
    answer = request(f"{address}/metrics", tls=tls)
    if answer.status != 200:
        raise EnvironmentFault(f"{address}/metrics answers {answer.status}")
    return read_metrics(answer.body.decode())


def read_metrics(text: str) -> Reading:
    """Our own metrics from a Prometheus text; a process that serves itself alone has the role "process"."""
    from prometheus_client.parser import text_string_to_metric_families

    known: Mapping[str, OwnMetric] = {metric.value.name: metric for metric in OwnMetric}
    reading: Reading = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metric = known.get(sample.name)
            if metric is not None and metric is not OwnMetric.BUILD:
                key = (sample.labels.get("role", "process"), metric, sample.labels.get(_DETAIL.get(metric, ""), ""))
                reading[key] = reading.get(key, 0.0) + sample.value
    return reading
