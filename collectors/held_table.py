"""Held samples of remote write as a table, with their series' labels and types: to persist them and bring them back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from collectors.catalog import Catalog
from collectors.decode.families import MetricType
from collectors.decode.remote_wire import RawSeries
from collectors.reassembly import HeldSamples
from collectors.remote_series import RemoteSeries, TypedSeries

_UNTYPED = -1


def to_table(held: HeldSamples, series: RemoteSeries, catalog: Catalog) -> pa.Table:
    """Held samples as a table."""
    slots, at = np.unique(held.slot, return_inverse=True)
    typed = [series.typed(slot) for slot in slots.tolist()]
    places = [catalog.places[place] for place in series.places(slots).tolist()]
    indices = pa.array(at.astype(np.int32))

    def by_series(values: list[object], of_type: pa.DataType) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(indices, pa.array(values, of_type))

    return pa.table(
        {
            "tenant": by_series([place.tenant for place in places], pa.string()),
            "cluster": by_series([place.cluster for place in places], pa.string()),
            "labels": by_series([each.raw.labels for each in typed], pa.binary()),
            "unit": by_series([each.raw.unit for each in typed], pa.binary()),
            "declared": by_series([_UNTYPED if each.raw.type is None else each.raw.type for each in typed], pa.int32()),
            "own": by_series([int(each.own) for each in typed], pa.int32()),
            "base": by_series([int(each.base) for each in typed], pa.int32()),
            "time_ns": held.time_ns,
            "start_ns": held.start_ns,
            "value": held.value,
            "received_ns": held.received_ns,
        }
    )


def restored(table: pa.Table, series: RemoteSeries, catalog: Catalog) -> HeldSamples:
    """The held samples that a table has; their series get slots."""
    chunk = table.combine_chunks()
    columns = {name: chunk[name].combine_chunks() for name in chunk.column_names}
    at = columns["labels"].indices.to_numpy() if len(chunk) else np.zeros(0, np.int32)
    texts = {
        name: columns[name].dictionary.to_pylist() if len(chunk) else []
        for name in ("tenant", "cluster", "labels", "unit", "declared", "own", "base")
    }
    places = [catalog.place(tenant, cluster) for tenant, cluster in zip(texts["tenant"], texts["cluster"], strict=True)]
    typed = [
        TypedSeries(
            RawSeries(labels, None if declared == _UNTYPED else declared, unit), MetricType(own), MetricType(base)
        )
        for labels, unit, declared, own, base in zip(
            *(texts[name] for name in ("labels", "unit", "declared", "own", "base")), strict=True
        )
    ]
    slots = series.put_back(np.array(places, np.int32), typed)
    return HeldSamples(
        slots[at],
        time_ns=columns["time_ns"].to_numpy(),
        start_ns=columns["start_ns"].to_numpy(),
        value=columns["value"].to_numpy(),
        received_ns=columns["received_ns"].to_numpy(),
    )
