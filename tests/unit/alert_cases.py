"""For each alert of the pipeline a course of metrics that fires it, and one that comes close and does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COLLECTOR = {"job": "catchment", "instance": "edge:13133", "role": "collector"}
STORE = {"job": "catchment", "instance": "globe:13133", "role": "store"}
_AT_EDGE, _AT_STORE = "edge:13133 collector", "globe:13133 store"


@dataclass(frozen=True)
class Case:
    """One alert's test; values are in promtool's notation, a sample a minute.

    Args:
        labels: of the series, and of the alert unless ``by`` names fewer.
        fires: metric → values with which the alert fires at ``minute``, and not a minute before.
        quiet: metric → values with which it never does.
        summary: what is said at ``minute``.
    """

    labels: Mapping[str, str]
    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    minute: int
    summary: str
    by: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def alert_labels(self) -> dict[str, str]:
        """Labels of the alert, without its severity."""
        everything = {**self.labels, **self.more}
        return {name: everything[name] for name in self.by or everything}


def _gauge(name: str, fires: str, quiet: str, labels: Mapping[str, str], minute: int, summary: str) -> Case:
    return Case(labels, {name: fires}, {name: quiet}, minute, summary)


def _refused(reason: str, unit: str, count: int) -> Case:
    return Case(
        {**COLLECTOR, "tier": "collector", "lane": "metrics", "reason": reason, "unit": unit},
        {"catchment_drops_total": f"_x9 {count}x60"},
        {"catchment_drops_total": f"{count}x60"},
        14,
        f"{_AT_EDGE} refused {count} {unit} within 15 minutes: {reason}",
        by=(*COLLECTOR, "reason", "unit"),
    )


_LAG = {"topic": "catchment.global.totals", "partition": "3"}

CASES = {
    "CatchmentDown": _gauge("up", "1 1 0x60", "1 1 0 1x60", COLLECTOR, 4, "edge:13133 of catchment does not answer"),
    "CatchmentNotReady": _gauge(
        "catchment_ready", "1 0x60", "1 0 0 0 0 1 0 0 0 0 1x60", COLLECTOR, 6, f"{_AT_EDGE} is not ready"
    ),
    "CatchmentStalled": _gauge(
        "catchment_stalled_seconds", "0+60x60", "300x60", COLLECTOR, 7, f"{_AT_EDGE} has been stalled for 7m 0s"
    ),
    "CatchmentRestarting": Case(
        {**COLLECTOR, "role": "up", "child": "store"},
        {"catchment_child_restarts_total": "1x59 2 3 3 6x60"},
        {"catchment_child_restarts_total": "1x59 2 3 3 3x60"},
        63,
        "store at edge:13133 died 5 times within an hour",
    ),
    "CatchmentFileRefused": _gauge(
        "catchment_files_refused",
        "0 1x60",
        "0 1 1 1 1 0x60",
        {**COLLECTOR, "file": "tls"},
        6,
        f"{_AT_EDGE} cannot take the new tls",
    ),
    "CatchmentDiskNearlyFull": _gauge(
        "catchment_disk_free_ratio", "0.5 0.09x60", "0.1x60", STORE, 6, f"{_AT_STORE} has 9% of its disk left"
    ),
    "CatchmentOutboxOld": _gauge(
        "catchment_outbox_oldest_seconds",
        "0+60x60",
        "0 299 300x60",
        COLLECTOR,
        7,
        f"{_AT_EDGE} has not forwarded an envelope for 7m 0s",
    ),
    "CatchmentOutboxFilling": _gauge(
        "catchment_outbox_used_ratio",
        "0 0.45x60",
        "0.4x60",
        COLLECTOR,
        6,
        f"The outbox of {_AT_EDGE} has 45% of outbox_bytes_max",
    ),
    "CatchmentPushingBack": _gauge(
        "catchment_pushing_back_seconds",
        "0 30+60x60",
        "0 30 0x60",
        COLLECTOR,
        2,
        f"{_AT_EDGE} has pushed senders back for 1m 30s",
    ),
    "CatchmentFlushStands": Case(
        {**COLLECTOR, "lane": "health"},
        {"catchment_flushed_rows_total": "0+1x10 10x60"},
        {"catchment_flushed_rows_total": "0+1x60"},
        30,
        f"{_AT_EDGE} has flushed no heartbeat for 15 minutes",
    ),
    "CatchmentNoHeartbeats": Case(
        {**STORE, "role": "aggregator", "lane": "health"},
        {"catchment_rollup_rows_in_total": "0+3x10 30x60"},
        {"catchment_rollup_rows_in_total": "0+3x60"},
        30,
        "Aggregators of catchment have read no heartbeat for 15 minutes",
        by=("job",),
    ),
    "CatchmentPointsRefused": _refused("not_finite", "points", 7),
    "CatchmentSeriesOverflow": Case(
        {**COLLECTOR, "tier": "collector", "lane": "metrics", "reason": "overflow_metric", "unit": "streams"},
        {"catchment_drops_total": "_x9 40x60"},
        {"catchment_drops_total": "40x60"},
        14,
        f"{_AT_EDGE} folded 40 streams within 15 minutes: overflow_metric",
        by=(*COLLECTOR, "reason"),
    ),
    "CatchmentRequestsRefused": _refused("undecodable", "requests", 2),
    "CatchmentTargetsDown": _gauge(
        "catchment_scrape_targets",
        "0 2x60",
        "0 2x8 0x60",
        {**COLLECTOR, "state": "down"},
        11,
        f"{_AT_EDGE} has had 2 scrape targets that are down for 10 minutes",
    ),
    "CatchmentScrapesRefused": Case(
        {**COLLECTOR, "end": "refused"},
        {"catchment_scrapes_total": "_x9 4x60"},
        {"catchment_scrapes_total": "4x60"},
        14,
        f"{_AT_EDGE} could not take 4 scrapes within 15 minutes",
        by=("job", "instance", "role"),
    ),
    "CatchmentLagging": Case(
        {**STORE, **_LAG},
        {"catchment_lag_messages": "101x90"},
        {"catchment_lag_messages": "500-5x90"},
        16,
        f"{_AT_STORE} lags by 101 messages in catchment.global.totals/3",
    ),
    "CatchmentPartitionHeld": Case(
        STORE,
        {"catchment_held_messages": "0 3x60", "catchment_halted_partitions": "0 1x60"},
        {"catchment_held_messages": "0 3x60", "catchment_halted_partitions": "0 3x60"},
        11,
        f"{_AT_STORE} holds 2 partitions at messages of a newer version",
    ),
    "CatchmentPartitionHalted": _gauge(
        "catchment_halted_partitions", "0 1x60", "0x60", STORE, 2, f"{_AT_STORE} has 1 halted partitions"
    ),
    "CatchmentDeadLetters": Case(
        STORE,
        {"catchment_dead_letters_total": "_x9 4x90"},
        {"catchment_dead_letters_total": "0x90"},
        9,
        f"{_AT_STORE} put 4 messages aside within an hour",
    ),
}
