"""What the tables hold, summed per series, and the proof that all places agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from tests.faults.stack import Stack

# (service, metric, value of the attribute "key")
Key = tuple[str, str, str]

# What differs when the same numbers are added in another order.
_RELATIVE = 1e-12


@dataclass
class Totals:
    """The sums of one series over all windows; None where nobody can know."""

    count: int | None = 0
    sum_int: int | None = 0
    sum_float: float | None = 0.0
    last: float | None = None
    histogram: dict[int, int] = field(default_factory=dict)


@dataclass
class Stored(Totals):
    """The same as stored, with what only the tables know."""

    points: int = 0
    min: float | None = None
    max: float | None = None
    integral: float = 0.0
    observed_seconds: float = 0.0


def stored(stack: Stack, view: str) -> dict[Key, Stored]:
    """Per series, what a view holds over all windows."""
    rows = stack.rows(
        f"""SELECT m.service AS service, m.metric AS metric, m.attributes['key'] AS key, sum(m.points) AS points_,
            sum(m.count) AS count_, toString(sum(m.sum_int)) AS sum_int_, sum(m.sum_float) AS sum_float_,
            argMax(m.last, m.window_start) AS last_, sumMap(m.histogram) AS histogram_, min(m.min) AS min_,
            max(m.max) AS max_, sum(m.integral) AS integral_, sum(m.observed_seconds) AS observed_seconds_
        FROM {view} AS m GROUP BY service, metric, key"""
    )
    return {
        (row["service"], row["metric"], row["key"]): Stored(
            points=row["points_"],
            count=row["count_"],
            sum_int=int(row["sum_int_"]),
            sum_float=float(row["sum_float_"]),
            last=None if row["last_"] is None else float(row["last_"]),
            histogram={int(key): int(count) for key, count in row["histogram_"].items() if int(count)},
            min=row["min_"],
            max=row["max_"],
            integral=float(row["integral_"]),
            observed_seconds=float(row["observed_seconds_"]),
        )
        for row in rows
    }


def same(one: object, other: object) -> bool:
    """Equal; fractions within what another order of additions makes of them."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_RELATIVE)
    return one == other


def differences(expected: Mapping[Key, Totals], found: Mapping[Key, Totals]) -> list[str]:
    """Each value of each series that is not as expected; fields that are None in ``expected`` are not compared."""
    said = [f"{key} is missing" for key in expected.keys() - found.keys()]
    said += [f"{key} was never sent" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        wanted, got = expected[key], found[key]
        for name in (each.name for each in fields(wanted)):
            one, other = getattr(wanted, name), getattr(got, name)
            if one is not None and not same(one, other):
                said.append(f"{key} {name}: expected {one}, found {other}")
    return sorted(said)


def disagreements(stack: Stack) -> list[str]:
    """Where the places do not add up: minutes, hours and days; clusters and regions; digests at every level."""
    base = stored(stack, "metrics_cluster_1m")
    said = []
    for view in ("metrics_cluster_1h", "metrics_cluster_1d", *(f"metrics_region_1{unit}" for unit in "mhd")):
        said += [f"{view}: {line}" for line in differences(base, stored(stack, view))]
    acknowledged = stack.acknowledged()
    rows = stack.rows(
        "SELECT tenant, level, sum(t.points) AS points_, toString(sum(t.digest)) AS digest_, "
        "sum(t.stored_points) AS stored_ FROM control_totals AS t WHERE lane = 'metrics' GROUP BY tenant, level"
    )
    places = {(row["tenant"], row["level"]): (row["points_"], int(row["digest_"]) % 2**64) for row in rows}
    for tenant, totals in acknowledged.items():
        for level in ("cluster", "region", "globe"):
            if places.get((tenant, level)) != totals:
                said.append(f"{tenant}: acknowledged {totals}, control totals at {level} {places.get((tenant, level))}")
    said += [f"{row['tenant']} {row['level']}: {row}" for row in rows if row["points_"] != row["stored_"]]
    points = sum(series.points for series in base.values())
    if points != sum(totals[0] for totals in acknowledged.values()):
        said.append(f"{points} points are stored, acknowledged were {acknowledged}")
    return said
