"""What `catchment policy explain` found, as JSON and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catchment.config_build import mapping_of
from catchment.config_policies import MetricPolicy, Policies
from catchment.units import about, about_duration

if TYPE_CHECKING:
    from collectors.dry_run import Change, DryRun, Effect, Size

_WIDTH_MAX: Final = 150
# Where there is no terminal.
_WIDTH_PLAIN: Final = 140
# A narrower terminal has what rules do below the numbers.
_WIDTH_WHOLE: Final = 125
_NAMES_SHOWN: Final = 5
_MATCHING: Final = ("match", "tenants", "attributes")


def as_mapping(run: DryRun, tried: Policies, before: Policies | None) -> dict[str, Any]:
    """The report, for programs; it ends the run.

    Args:
        run: over all requests.
        tried: its policies.
        before: what they are compared with; None for no policies at all.
    """
    effects = run.effects()
    flushes = max(run.flushes, 1)
    before_bytes, after_bytes = run.envelopes_bytes()
    envelopes = {"before": round(before_bytes / flushes, 1), "after": round(after_bytes / flushes, 1)}
    rules = [_rule(effect, tried.metrics[effect.rule] if effect.rule >= 0 else None, flushes) for effect in effects]
    return {
        "before": before.version if before is not None else None,
        "after": tried.version,
        "seconds": round(run.seconds, 3),
        "requests": run.requests,
        "points": run.points,
        "flushes": run.flushes,
        "rules": rules,
        "envelopes_bytes_per_flush": envelopes,
        "total": {
            "streams": sum(rule["streams"] for rule in rules),
            "series": _sum([rule["series"] for rule in rules]),
            "rows_per_flush": _sum([rule["rows_per_flush"] for rule in rules]),
            "bytes_per_flush": _sum([envelopes, *(rule["bytes_per_flush"] for rule in rules)]),
        },
        "over_budget": run.over_budget(),
    }


def _sum(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {when: round(sum(pair[when] for pair in pairs), 1) for when in ("before", "after")}


def _rule(effect: Effect, rule: MetricPolicy | None, flushes: int) -> dict[str, Any]:
    keys = mapping_of(rule).items() if rule is not None else ()
    # Without what is empty, as a list that nobody gave; a scale of 0 is something.
    said = {name: value for name, value in keys if value or (value == 0 and value is not False)}
    return {
        "rule": effect.rule if rule is not None else None,
        "matches": {name: value for name, value in said.items() if name in _MATCHING},
        "actions": {name: value for name, value in said.items() if name not in _MATCHING},
        "streams": effect.streams,
        "metrics": sorted(effect.metrics),
        "series": {"before": effect.before.series, "after": effect.after.series},
        "rows_per_flush": _per_flush(effect, "rows", flushes),
        "bytes_per_flush": _per_flush(effect, "size_bytes", flushes),
        "attributes_gone": _changes(effect.gone),
        "attributes_back": _changes(effect.back),
        "metrics_dropped": sorted(effect.dropped),
    }


def _per_flush(effect: Effect, name: str, flushes: int) -> dict[str, float]:
    def average(size: Size) -> float:
        total: float = getattr(size, name)
        return round(total / flushes, 1)

    return {"before": average(effect.before), "after": average(effect.after)}


def _changes(changes: dict[str, Change]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "streams": change.streams, "values": len(change.values)} for name, change in changes.items()
    ]
    return sorted(found, key=lambda each: (-int(str(each["values"])), each["name"]))


def printed(report: dict[str, Any], file: TextIO) -> None:
    """Write the report for people."""
    console = Console(file=file, highlight=False)
    console.width = min(console.width, _WIDTH_MAX) if console.is_terminal else _WIDTH_PLAIN
    before = f"policies {report['before']}" if report["before"] else "no policies at all"
    console.print(Text.assemble("policies ", (report["after"], "bold"), f", compared with {before}"))
    console.print(
        f"{report['points']:,} points in {report['requests']:,} requests of {about_duration(report['seconds'])}, "
        f"{report['flushes']:,} flushes",
        style="dim",
    )
    whole = console.width >= _WIDTH_WHOLE
    console.print(_table(report, whole=whole))
    for rule in () if whole else report["rules"]:
        doing = Text(", ").join(_doing(rule).split())
        if doing:
            console.print(Text.assemble(_named(rule).split()[0], "  ", doing))
    for said in report["over_budget"]:
        console.print(Text(f"over budget: {said}", "red"))


def _table(report: dict[str, Any], *, whole: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), expand=False)
    table.add_column("rule", overflow="fold")
    for name in ("streams", "series", "rows a flush", "bytes a flush"):
        table.add_column(name, justify="right", no_wrap=True)
    if whole:
        table.add_column("what it does", overflow="fold")
    for rule in report["rules"]:
        table.add_row(_named(rule), f"{rule['streams']:,}", *_sizes(rule), *([_doing(rule)] if whole else []))
    envelopes = report["envelopes_bytes_per_flush"]
    table.add_row(Text("envelopes", "italic"), "", "", "", _bytes(envelopes))
    table.add_section()
    total = report["total"]
    table.add_row(Text("all", "bold"), f"{total['streams']:,}", *_sizes(total), *([_saved(total)] if whole else []))
    return table


def _named(rule: dict[str, Any]) -> Text:
    if rule["rule"] is None:
        return Text("no rule", "italic")
    matches = dict(rule["matches"])
    text = Text(f"{rule['rule']}  {matches.pop('match')}")
    text.append("".join(f"\n   tenant {glob}" for glob in matches.get("tenants", ())), "dim")
    text.append("".join(f"\n   {name}={glob}" for name, glob in matches.get("attributes", {}).items()), "dim")
    return text


def _sizes(rule: dict[str, Any]) -> list[Text]:
    series, rows, size = rule["series"], rule["rows_per_flush"], rule["bytes_per_flush"]
    return [
        _arrow(f"{series['before']:,}", f"{series['after']:,}"),
        _arrow(f"{rows['before']:,.0f}", f"{rows['after']:,.0f}"),
        _bytes(size),
    ]


def _bytes(size: dict[str, float]) -> Text:
    return _arrow(about(round(size["before"])), about(round(size["after"])))


def _arrow(before: str, after: str) -> Text:
    if before == after:
        return Text(after)
    return Text.assemble((f"{before} → ", "dim"), (after, "bold"))


def _doing(rule: dict[str, Any]) -> Text:
    """What a rule does, a line each."""
    if not rule["streams"]:
        return Text("matches nothing that was received", "yellow" if rule["rule"] is not None else "dim")
    lines = []
    if rule["metrics_dropped"]:
        lines.append(Text(f"drops {_few(rule['metrics_dropped'])}", "red"))
    for key, sign, style in (("attributes_gone", "-", "red"), ("attributes_back", "+", "green")):
        for each in rule[key][:_NAMES_SHOWN]:
            values = f"{each['values']:,} value{'s' if each['values'] != 1 else ''}"
            lines.append(Text.assemble((f"{sign}{each['name']}", style), (f"  {values}", "dim")))
        if len(rule[key]) > _NAMES_SHOWN:
            lines.append(Text(f"{sign}{len(rule[key]) - _NAMES_SHOWN:,} more attributes", style))
    leaving = {name: value for name, value in rule["actions"].items() if name not in ("keep", "drop", "drop_metric")}
    if leaving:
        lines.append(Text(", ".join(f"{name} {value}" for name, value in leaving.items())))
    return Text("\n").join(lines)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN:,} more"


def _saved(total: dict[str, Any]) -> Text:
    size = total["bytes_per_flush"]
    if not size["before"]:
        return Text("")
    percent = round(100 * (size["after"] / size["before"] - 1))
    if not percent:
        return Text("as many bytes")
    return Text(f"{percent:+}% bytes", "green" if percent < 0 else "red")
