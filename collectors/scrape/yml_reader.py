"""Reading what YAML gives with every fault noted: where it stands, what it is and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from collectors.scrape.relabel import is_label_name

_NONE: Mapping[str, str] = MappingProxyType({})
_DURATION = re.compile(r"(?:\d+(?:y|w|d|h|ms|m|s))+|0")
_UNITS_SECONDS = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTPE]?)i?B|0")

_TRUTHS = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"), False),
}


class _Loader(yaml.SafeLoader):
    """Leaves scalars as written, null aside: to Prometheus a label's ``1.10`` is not 1.1, nor its ``yes`` true.

    A key that stands twice is an error, as it is there.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0].endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """A document whose scalars are texts as written, or None; raises `yaml.YAMLError`."""
    return yaml.load(text, _Loader)  # noqa: S506 - it is a SafeLoader


def duration_seconds(text: str) -> float:
    """The seconds of a duration as Prometheus writes them; raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; expected such as 15s or 1m30s")
    parts = re.findall(r"(\d+)(y|w|d|h|ms|m|s)", text)
    return float(sum(int(number) * _UNITS_SECONDS[unit] for number, unit in parts))


class Reader:
    """Reads mappings, and collects faults and what is not supported; ``where`` says where a mapping stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[str] = []
        self.unsupported: list[str] = []

    def fault(self, where: str, says: str) -> None:
        """Note one."""
        self.faults.append(f"{where}: {says}")

    def mapping(self, value: Any, where: str, known: Iterable[str], named: Mapping[str, str] = _NONE) -> dict[str, Any]:
        """A mapping of known keys; those in ``named`` are told as not supported, others are faults."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fault(where, "expected keys with values")
            return {}
        known, kept = tuple(known), {}
        for key, each in value.items():
            if key in known:
                kept[key] = each
            elif key in named:
                self.unsupported.append(f"{where}.{key} is not used: {named[key]}")
            else:
                near = difflib.get_close_matches(str(key), [*known, *named], n=1, cutoff=0.6)
                self.fault(f"{where}.{key}", f"unknown key{f'; did you mean {near[0]}?' if near else ''}")
        return kept

    def items(self, value: Any, where: str) -> list[Any]:
        """A list."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.fault(where, "expected a list")
            return []
        return value

    def text(self, fields: Mapping[str, Any], key: str, where: str, default: str = "") -> str:
        """A scalar as text."""
        value = fields.get(key)
        if value is None:
            return default
        if isinstance(value, (dict, list)):
            self.fault(f"{where}.{key}", "expected a text")
            return default
        return str(value)

    def truth(self, fields: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
        """true or false."""
        text = self.text(fields, key, where)
        if not text:
            return default
        if text not in _TRUTHS:
            self.fault(f"{where}.{key}", f"{text!r} is neither true nor false")
        return _TRUTHS.get(text, default)

    def count(self, fields: Mapping[str, Any], key: str, where: str, default: int = 0) -> int:
        """A whole number, 0 or above."""
        text = self.text(fields, key, where)
        if not text:
            return default
        if not text.isdecimal():
            self.fault(f"{where}.{key}", f"{text!r} is no count")
            return default
        return int(text)

    def seconds(self, fields: Mapping[str, Any], key: str, where: str, default: float) -> float:
        """A duration as Prometheus writes them."""
        text = self.text(fields, key, where)
        if not text:
            return default
        try:
            return duration_seconds(text)
        except ValueError as error:
            self.fault(f"{where}.{key}", str(error))
            return default

    def size(self, fields: Mapping[str, Any], key: str, where: str, default: int = 0) -> int:
        """A size as Prometheus writes them, in bytes: its units are powers of 1024."""
        text = self.text(fields, key, where)
        if not text:
            return default
        found = _SIZE.fullmatch(text)
        if found is None:
            self.fault(f"{where}.{key}", f"{text!r} is no size; expected such as 10MB")
            return default
        return int(float(found[1]) * 1024 ** (" KMGTPE".index(found[2]) if found[2] else 0)) if found[1] else 0

    def path(self, fields: Mapping[str, Any], key: str, where: str) -> Path | None:
        """A path relative to the file's folder."""
        text = self.text(fields, key, where)
        return self.folder / text if text else None

    def labels(self, value: Any, where: str) -> dict[str, str]:
        """Labels with their values."""
        labels = {} if value is None else value
        if not isinstance(labels, dict):
            self.fault(where, "expected labels with values")
            return {}
        for name in labels:
            if not isinstance(name, str) or not is_label_name(name):
                self.fault(where, f"{name!r} is no label name")
        return {str(name): "" if each is None else str(each) for name, each in labels.items()}
