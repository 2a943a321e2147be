"""Which targets a job has: what was discovered, relabelled, as values. Pure.

Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#relabel_config: the labels that begin
with two underscores, and what becomes of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from collectors.scrape.job import Group, Job
from collectors.scrape.record import Format, Reading
from collectors.scrape.relabel import relabelled
from collectors.scrape.yml_reader import duration_seconds


@dataclass(frozen=True)
class Target:
    """One target: where it is asked, when, and its labels."""

    job: str
    url: str
    interval_seconds: float
    timeout_seconds: float
    labels: tuple[tuple[str, str], ...]

    @property
    def instance(self) -> str:
        """Its name among the targets of its job."""
        return dict(self.labels).get("instance", self.url)


def targets_of(job: Job, groups: Iterable[Group]) -> tuple[list[Target], list[str]]:
    """The distinct targets of a job, in the order of their groups, and what is wrong with those that are none.

    Args:
        groups: of all its discoveries.
    """
    targets: dict[Target, None] = {}
    faults: list[str] = []
    for group in groups:
        for own in group.targets:
            labels = relabelled(_discovered(job, {**group.labels, **own}), job.relabel)
            if labels is None:
                continue
            try:
                targets[_target(job, labels)] = None
            except ValueError as error:
                faults.append(f"job {job.name}: a target of {group.source} is left out: {error}")
    if job.target_limit and len(targets) > job.target_limit:
        return [], [f"job {job.name}: {len(targets)} targets, target_limit is {job.target_limit}: none is scraped"]
    return list(targets), faults


def reading_of(job: Job, target: Target, format: Format = Format.TEXT) -> Reading:
    """How what a target answers is read."""
    return Reading(
        labels=dict(target.labels),
        honor_labels=job.honor_labels,
        honor_timestamps=job.honor_timestamps,
        format=format,
        native_histograms=job.native_histograms is not False,
        classic_histograms=job.classic_histograms,
        rules=job.metric_relabel,
        label_limit=job.label_limit,
        label_name_length_limit=job.label_name_length_limit,
        label_value_length_limit=job.label_value_length_limit,
    )


def _discovered(job: Job, labels: Mapping[str, str]) -> dict[str, str]:
    """A target's labels before relabelling; what it brings itself wins."""
    return {
        "job": job.name,
        "__scheme__": job.scheme,
        "__metrics_path__": job.metrics_path,
        "__scrape_interval__": f"{job.interval_seconds * 1000:.0f}ms",
        "__scrape_timeout__": f"{job.timeout_seconds * 1000:.0f}ms",
        **{f"__param_{name}": values[0] for name, values in job.params.items() if values},
        **labels,
    }


def _target(job: Job, labels: Mapping[str, str]) -> Target:
    """The target that relabelled labels name; raises ValueError."""
    address, scheme = labels.get("__address__", ""), labels.get("__scheme__", "http")
    if not address:
        raise ValueError("it has no __address__")
    if "/" in address:
        raise ValueError(f"{address!r} is no address")
    if scheme not in ("http", "https"):
        raise ValueError(f"its scheme {scheme!r} is neither http nor https")
    interval = duration_seconds(labels.get("__scrape_interval__", ""))
    timeout = duration_seconds(labels.get("__scrape_timeout__", ""))
    if not 0 < timeout <= interval:
        raise ValueError("its timeout is not between nothing and its interval")
    params = {name: list(values) for name, values in job.params.items()}
    for name, value in labels.items():
        if name.startswith("__param_"):
            key = name.removeprefix("__param_")
            params[key] = [value, *params.get(key, [])[1:]]
    path = labels.get("__metrics_path__", "/metrics")
    query = urlencode(params, doseq=True)
    url = f"{scheme}://{address}{'' if path.startswith('/') else '/'}{path}{'?' if query else ''}{query}"
    kept = {name: value for name, value in labels.items() if not name.startswith("__")}
    kept.setdefault("instance", address)
    return Target(job.name, url, interval, timeout, tuple(sorted(kept.items())))
