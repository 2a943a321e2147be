"""Why a point did not make it, or made it with a remark: the reasons counted in ``pipeline_drops``.

Three sorts: *refused* points are told to the sender (partial success); *skipped* ones carry nothing to add; *notes* are
accepted points about which something should be known.
"""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Reason(IntEnum):
    """Codes of reasons; the name in lower case is what SQL shows."""

    OK = 0
    # Refused: wrong, and stays wrong.
    TOO_OLD = 1
    TOO_FAR_IN_FUTURE = 2
    NO_VALUE = 3
    NOT_FINITE = 4
    UNKNOWN_TEMPORALITY = 5
    NEGATIVE_MONOTONIC = 6
    BUCKETS_TOO_MANY = 7
    COUNT_TOO_LARGE = 8
    BUCKETS_MALFORMED = 9
    BOUNDS_MALFORMED = 10
    SCALE_OUT_OF_RANGE = 11
    NO_NAME = 12
    NAME_TOO_LONG = 13
    NAME_MALFORMED = 14
    ATTRIBUTES_MALFORMED = 15
    ATTRIBUTES_TOO_MANY = 16
    ATTRIBUTE_TOO_LONG = 17
    ATTRIBUTE_TOO_DEEP = 18
    ATTRIBUTES_TOO_LARGE = 19
    STREAMS_FULL = 20
    START_AFTER_TIME = 21
    LINE_MALFORMED = 22
    LABELS_BEYOND_LIMIT = 23
    # Skipped: nothing to add.
    DROPPED_BY_POLICY = 40
    NO_RECORDED_VALUE = 41
    REPEATED = 42
    LATE_CUMULATIVE = 43
    SUMMARY_QUANTILES = 44
    DROPPED_BY_RELABELLING = 45
    PARTS_MISSING = 46
    EXEMPLAR_WITHOUT_POINT = 47
    # Notes on accepted points.
    BASELINE = 60
    RESET = 61
    UNVERIFIED = 62
    OVERFLOW_TENANT = 63
    OVERFLOW_METRIC = 64
    LATE_GAUGE = 65
    FAMILIES_FULL = 66
    BUCKETS_MISSING = 67

    @property
    def text(self) -> str:
        """The name shown in SQL."""
        return self.name.lower()

    @property
    def refused(self) -> bool:
        """Whether the sender is told that the point was rejected."""
        return 0 < self < 40


# Of rows, not of points.
SUM_OVERFLOW = "sum_overflow"
HISTOGRAM_COARSENED = "histogram_coarsened"

MEANING = {
    Reason.TOO_OLD: "older than past_seconds_max",
    Reason.TOO_FAR_IN_FUTURE: "further ahead of the collector's clock than future_seconds_max",
    Reason.NO_VALUE: "a number point without as_int and as_double",
    Reason.NOT_FINITE: "NaN or infinite",
    Reason.UNKNOWN_TEMPORALITY: "neither delta nor cumulative, or a native histogram that is a gauge",
    Reason.NEGATIVE_MONOTONIC: "a monotonic sum below zero",
    Reason.BUCKETS_TOO_MANY: "more buckets than histogram_buckets_max",
    Reason.COUNT_TOO_LARGE: "a count above histogram_count_max",
    Reason.BUCKETS_MALFORMED: "bucket counts do not fit the bounds, or do not add up to the count",
    Reason.BOUNDS_MALFORMED: "explicit bounds do not ascend, or are NaN",
    Reason.SCALE_OUT_OF_RANGE: "an exponential scale outside -10..20",
    Reason.NO_NAME: "the metric has no name",
    Reason.NAME_TOO_LONG: "name or unit longer than metric_name_bytes_max",
    Reason.NAME_MALFORMED: "name or unit is not UTF-8",
    Reason.ATTRIBUTES_MALFORMED: "attributes, scope or resource cannot be decoded",
    Reason.ATTRIBUTES_TOO_MANY: "more attributes than attribute_count_max",
    Reason.ATTRIBUTE_TOO_LONG: "an attribute's name or value longer than attribute_value_bytes_max",
    Reason.ATTRIBUTE_TOO_DEEP: "a value nested deeper than attribute_depth_max",
    Reason.ATTRIBUTES_TOO_LARGE: "attributes larger than attributes_bytes_max",
    Reason.STREAMS_FULL: "a new stream beyond streams_max",
    Reason.START_AFTER_TIME: "a point whose start lies after its time",
    Reason.LINE_MALFORMED: "a line of a scraped text that is no sample, or a metric in protobuf",
    Reason.LABELS_BEYOND_LIMIT: "a scraped sample beyond a label limit of its job",
    Reason.DROPPED_BY_POLICY: "its metric is dropped by policy",
    Reason.NO_RECORDED_VALUE: "flagged as carrying no value; ends a gauge",
    Reason.REPEATED: "the same stream, start and time was counted before",
    Reason.LATE_CUMULATIVE: "older than the stream's latest point, whose increase holds its own already",
    Reason.SUMMARY_QUANTILES: "quantiles of a summary cannot be merged (unit: values); its count and sum are kept",
    Reason.DROPPED_BY_RELABELLING: "dropped by metric_relabel_configs of its scrape job",
    Reason.PARTS_MISSING: "a histogram or summary of remote write whose count or sum never came, or that waited when"
    " held_samples_max was reached; its increase is in the next whole point",
    Reason.EXEMPLAR_WITHOUT_POINT: "an exemplar of remote write whose stream has no point yet (unit: exemplars)",
    Reason.BASELINE: "first point of a life that began before this collector knew it; counts from here on",
    Reason.RESET: "a cumulative value fell without a new start time; counted from zero",
    Reason.UNVERIFIED: "older than the repeats that are remembered; accepted",
    Reason.OVERFLOW_TENANT: "stream folded, the tenant's budget is reached (unit: streams); see view cardinality_top",
    Reason.OVERFLOW_METRIC: "stream folded, the metric's budget is reached (unit: streams); see view cardinality_top",
    Reason.LATE_GAUGE: "older than the stream's latest sample; changes count, sum, min, max only",
    Reason.FAMILIES_FULL: "a metric family of remote write whose type was not kept: metric_families_max is reached"
    " (unit: families)",
    Reason.BUCKETS_MISSING: "a histogram of remote write that was counted without buckets that did not come within"
    " held_seconds_max: count and sum are whole, the next point has all buckets again",
}
