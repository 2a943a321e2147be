"""What is asked of Catchment after a sender has ended: totals, places that agree, and no loss."""

from __future__ import annotations

from tests.conformance.workload import faults
from tests.faults.stack import Stack
from tests.faults.totals import disagreements, stored

# All reasons but those by which nothing is missing: a late cumulative point's increase is in what came before it.
_LOSS = "reason NOT IN ('unverified', 'late_gauge', 'late_cumulative', 'repeated')"


def assert_exact(catchment: Stack, service: str, rounds: int, lives: int) -> None:
    """The totals of a service's workload, in the rows of clusters and of regions."""
    catchment.drain()
    for view in ("metrics_cluster_1m", "metrics_region_1m"):
        said = faults(service, rounds, lives, stored(catchment, view))
        assert not said, "\n".join([view, *said])
    assert_places_agree(catchment)


def assert_places_agree(catchment: Stack) -> None:
    """All views, places and digests agree, and nothing was lost on the way or refused."""
    said = disagreements(catchment)
    assert not said, "\n".join(said)
    lost = catchment.rows(f"SELECT d.reason, d.unit, d.count FROM pipeline_drops AS d WHERE {_LOSS}")
    assert not lost, f"{lost}"
