"""Files that are a list of entries: YAML or JSON, read as written. Tenants and readers are such files. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from catchment.errors import ConfigFaults


def load_entries(path: Path) -> Any:
    """What the file ``path`` says, unchecked: JSON if its name ends in ``.json``, else YAML.

    Raises:
        ConfigFaults: it cannot be read.
    """
    try:
        return read_entries(path.read_bytes(), path.suffix)
    except OSError as error:
        raise ConfigFaults([f"{path}: cannot be read: {error.strerror}"]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigFaults([f"{path}: not readable as {path.suffix[1:] or 'YAML'}: {error}"]) from error


def listed(entries: object, name: str, keys: Iterable[str]) -> list[Any]:
    """What a file says as a list of entries; ``name`` is the file's, ``keys`` those that an entry may have.

    Raises:
        ConfigFaults: it is no list.
    """
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise ConfigFaults([f"{name}: must be a list of entries with {', '.join(keys)}"])
    return entries


def read_entries(text: bytes, suffix: str) -> Any:
    """What a file says, unchecked: JSON if its name ends in ``.json``, else YAML.

    Raises:
        ValueError, YAMLError, RecursionError: not readable as that.
    """
    return json.loads(text, object_pairs_hook=_once) if suffix == ".json" else _read_yaml(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys stand once: of two, readers would take either."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands twice")
        found[key] = value
    return found


def entries_of(text: bytes, suffix: str) -> list[dict[str, Any]]:
    """The entries of a file that is valid."""
    return read_entries(text, suffix) or []


def _read_yaml(text: bytes) -> object:
    """The first document: lists, mappings and strings. Streams over the parser's events, for files of 100,000 entries.

    All scalars stay strings as written: ``no``, ``1e3`` and dates are names here, not values of other types.
    """
    root: list[Any] = []
    open_nodes: list[tuple[Any, list[str]]] = [(root, [])]
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            open_nodes.pop()
            continue
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"aliases such as *{event.anchor} are not read here")
        if isinstance(event, yaml.DocumentStartEvent) and root:
            raise ValueError("more than one document")
        if not isinstance(event, yaml.NodeEvent):
            continue
        value: Any = {}
        if isinstance(event, yaml.ScalarEvent):
            value = event.value if event.value or event.style else None
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
        parent, keys = open_nodes[-1]
        if isinstance(parent, list):
            parent.append(value)
        elif keys:
            parent[keys.pop()] = value
        elif not isinstance(value, str):
            raise ValueError(f"{_line(event)}: a key must be plain text")
        elif value in parent:
            raise ValueError(f"{_line(event)}: key {value!r} stands twice")
        else:
            keys.append(value)
            continue
        if not isinstance(event, yaml.ScalarEvent):
            open_nodes.append((value, []))
    return root[0] if root else None


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"
