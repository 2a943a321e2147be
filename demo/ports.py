"""TCP ports: free ones of this machine, for what the demo starts and for tests, and whether one is answered."""

from __future__ import annotations

import os
import random
import socket
from typing import Final

HOST: Final = "127.0.0.1"
_PORTS: Final = range(12_000, 32_000)
# "share/of": a process that has this in its environment, and its children, give only that share of the ports. A port is
# free until it is bound, so those that start servers side by side would now and then choose the same.
SHARE: Final = "DEMO_PORTS_SHARE"
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different, others at each call.

    They are below those that systems give to outgoing connections: else, while a killed process is away, a client that
    dials its port could be given that very port as its own, and would hold it.
    """
    return [free_port() for _ in range(count)]


def free_port() -> int:
    """One port, as `free_ports` gives them."""
    # The system's randomness: two demos at once should not race for the same, and a seeded one would repeat itself.
    chance = random.SystemRandom()
    share, _, of = os.environ.get(SHARE, "0/1").partition("/")
    ports = _PORTS[int(share) :: int(of)]
    while True:
        port = chance.choice(ports)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def answers(address: str) -> bool:
    """Whether a connection to "host:port" is taken within a second."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return True
    except OSError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
