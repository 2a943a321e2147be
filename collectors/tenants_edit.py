"""Entries put into the text of a tenants file, or taken out of it.

Rules:

1. YAML is edited by lines: those of an entry come or go, with the comments on and between them; every other byte stays.
2. JSON has no comments; it is written anew, two spaces deep.
3. The new text is read again: if it does not say exactly what it should, the edit is refused, so that a file in a form
   that is not edited here (flow style, a document within others) is never damaged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from catchment.entries import entries_of
from catchment.errors import ConfigFaults, Invalid
from collectors.tenants import Tenants

Entry = Mapping[str, Any]


def text_of(file: bytes) -> str:
    """A file's text, byte for byte: no line end is changed.

    Raises:
        Invalid: it is in another encoding, which readers know and this does not write.
    """
    try:
        return file.decode()
    except UnicodeDecodeError as error:
        raise Invalid("the file is not UTF-8; convert it, or edit it by hand") from error


def added(text: str, suffix: str, entry: Entry) -> str:
    """The text with one more entry at its end.

    Args:
        text: a valid file, or nothing.
        suffix: of the file's name; ``.json`` is JSON, all else YAML.

    Raises:
        Invalid: it would not be valid with it, or cannot be edited here.
    """
    entries = [*entries_of(text.encode(), suffix), entry]
    line_end = _line_end(text)
    if suffix == ".json":
        new = _as_json(entries, line_end)
    else:
        # JSON strings are YAML, whatever a name looks like.
        lines = [f"{key}: {_json_in_yaml(value)}" for key, value in entry.items()]
        gap = line_end if text and not text.endswith("\n") else ""
        new = f"{text}{gap}- {f'{line_end}  '.join(lines)}{line_end}"
    return _checked(new, suffix, entries)


def removed(text: str, suffix: str, out: Collection[int]) -> str:
    """The text without the entries of the numbers ``out``.

    Raises:
        Invalid: it cannot be edited here.
    """
    kept = [entry for number, entry in enumerate(entries_of(text.encode(), suffix)) if number not in out]
    new = _as_json(kept, _line_end(text)) if suffix == ".json" else _without(text, out)
    return _checked(new, suffix, kept)


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _as_json(entries: Sequence[Entry], line_end: str) -> str:
    return json.dumps(entries, indent=2, ensure_ascii=False).replace("\n", line_end) + line_end


def _json_in_yaml(value: object) -> str:
    # YAML folds or refuses some of what JSON leaves as it is.
    text = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)


def _without(text: str, out: Collection[int]) -> str:
    lines = text.splitlines(keepends=True)
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    entries = root.value if root is not None else []
    for number in sorted(out, reverse=True):
        del lines[entries[number].start_mark.line : _end_line(entries[number])]
    return "".join(lines)


def _end_line(node: yaml.Node) -> int:
    """The line after the last one of a node; a block ends at the next token, beyond blank lines and comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end_line(last[1] if isinstance(last, tuple) else last)
    mark = node.end_mark
    return int(mark.line + (mark.column > 0))


def _checked(new: str, suffix: str, expected: Sequence[Entry]) -> str:
    found: list[dict[str, Any]] | None
    try:
        found = entries_of(new.encode(), suffix)
    except (ValueError, yaml.YAMLError):
        found = None
    if found != list(expected):
        raise Invalid("the file is written in a form that is not edited here; edit it by hand")
    try:
        Tenants.of(found, "with this change")
    except ConfigFaults as error:
        raise Invalid("; ".join(error.faults)) from error
    return new
