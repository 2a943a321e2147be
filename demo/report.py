"""The demo's answer as tables and lines for a terminal. Pure: figures in, renderables out; fits 80 columns."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo.figures import Answer, BrokerKillCost, KafkaLook, KillCost
from demo.proof import Line
from demo.questions import TARGET, CloudState

_STATIONS_SHOWN = 4
_GOOD, _BAD, _QUIET = "green", "bold red", "dim"


def report(answer: Answer) -> RenderableType:
    """The whole answer."""
    return Group(
        _heading(
            f"{answer.stations:,} charging stations as {len(answer.clouds)} logical clouds",
            f"target: {TARGET:.1%} of requests",
        ),
        _clouds(answer),
        _heading(f"Behind {answer.incident.cloud}", "which stations, which service"),
        _stations(answer),
        _heading("Does it add up?", "exactly once, from acknowledgement to SQL"),
        _proof(answer),
        _verdict(answer),
        _heading("The rest", ""),
        _rest(answer),
        _heading("Try next", ""),
        _next(answer),
    )


def mebibytes(size: float) -> str:
    """A size with a unit that people read."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def counted(number: int, noun: str) -> str:
    """A number and what it counts."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _heading(title: str, remark: str) -> Text:
    return Text.assemble("\n", (title, "bold cyan"), (f"   {remark}" if remark else "", _QUIET))


def _table(*columns: tuple[str, str]) -> Table:
    """``columns``: heading and "left" or "right"."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style=_QUIET, padding=(0, 1, 0, 0))
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    return table


def _clouds(answer: Answer) -> Table:
    table = _table(
        ("  cloud", "left"),
        ("stations", "right"),
        ("available", "right"),
        ("error budget", "right"),
        ("coverage", "right"),
        ("silent", "right"),
        ("bad since", "right"),
    )
    for cloud in answer.clouds:
        bad = cloud.bad_since is not None
        style = _BAD if bad else ""
        table.add_row(
            Text.assemble(("● ", _BAD if bad else _GOOD), (cloud.name, style)),
            f"{cloud.stations:,}",
            Text(_share(cloud.availability), style),
            Text(_budget(cloud), style),
            Text(_share(cloud.coverage) if cloud.expected else "no window yet", "yellow" if cloud.silent else ""),
            Text(str(cloud.silent), "yellow") if cloud.silent else Text("–", _QUIET),
            Text(_clock(cloud.bad_since) if cloud.bad_since else "–", style or _QUIET),
        )
    return table


def _share(share: float) -> str:
    """A share with three decimals, cut off: what is not whole never reads as 100 %."""
    return "–" if math.isnan(share) else f"{math.floor(share * 100_000 + 1e-9) / 1_000:.3f} %"


def _budget(cloud: CloudState) -> str:
    left = cloud.budget_left
    if math.isnan(left):
        return "–"
    return f"{left:.0%} left" if left >= 0 else f"spent {1 - left:,.0f} times"


