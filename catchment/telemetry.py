"""Our own metrics: one enumeration, and a thin wrapper over prometheus-client that serves them.

Rules:

1. A metric that is not in `OwnMetric` cannot be recorded. Names end in their unit, counters in ``_total``.
2. Labels have few values: tenants, clusters, series and messages of errors are never labels.
3. Recording costs one dictionary look-up and one addition; the hot path records per batch, not per point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import prometheus_client as prometheus

from catchment.version import PROGRAM

# Each counter's time of birth, which doubles the text and which nobody asks for.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call] # the library types all but this


class Kind(Enum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Spec:
    """One metric: its name with the unit, its labels in order, and a line that says what it means."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


# From half a millisecond, which an fsync takes, to the longest that anything here may take.
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM


class OwnMetric(Enum):
    """Every metric that Catchment tells about itself."""

    BUILD = Spec("catchment_build_info", _GAUGE, "1; the label tells the program's version", ("version",))
    READY = Spec("catchment_ready", _GAUGE, "1 while the process is ready, 0 while it is not")
    STALLED_SECONDS = Spec(
        "catchment_stalled_seconds",
        _GAUGE,
        "for how long what this process has does not flow on, as /healthz says; 0 while it does",
    )
    DISK_FREE_RATIO = Spec(
        "catchment_disk_free_ratio",
        _GAUGE,
        "share of the file system below data_dir that is free to us",
    )
    CONFIG_RELOADS = Spec("catchment_config_reloads_total", _COUNTER, "reloads asked for, by result", ("result",))
    FILES_REFUSED = Spec(
        "catchment_files_refused",
        _GAUGE,
        "1 while a file that changed has a fault and what it said before is in force, by the key that names it",
        ("file",),
    )
    CHILD_RESTARTS = Spec(
        "catchment_child_restarts_total", _COUNTER, "children started again after a death", ("child",)
    )

    REQUESTS = Spec("catchment_requests_total", _COUNTER, "requests answered at the front door", ("protocol", "answer"))
    REQUEST_BYTES = Spec("catchment_request_bytes_total", _COUNTER, "bytes received, as they came", ("protocol",))
    POINTS_ACCEPTED = Spec("catchment_points_accepted_total", _COUNTER, "data points that count", ("lane",))
    DROPS = Spec(
        "catchment_drops_total", _COUNTER, "units that did not make it, and why", ("tier", "lane", "reason", "unit")
    )
    SCRAPES = Spec(
        "catchment_scrapes_total", _COUNTER, "scrapes by their end: up, down, or refused by a full collector", ("end",)
    )
    SCRAPE_TARGETS = Spec(
        "catchment_scrape_targets", _GAUGE, "targets by what their last scrape brought: up or down", ("state",)
    )
    INBOX_BYTES = Spec("catchment_inbox_bytes", _GAUGE, "inbox segments on disk that no flush has consumed")
    INBOX_COMMIT_SECONDS = Spec("catchment_inbox_commit_seconds", _HISTOGRAM, "one fsync of the inbox")
    STREAMS = Spec("catchment_streams", _GAUGE, "streams whose state is kept")
    SERIES = Spec("catchment_series", _GAUGE, "series that the collector knows, which budgets bound")
    FLUSH_SECONDS = Spec("catchment_flush_seconds", _HISTOGRAM, "one flush: cut, transaction, trim")
    FLUSHED_ROWS = Spec("catchment_flushed_rows_total", _COUNTER, "rows put into the outbox", ("lane",))
    OUTBOX_BYTES = Spec("catchment_outbox_bytes", _GAUGE, "envelopes on disk that were not forwarded")
    OUTBOX_MESSAGES = Spec("catchment_outbox_messages", _GAUGE, "envelopes that were not forwarded")
    OUTBOX_OLDEST_SECONDS = Spec("catchment_outbox_oldest_seconds", _GAUGE, "age of the oldest unsent envelope")
    OUTBOX_USED_RATIO = Spec("catchment_outbox_used_ratio", _GAUGE, "outbox_bytes as a share of outbox_bytes_max")
    OUTBOX_WINDOW_SECONDS = Spec(
        "catchment_outbox_window_seconds", _GAUGE, "widest windows that waiting envelopes were merged to; 0: as flushed"
    )
    PUSHING_BACK_SECONDS = Spec(
        "catchment_pushing_back_seconds",
        _GAUGE,
        "for how long a full outbox has pushed senders back; 0 while it does not",
    )
    OUTBOX_MERGED_BYTES = Spec("catchment_outbox_merged_bytes_total", _COUNTER, "saved by merging what waits")
    FORWARDED_MESSAGES = Spec("catchment_forwarded_messages_total", _COUNTER, "envelopes handed to the log")
    FORWARDED_BYTES = Spec("catchment_forwarded_bytes_total", _COUNTER, "bytes handed to the log")

    LAG_MESSAGES = Spec(
        "catchment_lag_messages", _GAUGE, "messages of a topic's partition not yet consumed", ("topic", "partition")
    )
    HELD_MESSAGES = Spec(
        "catchment_held_messages", _GAUGE, "partitions held at a message newer than this process, or halted"
    )
    HALTED_PARTITIONS = Spec(
        "catchment_halted_partitions", _GAUGE, "partitions that stand until somebody says how to go on"
    )
    PUBLISH_RETRIES = Spec("catchment_publish_retries_total", _COUNTER, "publishes tried again", ("hop",))
    ROLLUP_MESSAGES_IN = Spec("catchment_rollup_messages_in_total", _COUNTER, "messages read by the roll-up", ("lane",))
    ROLLUP_MESSAGES_OUT = Spec(
        "catchment_rollup_messages_out_total",
        _COUNTER,
        "messages published by the roll-up, dead letters too, by the lane that was read",
        ("lane",),
    )
    ROLLUP_ROWS_IN = Spec("catchment_rollup_rows_in_total", _COUNTER, "rows read by the roll-up", ("lane",))
    ROLLUP_ROWS_OUT = Spec("catchment_rollup_rows_out_total", _COUNTER, "rows published by the roll-up", ("lane",))
    DEAD_LETTERS = Spec("catchment_dead_letters_total", _COUNTER, "messages put aside because they cannot be read")

    LOADED_ROWS = Spec("catchment_loaded_rows_total", _COUNTER, "rows inserted into a global table", ("table",))
    LOADED_MESSAGES = Spec("catchment_loaded_messages_total", _COUNTER, "messages inserted", ("table",))
    QUERIES = Spec("catchment_queries_total", _COUNTER, "queries answered, by result", ("result",))
    QUERY_SECONDS = Spec("catchment_query_seconds", _HISTOGRAM, "one query")


