"""Retiring clusters: from a time on nothing is expected of them, so their silence is no outage."""

from __future__ import annotations

import pyarrow as pa

from catchment.errors import Invalid
from catchment.windows import NANOSECONDS
from store.ddl import RETIRED_TABLE
from store.engine.port import Engine


def retire(engine: Engine, *, tenant: str, region: str, cluster: str, from_ns: int, now_ns: int) -> None:
    """Expect nothing of a cluster in windows that start at ``from_ns`` (ns, UTC) or later. It may still report.

    Raises:
        Invalid: no such cluster ever reported, or ``from_ns`` is before 1970.
        EngineError: refused.
    """
    seconds = -(-from_ns // NANOSECONDS)
    if seconds <= 0:
        raise Invalid("a cluster cannot be retired before 1970", from_ns=from_ns)
    _decide(engine, tenant, region, cluster, seconds, now_ns)


def reinstate(engine: Engine, *, tenant: str, region: str, cluster: str, now_ns: int) -> None:
    """Take a retirement back, as if it had never been.

    Raises:
        Invalid: no such cluster ever reported.
        EngineError: refused.
    """
    _decide(engine, tenant, region, cluster, 0, now_ns)


def _decide(engine: Engine, tenant: str, region: str, cluster: str, retired_from: int, now_ns: int) -> None:
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
    token = f"retire/{tenant}/{region}/{cluster}/{now_ns}"
    engine.insert(RETIRED_TABLE, pa.table({**row, "state": state}), token=token)


def _escaped(value: str) -> str:
    """A parameter's text as the HTTP interface takes it: backslash, tab and newline escaped."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
