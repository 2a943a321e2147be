"""`catchment up` as a user runs it: one command, one folder, all tiers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

COMMAND = (sys.executable, "-m", "catchment.cli.main")
NAMES = ("otlp_grpc", "otlp_http", "sql", "ui", "status")


@pytest.fixture
def config(tmp_path: Path, free_port: Callable[[], int]) -> Path:
    """A configuration with a folder and ports of its own."""
    listen = ", ".join(f"{name}: 127.0.0.1:{free_port()}" for name in NAMES)
    file = tmp_path / "catchment.yaml"
    file.write_text(f"data_dir: {tmp_path}/data\nregion: jp-east\nflush: 300ms\nlisten: {{{listen}}}\n")
    return file


@pytest.fixture
def up(config: Path) -> Iterator[subprocess.Popen[str]]:
    """A running `catchment up`, ready; stopped at the end if the test did not."""
    with subprocess.Popen([*COMMAND, "up", "--config", str(config)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("catchment is ready: OTLP/gRPC 127.0.0.1:")
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the CLI, to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)


def status_url(config: Path) -> str:
    """Address of the supervisor's status server."""
    shown = json.loads(run("config", "show", str(config), "--json").stdout)
    return f"http://{shown['listen']['status']}"


def get(url: str, *, post: bool = False, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of one request."""
    request = urllib.request.Request(url, data=b"" if post else None, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def says(url: str, part: str) -> str:
    """Whether an answer has a part, as text."""
    return str(part in get(url)[1])


def wait_for(answer: Callable[[], str], expected: str) -> None:
    """Wait until a question has the expected answer, at most 30 s."""
    deadline = time.monotonic() + 30
    while (said := answer()) != expected:
        assert time.monotonic() < deadline, f"{said!r} is not {expected!r}"
        time.sleep(0.2)


def test_a_point_sent_is_in_sql_and_survives_the_death_of_every_child(
    up: subprocess.Popen[str], config: Path, tmp_path: Path
) -> None:
    """What was accepted is summed in SQL exactly once, although each child in turn is killed."""

    def total() -> str:
        query = "SELECT sum(sum_int) AS total FROM metrics_cluster_1m WHERE metric = 'parcels'"
        return run("sql", query, "--format", "jsonl", "--config", str(config)).stdout

    url = status_url(config)
    expected = 0
    for role in ("collector", "aggregator", "store"):
        sent = run("send", "parcels", "7", "--attr", f"killed={role}", "--config", str(config))
        assert sent.returncode == 0, sent.stderr
        expected += 7
        state = json.loads((tmp_path / "data" / "run" / f"{role}.json").read_text())
        os.kill(state["pid"], signal.SIGKILL)
        wait_for(partial(says, f"{url}/metrics", f'child="{role}"}} 1.0'), "True")
        wait_for(lambda: str(get(f"{url}/readyz")[0]), "200")
    wait_for(lambda: str(json.loads(total() or "{}").get("total")), str(expected))
    up.terminate()
    assert up.wait(60) == 0


def test_a_second_up_on_the_same_folder_or_ports_exits_with_3(up: subprocess.Popen[str], config: Path) -> None:
    """The second one says who has the folder, or which ports are taken, and leaves the first one alone."""
    same_folder = run("up", "--config", str(config))
    assert (same_folder.returncode, same_folder.stderr.count("\n")) == (3, 1)
    assert f"in use by process {up.pid}" in same_folder.stderr
    same_ports = run("up", "--config", str(config), "--data-dir", str(config.parent / "other"))
    assert same_ports.returncode == 3
    assert "listen.otlp_grpc" in same_ports.stderr and "listen.sql" in same_ports.stderr
    url = status_url(config)
    wait_for(lambda: str(get(f"{url}/readyz")[0]), "200")


def test_reload_takes_a_good_file_and_refuses_a_bad_one(up: subprocess.Popen[str], config: Path) -> None:
    """A reload puts a changed value in force; a file with faults is answered with all of them, and nothing changes."""
    url, good = status_url(config), config.read_text()
    config.write_text(good + "cluster: {name: osaka-1}\n")
    assert get(f"{url}/-/reload", post=True) == (200, "reloaded\n")
    clusters = ("sql", "SELECT cluster FROM clusters ORDER BY cluster", "--format", "csv", "--config", str(config))
    wait_for(lambda: str("osaka-1" in run(*clusters).stdout), "True")
    config.write_text(good + "flsh: 1s\nresolution: 7s\n")
    status, faults = get(f"{url}/-/reload", post=True)
    assert status == 400 and "did you mean flush?" in faults and "does not divide an hour" in faults
    assert get(f"{url}/-/reload", post=True, headers={"Origin": "http://evil.example"})[0] == 403
    config.write_text(good)
    wait_for(lambda: str(get(f"{url}/healthz")[0]), "200")


def test_status_and_clusters_and_dead_letters_have_their_commands(up: subprocess.Popen[str], config: Path) -> None:
    """The operator's commands work against what `up` runs."""
    file = ("--config", str(config))

    def shown() -> dict[str, Any]:
        # A child that does not answer within 2 s is not ready, and its tier is left out.
        return dict(json.loads(run("status", "--json", *file).stdout or '{"ready": false, "tiers": {}}'))

    def tiers() -> str:
        said = shown()
        return " ".join(sorted(said["tiers"])) if said["ready"] is True else "not ready"

    wait_for(tiers, "aggregator collector store up")
    counted = ("rollup_messages_in_total", "rollup_messages_out_total", "rollup_rows_in_total", "rollup_rows_out_total")

    def rolled_up() -> bool:
        aggregator = shown()["tiers"].get("aggregator", {})
        return all(aggregator.get(name, 0) > 0 for name in counted)

    wait_for(lambda: str(rolled_up()), "True")
    assert run("dlq", "list", *file).stdout == "0 open\n"
    assert run("dlq", "replay", "5", *file).returncode == 2
    assert run("store", "quarantine", "list", *file).stdout == "0 open\n"
    resume = ("store", "resume", "catchment.global.totals", "0", "0", "--as", "again", "--why", "a test")
    assert "not halted at that offset" in run(*resume, *file).stderr
    wait_for(lambda: str("local" in run("cluster", "list", *file).stdout), "True")
    assert run("cluster", "retire", "local", *file).stdout == "retired default/jp-east/local\n"
    assert "no such cluster" in run("cluster", "retire", "nowhere", *file).stderr
    since = ("--from", "2026-01-05T00:00:00Z")
    assert run("cluster", "retire", "local", *since, *file).stdout == "retired default/jp-east/local\n"
    assert '"retired_at":"2026-01-05 00:00:00"' in run("cluster", "list", "--json", *file).stdout
    assert run("cluster", "retire", "local", "--back", *since, *file).stdout == "reinstated default/jp-east/local\n"
    assert '"retired":false' in run("cluster", "list", "--json", *file).stdout
    assert "2026-11-26T12:00:00Z" in run("cluster", "retire", "local", "--from", "noon", *file).stderr
    refused = run("sql", "DROP TABLE metrics_cluster_1m", *file)
    assert refused.returncode in (2, 3) and refused.stderr.count("\n") == 1
