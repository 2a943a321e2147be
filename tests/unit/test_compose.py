"""The compose files, as far as they can be tried without a container engine: their commands, configurations, names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from catchment.cli.main import cli, run
from catchment.config import Config, Profile
from catchment.config_load import load

ROOT = Path(__file__).resolve().parents[2]
FILES = ("compose.yaml", "compose.kafka.yaml")
OURS = "catchment-telemetry"


def parsed(file: str) -> dict[str, Any]:
    """A compose file, with anchors and merges resolved."""
    document = yaml.safe_load((ROOT / file).read_text("utf-8"))
    assert isinstance(document, dict)
    return document


def roles(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The services that run our image: (name, service)."""
    for name, service in parsed(file)["services"].items():
        if service["image"] == OURS:
            yield name, service


def content_of(document: dict[str, Any], service: dict[str, Any]) -> str:
    """The file that compose mounts at the target of ``--config``, with its own ``$$`` undone."""
    target = service["command"][service["command"].index("--config") + 1]
    (config,) = (config for config in service["configs"] if config["target"] == target)
    content = document["configs"][config["source"]]["content"]
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", content), "compose itself would expand a single $"
    return str(content).replace("$$", "$")


def config_of(file: str, service: dict[str, Any], folder: Path) -> Config:
    """The configuration that a service reads."""
    path = folder / "config.yaml"
    path.write_text(content_of(parsed(file), service))
    return load(path, Profile(service["command"][0]), env=service["environment"])


@pytest.mark.parametrize("file", FILES)
def test_every_command_is_one_of_the_cli(file: str) -> None:
    """Each service's command line is parsed by the CLI itself, down to its last option, and names a role."""
    found = list(roles(file))
    assert {service["command"][0] for _, service in found} == {"collector", "aggregator", "loader"}
    for name, service in found:
        with click.Context(cli) as overview:
            command = cli.get_command(overview, service["command"][0])
            assert command is not None, name
            context = command.make_context(service["command"][0], service["command"][1:], parent=overview)
            assert context.params == {"config_file": Path("/config.yaml")}, name


@pytest.mark.parametrize("file", FILES)
def test_every_configuration_passes_its_check(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`catchment config check --for ROLE` says that each service's file is fine, in that service's environment."""
    for name, service in roles(file):
        path = tmp_path / f"{name}.yaml"
        path.write_text(content_of(parsed(file), service))
        with monkeypatch.context() as environment:
            for key, value in service["environment"].items():
                environment.setenv(key, value)
            assert run(["config", "check", str(path), "--for", service["command"][0]]) == 0, name


@pytest.mark.parametrize("file", FILES)
def test_services_do_not_meet(file: str, tmp_path: Path) -> None:
    """On the host's network no two roles have an address in common; volumes and configurations are there and used."""
    document = parsed(file)
    listens: list[str] = []
    used: set[str] = set()
    for _, service in roles(file):
        listen = config_of(file, service, tmp_path).listen
        own = {"collector": [listen.otlp_http, listen.otlp_grpc], "aggregator": [], "loader": [listen.sql]}
        listens += [str(address) for address in (listen.status, *own[service["command"][0]])]
        used |= {config["source"] for config in service["configs"]}
    assert len(listens) == len(set(listens)), listens
    assert used == set(document["configs"])
    mounted = {
        volume.partition(":")[0] for service in document["services"].values() for volume in service.get("volumes", ())
    }
    assert mounted == set(document["volumes"])


def test_roles_on_kafka_share_the_broker_and_nothing_else(tmp_path: Path) -> None:
    """Each role names the address that the broker advertises, all the same log, and no two have a volume in common."""
    file = "compose.kafka.yaml"
    services = parsed(file)["services"]
    broker = services["kafka"]
    assert broker["image"] == "apache/kafka:4.1.1"
    advertised = broker["environment"]["KAFKA_ADVERTISED_LISTENERS"].removeprefix("PLAIN://")
    configs = [config_of(file, service, tmp_path) for _, service in roles(file)]
    assert {config.kafka.brokers for config in configs} == {(advertised,)}
    assert len({(config.log, config.kafka) for config in configs}) == 1
    volumes = [volume for service in services.values() for volume in service.get("volumes", ())]
    assert len({volume.partition(":")[0] for volume in volumes}) == len(volumes)
