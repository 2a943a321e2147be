"""What the loader does with one message, decided without touching anything: a pure core.

Rules:

1. One message is one insert into one table with one token. The token is ``log id/topic/partition/offset``: it names the
   content, since the same token with other data would vanish silently.
2. Rows are sorted here as the table is, so that the engine finds them sorted and the chained tables, too.
3. What the table cannot hold is `Invalid` here, with its reason, and never a surprise of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catchment.columns import Column, Lane, Merge
from catchment.envelope import Envelope
from catchment.errors import Invalid
from catchment.windows import NANOSECONDS
from store.ddl import LATEST_NEUTRAL, TABLES_DATABASE, element_name, is_metrics, latest_groups

_HOUR_SECONDS = 3600
_WEEK_SECONDS = 7 * 86400
# 1970-01-05 was the first Monday: weeks of `toMonday` are counted from there.
_FIRST_MONDAY_SECONDS = 4 * 86400
# DateTime is an unsigned 32-bit count of seconds.
_SECONDS_MAX = 2**32 - 1
# A block may touch this many table partitions; the engine's own default of 100 is raised to it by the adapter.
PARTITIONS_MAX = 1000


@dataclass(frozen=True)
class Insert:
    """The one insert that a message becomes.

    ``blocks`` is the most table-partition blocks that it adds to any table it reaches, which is what the deduplication
    window counts. ``points`` are data points (0 where the lane has none).
    """

    table: str
    token: str
    columns: pa.Table
    rows: int
    points: int
    blocks: int


def plan(envelope: Envelope, lane: Lane, token: str) -> Insert:
    """Turn an envelope into its insert.

    Raises:
        Invalid: times that the table cannot hold, or more table partitions than one insert may touch.
    """
    header, rows = envelope.header, envelope.rows.unify_dictionaries().combine_chunks()
    starts = _starts_seconds(rows)
    order = _sorted_order(rows, lane, starts)
    columns: dict[str, Any] = {
        "tenant": _constant(header.tenant, rows.num_rows),
        "region": _constant(header.region, rows.num_rows),
    }
    groups = latest_groups(lane)
    for column in lane.columns:
        if column.name == "window_start_ns":
            columns["window_start"] = pa.array(starts[order].astype(np.uint32))
        elif column.merge is Merge.LATEST:
            members = groups.pop(column.group, ())
            if members:
                columns[column.group] = _latest(rows, column.group, members).take(pa.array(order))
        else:
            columns[column.name] = _whole(rows[column.name]).take(pa.array(order))
    table = pa.table(columns)
    return Insert(
        table=f"{TABLES_DATABASE}.{lane.name}",
        token=token,
        columns=table,
        rows=rows.num_rows,
        points=header.totals.points,
        blocks=_blocks(starts),
    )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _constant(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([text]))


def _starts_seconds(rows: pa.Table) -> npt.NDArray[np.int64]:
    starts_ns = _whole(rows["window_start_ns"]).to_numpy(zero_copy_only=False)
    starts = starts_ns // NANOSECONDS
    if len(starts) and (starts.min() < 0 or starts.max() > _SECONDS_MAX):
        raise Invalid("window_start outside 1970 to 2106")
    if np.any(starts * NANOSECONDS != starts_ns):
        raise Invalid("window_start is not a whole second")
    return np.asarray(starts, dtype=np.int64)


def _blocks(starts: npt.NDArray[np.int64]) -> int:
    """Weeks touched, plus one: a week that spans the end of a month or year makes two blocks in a chained table."""
    if not len(starts):
        return 0
    weeks = len(np.unique((starts - _FIRST_MONDAY_SECONDS) // _WEEK_SECONDS))
    if weeks > PARTITIONS_MAX:
        raise Invalid(f"rows of {weeks} weeks in one message, at most {PARTITIONS_MAX}")
    return weeks * 2


def _codes(column: pa.Array) -> npt.NDArray[Any]:
    """Numbers that sort as the column does: for strings, the rank among the distinct ones."""
    if pa.types.is_dictionary(column.type):
        ranks = np.empty(len(column.dictionary), dtype=np.int64)
        ranks[pc.array_sort_indices(column.dictionary).to_numpy(zero_copy_only=False)] = np.arange(len(ranks))
        indices = column.indices.to_numpy(zero_copy_only=False)
        return ranks[indices] if len(ranks) else np.asarray(indices, dtype=np.int64)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _sorted_order(rows: pa.Table, lane: Lane, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The permutation that sorts rows as their table is (tenant and region are equal in an envelope)."""
    time = ("window_start_ns", "window_seconds")
    # By the table's key: metric, bucket of time, place and series, time.
    head: Sequence[str] = ("metric",) if is_metrics(lane) else ()
    tail = ("cluster", "series_id") if is_metrics(lane) else tuple(key for key in lane.keys if key not in time)
    keys = [_codes(_whole(rows[name])) for name in head]
    keys.append(starts // _HOUR_SECONDS)
    keys += [_codes(_whole(rows[name])) for name in tail if name in lane.keys]
    keys += [starts, _codes(_whole(rows["window_seconds"]))]
    return np.lexsort(keys[::-1])


def _latest(rows: pa.Table, group: str, members: tuple[Column, ...]) -> pa.Array:
    """The tuple column of a LATEST group, with what wins over nothing where the group is null."""
    arrays = [_whole(rows[member.name]) for member in members]
    neutral = LATEST_NEUTRAL.get(group)
    if neutral is not None:
        # A group is null if its first column is (catchment/algebra/latest.py).
        missing = pc.is_null(arrays[0])
        arrays = [
            pc.fill_null(pc.if_else(missing, none, array), none)
            for array, none in (
                (array, pa.scalar(value, type=array.type)) for array, value in zip(arrays, neutral, strict=True)
            )
        ]
    return pa.StructArray.from_arrays(arrays, names=[element_name(member) for member in members])
