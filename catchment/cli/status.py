"""``catchment status``: rates, lag, oldest unsent, disk and drops of every tier, from its metrics."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import click

from catchment.cli.endpoints import Endpoint, status_options
from catchment.cli.exits import CheckFailed, EnvironmentFault
from catchment.cli.http_client import request
from catchment.cli.options import config_option, json_option, read_config
from catchment.telemetry import Kind, OwnMetric

# (role, metric) → sum over its other labels.
Reading = dict[tuple[str, OwnMetric], float]


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
    table = summary(before, after, elapsed_seconds)
    if as_json:
        click.echo(json.dumps({"ready": not reasons, "reasons": reasons, "stalled": stalled, "tiers": table}))
    else:
        for role, values in table.items():
            click.echo(role)
            for meaning, value in values.items():
                digits = 3 if meaning.endswith("_ratio") else 1
                click.echo(f"  {value:>14,.{digits}f}  {meaning}")
        for said in stalled:
            click.echo(f"stalled: {said}")
        for reason in reasons:
            click.echo(f"not ready: {reason}")
    if reasons:
        raise CheckFailed(f"not ready: {'; '.join(reasons)}")


def summary(before: Reading, after: Reading, elapsed_seconds: float) -> dict[str, dict[str, float]]:
    """Per role: counters as their total and rate, gauges as they are; both by name."""
    table: dict[str, dict[str, float]] = {}
    for (role, metric), value in after.items():
        values = table.setdefault(role, {})
        name = metric.value.name.removeprefix("catchment_")
        if metric.value.kind is Kind.COUNTER:
            values[name] = value
            values[name.removesuffix("_total") + "_per_second"] = (
                value - before.get((role, metric), 0.0)
            ) / elapsed_seconds
        elif metric.value.kind is Kind.GAUGE:
            values[name] = value
    return table


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
                key = (sample.labels.get("role", "process"), metric)
                reading[key] = reading.get(key, 0.0) + sample.value
    return reading
