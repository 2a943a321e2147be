"""The pictures of the documentation, drawn from a run's figures: the answer on a terminal, and the idea.

``catchment demo --picture docs/images`` draws both, with ``--kafka`` the answer only. Nothing in them is made up:
widths of streams are bytes to scale, each dot is a station, each sum is what that level holds. Both bring their own
background, so that they can be read on a white page and on a dark one.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from demo.figures import Answer
from demo.report import mebibytes, report

_COLUMNS: Final = 82
_THEME: Final = TerminalTheme(
    (11, 29, 46),
    (214, 228, 240),
    [
        (11, 29, 46),
        (255, 107, 107),
        (94, 214, 143),
        (255, 209, 102),
        (92, 157, 255),
        (199, 146, 234),
        (86, 207, 225),
        (214, 228, 240),
    ],
)
# Rich's own frame loads a font from the net; this one takes what the reader's machine has.
_TERMINAL: Final = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace;
    font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 17px; font-family: system-ui, 'DejaVu Sans', sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def write_pictures(answer: Answer, folder: Path) -> None:
    """Write ``demo.svg`` and ``confluence.svg``; over Kafka ``demo-kafka.svg``, since the idea is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    if answer.kafka is not None:
        (folder / "demo-kafka.svg").write_text(terminal(answer), "utf-8")
        return
    (folder / "demo.svg").write_text(terminal(answer), "utf-8")
    (folder / "confluence.svg").write_text(confluence(answer), "utf-8")


