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


@click.command()
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder; a temporary one unless given."
)
@click.option("--duration", default="2m", show_default=True, callback=_seconds, help="How long the fleet sends.")
@click.option("--keep", is_flag=True, help="Keep running afterwards, to be asked with `catchment sql`.")
def demo(data_dir: Path | None, duration: float, keep: bool) -> int:
    """Run `up` with a simulated fleet and an incident: progress, answer, proof."""
    from demo.run import main

    return int(main(data_dir=data_dir, duration_seconds=duration, keep=keep))
