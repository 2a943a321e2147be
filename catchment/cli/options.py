"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from catchment.config import Config, Profile
from catchment.config_load import load

F = TypeVar("F", bound=Callable[..., Any])


def config_option(*, required: bool = False) -> Callable[[F], F]:
    """``--config FILE``."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        required=required,
        help="The configuration file." if required else "The configuration file; defaults without one.",
    )


def data_dir_option(command: F) -> F:
    """``--data-dir DIR``."""
    return click.option(
        "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of all state; overrides the file."
    )(command)


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="For programs: JSON on stdout.")(command)


def pairs_of(texts: Iterable[str], option: str) -> dict[str, str]:
    """The pairs of an option that is given as KEY=VALUE, again and again."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        pairs[key] = value
    return pairs


def read_config(
    config_file: Path | None, data_dir: Path | None = None, profile: Profile = Profile.UP, *, made_here: str = ""
) -> Config:
    """The configuration that a command works with; see `load`. Raises `ConfigFaults`."""
    return load(config_file, profile, data_dir=data_dir, made_here=made_here)
