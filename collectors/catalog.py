"""The catalog of series: what rows are about, as small integers.

A *series* is what is left of a stream after policy, in one cluster of one tenant. Points, accumulators and the states
of streams name it by its slot; the texts come back only when rows leave.

Rules:
1. Slots change only in `compact`, which is called when nothing is in flight; series without streams go then.
2. Budgets: a series beyond ``series_per_tenant_max`` (of which the texts may have ``series_bytes_per_tenant_max``) or
   ``series_per_metric_max`` is folded into the series of the same
   service and metric whose only attribute is ``otel.metric.overflow=true``; totals stay right. When a tenant's overflow
   series themselves exceed the budget, they fold into one series a kind, metric ``otel.overflow``. Once a tenth of a
   budget is free again, what was folded is looked at again (`folds_in_vain`).
3. `Catalog` is rebuilt from the persisted series at start, so that a gauge's last value can still be held.
4. When policy changes, budgets begin anew: a series counts once a stream is in it again (`count_anew`), or the series
   of before would leave no room for those of after. What no stream is in goes at one of the next flushes. That is
   persisted with the series: ``counts_anew`` and ``recounted`` say what the next flush has to save of it.
5. Equal series of different treatments (`collectors.treatment`) have slots of their own.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.histogram.table import FINEST_SCALE
from catchment.identity import canonical_attributes, hash_parts, series_id
from catchment.limits import Limits
from collectors.treatment import PLAIN, Treatment

OVERFLOW_ATTRIBUTES = canonical_attributes({"otel.metric.overflow": True})
OVERFLOW_METRIC = "otel.overflow"
# A budget that is used no further has room again.
_FREE = 0.9


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows belong: a tenant's cluster."""

    tenant: str
    cluster: str


@dataclass(frozen=True, slots=True)
class Series:
    """One series in one place."""

    place: int
    service: str
    metric: str
    kind: str
    unit: str
    attributes: str
    series_id: int
    treatment: Treatment = PLAIN

    @property
    def texts_bytes(self) -> int:
        """What ``series_bytes_per_tenant_max`` is about."""
        return len(self.attributes) + len(self.service) + len(self.metric) + len(self.unit)

    @property
    def key(self) -> int:
        """The id among the series of its place: that of the series, but where it is treated in a way of its own."""
        return _key(self.series_id, self.treatment)


def _key(identity: int, treatment: Treatment) -> int:
    return (
        identity if treatment is PLAIN or not treatment.text else hash_parts("treated", str(identity), treatment.text)
    )


