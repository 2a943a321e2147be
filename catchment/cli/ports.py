"""Whether addresses are free, asked before anything starts, so that the answer names the key and not a stack."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from catchment.cli.exits import EnvironmentFault
from catchment.units import Address


def check_free(addresses: Mapping[str, Address]) -> None:
    """Check that each address (by its key in the configuration) can be listened on.

    Raises:
        EnvironmentFault: with every address that cannot.
    """
    faults = []
    for key, address in addresses.items():
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Connections that linger from a process before do not make a port taken; a listener does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                faults.append(f"{key} {address} is {'taken' if taken else f'not usable: {error.strerror}'}")
    if faults:
        raise EnvironmentFault("; ".join(faults) + "; stop what listens there or change listen: in the configuration")
