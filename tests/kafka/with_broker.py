"""Run a command while a broker runs: ``python -m tests.kafka.with_broker COMMAND --kafka {broker}``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kafka.broker import Broker, require_jars


def main() -> int:
    """Start a broker, run the command with ``{broker}`` replaced by its address, and end the broker."""
    require_jars()
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        broker = Broker(Path(folder))
        broker.start()
        try:
            command = [part.replace("{broker}", broker.plain) for part in sys.argv[1:]]
            return subprocess.run(command, check=False).returncode
        except KeyboardInterrupt:
            return 130
        finally:
            broker.stop()


if __name__ == "__main__":
    sys.exit(main())