class _TextColumn:
    """One text of every series, as codes into the distinct texts."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._texts: list[str] = []
        self._of_series = array("i")

    def append(self, text: str) -> None:
        code = self._codes.setdefault(text, len(self._texts))
        if code == len(self._texts):
            self._texts.append(text)
        self._of_series.append(code)

    def take(self, slots: npt.NDArray[np.int64]) -> pa.DictionaryArray:
        """The texts of some series; the dictionary holds no text of any other (they may be another tenant's)."""
        codes = np.frombuffer(self._of_series, np.int32)[slots]
        used = np.zeros(len(self._texts), np.bool_)
        used[codes] = True
        renumbered = np.cumsum(used, dtype=np.int32) - np.int32(1)
        texts = pa.array([self._texts[code] for code in np.flatnonzero(used).tolist()], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(renumbered[codes]), texts)


TEXT_COLUMNS = ("cluster", "service", "metric", "kind", "unit", "attributes")


class Catalog:
    """Slots of places and series, and the budgets of tenants and metrics."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.places: list[Place] = []
        self._place_slots: dict[Place, int] = {}
        self.series: list[Series] = []
        self._series_slots: dict[tuple[int, int], int] = {}
        self._per_tenant: Counter[str] = Counter()
        self._per_metric: Counter[tuple[str, str]] = Counter()
        self._overflow_per_tenant: Counter[str] = Counter()
        self._bytes_per_tenant: Counter[str] = Counter()
        self._overflow_bytes_per_tenant: Counter[str] = Counter()
        self._texts = {name: _TextColumn() for name in TEXT_COLUMNS}
        self._ids = array("Q")
        self._places_of_series = array("i")
        self.treatments: list[Treatment] = []
        self._treatment_codes: dict[Treatment, int] = {}
        self._treatments_of_series = array("i")
        self._is_counted = bytearray()
        self.counts_anew = False
        self.recounted: list[int] = []

    def place(self, tenant: str, cluster: str) -> int:
        """The slot of a place."""
        place = Place(tenant, cluster)
        slot = self._place_slots.get(place)
        if slot is None:
            slot = self._place_slots[place] = len(self.places)
            self.places.append(place)
        return slot

    def slot(
        self,
        place: int,
        service: str,
        metric: str,
        kind: str,
        unit: str,
        attributes: str,
        treatment: Treatment = PLAIN,
    ) -> tuple[int, str]:
        """The slot of a series, folded where a budget is reached.

        Returns:
            The slot, and the reason of the fold ("" where there is none): ``overflow_tenant`` or ``overflow_metric``.
        """
        tenant = self.places[place].tenant
        identity = series_id(tenant, service, metric, kind, unit, attributes)
        known = self._series_slots.get((place, _key(identity, treatment)))
        if known is not None and self._is_counted[known]:
            return known, ""
        reason = self._over_budget(tenant, metric)
        if not reason and attributes != OVERFLOW_ATTRIBUTES:
            return self._counted(known, Series(place, service, metric, kind, unit, attributes, identity, treatment)), ""
        # SDKs have overflow series too: what they folded is of the same budget as what is folded here.
        slot = self._overflow(place, service, metric, kind, unit, treatment)
        return slot, reason if reason or self.series[slot].metric == metric else "overflow_tenant"

    def restore(self, tenant: str, cluster: str, series: Series, *, is_counted: bool = True) -> int:
        """Put a persisted series back; budgets count it, or will once a stream is in it again."""
        place = self.place(tenant, cluster)
        known = self._series_slots.get((place, series.key))
        if known is not None:
            return known
        return self._add(replace(series, place=place), is_counted=is_counted)

    def count_anew(self) -> None:
        """Let budgets begin anew (rule 4)."""
        self._per_tenant, self._per_metric, self._overflow_per_tenant = Counter(), Counter(), Counter()
        self._bytes_per_tenant, self._overflow_bytes_per_tenant = Counter(), Counter()
        self._is_counted = bytearray(len(self.series))
        self.counts_saved()
        self.counts_anew = True

    def counts_saved(self) -> None:
        """Note that what budgets count is persisted as it is."""
        self.counts_anew, self.recounted = False, []

    def is_counted(self, slot: int) -> bool:
        """Whether budgets count a series."""
        return bool(self._is_counted[slot])

    def compact(self, used: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Drop the series where ``used`` is false, so that budgets count only what lives.

        Returns:
            The new slot of each old one, -1 where it is gone.
        """
        old, was_counted = self.series, self._is_counted
        self.series, self._series_slots, self._ids = [], {}, array("Q")
        self._places_of_series, self._treatments_of_series = array("i"), array("i")
        self._texts = {name: _TextColumn() for name in TEXT_COLUMNS}
        self.count_anew()
        moved = np.full(len(old), -1, np.int32)
        for slot in np.flatnonzero(used).tolist():
            place = self.places[old[slot].place]
            if was_counted[slot]:
                moved[slot] = self.restore(place.tenant, place.cluster, old[slot])
            else:
                moved[slot] = self._add(old[slot], is_counted=False)
        return moved

    def folds_in_vain(self) -> npt.NDArray[np.bool_]:
        """By slot, whether it is an overflow series of a budget that has room again."""
        limits, found = self._limits, np.zeros(len(self.series), np.bool_)
        for slot, series in enumerate(self.series):
            if series.attributes == OVERFLOW_ATTRIBUTES:
                tenant = self.places[series.place].tenant
                found[slot] = (
                    self._per_tenant[tenant] <= _FREE * limits.series_per_tenant_max
                    and self._bytes_per_tenant[tenant] <= _FREE * limits.series_bytes_per_tenant_max
                    and self._per_metric[tenant, series.metric] <= _FREE * limits.series_per_metric_max
                )
        return found

    def full(self, tenant: str) -> str:
        """The limit that a tenant's series have reached all together; "" while there is room."""
        if self._per_tenant[tenant] >= self._limits.series_per_tenant_max:
            return "series_per_tenant_max"
        full = self._bytes_per_tenant[tenant] >= self._limits.series_bytes_per_tenant_max
        return "series_bytes_per_tenant_max" if full else ""

    def largest_metric(self, tenant: str) -> str:
        """The metric of a tenant that has the most series; "" if there is none."""
        of_tenant = ((count, metric) for (owner, metric), count in self._per_metric.items() if owner == tenant)
        return max(of_tenant, default=(0, ""))[1]

    def metrics_of(self, tenant: str) -> int:
        """How many metrics of a tenant have series."""
        return sum(owner == tenant for owner, _ in self._per_metric)

    def series_of(self, tenant: str, metric: str) -> list[Series]:
        """All series of a tenant's metric that budgets count."""
        return [
            series
            for series, is_counted in zip(self.series, self._is_counted, strict=True)
            if is_counted and series.metric == metric and self.places[series.place].tenant == tenant
        ]

    def _over_budget(self, tenant: str, metric: str) -> str:
        if self.full(tenant):
            return "overflow_tenant"
        if self._per_metric[tenant, metric] >= self._limits.series_per_metric_max:
            return "overflow_metric"
        return ""

    def _overflow(self, place: int, service: str, metric: str, kind: str, unit: str, treatment: Treatment) -> int:
        tenant = self.places[place].tenant
        identity = series_id(tenant, service, metric, kind, unit, OVERFLOW_ATTRIBUTES)
        known = self._series_slots.get((place, _key(identity, treatment)))
        if known is not None and self._is_counted[known]:
            return known
        if (
            self._overflow_per_tenant[tenant] >= self._limits.series_per_tenant_max // 10 + 1
            or self._overflow_bytes_per_tenant[tenant] >= self._limits.series_bytes_per_tenant_max // 10
        ):
            service, metric, unit, treatment = "", OVERFLOW_METRIC, "", PLAIN
            identity = series_id(tenant, service, metric, kind, unit, OVERFLOW_ATTRIBUTES)
            known = self._series_slots.get((place, identity))
            if known is not None and self._is_counted[known]:
                return known
        return self._counted(
            known, Series(place, service, metric, kind, unit, OVERFLOW_ATTRIBUTES, identity, treatment)
        )

    def _counted(self, known: int | None, series: Series) -> int:
        """The slot of a series that budgets do not count yet, and do from now on; ``known`` is None for a new one."""
        if known is None:
            return self._add(series)
        self._count(series)
        self._is_counted[known] = True
        self.recounted.append(known)
        return known

    def _count(self, series: Series) -> None:
        tenant = self.places[series.place].tenant
        if series.attributes == OVERFLOW_ATTRIBUTES:
            self._overflow_per_tenant[tenant] += 1
            self._overflow_bytes_per_tenant[tenant] += series.texts_bytes
        else:
            self._per_tenant[tenant] += 1
            self._per_metric[tenant, series.metric] += 1
            self._bytes_per_tenant[tenant] += series.texts_bytes

    def _add(self, series: Series, *, is_counted: bool = True) -> int:
        slot = len(self.series)
        if is_counted:
            self._count(series)
        self._is_counted.append(is_counted)
        self.series.append(series)
        self._series_slots[series.place, series.key] = slot
        for name, column in self._texts.items():
            column.append(self.places[series.place].cluster if name == "cluster" else getattr(series, name))
        self._ids.append(series.series_id)
        self._places_of_series.append(series.place)
        code = self._treatment_codes.setdefault(series.treatment, len(self.treatments))
        if code == len(self.treatments):
            self.treatments.append(series.treatment)
        self._treatments_of_series.append(code)
        return slot

    def key_columns(self, slots: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
        """The key columns of some series, by slot: cluster, service, metric, kind, unit, attributes, series_id."""
        columns: dict[str, pa.Array] = {name: column.take(slots) for name, column in self._texts.items()}
        columns["series_id"] = pa.array(np.frombuffer(self._ids, np.uint64)[slots])
        return columns

    def places_of(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The place slot of some series."""
        of_series: npt.NDArray[np.int32] = np.frombuffer(self._places_of_series, np.int32)[slots]
        return of_series

    def count_by_tenant(self, slots: npt.NDArray[np.int32]) -> Counter[str]:
        """How often series of each tenant are named."""
        counts: Counter[str] = Counter()
        of_place = np.bincount(self.places_of(slots.astype(np.int64)), minlength=len(self.places))
        for place, count in zip(self.places, of_place.tolist(), strict=True):
            counts[place.tenant] += count
        return counts

    def treatments_of(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The treatment of some series, as its place in ``treatments``; that never changes."""
        of_series: npt.NDArray[np.int32] = np.frombuffer(self._treatments_of_series, np.int32)[slots]
        return of_series

    def histogram_scales(self) -> npt.NDArray[np.int32] | None:
        """The finest scale of exponential histograms by slot; None where no treatment limits it."""
        finest = [FINEST_SCALE if each.histogram_scale is None else each.histogram_scale for each in self.treatments]
        if not finest or min(finest) == FINEST_SCALE:
            return None
        of_series: npt.NDArray[np.int32] = np.array(finest, np.int32)[
            np.frombuffer(self._treatments_of_series, np.int32)
        ]
        return of_series
