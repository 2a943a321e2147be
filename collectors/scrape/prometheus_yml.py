"""``prometheus.yml`` → jobs: what of it a collector does, what it does not, and what is wrong in it.

Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration/.

Rules:

1. Defaults and meanings are Prometheus'. A key that Prometheus knows and we do not is named in ``unsupported``, with
   what follows; a job that could not be asked rightly without it is left out.
2. A key that Prometheus does not know, or a value that it would refuse, is a fault; all faults are told at once.
3. Relative paths are relative to the file's folder, as Prometheus has it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from catchment.errors import ConfigFaults
from collectors.scrape.job import FileDiscovery, Group, Job, Kubernetes, ScrapeFile
from collectors.scrape.relabel import ACTIONS, Rule, compiled
from collectors.scrape.yml_http import HTTP_KEYS, HTTP_LEAVES_OUT, read_http
from collectors.scrape.yml_reader import Reader, load_yaml

_TOP = {
    "rule_files": "rules are not evaluated here",
    "alerting": "alerts are not sent from here",
    "remote_write": "what is scraped goes the way of Catchment, not to other stores",
    "remote_read": "nothing is read from other stores",
    "storage": "there is no TSDB here",
    "tracing": "see telemetry.traces of Catchment's own configuration",
    "otlp": "the OTLP receivers have settings of their own",
    "runtime": "it is of Prometheus' own process",
}
_GLOBAL = {
    "evaluation_interval": "rules are not evaluated here",
    "rule_query_offset": "rules are not evaluated here",
    "external_labels": "a cluster's labels stand in Catchment's own configuration",
    "query_log_file": "queries are not logged there",
    "scrape_failure_log_file": "failures stand in the log and on the status port",
    "metric_name_validation_scheme": "metrics and labels may have any UTF-8 name",
    "metric_name_escaping_scheme": "names are taken as they come",
    "keep_dropped_targets": "dropped targets are not remembered",
    "convert_classic_histograms_to_nhcb": "classic histograms keep their bounds anyway",
    "extra_scrape_metrics": "up and the scrape_* metrics of every target are there",
}
_JOB = {
    "fallback_scrape_protocol": "text is the fallback",
    "track_timestamps_staleness": "samples with timestamps of their own end by staleness",
    "scrape_failure_log_file": _GLOBAL["scrape_failure_log_file"],
    "native_histogram_bucket_limit": "buckets are bounded by histogram_buckets_max of the limits",
    "native_histogram_min_bucket_factor": "scales finer than 5 are folded anyway",
    **{key: _GLOBAL[key] for key in _GLOBAL if not key.startswith(("evaluation", "rule", "external", "query"))},
}
_HISTOGRAMS = ("scrape_native_histograms", "always_scrape_classic_histograms")
_LIMITS = ("sample_limit", "target_limit", "label_limit", "label_name_length_limit", "label_value_length_limit")
_JOB_KEYS = (
    "job_name",
    "scrape_interval",
    "scrape_timeout",
    "scrape_protocols",
    *_HISTOGRAMS,
    "scrape_classic_histograms",
    "metrics_path",
    "scheme",
    "params",
    "honor_labels",
    "honor_timestamps",
    "enable_compression",
    "static_configs",
    "file_sd_configs",
    "kubernetes_sd_configs",
    "relabel_configs",
    "metric_relabel_configs",
    "body_size_limit",
    *_LIMITS,
    *HTTP_KEYS,
)
# Actions that take these keys and no others: what else stands there would be taken for a condition.
_ONLY = {
    **dict.fromkeys(("labeldrop", "labelkeep"), ("regex",)),
    **dict.fromkeys(("keepequal", "dropequal"), ("source_labels", "target_label")),
}
# What can be discovered, and what of it selectors may choose by.
_ROLES = {
    "node": ("node",),
    "service": ("service",),
    "pod": ("pod",),
    "endpoints": ("pod", "service", "endpoints"),
    "endpointslice": ("pod", "service", "endpointslice"),
}


def read_prometheus_yml(text: str, folder: Path, more: Mapping[str, str] = MappingProxyType({})) -> ScrapeFile:
    """The jobs of a file.

    Args:
        text: the file's.
        folder: where it lies.
        more: texts of the files that its ``scrape_config_files`` name, by path.

    Raises:
        ConfigFaults: all that is wrong with it.
    """
    reader = Reader(folder)
    tree = reader.mapping(_yaml(text, "file"), "file", ("global", "scrape_configs", "scrape_config_files"), _TOP)
    shared = reader.mapping(
        tree.get("global"),
        "global",
        ("scrape_interval", "scrape_timeout", "scrape_protocols", "body_size_limit", *_HISTOGRAMS, *_LIMITS),
        _GLOBAL,
    )
    entries = [
        (f"scrape_configs[{i}]", each)
        for i, each in enumerate(reader.items(tree.get("scrape_configs"), "scrape_configs"))
    ]
    for path, content in more.items():
        inner = reader.mapping(_yaml(content, path), path, ("scrape_configs",))
        found = reader.items(inner.get("scrape_configs"), f"{path}: scrape_configs")
        entries += [(f"{path}: scrape_configs[{i}]", each) for i, each in enumerate(found)]
    base = _shared(reader, shared, "global", Job(""))
    jobs = [job for where, each in entries if (job := _job(reader, each, where, base)) is not None]
    for name in sorted({job.name for job in jobs if sum(other.name == job.name for other in jobs) > 1}):
        reader.fault("scrape_configs", f"job_name {name!r} stands twice")
    if reader.faults:
        raise ConfigFaults(reader.faults)
    return ScrapeFile(tuple(jobs), tuple(reader.unsupported))


def config_globs(text: str) -> list[str]:
    """The globs of ``scrape_config_files``; [] where the file cannot be read, which `read_prometheus_yml` tells."""
    try:
        tree = load_yaml(text)
    except yaml.YAMLError:
        return []
    found = tree.get("scrape_config_files") if isinstance(tree, dict) else None
    return [str(each) for each in found] if isinstance(found, list) else []


def _yaml(text: str, where: str) -> Any:
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigFaults([f"{where}: not YAML: {error}"]) from error


def _shared(reader: Reader, fields: Mapping[str, Any], where: str, base: Job) -> Job:
    """A job with what ``global`` and a job may both say."""
    interval = reader.seconds(fields, "scrape_interval", where, base.interval_seconds)
    timeout = reader.seconds(fields, "scrape_timeout", where, min(base.timeout_seconds, interval))
    if interval <= 0:
        reader.fault(f"{where}.scrape_interval", "expected more than nothing")
    if timeout > interval:
        reader.fault(f"{where}.scrape_timeout", f"{timeout:g} s is longer than scrape_interval, {interval:g} s")
    protocols = tuple(str(each) for each in reader.items(fields.get("scrape_protocols"), f"{where}.scrape_protocols"))
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            reader.fault(f"{where}.scrape_protocols", f"{protocol!r} is none of {', '.join(PROTOCOLS)}")
    native = base.native_histograms
    if fields.get("scrape_native_histograms") is not None:
        native = reader.truth(fields, "scrape_native_histograms", where, False)
    # As Prometheus 2 called it.
    classic = reader.truth(fields, "scrape_classic_histograms", where, base.classic_histograms)
    limits: dict[str, Any] = {key: reader.count(fields, key, where, getattr(base, key)) for key in _LIMITS}
    return replace(
        base,
        interval_seconds=interval,
        timeout_seconds=timeout,
        protocols=protocols or base.protocols,
        native_histograms=native,
        classic_histograms=reader.truth(fields, "always_scrape_classic_histograms", where, classic),
        body_size_limit=reader.size(fields, "body_size_limit", where, base.body_size_limit),
        **limits,
    )


PROTOCOLS = (
    "PrometheusProto",
    "OpenMetricsText1.0.0",
    "OpenMetricsText0.0.1",
    "PrometheusText1.0.0",
    "PrometheusText0.0.4",
)


def _job(reader: Reader, value: Any, where: str, base: Job) -> Job | None:
    """A job, or None where it cannot be asked rightly."""
    name = str(value.get("job_name") or "") if isinstance(value, dict) else ""
    if not name:
        reader.fault(where, "expected a job_name")
        return None
    where = f"job {name}"
    others = [key for key in value if _is_other_discovery(str(key))]
    named = {**_JOB, **dict.fromkeys(others, "its targets are not found; supported are static, file and Kubernetes")}
    fields = reader.mapping(value, where, _JOB_KEYS, named)
    job = _shared(reader, fields, where, replace(base, name=name))
    scheme = reader.text(fields, "scheme", where, "http").lower()
    if scheme not in ("http", "https"):
        reader.fault(f"{where}.scheme", f"{scheme!r} is neither http nor https")
    given = fields.get("params") or {}
    if not isinstance(given, dict):
        reader.fault(f"{where}.params", "expected names with lists of values")
        given = {}
    params = {str(key): tuple(map(str, reader.items(each, f"{where}.params.{key}"))) for key, each in given.items()}
    job = replace(
        job,
        scheme=scheme,
        metrics_path=reader.text(fields, "metrics_path", where, "/metrics"),
        params=params,
        http=read_http(reader, fields, where),
        honor_labels=reader.truth(fields, "honor_labels", where, False),
        honor_timestamps=reader.truth(fields, "honor_timestamps", where, True),
        enable_compression=reader.truth(fields, "enable_compression", where, True),
        static=_static(reader, fields.get("static_configs"), where, is_relabelled=bool(fields.get("relabel_configs"))),
        files=_files(reader, fields.get("file_sd_configs"), where),
        kubernetes=_kubernetes(reader, fields.get("kubernetes_sd_configs"), where),
        relabel=_rules(reader, fields.get("relabel_configs"), f"{where}.relabel_configs"),
        metric_relabel=_rules(reader, fields.get("metric_relabel_configs"), f"{where}.metric_relabel_configs"),
    )
    missing = [key for key in HTTP_LEAVES_OUT if fields.get(key)]
    for key in missing:
        reader.unsupported.append(f"{where} is left out: {key} is not supported")
    return None if missing else job


def _is_other_discovery(key: str) -> bool:
    """Whether a key is a way to find targets that is not supported, rather than a supported one that is misspelt."""
    kind, has_suffix, rest = key.partition("_sd_configs")
    is_near = difflib.get_close_matches(kind, ("file", "kubernetes", "static"), n=1, cutoff=0.75)
    return bool(has_suffix) and not rest and not is_near


def _static(reader: Reader, value: Any, where: str, *, is_relabelled: bool) -> tuple[Group, ...]:
    """Target groups; where nothing relabels their targets these must be addresses, else they may be URLs to probe."""
    groups = []
    for i, each in enumerate(reader.items(value, f"{where}.static_configs")):
        place = f"{where}.static_configs[{i}]"
        fields = reader.mapping(each, place, ("targets", "labels"))
        group = _group(reader, fields, place, f"static/{i}")
        groups.append(group)
        for target in group.targets if not is_relabelled else ():
            if "/" in target["__address__"]:
                reader.fault(f"{place}.targets", f"{target['__address__']!r} is no address; expected host:port")
    return tuple(groups)


def _group(reader: Reader, fields: Mapping[str, Any], where: str, source: str) -> Group:
    """A target group: addresses and the labels that they share."""
    targets = reader.items(fields.get("targets"), f"{where}.targets")
    addresses = tuple({"__address__": str(target)} for target in targets)
    return Group(source, addresses, reader.labels(fields.get("labels"), f"{where}.labels"))


def read_groups(value: Any, source: str) -> tuple[Group, ...]:
    """The target groups of a file of ``file_sd_configs``.

    Raises:
        ConfigFaults: all that is wrong with them.
    """
    reader = Reader(Path())
    groups = [
        _group(reader, reader.mapping(each, f"{source}[{i}]", ("targets", "labels")), f"{source}[{i}]", f"{source}:{i}")
        for i, each in enumerate(reader.items(value, source))
    ]
    if reader.faults:
        raise ConfigFaults(reader.faults)
    return tuple(groups)


def _files(reader: Reader, value: Any, where: str) -> tuple[FileDiscovery, ...]:
    found = []
    for i, each in enumerate(reader.items(value, f"{where}.file_sd_configs")):
        place = f"{where}.file_sd_configs[{i}]"
        fields = reader.mapping(each, place, ("files", "refresh_interval"))
        globs = [str(reader.folder / str(each)) for each in reader.items(fields.get("files"), f"{place}.files")]
        for name in globs:
            if not name.endswith((".json", ".yml", ".yaml")):
                reader.fault(f"{place}.files", f"{name!r} does not end in .json, .yml or .yaml")
        found.append(FileDiscovery(tuple(globs), reader.seconds(fields, "refresh_interval", place, 300.0)))
    return tuple(found)


def _kubernetes(reader: Reader, value: Any, where: str) -> tuple[Kubernetes, ...]:
    found = []
    known = ("role", "api_server", "namespaces", "selectors", *HTTP_KEYS)
    named = {
        "kubeconfig_file": "give api_server, or run in the cluster",
        "attach_metadata": "labels of nodes are not attached",
    }
    for i, each in enumerate(reader.items(value, f"{where}.kubernetes_sd_configs")):
        place = f"{where}.kubernetes_sd_configs[{i}]"
        fields = reader.mapping(each, place, known, named)
        role = reader.text(fields, "role", place)
        if role == "ingress":
            reader.unsupported.append(f"{place} is left out: role ingress is not supported")
            continue
        if role not in _ROLES:
            reader.fault(f"{place}.role", f"{role!r} is none of {', '.join(_ROLES)}")
        namespaces = reader.mapping(fields.get("namespaces"), f"{place}.namespaces", ("names", "own_namespace"))
        found.append(
            Kubernetes(
                role,
                reader.text(fields, "api_server", place).rstrip("/"),
                read_http(reader, fields, place),
                tuple(str(name) for name in reader.items(namespaces.get("names"), f"{place}.namespaces.names")),
                reader.truth(namespaces, "own_namespace", place, False),
                _selectors(reader, fields.get("selectors"), f"{place}.selectors", _ROLES.get(role, ())),
            )
        )
    return tuple(found)


def _selectors(reader: Reader, value: Any, where: str, roles: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Label and field selectors by role."""
    selectors: dict[str, tuple[str, str]] = {}
    for i, each in enumerate(reader.items(value, where)):
        fields = reader.mapping(each, f"{where}[{i}]", ("role", "label", "field"))
        role = reader.text(fields, "role", where)
        if roles and role not in roles:
            reader.fault(f"{where}[{i}].role", f"{role!r} is none of {', '.join(roles)}")
        if role in selectors:
            reader.fault(f"{where}[{i}].role", f"{role!r} stands twice")
        selectors[role] = reader.text(fields, "label", where), reader.text(fields, "field", where)
    return selectors