class Telemetry:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self._registry)
        self._metrics: dict[OwnMetric, prometheus.Counter | prometheus.Gauge | prometheus.Histogram] = {}
        self._labelled: dict[tuple[OwnMetric, tuple[str, ...]], object] = {}
        self.set(OwnMetric.BUILD, 1, PROGRAM)

    def count(self, metric: OwnMetric, amount: float = 1, *labels: str) -> None:
        """Add to a counter; ``labels`` are the values in the order of its `Spec`."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Counter)
        child.inc(amount)

    def set(self, metric: OwnMetric, value: float, *labels: str) -> None:
        """Set a gauge."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Gauge)
        child.set(value)

    def read_from(self, metric: OwnMetric, read: Callable[[], float], *labels: str) -> None:
        """Let a gauge be what ``read`` returns whenever somebody looks."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Gauge)
        child.set_function(read)

    def observe(self, metric: OwnMetric, value: float, *labels: str) -> None:
        """Add an observation to a histogram."""
        child = self._child(metric, labels)
        assert isinstance(child, prometheus.Histogram)
        child.observe(value)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format 0.0.4."""
        return prometheus.generate_latest(self._registry)

    def _child(self, metric: OwnMetric, labels: tuple[str, ...]) -> object:
        child = self._labelled.get((metric, labels))
        if child is None:
            made = self._metrics.get(metric)
            if made is None:
                made = self._metrics[metric] = self._make(metric.value)
            child = made.labels(*labels) if metric.value.labels else made
            self._labelled[metric, labels] = child
        return child

    def _make(self, spec: Spec) -> prometheus.Counter | prometheus.Gauge | prometheus.Histogram:
        if spec.kind is Kind.COUNTER:
            return prometheus.Counter(spec.name, spec.meaning, spec.labels, registry=self._registry)
        if spec.kind is Kind.GAUGE:
            return prometheus.Gauge(spec.name, spec.meaning, spec.labels, registry=self._registry)
        return prometheus.Histogram(
            spec.name, spec.meaning, spec.labels, registry=self._registry, buckets=SECONDS_BUCKETS
        )
