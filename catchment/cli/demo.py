"""``catchment demo``: the simulated fleet. The work is the `demo` tier's."""

from __future__ import annotations

from pathlib import Path

import click

from catchment.units import seconds_of


def _seconds(_context: click.Context, _parameter: click.Parameter, text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--data-dir", type=_FOLDER, help="A new folder, which stays; a temporary one unless given.")
@click.option("--duration", default="2m", show_default=True, callback=_seconds, help="How long the fleet sends.")
@click.option("--keep", is_flag=True, help="Stay up afterwards, to be asked with `catchment sql`, until Ctrl-C.")
@click.option("--tamper", is_flag=True, help="Claim a watt-hour that nobody sent: the proof must fail (exit code 1).")
@click.option("--stations", default=3_000, show_default=True, type=click.IntRange(1, 20_000), help="Size of the fleet.")
@click.option(
    "--kafka",
    default="",
    metavar="BROKERS",
    help="The log is Kafka: host:port,… of brokers that run, or `local` for one that the demo starts and kills once.",
)
@click.option("--picture", type=_FOLDER, hidden=True, help="Draw the pictures of the documentation into this folder.")
def demo(
    data_dir: Path | None,
    duration: float,
    keep: bool,
    tamper: bool,
    stations: int,
    kafka: str,
    picture: Path | None,
) -> int:
    """Run `up` with a simulated fleet and an incident: progress, answer, proof."""
    from demo.run import main

    return main(
        data_dir=data_dir,
        duration_seconds=duration,
        keep=keep,
        tamper=tamper,
        stations=stations,
        picture=picture,
        kafka=kafka,
    )
