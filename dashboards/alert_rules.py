"""Alerts on the pipeline itself, as values: what fires, after how long, and what is said then.

``python -m dashboards.alert_rules > dashboards/alerts/catchment.rules.yml`` writes the file that Prometheus loads.

Rules:

1. Metrics are those of `catchment.telemetry.OwnMetric`, and ``up``, which Prometheus makes. Jobs that scrape Catchment
   have names that begin with ``catchment``.
2. A counter with labels is born with its first event, so an increase alone misses it: see `_rises`.
3. Each alert has a heading of its name in docs/operate.md, which says what to do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

# The sender was told, by a partial success, that these points do not count; the names of `collectors.reasons`.
REFUSED_POINTS = (
    "too_old",
    "too_far_in_future",
    "no_value",
    "not_finite",
    "unknown_temporality",
    "negative_monotonic",
    "buckets_too_many",
    "count_too_large",
    "buckets_malformed",
    "bounds_malformed",
    "scale_out_of_range",
    "no_name",
    "name_too_long",
    "name_malformed",
    "attributes_malformed",
    "attributes_too_many",
    "attribute_too_long",
    "attribute_too_deep",
    "attributes_too_large",
    "streams_full",
    "start_after_time",
    "line_malformed",
    "labels_beyond_limit",
)


@dataclass(frozen=True)
class Alert:
    """One alert.

    Args:
        name: unique; also its heading in docs/operate.md.
        expression: PromQL; fires for each series that it has.
        minutes: for how long it must hold (``for``).
        severity: ``critical``: somebody now; ``warning``: somebody today.
        summary: one line with the value and its unit, a template of Prometheus.
        description: what it means, and what comes next if nobody acts.
    """

    name: str
    expression: str
    minutes: int
    severity: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """Where it says what to do."""
        return f"docs/operate.md#{self.name.lower()}"


def _rises(selector: str, minutes: int, by: str) -> str:
    """What a counter rose by; series that were not there before count from zero."""
    total = f"sum by ({by}) ({selector})"
    increase = f"sum by ({by}) (increase({selector}[{minutes}m])) > 0"
    return f"({increase}) or ({total} > 0 unless sum by ({by}) ({selector} offset {minutes}m) > 0)"


_WHO = "job, instance, role"
# Of an increase, which Prometheus extrapolates to fractions.
_COUNT = '{{ $value | printf "%.0f" }}'
_AT = "{{ $labels.instance }} {{ $labels.role }}"

ALERTS = (
    Alert(
        "CatchmentDown",
        'up{job=~"catchment.*"} == 0',
        2,
        "critical",
        "{{ $labels.instance }} of {{ $labels.job }} does not answer",
        "The process is down or cannot be reached. What stands before it keeps the work, up to its limit.",
    ),
    Alert(
        "CatchmentNotReady",
        "catchment_ready == 0",
        5,
        "critical",
        f"{_AT} is not ready",
        "The process runs but does not do its work; /readyz has the reasons, one a line.",
    ),
    Alert(
        "CatchmentStalled",
        "catchment_stalled_seconds > 300",
        1,
        "warning",
        f"{_AT} has been stalled for {{{{ $value | humanizeDuration }}}}",
        "The log or the engine does not take what this process has. It is kept and tried again.",
    ),
    Alert(
        "CatchmentRestarting",
        "increase(catchment_child_restarts_total[1h]) > 3",
        0,
        "warning",
        f"{{{{ $labels.child }}}} at {{{{ $labels.instance }}}} died {_COUNT} times within an hour",
        "A child of `catchment up` dies again and again; its last words are in the log.",
    ),
    Alert(
        "CatchmentFileRefused",
        "catchment_files_refused > 0",
        5,
        "warning",
        f"{_AT} cannot take the new {{{{ $labels.file }}}}",
        "The file has a fault; what was read before it stays in force: an old certificate, old tokens.",
    ),
    Alert(
        "CatchmentDiskNearlyFull",
        "catchment_disk_free_ratio < 0.1",
        5,
        "warning",
        f"{_AT} has {{{{ $value | humanizePercentage }}}} of its disk left",
        "When the disk is full a collector answers 503, and flush, roll-up and loading wait.",
    ),
    Alert(
        "CatchmentOutboxOld",
        "catchment_outbox_oldest_seconds > 300",
        1,
        "warning",
        f"{_AT} has not forwarded an envelope for {{{{ $value | humanizeDuration }}}}",
        "SQL is behind by as much for this collector's clusters. Nothing is lost.",
    ),
    Alert(
        "CatchmentOutboxFilling",
        "catchment_outbox_used_ratio > 0.4",
        5,
        "warning",
        f"The outbox of {_AT} has {{{{ $value | humanizePercentage }}}} of outbox_bytes_max",
        "From half on, at the latest, waiting flushes are merged into wider windows; at 100 % senders are pushed back.",
    ),
    Alert(
        "CatchmentPushingBack",
        "catchment_pushing_back_seconds > 0",
        1,
        "critical",
        f"{_AT} has pushed senders back for {{{{ $value | humanizeDuration }}}}",
        "The outbox is full. What senders cannot keep until it has room is lost on their side.",
    ),
    Alert(
        "CatchmentFlushStands",
        'increase(catchment_flushed_rows_total{lane="health"}[15m]) == 0',
        5,
        "critical",
        f"{_AT} has flushed no heartbeat for 15 minutes",
        "Every flush has the heartbeat of the collector's own cluster: flushing fails or stands, and the inbox fills.",
    ),
    Alert(
        "CatchmentNoHeartbeats",
        'sum by (job) (increase(catchment_rollup_rows_in_total{lane="health"}[15m])) == 0',
        5,
        "critical",
        "Aggregators of {{ $labels.job }} have read no heartbeat for 15 minutes",
        "No cluster is heard: collectors are down, or cannot reach the log, or aggregators stand.",
    ),
    Alert(
        "CatchmentPointsRefused",
        _rises(
            f'catchment_drops_total{{unit="points",reason=~"{"|".join(REFUSED_POINTS)}"}}', 15, f"{_WHO}, reason, unit"
        ),
        5,
        "warning",
        f"{_AT} refused {_COUNT} points within 15 minutes: {{{{ $labels.reason }}}}",
        "Senders were told by partial successes. These points do not count; pipeline_drops has tenant and place.",
    ),
    Alert(
        "CatchmentSeriesOverflow",
        _rises(
            'catchment_drops_total{unit="streams",reason=~"overflow_metric|overflow_tenant"}', 15, f"{_WHO}, reason"
        ),
        5,
        "warning",
        f"{_AT} folded {_COUNT} streams within 15 minutes: {{{{ $labels.reason }}}}",
        "A budget of series is reached. Totals stay right; further streams are told apart no more.",
    ),
    Alert(
        "CatchmentRequestsRefused",
        _rises('catchment_drops_total{unit="requests"}', 15, f"{_WHO}, reason, unit"),
        5,
        "warning",
        f"{_AT} refused {_COUNT} requests within 15 minutes: {{{{ $labels.reason }}}}",
        "None of their points count. What was pushed back comes again, if its sender can wait.",
    ),
    Alert(
        "CatchmentTargetsDown",
        'catchment_scrape_targets{state="down"} > 0',
        10,
        "warning",
        f"{_AT} has had {{{{ $value }}}} scrape targets that are down for 10 minutes",
        "Their counters count on and are caught up with when they answer again, if they did not restart meanwhile.",
    ),
    Alert(
        "CatchmentScrapesRefused",
        _rises('catchment_scrapes_total{end="refused"}', 15, _WHO),
        5,
        "warning",
        f"{_AT} could not take {_COUNT} scrapes within 15 minutes",
        "The collector pushes back its own scraper too. Gauges have gaps; counters are in the next scrape.",
    ),
    Alert(
        "CatchmentLagging",
        "min_over_time(catchment_lag_messages[15m]) > 100 and delta(catchment_lag_messages[15m]) >= 0",
        15,
        "warning",
        f"{_AT} lags by {{{{ $value | humanize }}}} messages in {{{{ $labels.topic }}}}/{{{{ $labels.partition }}}}",
        "The reader is too slow or stands. What retention deletes before it is read is lost.",
    ),
    Alert(
        "CatchmentPartitionHeld",
        "catchment_held_messages - catchment_halted_partitions > 0",
        10,
        "warning",
        f"{_AT} holds {{{{ $value }}}} partitions at messages of a newer version",
        "Nothing is lost, and nothing behind these messages moves until the process is upgraded.",
    ),
    Alert(
        "CatchmentPartitionHalted",
        "catchment_halted_partitions > 0",
        1,
        "critical",
        f"{_AT} has {{{{ $value }}}} halted partitions",
        "A person has to decide how to go on: data of the log are lost, or may or may not be loaded.",
    ),
    Alert(
        "CatchmentDeadLetters",
        _rises("catchment_dead_letters_total", 60, _WHO),
        0,
        "warning",
        f"{_AT} put {_COUNT} messages aside within an hour",
        "Something wrote what cannot be read, or the engine refused it. The messages are kept and can be replayed.",
    ),
)


def rules_file(alerts: Sequence[Alert] = ALERTS) -> str:
    """The rule file of Prometheus."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": f"{alert.minutes}m",
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.description, "runbook_url": alert.runbook},
        }
        for alert in alerts
    ]
    groups = {"groups": [{"name": "catchment", "rules": rules}]}
    head = "# Generated: python -m dashboards.alert_rules > dashboards/alerts/catchment.rules.yml\n"
    return head + yaml.safe_dump(groups, sort_keys=False, allow_unicode=True, width=10_000)


if __name__ == "__main__":
    sys.stdout.write(rules_file())
