"""However small the budgets, what folds into overflow series adds up to what it would have been apart."""

from __future__ import annotations

from random import Random

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from catchment.config_policies import Policies
from catchment.limits import Limits
from tests.edge_harness import EdgeHarness, Row
from tests.edge_reference import Cell, Key
from tests.edge_streams import streams
from tests.property.test_edge_reference import RANDOM, assert_equal, cells_of, digests_of

LIMITS = st.builds(
    Limits,
    series_per_metric_max=st.integers(1, 3),
    series_per_tenant_max=st.integers(1, 6),
    series_bytes_per_tenant_max=st.sampled_from((1 << 10, 1 << 26)),
    cardinality_sketches_max=st.sampled_from((4, 10_000)),
)


def totals(rows: list[Row]) -> dict[Key, Cell]:
    """By tenant, cluster, kind and window: what is left where even metrics fold together."""
    cells = cells_of([{**row, "service": "", "metric": "", "unit": "", "attributes": ""} for row in rows])
    for cell in cells.values():
        cell.magnitude = abs(cell.sum_float) + abs(cell.integral) + 1e6
    return cells


@settings(max_examples=60)
@given(RANDOM, LIMITS)
@example(Random(1), Limits(series_per_metric_max=1, series_per_tenant_max=1))
def test_folding_changes_no_total_of_any_kind(rng: Random, limits: Limits) -> None:
    """All values of all kinds, with resets, gaps and bad points between, and digests are those of an edge with room."""
    policies = Policies(default_drop=())  # each writer has series of its own
    folding, roomy = EdgeHarness(limits, policies), EdgeHarness(policies=policies)
    rows: dict[bool, list[Row]] = {False: [], True: []}
    written = streams(rng, writers_max=10)
    for each in written:
        flushes = rng.random() < 0.15
        for folds, edge in ((True, folding), (False, roomy)):
            edge.send(each.body, at=each.time, tenant=each.tenant, cluster=each.cluster)
            if flushes:
                rows[folds] += edge.flush(each.time)
    for folds, edge in ((True, folding), (False, roomy)):
        rows[folds] += edge.flush(written[-1].time + 400)
    assert_equal(totals(rows[True]), totals(rows[False]))
    assert +digests_of(folding.drained, folding) == +digests_of(roomy.drained, roomy)
    kept = {key: count for key, count in folding.tally.items() if not key[0].startswith("overflow_")}
    assert kept == dict(roomy.tally)
    event(f"folds: {any(key[0].startswith('overflow_') for key in folding.tally)}")
