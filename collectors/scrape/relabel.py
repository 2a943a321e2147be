"""Relabelling: Prometheus' standard actions over the labels of a target or of a sample. Pure.

Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#relabel_config. Regular expressions
are RE2, anchored at both ends, as Prometheus' are, so that a configuration means here what it means there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import re2

Labels = dict[str, str]

ACTIONS = (
    "replace",
    "keep",
    "drop",
    "keepequal",
    "dropequal",
    "hashmod",
    "labelmap",
    "labeldrop",
    "labelkeep",
    "lowercase",
    "uppercase",
)
_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Rule:
    """One entry of ``relabel_configs`` or ``metric_relabel_configs``, with Prometheus' defaults."""

    action: str = "replace"
    source_labels: tuple[str, ...] = ()
    separator: str = ";"
    regex: str = "(.*)"
    target_label: str = ""
    replacement: str = "$1"
    modulus: int = 0

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads again."""
        return asdict(self)

    @staticmethod
    def of_json(value: Mapping[str, Any]) -> Rule:
        """A rule from what `as_json` gave."""
        return Rule(**{**value, "source_labels": tuple(value["source_labels"])})


def relabelled(labels: Mapping[str, str], rules: Sequence[Rule]) -> Labels | None:
    """Labels after all rules, those that became empty left out; None where a rule drops them."""
    result = {name: value for name, value in labels.items() if value}
    for rule in rules:
        kept = _apply(result, rule)
        if kept is None:
            return None
        result = kept
    return result


def _apply(labels: Labels, rule: Rule) -> Labels | None:
    regex = compiled(rule.regex)
    source = rule.separator.join(labels.get(name, "") for name in rule.source_labels)
    match rule.action:
        case "keep":
            return labels if regex.fullmatch(source) else None
        case "drop":
            return None if regex.fullmatch(source) else labels
        case "keepequal":
            return labels if labels.get(rule.target_label, "") == source else None
        case "dropequal":
            return None if labels.get(rule.target_label, "") == source else labels
        case "labeldrop":
            return {name: value for name, value in labels.items() if not regex.fullmatch(name)}
        case "labelkeep":
            return {name: value for name, value in labels.items() if regex.fullmatch(name)}
        case "labelmap":
            mapped = dict(labels)
            for name, value in labels.items():
                found = regex.fullmatch(name)
                if found:
                    _set(mapped, _expanded(rule.replacement, found), value)
            return mapped
        case "lowercase":
            return _set(labels, rule.target_label, source.lower())
        case "uppercase":
            return _set(labels, rule.target_label, source.upper())
        case "hashmod":
            # The last eight bytes of the MD5 sum, as Prometheus takes them.
            number = int.from_bytes(hashlib.md5(source.encode(), usedforsecurity=False).digest()[8:], "big")
            return _set(labels, rule.target_label, str(number % rule.modulus))
    return _replace(labels, rule, regex.fullmatch(source))


def _replace(labels: Labels, rule: Rule, found: Any) -> Labels:
    if not found:
        return labels
    name = _expanded(rule.target_label, found)
    return _set(labels, name, _expanded(rule.replacement, found)) if is_label_name(name) else labels


def _set(labels: Labels, name: str, value: str) -> Labels:
    """Labels with one of another value; an empty value takes it away."""
    if value:
        labels[name] = value
    else:
        labels.pop(name, None)
    return labels


@lru_cache(1024)
def compiled(regex: str) -> Any:
    """A regular expression of RE2; a dot is a newline, too, as in Prometheus 3.

    Raises:
        ValueError: it is none.
    """
    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    try:
        return re2.compile(regex, options)
    except re2.error as error:
        raise ValueError(str(error)) from error


def is_label_name(name: str) -> bool:
    """Whether a label may be named so: since Prometheus 3 by anything that is there, and is UTF-8."""
    return bool(name) and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _expanded(template: str, found: Any) -> str:
    """A replacement with ``$1``, ``${1}``, ``$name`` and ``$$`` filled in; groups that are not there are empty."""

    def fill(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name is None:
            return "$"
        try:
            return found.group(int(name) if name.isdigit() else name) or ""
        except (IndexError, KeyError, re2.error):
            return ""

    return _REFERENCE.sub(fill, template)