def terminal(answer: Answer) -> str:
    """The answer as a terminal shows it."""
    console = Console(
        record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(Text.assemble(("$ ", "green"), (_command(answer), "bold")))
    console.print(report(answer))
    drawn = console.export_svg(title="catchment demo", theme=_THEME, code_format=_TERMINAL, unique_id="demo")
    return "\n".join(_TEXT.sub(_shifted, line.rstrip()) for line in drawn.splitlines()) + "\n"


def _command(answer: Answer) -> str:
    if answer.kafka is None:
        return "make demo"
    return "make demo-kafka" if answer.kafka.is_ours else "catchment demo --kafka HOST:PORT"


_TEXT: Final = re.compile(
    r'<text class="([^"]*)" x="([0-9.]+)" y="([0-9.]+)" textLength="([0-9.]+)"([^>]*)>([^<]*)</text>'
)


def _shifted(found: re.Match[str]) -> str:
    """A text without the blanks around it, moved to where it begins: not every viewer keeps leading blanks."""
    kind, x, y, length, more, escaped = found.groups()
    text = unescape(escaped)
    core = text.strip("\xa0 ")
    if not core:
        return ""
    width = float(length) / max(cell_len(text), 1)
    begin = float(x) + width * (len(text) - len(text.lstrip("\xa0 ")))
    shown = escape(core).replace("\xa0", "&#160;")
    return (
        f'<text class="{kind}" x="{begin:.1f}" y="{y}" textLength="{width * cell_len(core):.1f}"{more}>{shown}</text>'
    )


_WIDTH, _HEIGHT = 1200, 680
_TOP, _BOTTOM = 178, 470
_STATIONS_X, _ZONES_X, _REGIONS_X, _GLOBE_X, _END_X = 70, 450, 715, 965, 1165
_DOTS_WIDTH = 150
_FUNNEL = 80  # where a stream narrows
_STREAM, _WELL, _FAILING, _SILENT, _EQUAL = "#4cc9f0", "#7fb2d6", "#ff6b6b", "#ffd166", "#5ed68f"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class _Scale:
    """Bytes → pixels: all that the stations sent is as wide as fits."""

    pixels_per_byte: float

    def __call__(self, size: float) -> float:
        return max(size * self.pixels_per_byte, 0.75)


def confluence(answer: Answer) -> str:
    """The idea: the data shrinks on the way, the same sum stands at every confluence."""
    hops = answer.hops
    scale = _Scale((_BOTTOM - _TOP) * 0.86 / max(hops.sent, 1))
    zones, per_region = _spread(len(answer.clouds)), len(answer.clouds) // answer.regions
    regions = [sum(zones[place : place + per_region]) / per_region for place in range(0, len(zones), per_region)]
    middle = (_TOP + _BOTTOM) / 2
    sent, out = scale(hops.sent / len(zones)), scale(hops.from_zones / len(zones))
    up, rows = scale(hops.to_globe / len(regions)), scale(hops.region_rows)
    parts = [_head(answer)]
    for place, y in enumerate(zones):
        side = (place % per_region - (per_region - 1) / 2) * up / per_region
        parts.append(_ribbon((_STATIONS_X + _DOTS_WIDTH, y, sent), (_ZONES_X - _FUNNEL, y, sent), 0.32))
        parts.append(_ribbon((_ZONES_X - _FUNNEL, y, sent), (_ZONES_X, y, out), 0.32))
        joined = (_REGIONS_X, regions[place // per_region] + side, up / per_region)
        parts.append(_ribbon((_ZONES_X, y, out), joined, 0.45))
    for place, y in enumerate(regions):
        side = (place - (len(regions) - 1) / 2) * up
        parts.append(_ribbon((_REGIONS_X, y, up), (_GLOBE_X, middle + side, up), 0.6))
    parts.append(_ribbon((_GLOBE_X, middle, up * len(regions)), (_GLOBE_X + _FUNNEL, middle, rows), 0.6))
    parts.append(_ribbon((_GLOBE_X + _FUNNEL, middle, rows), (_END_X, middle, rows), 0.6))
    parts += [_dots(answer, zones), *_nodes(answer, zones, regions, middle), *_bytes(answer), *_sums(answer)]
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" xmlns="http://www.w3.org/2000/svg" font-family="{_FONT}" role="img">\n'
        "<title>The data shrinks on the way, the same sum stands at every confluence</title>\n"
        '<defs><linearGradient id="deep" x1="0" y1="0" x2="1" y2="1"><stop offset="0" stop-color="#0b1d2e"/>'
        '<stop offset="1" stop-color="#0d2c45"/></linearGradient></defs>\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="16" fill="url(#deep)"/>\n{body}\n</svg>\n'
    )


def _spread(count: int) -> list[float]:
    step = (_BOTTOM - _TOP) / count
    return [_TOP + step * (place + 0.5) for place in range(count)]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 15,
    fill: str = "#d6e4f0",
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    weight = ' font-weight="700"' if bold else ""
    style = f'font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"{weight}'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>'


def _head(answer: Answer) -> str:
    kills = "".join(f", one kill −9, {cost.lost} points lost" for cost in answer.kills)
    told = f"One run of make demo: {answer.stations:,} stations, {answer.traffic_seconds:g} s, one incident{kills}."
    return "\n".join(
        (
            _text(
                40,
                56,
                "The data shrinks on the way. The sums don’t.",
                size=30,
                anchor="start",
                bold=True,
                fill="#ffffff",
            ),
            _text(40, 86, told + " Streams are bytes, to scale.", size=15, anchor="start", fill="#8fb3cc"),
        )
    )


def _ribbon(begin: tuple[float, float, float], end: tuple[float, float, float], opacity: float) -> str:
    """A stream from (x, y, width) to (x, y, width)."""
    (x0, y0, w0), (x1, y1, w1) = begin, end
    bend = (x0 + x1) / 2
    path = (
        f"M{x0:g} {y0 - w0 / 2:.1f}C{bend:g} {y0 - w0 / 2:.1f} {bend:g} {y1 - w1 / 2:.1f} {x1:g} {y1 - w1 / 2:.1f}"
        f"V{y1 + w1 / 2:.1f}C{bend:g} {y1 + w1 / 2:.1f} {bend:g} {y0 + w0 / 2:.1f} {x0:g} {y0 + w0 / 2:.1f}Z"
    )
    return f'<path d="{path}" fill="{_STREAM}" opacity="{opacity:g}"/>'


def _dots(answer: Answer, zones: list[float]) -> str:
    """One dot for each station: failing ones red, silent ones yellow."""
    rows = 8
    step_y = (zones[1] - zones[0]) * 0.84 / rows
    kinds: dict[str, list[str]] = {_WELL: [], _FAILING: [], _SILENT: []}
    for cloud, y in zip(answer.clouds, zones, strict=True):
        troubled = cloud.name == answer.incident.cloud
        failing = len({row["cluster"] for row in answer.incident.failing}) if troubled else 0
        columns = -(-cloud.stations // rows)
        step_x = _DOTS_WIDTH / max(columns, 1)
        for place in range(cloud.stations):
            silent = place >= cloud.stations - cloud.silent
            colour = _SILENT if silent else _FAILING if place < failing else _WELL
            dot_x = _STATIONS_X + (place // rows) * step_x
            dot_y = y + (place % rows - (rows - 1) / 2) * step_y
            kinds[colour].append(f"M{dot_x:.1f} {dot_y:.1f}h0")
    return "\n".join(
        f'<path d="{"".join(marks)}" stroke="{colour}" stroke-width="{4 if colour == _SILENT else 2}" '
        'stroke-linecap="round" fill="none"/>'
        for colour, marks in kinds.items()
        if marks
    )


def _nodes(answer: Answer, zones: list[float], regions: list[float], middle: float) -> list[str]:
    parts = []
    kills = {cost.kill.cloud: cost.kill for cost in answer.kills}
    for cloud, y in zip(answer.clouds, zones, strict=True):
        bad = cloud.bad_since is not None
        parts.append(
            _text(_ZONES_X - 92, y + 5, cloud.name, size=14, fill="#ff9b9b" if bad else "#ffffff", anchor="end")
        )
        parts.append(_node(_ZONES_X, y, 7, _FAILING if bad else "#ffffff"))
        if cloud.name in kills:
            told = f"kill −9, back after {kills[cloud.name].ready_seconds:.1f} s"
            parts.append(_text(_ZONES_X + 14, y - 16, told, size=12, fill=_SILENT, anchor="start"))
    names = list(dict.fromkeys(cloud.name.rpartition("-")[0] for cloud in answer.clouds))
    for name, y in zip(names, regions, strict=True):
        parts.append(_node(_REGIONS_X, y, 9, "#ffffff"))
        parts.append(_text(_REGIONS_X + 18, y + 5, name, size=14, anchor="start", fill="#ffffff"))
    parts.append(_node(_GLOBE_X, middle, 13, "#ffffff"))
    return parts


def _node(x: float, y: float, radius: float, colour: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:.1f}" r="{radius:g}" fill="#0b1d2e" stroke="{colour}" stroke-width="3"/>'


def _bytes(answer: Answer) -> list[str]:
    hops = answer.hops
    labels = (
        ((_STATIONS_X + _DOTS_WIDTH + _ZONES_X) / 2, hops.sent, f"sent ({mebibytes(hops.otlp)} before gzip)"),
        ((_ZONES_X + _REGIONS_X) / 2, hops.from_zones, "out of the zones"),
        ((_REGIONS_X + _GLOBE_X) / 2, hops.to_globe, "to the globe"),
        ((_GLOBE_X + _END_X) / 2 + 10, hops.region_rows, f"of it: {answer.region_series} series by region"),
    )
    return [
        part
        for x, size, meaning in labels
        for part in (
            _text(x, 138, mebibytes(size), size=24, bold=True, fill=_STREAM),
            _text(x, 158, meaning, size=13, fill="#8fb3cc"),
        )
    ]


def _sums(answer: Answer) -> list[str]:
    """The same sum at every confluence, as each level holds it."""
    lines = {line.name.split()[-1]: line for line in answer.proof.lines}
    columns = (
        (_STATIONS_X + _DOTS_WIDTH / 2, "told to the stations", answer.proof.lines[0]),
        (_ZONES_X, "sum of the zones", lines["zones"]),
        (_REGIONS_X, "sum of the regions", lines["regions"]),
        (_GLOBE_X + 20, "the globe", lines["globe"]),
    )
    parts = [f'<rect x="24" y="510" width="{_WIDTH - 48}" height="112" rx="12" fill="#ffffff" opacity="0.06"/>']
    for place, (x, name, line) in enumerate(columns):
        colour = _EQUAL if line.holds else _FAILING
        parts.append(_text(x, 534, name, size=14, fill="#8fb3cc"))
        parts.append(_text(x, 566, f"{line.points:,} points", size=20, bold=True, fill=colour))
        parts.append(_text(x, 590, f"{line.energy or 0:,} Wh", size=16, fill=colour))
        if line.digest is not None:
            parts.append(_text(x, 611, f"digest {line.digest:016x}", size=11, fill="#8fb3cc"))
        if place:
            sign = "=" if line.holds else "≠"
            parts.append(_text((x + columns[place - 1][0]) / 2, 568, sign, size=24, bold=True, fill=colour))
    failing = len({row["cluster"] for row in answer.incident.failing})
    parts.append(_text(40, 652, "Each dot is a station:", size=13, anchor="start", fill="#8fb3cc"))
    parts.append(_text(195, 652, f"{failing} fail", size=13, anchor="start", fill=_FAILING))
    parts.append(_text(250, 652, f"{len(answer.incident.silent)} is silent", size=13, anchor="start", fill=_SILENT))
    return parts
