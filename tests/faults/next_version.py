"""The program as its next version: ``python -m tests.faults.next_version LANE[,LANE…] COMMAND …``.

It writes, and reads, one more version of the named lanes, as after a change of their rows; all else is as it is.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import MappingProxyType

from catchment import columns, version

NEXT_PROGRAM = "0.2.0"


def main() -> None:
    """Become the next version before anything else of the program is imported, then run the command."""
    changed = sys.argv.pop(1).split(",")
    lanes = {
        name: replace(lane, version=lane.version + 1) if name in changed else lane
        for name, lane in columns.LANES.items()
    }
    vars(columns)["LANES"] = MappingProxyType(lanes)
    vars(version)["PROGRAM"] = NEXT_PROGRAM
    from catchment.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
