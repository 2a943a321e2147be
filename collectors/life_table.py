"""Lives as a table, to persist them and to bring them back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.histogram import Histograms, concat_histograms, take_histograms
from collectors.lives import DTYPES, Lives

# What is rebuilt at loading, or says something about this run only.
_NOT_PERSISTED = ("bucket_start", "bucket_count", "next_life", "heard_ns", "touched", "dead")
_ROWS_PER_TABLE = 16_384
_COLUMNS = [name for name in DTYPES if name not in _NOT_PERSISTED]


def touched_lives(lives: Lives) -> npt.NDArray[np.intp]:
    """Rows that changed since the last flush; dead ones too, whose saved state would come back too old otherwise."""
    return np.flatnonzero(lives.columns.touched[: len(lives)])


def to_tables(lives: Lives, rows: npt.NDArray[np.intp]) -> Iterator[pa.Table]:
    """Some lives as tables of a bounded size, made one at a time."""
    for start in range(0, len(rows), _ROWS_PER_TABLE):
        yield to_table(lives, rows[start : start + _ROWS_PER_TABLE])


def to_table(lives: Lives, rows: npt.NDArray[np.intp]) -> pa.Table:
    """Some lives as a table."""
    offsets, keys, counts = lives.buckets(rows)
    columns = {name: pa.array(getattr(lives.columns, name)[rows]) for name in _COLUMNS}
    columns["buckets"] = pa.MapArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(keys), pa.array(counts), type=pa.map_(pa.int64(), pa.uint64())
    )
    return pa.table(columns)


def restore(lives: Lives, segments: list[pa.Table]) -> None:
    """Put persisted lives into an empty table; of several rows of one life the last is the one."""
    if not segments:
        return
    # By name: a later version's columns are its own, and only in the segments that it wrote.
    table = pa.concat_tables([_known(segment) for segment in segments])
    ids, starts = table["stream_id"].to_numpy(), table["start_ns"].to_numpy()
    order = np.lexsort((np.arange(len(ids)), starts, ids))
    last = np.ones(len(ids), np.bool_)
    last[:-1] = (ids[order][1:] != ids[order][:-1]) | (starts[order][1:] != starts[order][:-1])
    rows = np.sort(order[last])
    parts = [_buckets(chunk) for chunk in table["buckets"].chunks]
    offsets, keys, counts = take_histograms(concat_histograms(parts), rows)
    lives.load({name: table[name].to_numpy()[rows] for name in _COLUMNS}, offsets, keys, counts)


def _known(segment: pa.Table) -> pa.Table:
    """The columns that this program knows; of an earlier one's the later ones are empty."""
    for name in _COLUMNS:
        if name not in segment.column_names:
            segment = segment.append_column(name, pa.array(np.zeros(segment.num_rows, DTYPES[name])))
    return segment.select([*_COLUMNS, "buckets"])


def _buckets(maps: pa.MapArray) -> Histograms:
    return Histograms(maps.offsets.to_numpy().astype(np.int64), maps.keys.to_numpy(), maps.items.to_numpy())
