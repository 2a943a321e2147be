"""What `catchment status` found, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from catchment.units import about, about_duration

# Where there is no terminal.
_WIDTH_PLAIN: Final = 120


def printed(
    tiers: Mapping[str, Mapping[str, float]],
    details: Mapping[str, Mapping[str, Mapping[str, float]]],
    stalled: Sequence[str],
    reasons: Sequence[str],
    file: TextIO,
) -> None:
    """Write a table for each role, then what is stalled and why something is not ready.

    Args:
        tiers: role → name → value; a counter ``x_total`` is followed by ``x_per_second``.
        details: role → name → part → value.
        stalled: a line each.
        reasons: why something is not ready, a line each; empty where all is ready.
        file: where to.
    """
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_PLAIN
    for role, values in tiers.items():
        if values.get("ready", 1.0):
            console.print(Text.assemble((role, "bold"), "  ", ("ready", "green")))
        else:
            console.print(Text.assemble((role, "bold"), "  ", ("not ready", "red")))
        console.print(_table(values, details.get(role, {})))
    for said in stalled:
        console.print(Text(f"stalled: {said}", "yellow"))
    for reason in reasons:
        console.print(Text(f"not ready: {reason}", "red"))


def _table(values: Mapping[str, float], details: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(box=None, padding=(0, 2), show_header=False)
    table.add_column(min_width=22, no_wrap=True)
    table.add_column(justify="right", min_width=12, no_wrap=True)
    table.add_column(justify="right", min_width=12, no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for name, value in values.items():
        if name == "ready" or name.endswith("_per_second"):
            continue
        what = name.removesuffix("_total")
        rate = values.get(f"{what}_per_second")
        parts = sorted(details.get(name, {}).items(), key=lambda part: (-part[1], part[0]))
        table.add_row(
            what.removesuffix("_seconds").removesuffix("_ratio").replace("_", " "),
            _text(what, value),
            "" if rate is None else f"{_text(what, rate, digits=1)}/s",
            ", ".join(f"{part} {_text(what, count)}" for part, count in parts),
            style="" if value or rate else "dim",
        )
    return table


def _text(what: str, value: float, *, digits: int = 0) -> str:
    if what.endswith("_bytes"):
        return about(round(value))
    if what.endswith("_seconds"):
        return about_duration(value)
    if what.endswith("_ratio"):
        return f"{value:.1%}"
    return f"{value:,.{digits}f}"
