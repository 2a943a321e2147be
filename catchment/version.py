"""Versions: of the program, and of what it writes."""

from __future__ import annotations

PROGRAM = "0.1.0"


def envelope_versions() -> dict[str, int]:
    """The version of each lane's envelope that this program writes; it reads all older ones."""
    from catchment.columns import LANES  # Arrow takes 0.2 s to import, which `catchment --version` need not wait for

    return {lane.name: lane.version for lane in LANES.values()}
