"""Entries put into the text of a tenants file, or taken out of it; what else stands there, comments too, stays.

The text is edited by lines and read again: if that does not say exactly what it should, the edit is refused, so that a
file in a form that is not edited here (flow style, a document within others) is never damaged.
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


def added(text: str, suffix: str, entry: Entry) -> str:
    """The text with one more entry at its end.

    Args:
        text: a valid file, or nothing.
        suffix: of the file's name; ``.json`` is JSON, all else YAML.

    Raises:
        Invalid: it would not be valid with it, or cannot be edited here.
    """
    before = entries_of(text.encode(), suffix)
    if suffix == ".json":
        new = json.dumps([*before, entry], indent=2) + "\n"
    else:
        # JSON strings are YAML, whatever a name looks like.
        lines = [f"{key}: {json.dumps(value)}" for key, value in entry.items()]
        new = text + ("\n" if text and not text.endswith("\n") else "") + "- " + "\n  ".join(lines) + "\n"
    return _checked(new, suffix, [*before, entry])


def removed(text: str, suffix: str, out: Collection[int]) -> str:
    """The text without the entries of the numbers ``out``.

    Raises:
        Invalid: it cannot be edited here.
    """
    kept = [entry for number, entry in enumerate(entries_of(text.encode(), suffix)) if number not in out]
    new = json.dumps(kept, indent=2) + "\n" if suffix == ".json" else _without(text, out)
    return _checked(new, suffix, kept)


def _without(text: str, out: Collection[int]) -> str:
    lines = text.splitlines(keepends=True)
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    starts = [node.start_mark.line for node in root.value] if root is not None else []
    ends = [*starts[1:], len(lines)]
    for number in sorted(out, reverse=True):
        start, end = starts[number], ends[number]
        # Comments and blank lines before the next entry are the next one's.
        while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
            end -= 1
        del lines[start:end]
    return "".join(lines)


def _checked(new: str, suffix: str, expected: Sequence[Entry]) -> str:
    try:
        found = entries_of(new.encode(), suffix)
        Tenants.of(found, "with this change")
    except ConfigFaults as error:
        raise Invalid("; ".join(error.faults)) from error
    except (ValueError, yaml.YAMLError) as error:
        raise Invalid("the file is written in a form that is not edited here; edit it by hand") from error
    if found != list(expected):
        raise Invalid("the file is written in a form that is not edited here; edit it by hand")
    return new
