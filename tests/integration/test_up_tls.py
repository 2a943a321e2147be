"""`catchment up` with TLS, as a user sets it up: a certificate is all that a sender needs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_supervisor_up import COMMAND, NAMES, run, wait_for
from tests.kafka.certificates import FOR_CLIENTS, FOR_SERVERS, Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Of the collector and its senders."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def config(tmp_path: Path, authority: Authority, free_port: Callable[[], int]) -> Path:
    """A configuration that asks for certificates."""
    listen = ", ".join(f"{name}: 127.0.0.1:{free_port()}" for name in NAMES)
    server = authority.issue("server", FOR_SERVERS)
    tls = f"{{cert: {server.cert}, key: {server.key}, client_ca: {authority.ca}}}"
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text("- {certificate: osaka, tenant: acme, cluster: osaka-1, labels: {zone: b}}\n")
    file = tmp_path / "catchment.yaml"
    file.write_text(
        f"data_dir: {tmp_path}/data\nregion: jp-east\nflush: 300ms\nlisten: {{{listen}}}\n"
        f"tls: {tls}\ntenants: {tenants}\n"
    )
    return file


@pytest.fixture
def up(config: Path) -> Iterator[str]:
    """What a running `catchment up` said when it was ready."""
    with subprocess.Popen([*COMMAND, "up", "--config", str(config)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.terminate()
            assert process.wait(60) == 0


@pytest.mark.slow
def test_a_certificate_says_whose_a_point_is(up: str, config: Path, authority: Authority) -> None:
    """What `send` sends with a certificate is in SQL under the tenant and cluster of that certificate only."""

    def send(pair: Pair | None, ca: Path = authority.ca) -> subprocess.CompletedProcess[str]:
        files = [] if pair is None else ["--cert", str(pair.cert), "--key", str(pair.key)]
        return run("send", "parcels", "7", "--ca", str(ca), *files, "--config", str(config))

    def owners() -> str:
        query = (
            "SELECT tenant, cluster, sum(sum_int) AS n FROM metrics_cluster_1m WHERE metric = 'parcels' GROUP BY ALL"
        )
        return run("sql", query, "--format", "jsonl", "--config", str(config)).stdout.strip()

    assert "OTLP/HTTP https://" in up
    osaka, stranger = authority.issue("osaka", FOR_CLIENTS), authority.issue("stranger", FOR_CLIENTS)
    assert send(osaka).returncode == 0
    unknown, without = send(stranger), send(None)
    assert unknown.returncode == 1 and "unknown certificate" in unknown.stderr
    assert without.returncode == 3 and without.stderr.count("\n") == 1
    mistaken = send(osaka, ca=osaka.key)
    assert mistaken.returncode == 2 and "--ca, --cert or --key cannot be used" in mistaken.stderr
    assert send(osaka).returncode == 0
    wait_for(owners, json.dumps({"tenant": "acme", "cluster": "osaka-1", "n": 14}, separators=(",", ":")))
