"""What the suite shares: a running Catchment, and programs that others wrote, built from their registries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.toolchains import Toolchains
from tests.faults.stack import UP, Stack


@pytest.fixture(scope="session")
def toolchains() -> Toolchains:
    """Builds third-party senders; a toolchain that is missing is a failure."""
    return Toolchains()


@pytest.fixture(scope="module")
def catchment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`catchment up` in a folder of its own, on ports of its own; every test of a module has services of its own."""
    with Stack(tmp_path_factory.mktemp("catchment"), commands={UP: "up"}) as stack:
        stack.start(UP)
        stack.wait_ready(UP)
        yield stack
