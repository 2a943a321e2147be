"""Exemplars of remote write: their streams are found by the series that they came with, since samples come apart.

Prometheus 1.0 sends an exemplar as a series of its own, beside or behind the sample. So it stands in the window of its
own time, in the row of its stream, if that has a point already; else it is counted as ``exemplar_without_point``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catchment.identity import mix
from catchment.limits import Limits
from catchment.windows import NANOSECONDS
from collectors.contributions import Exemplar
from collectors.decode.families import Role
from collectors.decode.remote_wire import WriteExemplars
from collectors.hash_index import ABSENT
from collectors.identify import Identifier
from collectors.kinds import Kind
from collectors.reasons import Reason
from collectors.remote_series import RemoteSeries
from collectors.tally import Tally

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

# The kinds that a stream of a series may have, the likeliest first: native histograms have no role of their own.
_KINDS: dict[Role, tuple[Kind, ...]] = {
    Role.GAUGE: (Kind.GAUGE, Kind.EXPONENTIAL, Kind.HISTOGRAM),
    Role.COUNTER: (Kind.COUNTER,),
    Role.BUCKET: (Kind.HISTOGRAM,),
    Role.COUNT: (Kind.HISTOGRAM,),
    Role.SUM: (Kind.HISTOGRAM,),
}


@dataclass(frozen=True)
class PendingExemplars:
    """Exemplars of durable requests, one row each: slot of the series, start of its samples (0: none), what came."""

    slot: Int32s
    start_ns: Int64s
    exemplars: WriteExemplars


def usable(exemplars: WriteExemplars, received_ns: Int64s, limits: Limits) -> npt.NDArray[np.bool_]:
    """Which exemplars have a value and a time that a point could have; ``received_ns`` is one for each."""
    past_ns, future_ns = limits.past_seconds_max * NANOSECONDS, limits.future_seconds_max * NANOSECONDS
    time_ns = exemplars.time_ns
    good: npt.NDArray[np.bool_] = np.isfinite(exemplars.value)
    return good & (time_ns >= received_ns - past_ns) & (time_ns <= received_ns + future_ns)


def staged_exemplars(
    pending: list[PendingExemplars], series: RemoteSeries, identifier: Identifier, tally: Tally
) -> Iterator[tuple[Int32s, Int64s, Exemplar]]:
    """Lives, instants and exemplars, as `Staged` has them."""
    for part in pending:
        places = series.places(part.slot)
        keys = mix(series.table.group[part.slot], places.astype(np.uint64) + np.uint64(1))
        roles = series.table.role[part.slot]
        lives = np.full(len(keys), ABSENT, np.int32)
        kinds = np.zeros(len(keys), np.int32)
        for role in np.unique(roles).tolist():
            for kind in _KINDS.get(Role(role), ()):
                rows = np.flatnonzero((roles == role) & (lives == ABSENT))
                lives[rows] = identifier.known(keys[rows], kind, part.start_ns[rows])
                kinds[rows] = kind
        tally.places(places[lives < 0], Reason.EXEMPLAR_WITHOUT_POINT, "exemplars")
        rows = np.flatnonzero(lives >= 0)
        if len(rows):
            found = part.exemplars
            yield (
                lives[rows],
                found.time_ns[rows] + (kinds[rows] == Kind.GAUGE),
                Exemplar(
                    found.value[rows],
                    found.time_ns[rows],
                    [found.trace_ids[row] for row in rows.tolist()],
                    [found.span_ids[row] for row in rows.tolist()],
                ),
            )
