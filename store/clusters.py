"""Retiring clusters: for as long as one is retired nothing is expected of it, so its silence is no outage.

Each decision holds from its own time on, until a later decision says otherwise. All are kept, so that a window of a
time between two retirements is judged as it was then.
"""

from __future__ import annotations

import pyarrow as pa

from catchment.errors import Invalid
from catchment.windows import NANOSECONDS
from store.ddl import RETIRED_TABLE
from store.engine.port import Engine

# The end of DateTime, which windows have.
_SECONDS_MAX = 2**32 - 1


def retire(engine: Engine, *, tenant: str, region: str, cluster: str, from_ns: int, now_ns: int) -> None:
    """Expect nothing of a cluster in windows that start at ``from_ns`` (ns, UTC) or later. It may still report.

    Raises:
        Invalid: no such cluster ever reported, or ``from_ns`` is no time that a window can have.
        EngineError: refused.
    """
    _decide(engine, tenant, region, cluster, _second(from_ns), 0, now_ns)


def reinstate(engine: Engine, *, tenant: str, region: str, cluster: str, from_ns: int, now_ns: int) -> None:
    """Expect a cluster again in windows that start at ``from_ns`` (ns, UTC) or later.

    With the time of a retirement it is as if that had never been.

    Raises:
        Invalid: no such cluster ever reported, or ``from_ns`` is no time that a window can have.
        EngineError: refused.
    """
    _decide(engine, tenant, region, cluster, 0, _second(from_ns), now_ns)


def _second(from_ns: int) -> int:
    second = -(-from_ns // NANOSECONDS)
    if not 0 < second < _SECONDS_MAX:
        raise Invalid("windows start after the beginning of 1970 and before 2106", from_ns=from_ns)
    return second


def _decide(
    engine: Engine, tenant: str, region: str, cluster: str, retired_from: int, expected_from: int, now_ns: int
) -> None:
    names = {"tenant": tenant, "region": region, "cluster": cluster}
    escaped = {name: _escaped(value) for name, value in names.items()}
    known = engine.query(
        "SELECT count() FROM clusters WHERE tenant = {tenant:String} AND region = {region:String} "
        "AND cluster = {cluster:String}",
        params=escaped,
    )
    if known.data.strip() == b"0":
        raise Invalid("no such cluster ever reported", **names)
    row = {name: pa.array([value]) for name, value in names.items()}
    state = pa.StructArray.from_arrays(
        [pa.array([now_ns], pa.int64()), pa.array([retired_from], pa.int64())], names=["changed_ns", "retired_from"]
    )
    decided = {"decided_ns": pa.array([now_ns], pa.int64()), "expected_from": pa.array([expected_from], pa.int64())}
    token = f"retire/{tenant}/{region}/{cluster}/{now_ns}"
    engine.insert(RETIRED_TABLE, pa.table({**row, "state": state, **decided}), token=token)


def _escaped(value: str) -> str:
    """A parameter's text as the HTTP interface takes it: backslash, tab and newline escaped."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
