"""What all tests share."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

# Machines that run the tests are shared: a slow example is no failure, and a slow generator none either.
settings.register_profile("catchment", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("catchment")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a TCP port of this machine that was free just now, another one at each call."""
    given: set[int] = set()

    def one() -> int:
        while True:
            # Below the ephemeral range: no outgoing connection takes it between a process's death and its restart.
            port = random.randrange(12_000, 32_000)
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                if port not in given:
                    given.add(port)
                    return port

    return one
