"""Free TCP ports of this machine for what the demo starts."""

from __future__ import annotations

import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"
_PORTS: Final = range(12_000, 32_000)
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different, others at each call, and stay so.

    They are below those that systems give to outgoing connections: else, while a killed process is away, a client that
    dials its port could be given that very port as its own, and would hold it.
    """
    candidates = random.SystemRandom().sample(_PORTS, len(_PORTS))  # two demos at once should not race for the same
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            break
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found.append(port)
    _given.update(found)
    return found
