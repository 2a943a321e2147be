"""Free TCP ports of this machine."""

from __future__ import annotations

import contextlib
import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A port that was free just now, another one at each call."""
    while True:
        # Below the ephemeral range: no outgoing connection takes it between a process's death and its restart.
        # The system's randomness: that of the module is seeded anew before each test, and would repeat itself.
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
