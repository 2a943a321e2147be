"""The OpenTelemetry SDKs of four languages as black boxes: what they recorded is what SQL says, to the last unit."""

from __future__ import annotations

import subprocess

import pytest

from tests.conformance.checks import assert_exact
from tests.conformance.toolchains import Toolchains
from tests.faults.stack import Stack

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

LANGUAGES = ("python", "go", "java", "javascript")
ROUNDS = 13
LIVES = 2


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_an_sdk_counts_exactly(
    catchment: Stack, toolchains: Toolchains, language: str, protocol: str, temporality: str
) -> None:
    """Counters, levels and both histograms of a program that runs twice are exact per series and bucket."""
    service = f"{language}-{protocol}-{temporality}"
    options = {
        "endpoint": f"127.0.0.1:{catchment.ports[f'otlp_{protocol}']}",
        "protocol": protocol,
        "temporality": temporality,
        "service": service,
        "rounds": str(ROUNDS),
    }
    command = [*toolchains.sender(language), *(part for name in options for part in (f"--{name}", options[name]))]
    for _ in range(LIVES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    assert_exact(catchment, service, ROUNDS, LIVES)
