"""The edge as the state of a folder says: all that the last flush knew."""

from __future__ import annotations

from catchment.limits import Limits
from collectors import life_table, series_table
from collectors.catalog import Catalog
from collectors.edge import Edge
from collectors.lives import Lives
from collectors.policy import Policy
from collectors.seen import SeenPoints
from collectors.state import StateFile
from collectors.state_records import Meta


def restored(
    state: StateFile, meta: Meta, policy: Policy, limits: Limits, *, window_seconds: int, now_ns: int
) -> tuple[Edge, set[tuple[str, str]]]:
    """An edge whose series, lives, repeats and remote-written series are those of a state file.

    Args:
        state: is read.
        meta: its head.
        policy: what is in force.
        limits: of the edge.
        window_seconds: the resolution.
        now_ns: what the head says of later was said by a clock that went wrong.

    Returns:
        The edge, and the tenants and clusters that it has series of.
    """
    catalog, lives = Catalog(limits), Lives(min(meta.known_since_ns, now_ns), limits.baseline_buckets_max)
    places = series_table.restore(catalog, state.series())
    life_table.restore(lives, state.lives())
    seen = SeenPoints(limits.seen_points_max, min(meta.seen_horizon_ns, now_ns))
    for segment in state.seen():
        seen.restore(segment)
    edge = Edge(limits, policy, window_seconds=window_seconds, catalog=catalog, lives=lives, seen=seen)
    edge.remote.restore(state.writes())
    return edge, places