def _clock(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%SZ")


def _stations(answer: Answer) -> Group:
    incident = answer.incident
    table = _table(
        ("  station", "left"), ("service", "left"), ("requests", "right"), ("failed", "right"), ("share", "right")
    )
    for row in incident.failing[:_STATIONS_SHOWN]:
        total, failed = int(row["total"]), int(row["failed"])
        table.add_row(
            Text.assemble(("● ", _BAD), str(row["cluster"])),
            str(row["service"]),
            f"{total:,}",
            Text(f"{failed:,}", _BAD),
            f"{failed / total:.0%}",
        )
    more = len(incident.failing) - _STATIONS_SHOWN
    found = f"… and {more:,} more: " if more > 0 else ""
    lines = [Text(f"  {found}{len(incident.failing):,} found; the incident hit {incident.caused:,}", _QUIET)]
    for row in incident.silent[:_STATIONS_SHOWN]:
        since = str(row["last_seen"])[-8:]
        lines.append(Text(f"○ {row['cluster']} is silent since {since}Z: unknown, never shown as up", "yellow"))
    if len(incident.silent) > _STATIONS_SHOWN:
        lines.append(Text(f"  … and {len(incident.silent) - _STATIONS_SHOWN:,} more are silent", "yellow"))
    return Group(table, *lines)


def _proof(answer: Answer) -> Table:
    table = _table(
        ("", "left"),
        ("points", "right"),
        ("requests", "right"),
        ("energy, Wh", "right"),
        ("digest", "right"),
        ("", "left"),
    )
    for line in answer.proof.lines:
        style = "" if line.holds else _BAD
        table.add_row(
            Text(line.name, style or "bold"),
            Text(f"{line.points:,}", style),
            Text(_whole(line.requests), style),
            Text(_whole(line.energy), style),
            Text(f"{line.digest:016x}" if line.digest is not None else "–", style or _QUIET),
            _sign(line),
        )
    return table


def _sign(line: Line) -> Text:
    return Text("✓", _GOOD) if line.holds else Text("✗", _BAD)


def _whole(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _verdict(answer: Answer) -> Text:
    one = answer.proof.one_by_one
    verdict = "  It adds up. " if answer.holds else "  It does NOT add up. "
    text = Text.assemble("\n", (verdict, "bold green" if answer.holds else _BAD))
    text.append(f"Each alone: {one.stations_equal:,} of {one.stations:,} stations, ")
    text.append(f"{one.clouds_equal} of {one.clouds} clouds equal.")
    if one.unequal:
        text.append(f"\n  unequal: {', '.join(one.unequal[:5])}{' …' if len(one.unequal) > 5 else ''}", _BAD)
    return text


def _rest(answer: Answer) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    tail, hops, fresh, effort = answer.proof.tail, answer.hops, answer.freshness, answer.effort
    quantile = tail.quantile
    table.add_row(
        "  p99",
        Text.assemble(
            f"{quantile.estimate * 1e3:.2f} ms in [{quantile.low * 1e3:.2f}, {quantile.high * 1e3:.2f}]; "
            f"exactly {tail.exact * 1e3:.2f} ms ",
            ("✓" if tail.holds else "✗", _GOOD if tail.holds else _BAD),
            f"  ({quantile.count:,} samples)",
        ),
    )
    table.add_row(
        "  bytes",
        f"{mebibytes(hops.otlp)} OTLP → {mebibytes(hops.sent)} gzipped, as sent → "
        f"{mebibytes(hops.from_zones)} out of the zones\n→ {mebibytes(hops.to_globe)} to the globe, "
        f"{mebibytes(hops.region_rows)} of it by region",
    )
    table.add_row(
        "  series", f"{answer.station_series:,} by station → {answer.region_series} by region, for dashboards"
    )
    if answer.kafka is not None:
        table.add_row("  log", _log(answer.kafka, hops.messages))
    for cost in answer.kills:
        table.add_row("  kill -9", _kill(cost))
    for broker in answer.broker_kills:
        table.add_row("  kill -9", _broker_kill(broker))
    table.add_row(
        "  fresh", f"{fresh.median:.1f} s from acknowledgement to SQL as a rule, {fresh.worst:.1f} s at worst"
    )
    processors = effort.cpu_seconds / answer.traffic_seconds
    table.add_row(
        "  took",
        f"{effort.wall_seconds:.0f} s; {effort.processes} processes, {effort.memory_bytes / 1e9:.1f} GB, "
        f"{processors:.1f} processors, simulator included",
    )
    return table


def _kill(cost: KillCost) -> Text:
    kill = cost.kill
    return Text.assemble(
        f"collector of {kill.cloud} at {kill.at_seconds:.0f} s: ready after {kill.ready_seconds:.1f} s, ",
        (f"{cost.lost:,} points lost", _GOOD if cost.lost == 0 else _BAD),
        f"\n{counted(kill.replayed, 'request')} replayed from its inbox, {cost.retries:,} sent again by stations",
    )


def _log(kafka: KafkaLook, messages: tuple[int, int]) -> str:
    more = f" and {len(kafka.brokers) - 1} more" if len(kafka.brokers) > 1 else ""
    ours = ", a broker of this machine" if kafka.is_ours else ""
    return (
        f"Kafka{ours}: {kafka.brokers[0]}{more}\n{kafka.topics} topics {kafka.prefix}.*\n"
        f"{messages[0]:,} messages out of the zones, {messages[1]:,} to the globe"
    )


def _broker_kill(cost: BrokerKillCost) -> Text:
    kill = cost.kill
    caught_up = f"after {kill.caught_up_seconds:.1f} s" if kill.caught_up_seconds is not None else "never"
    return Text.assemble(
        f"broker at {kill.at_seconds:.0f} s: answers after {kill.answers_seconds:.1f} s, ",
        (f"{cost.lost:,} points lost", _GOOD if cost.lost == 0 else _BAD),
        f"\nSQL had all of the meantime {caught_up}; {counted(kill.retries, 'request')} sent again",
    )


def _next(answer: Answer) -> Text:
    where = answer.next
    if where.sql_url:
        lines = [
            f"catchment sql --url {where.sql_url} \\",
            '  "SELECT cluster, sum(sum_int) AS failed FROM metrics_cluster_1m',
            "   WHERE metric = 'station.requests.failed' GROUP BY cluster ORDER BY failed DESC LIMIT 5\"",
            "# any application with an OpenTelemetry SDK, or a point by hand:",
            f"export OTEL_EXPORTER_OTLP_ENDPOINT={where.otlp_url}",
            f"catchment send parcels 7 --url {where.otlp_url}",
            *(
                [f"catchment topics describe --config {where.folder}/run/aggregator-jp-east.yaml"]
                if answer.kafka
                else []
            ),
            f"less {where.folder}/run/processes.log",
            "Ctrl-C stops it.",
        ]
    else:
        again = "catchment demo --keep     # the same, and it stays up to be asked in SQL"
        if answer.kafka is not None:
            again = "catchment demo --keep     # stays up to be asked in SQL; goes with --kafka"
        lines = [
            again,
            "catchment demo --tamper   # claim a watt-hour that nobody sent: the proof fails",
            "catchment up              # point any OpenTelemetry SDK at http://127.0.0.1:4318",
        ]
        if where.folder:
            lines.append(f"ls {where.folder}")
    return Text("\n".join(f"  {line}" for line in lines) + "\n")
