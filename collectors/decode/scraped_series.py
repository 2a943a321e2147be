"""The series that a scrape has, from how its target wrote it: labels parsed, merged with the target's and relabelled.

Rules:

1. The role of a sample follows from its name before relabelling, to which the declaration belongs.
2. What the scraper reports itself is neither relabelled nor renamed; ``up`` has its instance as an attribute, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from collectors.decode.attributes import Unreadable
from collectors.decode.families import NAME, MetricType, Series, series_of
from collectors.decode.labels import QUOTED, labels_of, unescaped
from collectors.reasons import Reason
from collectors.scrape.record import Reading
from collectors.scrape.relabel import relabelled

_TYPES = {
    "counter": MetricType.COUNTER,
    "gauge": MetricType.GAUGE,
    "histogram": MetricType.HISTOGRAM,
    "gaugehistogram": MetricType.GAUGE_HISTOGRAM,
    "summary": MetricType.SUMMARY,
    "info": MetricType.INFO,
    "stateset": MetricType.STATE_SET,
}
_DECLARED = re.compile(rf"# \w+ (?:{QUOTED}|(\S+))\s+(.*)", re.DOTALL)
UP = "up"


@dataclass(frozen=True, slots=True)
class Written:
    """A series as exposition text has it, the lines that declare its type and unit, and how its target is read."""

    series: bytes
    type_line: bytes
    unit_line: bytes
    reading: bytes
    is_report: bool


def series_written(written: Written | None) -> Series:
    """The series that stands for what was written; None is a line that is no sample.

    Raises:
        Unreadable: it cannot be used, or its job drops it.
    """
    if written is None:
        raise Unreadable(Reason.LINE_MALFORMED)
    labels = labels_of(written.series)
    reading = reading_of_line(written.reading)
    family, declared = _declared(written.type_line)
    unit_of, unit = _declared(written.unit_line)
    unit = unit if unit_of == family else ""
    if written.is_report:
        series = series_of({**reading.labels, **labels}, lambda name: _type_of(name, family, declared))
        if series.metric != UP:
            return series
        # Which target is down must be told, also where policy drops instances.
        return replace(series, labels={**series.labels, "instance": reading.labels.get("instance", "")})
    name = labels[NAME]
    merged = relabelled(_with_target(labels, reading), reading.rules)
    if merged is None:
        raise Unreadable(Reason.DROPPED_BY_RELABELLING)
    merged = {label: value for label, value in merged.items() if label == NAME or not label.startswith("__")}
    if not merged.get(NAME):
        raise Unreadable(Reason.NO_NAME)
    _check_limits(merged, reading)
    # Where the name was relabelled, the declaration is of the new name without the same suffix.
    suffix = name.removeprefix(family) if family and name.startswith(family) else ""
    renamed = merged[NAME].removesuffix(suffix) if merged[NAME] != name else family
    return series_of(merged, lambda asked: _type_of(asked, renamed, declared), unit)


def _with_target(labels: dict[str, str], reading: Reading) -> dict[str, str]:
    """The labels of a sample and its target's; who wins on equal names is the target's `Reading`'s choice."""
    merged = dict(labels)
    for name, value in reading.labels.items():
        if name in labels and reading.honor_labels:
            continue
        if name in labels:
            renamed = f"exported_{name}"
            while renamed in labels or renamed in reading.labels:
                renamed = f"exported_{renamed}"
            merged[renamed] = labels[name]
        merged[name] = value
    return merged


def _check_limits(labels: dict[str, str], reading: Reading) -> None:
    name_max, value_max = reading.label_name_length_limit, reading.label_value_length_limit
    if (
        (reading.label_limit and len(labels) > reading.label_limit)
        or (name_max and max(map(len, labels)) > name_max)
        or (value_max and max(map(len, labels.values())) > value_max)
    ):
        raise Unreadable(Reason.LABELS_BEYOND_LIMIT)


def _declared(line: bytes) -> tuple[str, str]:
    """Family and type, or family and unit, of the line that declares it."""
    found = _DECLARED.fullmatch(line.decode("utf-8", "replace"))
    if found is None:
        return "", ""
    quoted, bare, declared = found.groups()
    return bare if quoted is None else unescaped(quoted), declared.strip()


def _type_of(name: str, family: str, declared: str) -> MetricType:
    return _TYPES.get(declared, MetricType.UNKNOWN) if name == family else MetricType.UNKNOWN


@lru_cache(4096)
def reading_of_line(line: bytes) -> Reading:
    """See `Reading.of_line`: all scrapes of a target have the same line."""
    return Reading.of_line(line)
