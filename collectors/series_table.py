"""Series as persisted rows, and back."""

from __future__ import annotations

from collections.abc import Iterable

from catchment.identity import series_id
from collectors.catalog import Catalog, Series
from collectors.state_records import SeriesRow
from collectors.treatment import Treatment


def to_rows(catalog: Catalog, slots: Iterable[int]) -> list[SeriesRow]:
    """Some series, by slot."""
    rows = []
    for slot in slots:
        series = catalog.series[slot]
        place = catalog.places[series.place]
        rows.append(
            SeriesRow(
                slot,
                place.tenant,
                place.cluster,
                series.service,
                series.metric,
                series.kind,
                series.unit,
                series.attributes,
                # The key, so that a program that knows no treatments finds no two rows of one id.
                series.key,
                series.treatment.text,
                catalog.is_counted(slot),
            )
        )
    return rows


def restore(catalog: Catalog, rows: Iterable[SeriesRow]) -> set[tuple[str, str]]:
    """Put persisted series, by slot, into an empty catalog; gives the places (tenant, cluster) that they are of."""
    places = set()
    for row in rows:
        identity = row.series_id
        if row.treatment:
            identity = series_id(row.tenant, row.service, row.metric, row.kind, row.unit, row.attributes)
        series = Series(
            0, row.service, row.metric, row.kind, row.unit, row.attributes, identity, Treatment.of(row.treatment)
        )
        catalog.restore(row.tenant, row.cluster, series, is_counted=row.is_counted)
        places.add((row.tenant, row.cluster))
    return places
