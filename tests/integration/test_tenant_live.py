"""`catchment tenant` against a collector that runs: who may send changes without a restart."""

from __future__ import annotations

import gzip
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stack import COMMAND, Stack

# The file is looked at every second (`tests.unit.test_tenants`); the rest is for a machine that does other things too.
_SECONDS_MAX = 60


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tenants file that nobody is in."""
    file = tmp_path / "tenants.yaml"
    file.write_text("# nobody yet\n")
    return file


@pytest.fixture
def collector(tmp_path: Path, file: Path) -> Iterator[Stack]:
    """A collector of that file."""
    rates = "rates: [{tenant: packed, bytes_per_second: 1KiB, burst: 1s}]\n"
    with Stack(tmp_path, f"tenants: {file}\n{rates}") as stack:
        stack.start("collector")
        stack.wait_ready("collector")
        yield stack


def tenant(*arguments: str | Path) -> str:
    """What `catchment tenant` says on stdout; it must succeed."""
    command = [*COMMAND, "tenant", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def status(collector: Stack, token: str, text: bytes = b"{}") -> int:
    """What a request with a token gets over HTTP."""
    headers = {"content-type": "application/json", "content-encoding": "gzip", "authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{collector.ports['otlp_http']}/v1/metrics"
    request = urllib.request.Request(url, gzip.compress(text), headers)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS_MAX) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def becomes(collector: Stack, expected: dict[str, int]) -> None:
    """Wait until each token gets its status."""
    deadline = time.monotonic() + _SECONDS_MAX
    while (found := {token: status(collector, token) for token in expected}) != expected:
        assert time.monotonic() < deadline, f"{list(found.values())} are not {list(expected.values())}"
        time.sleep(0.05)


@pytest.mark.slow
def test_credentials_come_and_go_while_a_collector_runs(collector: Stack, file: Path) -> None:
    """Added and rotated tokens get 200, removed ones 401, without a restart; who is new has
    its rate, of bytes as unpacked.
    """
    assert status(collector, "unknown") == 401
    first = tenant("add", "acme", "tokyo-1", "--label", "zone=a", "--file", file)
    becomes(collector, {first: 200, "unknown": 401})
    second = tenant("rotate", "acme", "tokyo-1", "--file", file)
    other = tenant("add", "acme", "osaka-1", "--file", file)
    becomes(collector, {first: 200, second: 200, other: 200})
    tenant("remove", "acme", "tokyo-1", "--old", "--file", file)
    becomes(collector, {first: 401, second: 200, other: 200})
    tenant("remove", "acme", "tokyo-1", "--file", file)
    becomes(collector, {first: 401, second: 401, other: 200})
    packed = tenant("add", "packed", "kobe-1", "--file", file)
    becomes(collector, {packed: 200})
    assert [status(collector, packed, b"{" + b" " * 100_000 + b"}") for _ in range(2)] == [200, 429]
    assert file.read_text().startswith("# nobody yet\n")
