"""Between a tree of YAML nodes and the frozen dataclasses made of settings: `build` reads, `mapping_of` writes back.

The type of a field and the unit in its `Meaning` say how its text is read. All faults are noted; a field with a fault
gets its default, so that one fault does not hide the next.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from catchment.config_yaml import Items, Keys, Node, Scalar, Surroundings
from catchment.setting import Meaning, key_of, meaning_of
from catchment.units import (
    DURATION_EXAMPLES,
    SIZE_EXAMPLES,
    Address,
    address_of,
    bytes_of,
    duration_text,
    seconds_of,
    size_text,
)

T = TypeVar("T")
_TRUTHS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


class _FaultError(ValueError):
    """What would be right."""


def build(cls: type[T], tree: Keys, around: Surroundings, path: str = "") -> T:
    """Make a dataclass of settings from a mapping, noting every fault in ``around``."""
    hints = typing.get_type_hints(cls)
    fields = {key_of(field): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key, node in tree.items.items():
        if key not in fields:
            around.fault(node.line, _join(path, key), _unknown(key, list(fields)))
    values: dict[str, Any] = {}
    for key, field in fields.items():
        where, meaning = _join(path, key), meaning_of(field)
        found = tree.items.get(key)
        if found is None or (isinstance(found, Scalar) and found.text is None):
            if meaning.required:
                around.fault(tree.line, where, f"missing; {meaning.text}")
                values[field.name] = None
            continue
        try:
            values[field.name] = _value(hints[field.name], found, meaning, where, around)
        except _FaultError as fault:
            shown = f" = {found.text!r}" if isinstance(found, Scalar) else ""
            around.fault(found.line, f"{where}{shown}", str(fault))
            if meaning.required:
                values[field.name] = None
    return cls(**values)


def mapping_of(settings: Any, *, reveal: bool = True) -> dict[str, Any]:
    """The mapping that `build` reads back to an equal dataclass, with units as a person writes them.

    Without ``reveal`` secrets are masked: for people.
    """
    result: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        result[key_of(field)] = _plain(getattr(settings, field.name), meaning_of(field), reveal)
    return result


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key; {hint}"


def _value(kind: Any, node: Node, meaning: Meaning, path: str, around: Surroundings) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        kind = next(choice for choice in typing.get_args(kind) if choice is not type(None))
        origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and kind is not Address:
        if not isinstance(node, Keys):
            raise _FaultError("expected keys with values")
        return build(typing.cast("type[Any]", kind), node, around, path)
    if origin is tuple:
        if not isinstance(node, Items):
            raise _FaultError("expected a list")
        inner = typing.get_args(kind)[0]
        return tuple(_value(inner, item, meaning, f"{path}[{i}]", around) for i, item in enumerate(node.items))
    if origin is not None and issubclass(origin, Mapping):
        return _texts(node, path, around)
    if not isinstance(node, Scalar):
        raise _FaultError("expected one value, not a list or keys")
    return _scalar(kind, node.text or "", meaning, path)


def _texts(node: Node, path: str, around: Surroundings) -> dict[str, str]:
    if not isinstance(node, Keys):
        raise _FaultError("expected keys with texts, such as {zone: a}")
    texts = {}
    for key, item in node.items.items():
        if isinstance(item, Scalar) and item.text is not None:
            texts[key] = item.text
        else:
            around.fault(item.line, _join(path, key), "expected a text")
    return texts


def _scalar(kind: Any, text: str, meaning: Meaning, path: str) -> Any:
    if kind is bool:
        if text.lower() not in _TRUTHS:
            raise _FaultError("expected true or false")
        return _TRUTHS[text.lower()]
    if kind is Path:
        if not text:
            raise _FaultError("expected a path")
        return Path(text)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if text not in {choice.value for choice in kind}:
            raise _FaultError(f"expected one of {', '.join(choice.value for choice in kind)}")
        return kind(text)
    try:
        if kind is Address:
            return address_of(text)
        if kind in (int, float):
            return _within(_number(kind, text, meaning, path), meaning)
    except ValueError as error:
        raise _FaultError(str(error)) from error
    return text


def _number(kind: Any, text: str, meaning: Meaning, path: str) -> float:
    # A key that has its unit in its name takes a bare number; elsewhere the unit must be written.
    bare = text.replace("_", "")
    is_bare = bare.isascii() and bare.replace(".", "", 1).isdigit()
    if meaning.unit == "seconds" and not (is_bare and "seconds" in path):
        seconds = seconds_of(text)
        if kind is int and seconds != int(seconds):
            raise ValueError("expected whole seconds")
        return int(seconds) if kind is int else seconds
    if meaning.unit == "bytes" and not (is_bare and "bytes" in path):
        return bytes_of(text)
    try:
        return int(bare) if kind is int else float(bare)
    except ValueError:
        examples = {"seconds": f", or {DURATION_EXAMPLES}", "bytes": f", or {SIZE_EXAMPLES}"}.get(meaning.unit, "")
        raise ValueError(f"expected a {'whole ' if kind is int else ''}number{examples}") from None


def _within(number: float, meaning: Meaning) -> float:
    if meaning.least is not None and number < meaning.least:
        raise ValueError(f"expected at least {_show(meaning.least, meaning)}")
    if meaning.most is not None and number > meaning.most:
        raise ValueError(f"expected at most {_show(meaning.most, meaning)}")
    return number


def _show(number: float, meaning: Meaning) -> str:
    if meaning.unit == "seconds":
        return duration_text(number)
    if meaning.unit == "bytes":
        return size_text(int(number))
    return f"{number:g}" if number < 1e6 else f"{int(number)}"


def _plain(value: Any, meaning: Meaning, reveal: bool) -> Any:
    if meaning.secret and value and not reveal:
        return "(secret)"
    if dataclasses.is_dataclass(value) and not isinstance(value, Address):
        return mapping_of(value, reveal=reveal)
    if isinstance(value, tuple):
        return [_plain(item, meaning, reveal) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path | Address):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if meaning.unit == "seconds":
        return duration_text(value)
    if meaning.unit == "bytes":
        return size_text(int(value))
    return value
