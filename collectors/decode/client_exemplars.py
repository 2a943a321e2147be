"""Exemplars as targets answer them in protobuf: parsed by themselves, since most samples have none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from collectors.decode.client_messages import EXEMPLAR, timestamps_ns
from collectors.decode.messages import parsed
from collectors.decode.points import Exemplars
from collectors.decode.views import children, values_of

Int64s = npt.NDArray[np.int64]


def exemplars_of(point: Int64s, raw: pa.Array) -> Exemplars | None:
    """Exemplars from their messages, which are empty where there is none; a time of 0 is none.

    Args:
        point: what each belongs to.
        raw: binary, a message each.

    Raises:
        Invalid: one of them is no such message.
    """
    if not len(raw):
        return None
    rows = parsed(EXEMPLAR, raw)
    return Exemplars(
        point=point,
        value=values_of(rows.field("value"), np.float64),
        time_ns=timestamps_ns(rows.field("timestamp")),
        trace_ids=_ids(rows.field("label"), b"trace_id", 32),
        span_ids=_ids(rows.field("label"), b"span_id", 16),
    )


def _ids(labels: pa.ListArray, name: bytes, digits: int) -> pa.Array:
    """The ids that a label has, as bytes; none where it has another length."""
    owner, pairs = children(labels)
    frame = pl.DataFrame({"owner": owner, "name": pairs.field("name"), "value": pairs.field("value")})
    found = frame.filter((pl.col("name") == name) & (pl.col("value").bin.size() == digits)).unique("owner")
    ids = found.select("owner", id=pl.col("value").bin.decode("hex", strict=False))
    rows = pl.DataFrame({"owner": np.arange(len(labels), dtype=np.int32)})
    every = rows.join(ids, on="owner", how="left", maintain_order="left")["id"]
    return every.fill_null(b"").to_arrow().cast(pa.binary())
