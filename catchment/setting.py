"""A setting: a dataclass field that says what it means, in which unit, and what happens when it is reached.

The dataclasses made of settings are the configuration (`catchment.config`, `catchment.limits`): the YAML loader reads
their types, `catchment config show` prints their meaning, and the docs derive from them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Meaning:
    """What a setting is.

    ``unit`` is also how its text is read: "seconds" takes durations such as ``5m``, "bytes" takes sizes such as
    ``64MiB``, "address" takes ``host:port``. ``consequence`` is what happens when a limit is reached.
    """

    text: str
    unit: str = ""
    consequence: str = ""
    least: float | None = None
    most: float | None = None
    required: bool = False
    key: str = ""
    secret: bool = False


def setting(
    default: Any = dataclasses.MISSING,
    text: str = "",
    *,
    unit: str = "",
    consequence: str = "",
    least: float | None = None,
    most: float | None = None,
    factory: Any = dataclasses.MISSING,
    key: str = "",
    secret: bool = False,
) -> Any:
    """A dataclass field with its `Meaning`; without ``default`` and ``factory`` the file must give a value.

    ``key`` is the name in YAML where it differs from the field's, which has its unit last (``flush`` and
    ``flush_seconds``). ``least`` and ``most`` are inclusive, in the field's unit. A ``secret`` is
    neither shown to people nor part of the dataclass's repr.
    """
    required = default is dataclasses.MISSING and factory is dataclasses.MISSING
    meaning = Meaning(text, unit, consequence, least, most, required, key, secret)
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata={"meaning": meaning})
    return dataclasses.field(default=default, repr=not secret, metadata={"meaning": meaning})


def meaning_of(field: dataclasses.Field[Any]) -> Meaning:
    """The meaning of a field made by `setting`."""
    meaning: Meaning = field.metadata["meaning"]
    return meaning


def key_of(field: dataclasses.Field[Any]) -> str:
    """The name of a field in YAML."""
    return meaning_of(field).key or field.name
