"""``catchment policy``: what policies do, before they do it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from catchment.cli.exits import EnvironmentFault
from catchment.cli.options import config_option, data_dir_option, json_option, read_config
from catchment.config import Config, Profile
from catchment.config_load import load_policies
from catchment.config_policies import Policies
from catchment.errors import Invalid
from catchment.units import about_duration, seconds_of

if TYPE_CHECKING:
    from collectors.dry_run import DryRun
    from collectors.records import Received

# Enough for a decode to be worth its overhead.
_BATCH_BYTES = 4 << 20
_BATCH_REQUESTS = 512
_PAYLOAD_BYTES_MAX = 1 << 30


@click.group()
def policy() -> None:
    """See what policies do before they do it."""


@policy.command()
@config_option()
@data_dir_option
@click.option(
    "--policies",
    "tried_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A policies file to be tried, compared with those in force; without it those in force, compared with none.",
)
@click.option("--last", default="5m", show_default=True, help="How far back requests are looked at.")
@click.option(
    "--for",
    "profile",
    type=click.Choice([Profile.UP.value, Profile.COLLECTOR.value]),
    default=Profile.UP.value,
    show_default=True,
    help="The process that reads the configuration: how often it flushes unless that says so.",
)
@json_option
def explain(
    config_file: Path | None, data_dir: Path | None, tried_file: Path | None, last: str, profile: str, as_json: bool
) -> None:
    """Show what each rule does to the series, rows and bytes of what was received in the last minutes.

    A dry run over what the collector's folder still holds of its requests, on the collector's machine; it may run
    meanwhile, and nothing is changed.
    """
    from catchment.cli.policy_report import as_mapping, printed

    try:
        seconds = seconds_of(last)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--last") from error
    config = read_config(config_file, data_dir, Profile(profile))
    tried = config.policies if tried_file is None else load_policies(tried_file, config)
    folder = config.for_collector().folder
    run = _run(config, tried, is_compared=tried_file is not None, since_ns=time.time_ns() - int(seconds * 1e9))
    if not run.requests:
        raise EnvironmentFault(
            f"{folder} holds no requests of the last {about_duration(seconds)}: is it the collector's? Try --last 1h"
        )
    report = as_mapping(run, tried, config.policies if tried_file is not None else None)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        printed(report, sys.stdout)


def _run(config: Config, tried: Policies, *, is_compared: bool, since_ns: int) -> DryRun:
    from collectors.dry_run import EVERYTHING, DryRun
    from collectors.recorded import recorded

    settings = config.for_collector()
    run = DryRun(
        tried,
        config.policies if is_compared else EVERYTHING,
        settings.limits,
        window_seconds=settings.resolution_seconds,
        flush_seconds=settings.flush_seconds,
    )
    for requests, payloads in _batches(recorded(settings.folder, since_ns)):
        run.take(requests, payloads)
    return run


def _batches(requests: Iterator[Received]) -> Iterator[tuple[list[Received], list[bytes]]]:
    """Requests with their plain bytes, some at a time; what cannot be unpacked is left out."""
    from collectors.content import to_protobuf

    batch: list[Received] = []
    payloads: list[bytes] = []
    size = 0
    for request in requests:
        try:
            payloads.append(to_protobuf(request, _PAYLOAD_BYTES_MAX))
        except Invalid:
            continue
        batch.append(request)
        size += len(payloads[-1])
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_REQUESTS:
            yield batch, payloads
            batch, payloads, size = [], [], 0
    yield batch, payloads