def _rules(reader: Reader, value: Any, where: str) -> tuple[Rule, ...]:
    return tuple(_rule(reader, each, f"{where}[{i}]") for i, each in enumerate(reader.items(value, where)))


def _rule(reader: Reader, value: Any, where: str) -> Rule:
    known = ("action", "source_labels", "separator", "regex", "target_label", "replacement", "modulus")
    fields = reader.mapping(value, where, known)
    default = Rule()
    rule = Rule(
        reader.text(fields, "action", where, default.action).lower(),
        tuple(str(each) for each in reader.items(fields.get("source_labels"), f"{where}.source_labels")),
        reader.text(fields, "separator", where, default.separator),
        reader.text(fields, "regex", where, default.regex),
        reader.text(fields, "target_label", where),
        reader.text(fields, "replacement", where, default.replacement),
        reader.count(fields, "modulus", where),
    )
    if rule.action not in ACTIONS:
        reader.fault(f"{where}.action", f"{rule.action!r} is none of {', '.join(ACTIONS)}")
    try:
        compiled(rule.regex)
    except ValueError as error:
        reader.fault(f"{where}.regex", f"{rule.regex!r} is no regular expression of RE2: {error}")
    if (
        rule.action in ("replace", "hashmod", "lowercase", "uppercase", "keepequal", "dropequal")
        and not rule.target_label
    ):
        reader.fault(f"{where}.target_label", f"expected one with {rule.action}")
    if rule.action == "labelmap" and not rule.replacement:
        reader.fault(f"{where}.replacement", "expected one with labelmap")
    if rule.action == "hashmod" and not rule.modulus:
        reader.fault(f"{where}.modulus", "expected one with hashmod")
    only = _ONLY.get(rule.action)
    meant = {"action": rule.action, **{key: getattr(rule, key) for key in only or ()}}
    if only and rule != Rule(**meant):
        reader.fault(where, f"expected nothing but {' and '.join(only)} with {rule.action}")
    return rule
