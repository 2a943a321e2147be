"""The labels of a series as exposition text writes it: ``name{label="value"}``, and ``{"name", "label"="value"}``."""

from __future__ import annotations

import re

from collectors.decode.attributes import Unreadable
from collectors.decode.families import NAME
from collectors.reasons import Reason

_METRIC = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?[ \t]*")
QUOTED = r'"((?:[^"\\]|\\.)*)"'
_LABEL = re.compile(rf"[ \t]*(?:([a-zA-Z_][a-zA-Z0-9_]*)|{QUOTED})[ \t]*(?:=[ \t]*{QUOTED})?[ \t]*(,|\}}$)")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "\\": "\\", '"': '"'}


def labels_of(written: bytes) -> dict[str, str]:
    """All labels of a series, ``__name__`` among them.

    Raises:
        Unreadable: it is none.
    """
    try:
        text = written.decode().strip(" \t")
    except UnicodeDecodeError as error:
        raise Unreadable(Reason.LINE_MALFORMED) from error
    metric = _METRIC.match(text)
    assert metric is not None  # it may be empty
    labels = {NAME: metric[1]} if metric[1] else {}
    at = metric.end()
    if text[at : at + 1] == "{":
        at += 1
        at = len(text) if text[at:].strip(" \t") == "}" else _read_labels(text, at, labels)
    if at != len(text) or not labels.get(NAME):
        raise Unreadable(Reason.LINE_MALFORMED)
    return labels


def _read_labels(text: str, at: int, labels: dict[str, str]) -> int:
    """Read labels into ``labels`` up to the closing brace; the place behind it."""
    while True:
        found = _LABEL.match(text, at)
        if found is None:
            raise Unreadable(Reason.LINE_MALFORMED)
        bare, quoted, value, end = found.groups()
        if value is None:
            # A quoted text alone is the metric's name.
            name, value = NAME, unescaped(quoted) if quoted else ""
        else:
            name, value = bare if quoted is None else unescaped(quoted), unescaped(value)
        if name in labels or (name == NAME and not value):
            raise Unreadable(Reason.LINE_MALFORMED)
        labels[name] = value
        at = found.end()
        if end == "}":
            return at
        if text[at:].strip(" \t") == "}":  # a comma may stand behind the last one
            return len(text)


def unescaped(text: str) -> str:
    """What a quoted text stands for."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), text)
