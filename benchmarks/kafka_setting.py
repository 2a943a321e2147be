"""What the benchmarks on Kafka share: a broker in a folder of its own, and roles that have it for their log."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.stack import Stack
from tests.kafka.broker import Broker


@contextlib.contextmanager
def broker() -> Iterator[tuple[Path, Broker]]:
    """A folder for whatever is measured, and a broker that runs meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = Broker(folder / "broker")
        running.start()
        try:
            yield folder, running
        finally:
            running.stop()


def stack(folder: Path, address: str, prefix: str, *, session_seconds: int) -> Stack:
    """Roles whose topics begin with ``prefix``."""
    kafka = f"kafka: {{brokers: [{address}], replication_factor: 1, session_timeout: {session_seconds}s}}\n"
    return Stack(folder / prefix, f"{kafka}log: {{topic_prefix: {prefix}}}\n")
