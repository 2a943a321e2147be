"""The part of the configuration that says what is kept of each metric: a document of its own, with a version.

It stands in the configuration, or in a file that the configuration names (`catchment.config_load`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from catchment.identity import canonical_attributes, hash_parts
from catchment.reach import Reach
from catchment.setting import setting
from catchment.units import duration_text

# Instance-level attributes: each names one process, container, pod or host, and would make every restart a new series.
DEFAULT_DROP = (
    "service.instance.id",
    "process.*",
    "container.*",
    "host.*",
    "os.*",
    "k8s.pod.*",
    "k8s.container.*",
    "k8s.node.uid",
    "k8s.replicaset.*",
    "telemetry.sdk.*",
    "telemetry.distro.*",
)
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True)
class MetricPolicy:
    """What is kept of the streams that a rule matches. The first rule that matches decides."""

    match: str = setting(text="a glob over metric names, such as http.server.*")
    tenants: tuple[str, ...] = setting((), "globs; only streams of these tenants match")
    attributes: Mapping[str, str] = setting(
        factory=dict,
        text="name: glob; only streams that have all these attributes, with such values, match; as they are before "
        "anything is dropped, the point's and the resource's together",
    )
    keep: tuple[str, ...] = setting((), "globs; only these attributes are kept, whatever default_drop says")
    drop: tuple[str, ...] = setting((), "globs; these attributes are dropped besides")
    drop_metric: bool = setting(
        False, "drop the whole metric", consequence="its points are counted as dropped by policy"
    )
    reach: Reach | None = setting(None, "how far its cluster rows go: cluster, region or global; else policies.reach")
    resolution_seconds: int | None = setting(
        None,
        "a coarser window for its rows: a multiple of the collector's resolution that divides an hour",
        unit="seconds",
        consequence="fewer rows; sums, extremes, integrals and buckets stay exact",
        least=1,
        most=3600,
        key="resolution",
    )
    flush_seconds: float | None = setting(
        None,
        "how often its partials leave: a multiple of the collector's flush",
        unit="seconds",
        consequence="fewer rows, later ones; what waits is on disk, and leaves at once when the collector stops",
        least=0.1,
        most=3600,
        key="flush",
    )
    histogram_scale: int | None = setting(
        None,
        "the finest scale of its exponential histograms, -10 to 5; explicit bounds stay as the sender chose them",
        consequence="fewer buckets, wider brackets of quantiles: at most 1.1 % off at 5, 2.2 % at 4, 33 % at 0",
        least=-10,
        most=5,
    )


@dataclass(frozen=True)
class Policies:
    """Which attributes of a stream make its series."""

    file: Path | None = setting(
        None, "file that holds all the other keys instead; `policies: FILE` says the same; read again when it changes"
    )
    label: str = setting(
        "",
        "a name of yours for this state of the policies, such as 7 or 2026-11-26; the version that travels with the "
        "rows is it and 12 hexadecimal digits that change with the content",
        key="version",
    )
    default_drop: tuple[str, ...] = setting(
        DEFAULT_DROP,
        "globs of attributes that no series keeps",
        consequence="streams that differ in these only become one series",
    )
    reach: Reach = setting(
        Reach.GLOBAL,
        "how far cluster rows go: cluster, region (a store of its own) or global; region rows always go to the globe",
        consequence="SQL of the globe has rows of regions only, not of single clusters, for what does not go so far",
    )
    metrics: tuple[MetricPolicy, ...] = setting((), "rules, for what the other keys do not fit")

    @property
    def version(self) -> str:
        """A short name that changes with the content: 12 hexadecimal digits, behind the author's own name and a +."""
        content = f"{hash_parts('policies', canonical_attributes(self._content())):016x}"[:12]
        return f"{self.label}+{content}" if self.label else content

    def _content(self) -> dict[str, Any]:
        """What the version is made of; without keys that say nothing, so that one added to the program changes none."""
        added = ("tenants", "attributes", "resolution_seconds", "flush_seconds", "histogram_scale")
        rules = [
            {
                name: value
                for name, value in dataclasses.asdict(rule).items()
                if name not in added or value not in (None, (), {})
            }
            for rule in self.metrics
        ]
        return {"default_drop": self.default_drop, "reach": self.reach, "metrics": rules}


