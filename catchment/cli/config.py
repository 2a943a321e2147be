"""``catchment config``: check a file, or show what is in force and what each key means."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import click
import yaml

from catchment.cli.options import json_option
from catchment.config import Config, Profile
from catchment.config_build import mapping_of
from catchment.config_load import load
from catchment.setting import key_of, meaning_of

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_PROFILE = click.option(
    "--for",
    "profile",
    type=click.Choice([profile.value for profile in Profile]),
    default=Profile.UP.value,
    show_default=True,
    help="The process that reads the file.",
)


@click.group()
def config() -> None:
    """Check a configuration, or show what is in force."""


@config.command()
@_FILE
@_PROFILE
def check(file: Path, profile: str) -> None:
    """Check FILE: every fault at once, one a line."""
    loaded = load(file, Profile(profile))
    if loaded.scrape.file is not None:
        from collectors.scrape.scraper import load as load_jobs

        for line in load_jobs(loaded.scrape.file)[0].unsupported:
            click.echo(f"{loaded.scrape.file}: {line}")
    click.echo(f"{file}: fine")


@config.command()
@_FILE
@_PROFILE
@json_option
def show(file: Path, profile: str, as_json: bool) -> None:
    """Show the effective values of FILE, with their meaning."""
    loaded = load(file, Profile(profile))
    if as_json:
        click.echo(json.dumps(mapping_of(loaded, reveal=False), indent=2))
        return
    for line in described(loaded):
        click.echo(line)


def described(settings: Any, indent: str = "") -> list[str]:
    """YAML lines of all settings, each key preceded by what it means and what happens when it is reached."""
    lines: list[str] = []
    plain = mapping_of(settings, reveal=False)
    for field in dataclasses.fields(settings):
        key, meaning, value = key_of(field), meaning_of(field), getattr(settings, field.name)
        lines.append(f"{indent}# {meaning.text}" + (f" -> {meaning.consequence}" if meaning.consequence else ""))
        if dataclasses.is_dataclass(value) and key in plain and isinstance(plain[key], dict):
            lines.append(f"{indent}{key}:")
            lines.extend(described(value, indent + "  "))
        else:
            text = yaml.safe_dump({key: plain[key]}, default_flow_style=False, allow_unicode=True, width=10_000)
            lines.extend(indent + line.replace("$", "$$") for line in text.rstrip("\n").splitlines())
    return lines


def reference() -> list[tuple[str, str, str, str]]:
    """Every key there is: (path, default, meaning, consequence), for the documentation."""
    rows: list[tuple[str, str, str, str]] = []

    def walk(settings: Any, path: str) -> None:
        plain = mapping_of(settings, reveal=False)
        for field in dataclasses.fields(settings):
            where, meaning = f"{path}{key_of(field)}", meaning_of(field)
            value = getattr(settings, field.name)
            if dataclasses.is_dataclass(value) and isinstance(plain[key_of(field)], dict):
                walk(value, where + ".")
            else:
                rows.append((where, json.dumps(plain[key_of(field)]), meaning.text, meaning.consequence))

    walk(typing.cast("Any", Config()), "")
    return rows
