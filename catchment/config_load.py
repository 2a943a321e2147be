"""Reading a configuration file: the shell that touches files and the environment.

All faults are reported at once, before anything starts, each with file, line, key, value and what would be right.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from catchment.config import PROFILE_DEFAULTS, Config, Profile
from catchment.config_build import build, mapping_of
from catchment.config_faults import faults_of, place_faults_of
from catchment.config_policies import Policies, faults_of_policies
from catchment.config_yaml import Items, Keys, Node, Scalar, Surroundings, parse
from catchment.errors import ConfigFaults

_ROLES_WITH_REGION = (Profile.COLLECTOR, Profile.AGGREGATOR)


def load(
    path: Path | None,
    profile: Profile = Profile.UP,
    *,
    data_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    made_here: str = "",
) -> Config:
    """Read a file and check it.

    Args:
        path: the file; None means defaults only.
        profile: which process asks: defaults and required keys differ.
        data_dir: overrides the file's.
        env: what ``${env:NAME}`` sees; the process's environment unless given.
        made_here: the key whose file the caller is about to make, so that it need not be there yet.

    Raises:
        ConfigFaults: with every fault there is.
    """
    file = str(path) if path else "defaults"
    around = Surroundings(file, os.environ if env is None else env, _read_file)
    text = ""
    if path is not None:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            raise ConfigFaults([f"{file}: not UTF-8 text"]) from None
        except OSError as error:
            raise ConfigFaults([f"{file}: cannot be read: {error.strerror}"]) from error
    return load_text(text, around, profile, data_dir=data_dir, made_here=made_here)


def load_text(
    text: str, around: Surroundings, profile: Profile, *, data_dir: Path | None = None, made_here: str = ""
) -> Config:
    """`load` for a text that was read already."""
    tree = parse(text, around)
    defaults = {key: Scalar(value, tree.line) for key, value in PROFILE_DEFAULTS[profile].items()}
    tree = Keys({**defaults, **_policies_as_keys(tree).items}, tree.line)
    config = build(Config, tree, around)
    policies = _with_faults(config, *_policies_of(config, tree, around))
    config = dataclasses.replace(config, policies=policies)
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=data_dir)
    if profile in _ROLES_WITH_REGION and "region" not in tree.items:
        around.fault(tree.line, "region", f"missing; the {profile.value} must be told its region")
    for key, says in [*faults_of(config), *place_faults_of(config, profile)]:
        around.fault(_line_of(tree, key), key, says)
    for key, file in _files_of(config):
        if file is not None and not file.is_file() and not (key == made_here and not file.exists()):
            around.fault(_line_of(tree, key), f"{key} = {str(file)!r}", "no such file")
    if around.faults:
        raise ConfigFaults(around.faults)
    return config


def _files_of(config: Config) -> list[tuple[str, Path | None]]:
    """Every key that names a file which must be there."""
    files: list[tuple[str, Path | None]] = [
        ("tenants", config.tenants),
        ("readers", config.readers),
        ("scrape.file", config.scrape.file),
    ]
    files += [(f"kafka.tls.{name}", getattr(config.kafka.tls, name)) for name in ("ca", "cert", "key")]
    for section, tls in (("tls", config.tls), ("sql.tls", config.sql.tls), ("status.tls", config.status.tls)):
        files += [(f"{section}.{name}", getattr(tls, name)) for name in ("cert", "key", "client_ca")]
    return files


def load_policies(path: Path, config: Config) -> Policies:
    """Read a policies file as if a configuration named it.

    Raises:
        ConfigFaults: with every fault there is.
    """
    around = Surroundings("policies", os.environ, _read_file)
    named = dataclasses.replace(config, policies=Policies(file=path))
    policies = _with_faults(named, *_policies_of(named, Keys({}, 1), around))
    if around.faults:
        raise ConfigFaults(around.faults)
    return policies


def write(config: Config, path: Path) -> None:
    """Write a file that `load` reads back to an equal `Config`; replaced atomically, readable by the owner only.

    Policies of a file of their own are written along: who reads this is told when they change, not before.
    """
    config = dataclasses.replace(config, policies=dataclasses.replace(config.policies, file=None))
    path.parent.mkdir(parents=True, exist_ok=True)
    # A dollar sign is doubled so that reading back expands nothing.
    text = yaml.safe_dump(mapping_of(config), sort_keys=False, allow_unicode=True).replace("$", "$$")
    partial = path.with_name(path.name + ".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def _policies_as_keys(tree: Keys) -> Keys:
    """``policies: FILE`` as ``policies: {file: FILE}``."""
    node = tree.items.get("policies")
    if not isinstance(node, Scalar) or node.text is None:
        return tree
    return Keys({**tree.items, "policies": Keys({"file": node}, node.line)}, tree.line)


def _policies_of(config: Config, tree: Keys, around: Surroundings) -> tuple[Policies, Keys, Surroundings, str]:
    """The policies, from their own file if they have one; where their keys stand, and what comes before these."""
    policies, node = config.policies, tree.items.get("policies")
    if policies.file is None:
        return policies, tree, around, "policies."
    for key, other in node.items.items() if isinstance(node, Keys) else ():
        if key != "file":
            around.fault(other.line, f"policies.{key}", f"the policies stand in {policies.file}; move it there")
    file = str(policies.file)
    own = Surroundings(file, around.env, around.read_file, around.faults)
    try:
        text = around.read_file(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        around.fault(_line_of(tree, "policies.file"), f"policies.file = {file!r}", f"cannot be read: {reason}")
        return policies, Keys({}, 1), own, ""
    keys = parse(text, own)
    if "file" in keys.items:
        own.fault(keys.items["file"].line, "file", "this is that file; remove it")
    return dataclasses.replace(build(Policies, keys, own), file=policies.file), keys, own, ""


def _with_faults(config: Config, policies: Policies, tree: Keys, around: Surroundings, prefix: str) -> Policies:
    before = list(around.faults)
    for key, says in faults_of_policies(policies, config.resolution_seconds, config.flush_seconds):
        # Of a rule of which a key was not understood nothing more can be said for sure.
        if not any(f": {prefix}{key}" in fault for fault in before):
            around.fault(_line_of(tree, prefix + key), prefix + key, says)
    return policies


def _read_file(path: str) -> str:
    return Path(path).read_text("utf-8")


def _line_of(tree: Keys, key: str) -> int:
    # The deepest part of the key that the file has: a fault may be about a default.
    node: Node = tree
    for part in key.replace("[", ".[").split("."):
        if isinstance(node, Items) and part.startswith("["):
            node = node.items[int(part[1:-1])]
        elif isinstance(node, Keys) and part in node.items:
            node = node.items[part]
        else:
            break
    return node.line