def faults_of_policies(policies: Policies, resolution_seconds: int, flush_seconds: float) -> list[tuple[str, str]]:
    """What is wrong beyond the type of one key.

    Args:
        policies: to be checked.
        resolution_seconds, flush_seconds: of the collector.

    Returns:
        (key below ``policies``, what is wrong and what would be right) of every fault.
    """
    faults = []
    if policies.label and not _LABEL.fullmatch(policies.label):
        faults.append(
            ("version", f"{policies.label!r} is no name; expected 1 to 40 of A-Z, a-z, 0-9, dot, _ and -, such as 7")
        )
    for index, rule in enumerate(policies.metrics):
        found = [*_rule_faults(rule), *_time_faults(rule, resolution_seconds, flush_seconds)]
        before = next((at for at, other in enumerate(policies.metrics[:index]) if _takes_all_of(other, rule)), None)
        if before is not None:
            found.append(("", f"never reached: metrics[{before}] takes all that it matches; put it before that"))
        faults += [(f"metrics[{index}]{key}", says) for key, says in found]
    return faults


def _time_faults(rule: MetricPolicy, resolution_seconds: int, flush_seconds: float) -> list[tuple[str, str]]:
    faults = []
    width, period = rule.resolution_seconds, rule.flush_seconds
    if width is not None and (3600 % width or width % resolution_seconds):
        base, wanted = duration_text(resolution_seconds), duration_text(width)
        faults.append(
            (".resolution", f"{wanted} is no multiple of resolution = {base} that divides an hour, such as 5m or 1h")
        )
    if period is not None and (period < flush_seconds or abs(period / flush_seconds % 1 - 0.5) < 0.499):
        base, wanted = duration_text(flush_seconds), duration_text(period)
        faults.append(
            (".flush", f"{wanted} is no multiple of flush = {base}; expected such as {_twice(flush_seconds)}")
        )
    return faults


def _twice(seconds: float) -> str:
    return f"{duration_text(2 * seconds)} or {duration_text(10 * seconds)}"


def _actions(rule: MetricPolicy) -> dict[str, object]:
    """What a rule does with what it keeps, by key."""
    return {
        "keep": rule.keep,
        "drop": rule.drop,
        "reach": rule.reach,
        "resolution": rule.resolution_seconds,
        "flush": rule.flush_seconds,
        "histogram_scale": rule.histogram_scale,
    }


def _takes_all_of(rule: MetricPolicy, later: MetricPolicy) -> bool:
    """Whether nothing is left for a later rule; True only where that is sure."""
    return (
        _covers(rule.match, later.match)
        and (not rule.tenants or bool(later.tenants))
        and all(not rule.tenants or any(_covers(glob, other) for glob in rule.tenants) for other in later.tenants)
        and all(
            name in later.attributes and _covers(glob, later.attributes[name]) for name, glob in rule.attributes.items()
        )
    )


def _covers(glob: str, other: str) -> bool:
    """Whether a glob surely matches all that another one does.

    Its stars match the other's stars, and what these stand for; so it is one text that is compared.
    """
    if glob in ("*", other):
        return True
    return not set("?[") & set(glob) and "[" not in other and fnmatchcase(other, glob)


def _rule_faults(rule: MetricPolicy) -> list[tuple[str, str]]:
    faults = []
    given = [key for key, value in _actions(rule).items() if value is not None and value != ()]
    if rule.drop_metric and given:
        faults.append(("", f"drop_metric drops all of it; remove {' and '.join(given)}, or drop_metric"))
    if not (rule.drop_metric or given):
        faults.append(("", f"says nothing; give {', '.join(_actions(rule))} or drop_metric"))
    if not rule.match:
        faults.append((".match", "an empty glob matches nothing"))
    both = sorted({*rule.keep} & {*rule.drop})
    if both:
        faults.append((".drop", f"{both[0]!r} is in keep too, and what is dropped is not kept; remove one of them"))
    for key, globs in (("tenants", rule.tenants), ("keep", rule.keep), ("drop", rule.drop)):
        faults += [(f".{key}[{at}]", "an empty glob matches nothing") for at, glob in enumerate(globs) if not glob]
    return faults
