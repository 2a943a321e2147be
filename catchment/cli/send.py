"""``catchment send``: one data point through the front door, a smoke test that needs no SDK."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from catchment.cli.endpoints import TlsFiles, tls_options
from catchment.cli.exits import CheckFailed, EnvironmentFault
from catchment.cli.http_client import Answer, request
from catchment.cli.options import config_option, pairs_of, read_config

_DELTA = 1
_SECOND_NS = 1_000_000_000


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("value", type=float)
@click.option("--kind", type=click.Choice(["counter", "gauge", "histogram"]), default="counter", show_default=True)
@click.option("--attr", "attributes", multiple=True, metavar="KEY=VALUE", help="An attribute; may be given again.")
@click.option("--service", default="catchment-send", show_default=True, help="service.name of the sender.")
@click.option("--unit", default="1", show_default=True, help="Unit (UCUM).")
@click.option("--url", help="Address of the OTLP/HTTP receiver; from the configuration unless given.")
@click.option("--token-file", type=click.Path(path_type=Path, exists=True), help="File with the sender's bearer token.")
@tls_options
@config_option()
def send(
    name: str,
    value: float,
    kind: str,
    attributes: tuple[str, ...],
    service: str,
    unit: str,
    url: str | None,
    token_file: Path | None,
    files: TlsFiles,
    config_file: Path | None,
) -> None:
    """Send NAME VALUE as one OTLP data point: a counter's increase, a gauge's sample, or a histogram's observation."""
    pairs = pairs_of(attributes, "--attr")
    metric = {"name": name, "unit": unit, **_data(kind, value, pairs, time.time_ns())}
    resource = {"attributes": _attributes({"service.name": service})}
    body = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [metric]}]}]}
    headers = {"content-type": "application/json"}
    if token_file:
        headers["authorization"] = f"Bearer {token_file.read_text('utf-8').strip()}"
    own = None
    if not url:
        config = read_config(config_file)
        own = config.tls
        url = f"{own.scheme}://{config.listen.otlp_http}"
    tls = files.context(url, own)
    _judge(request(f"{url.rstrip('/')}/v1/metrics", body=json.dumps(body).encode(), headers=headers, tls=tls))
    click.echo(f"accepted, on disk: {kind} {name} {value:g}")


def _judge(answer: Answer) -> None:
    if answer.status == 200:
        partial = json.loads(answer.body or b"{}").get("partialSuccess", {})
        if int(partial.get("rejectedDataPoints", 0)):
            raise CheckFailed(f"rejected: {partial.get('errorMessage', '')}")
        return
    try:
        says = json.loads(answer.body).get("message", "")
    except ValueError:
        says = answer.text
    says = f"HTTP {answer.status}: {says}"
    raise EnvironmentFault(says) if answer.status in (429, 502, 503, 504) else CheckFailed(says)


def _data(kind: str, value: float, attributes: dict[str, str], now_ns: int) -> dict[str, object]:
    # An interval of its own for each call, so that two equal sends are two increases and not a repeat.
    point: dict[str, object] = {
        "attributes": _attributes(attributes),
        "startTimeUnixNano": str(now_ns - _SECOND_NS),
        "timeUnixNano": str(now_ns),
    }
    if kind == "histogram":
        observed = {"count": "1", "sum": value, "min": value, "max": value, "bucketCounts": ["1", "0"]}
        point |= observed | {"explicitBounds": [value]}
        return {"histogram": {"aggregationTemporality": _DELTA, "dataPoints": [point]}}
    point |= {"asInt": str(int(value))} if value.is_integer() else {"asDouble": value}
    if kind == "gauge":
        return {"gauge": {"dataPoints": [point]}}
    return {"sum": {"aggregationTemporality": _DELTA, "isMonotonic": True, "dataPoints": [point]}}


def _attributes(attributes: dict[str, str]) -> list[dict[str, object]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
