"""The limits that decide whether a point is taken and as what it counts, as they were when an inbox was written.

Rule: what was acknowledged is replayed under the limits that it was acknowledged under, whatever the configuration says
since. Else a collector that is killed, and started with lower ones, would refuse points that their sender believes
safe; and with higher ones count points that it was told are rejected. Some of them bound memory, too: a replay takes as
much as the process before it took. Of a point of remote write that comes in several requests the last of them decides.

All other limits are those of the configuration at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from catchment.limits import Limits

if TYPE_CHECKING:
    import sqlite3

    from collectors.state import StateFile

SCHEMA = "CREATE TABLE IF NOT EXISTS limits (name TEXT PRIMARY KEY, value TEXT NOT NULL);"
NAMES = (
    "attribute_count_max",
    "attribute_value_bytes_max",
    "attribute_depth_max",
    "attributes_bytes_max",
    "metric_name_bytes_max",
    "histogram_buckets_max",
    "histogram_count_max",
    "histogram_parts_max",
    "future_seconds_max",
    "past_seconds_max",
    "streams_max",
    "lives_per_stream_max",
    "stream_idle_seconds",
    "baseline_buckets_max",
    "seen_points_max",
    "metric_families_max",
    "held_samples_max",
    "held_seconds_max",
)


def judging(limits: Limits) -> dict[str, int]:
    """Those of some limits that judge points."""
    return {name: getattr(limits, name) for name in NAMES}


def opened(state: StateFile, configured: Limits) -> Limits:
    """The limits of a folder: those it was used with before, where they judge, else the configured ones; kept in it.

    Raises:
        Retry: they cannot be kept.
    """
    before = state.limits()
    limits = replace(configured, **{name: before[name] for name in NAMES if name in before})
    if judging(limits) != before:
        state.keep_limits(judging(limits))
    return limits


def read(db: sqlite3.Connection) -> dict[str, int]:
    """What was kept; empty before the first start, and in a folder of a version that kept nothing."""
    return {name: int(value) for name, value in db.execute("SELECT name, value FROM limits")}


def write(db: sqlite3.Connection, values: Mapping[str, int]) -> None:
    """Keep these and no others; within a transaction."""
    db.execute("DELETE FROM limits")
    db.executemany(
        "INSERT INTO limits (name, value) VALUES (?, ?)", [(name, str(value)) for name, value in values.items()]
    )
