"""The OpenTelemetry SDKs of four languages as black boxes: what they recorded is what SQL says, to the last unit."""

from __future__ import annotations

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
    endpoint = f"127.0.0.1:{catchment.ports[f'otlp_{protocol}']}"
    for _ in range(LIVES):
        toolchains.send(language, endpoint, protocol, temporality, service, ROUNDS)
    assert_exact(catchment, service, ROUNDS, LIVES)
