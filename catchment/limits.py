"""Every limit of the product, with its unit, its why and what happens when it is reached.

Rules:

1. Everything that grows has a limit here; code takes a `Limits` as an argument and holds no constant of its own.
2. Reaching a limit has the stated consequence and is counted by reason; it never ends in running out of memory.
3. All of them may be overridden under ``limits:`` in the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

from catchment.setting import setting

_KIB = 1024
_MIB = 1024 * _KIB
_GIB = 1024 * _MIB
_DAY = 86_400


@dataclass(frozen=True)
class Limits:
    """All limits; by default a cluster's collector fits in 350 MB of memory at 100,000 streams, and 10 GB of disk.

    Whatever a sender does, memory ends where the limits do: a million streams of 100,000 series take 600 MB
    (benchmarks/cardinality.py).
    """

    # A request at the front door.
    request_bytes_max: int = setting(
        16 * _MIB,
        "size of one request as received; an SDK's largest default batch is below 4 MiB",
        unit="bytes",
        consequence="413, counted as request_too_large; over gRPC RESOURCE_EXHAUSTED without a retry hint, not counted",
        least=_KIB,
    )
    request_bytes_uncompressed_max: int = setting(
        20 * _MIB,
        "size of one request after decompression; stops bombs before they are unpacked",
        unit="bytes",
        consequence="413; counted as request_too_large; decompression stops at this size",
        least=_KIB,
    )
    request_points_max: int = setting(
        200_000,
        "data points (or metrics, scopes, resources) of one request; checked where it unpacks to more than 2.5 MiB",
        unit="points",
        consequence="413; counted as request_too_large",
        least=1,
    )
    requests_in_flight_max: int = setting(
        1024,
        "requests that are being read or wait for their answer; a tenant may have eight times what is free",
        unit="requests",
        consequence="503 with Retry-After, or UNAVAILABLE with RetryInfo",
        least=1,
    )
    connections_max: int = setting(
        4096,
        "connections of senders to each receiver, 0.15 MiB each; at most a third of the files that may be open",
        unit="connections",
        consequence="further ones are closed as they come; senders try again",
        least=1,
    )
    gather_ms_max: int = setting(
        2,
        "how long a small batch of requests waits for the senders of the last one to come back",
        unit="milliseconds",
        consequence="0 answers a little sooner and takes up to twice the CPU where a few senders send at once",
        least=0,
        most=1_000,
    )
    intake_queue_bytes_max: int = setting(
        128 * _MIB,
        "bodies in memory that wait for their fsync or their decoding",
        unit="bytes",
        consequence="503 with Retry-After, or UNAVAILABLE with RetryInfo",
        least=_MIB,
    )
    inbox_bytes_max: int = setting(
        2 * _GIB,
        "inbox segments on disk that no flush has consumed yet",
        unit="bytes",
        consequence="503 with Retry-After until a flush frees segments",
        least=_MIB,
    )
    inbox_segment_bytes_max: int = setting(
        64 * _MIB,
        "size of one inbox segment; a whole segment is deleted at once",
        unit="bytes",
        consequence="a new segment is begun",
        least=64 * _KIB,
    )
    inbox_spare_bytes_max: int = setting(
        512 * _MIB,
        "consumed inbox segments kept on disk to be overwritten, which costs a third of the CPU that new files cost",
        unit="bytes",
        consequence="a consumed segment is deleted; all of them are where the disk is full",
        least=0,
    )
    retry_after_seconds: int = setting(
        5, "hint that a refused sender gets", unit="seconds", consequence="the sender comes back then", least=1
    )

    # What a point may look like.
    attribute_count_max: int = setting(
        128,
        "attributes of one point together with its scope and resource",
        unit="attributes",
        consequence="point rejected; counted as attributes_too_many",
        least=1,
    )
    attribute_value_bytes_max: int = setting(
        4096,
        "length of one attribute's value in UTF-8; cutting it would merge series that differ",
        unit="bytes",
        consequence="point rejected; counted as attribute_too_long",
        least=16,
    )
    attribute_depth_max: int = setting(
        8,
        "nesting of an attribute's lists and maps",
        unit="levels",
        consequence="point rejected; counted as attribute_too_deep",
        least=1,
        most=64,
    )
    attributes_bytes_max: int = setting(
        64 * _KIB,
        "canonical attributes of one stream together",
        unit="bytes",
        consequence="point rejected; counted as attributes_too_large",
        least=256,
    )
    metric_name_bytes_max: int = setting(
        1024,
        "length of a metric's name, and of its unit, in UTF-8",
        unit="bytes",
        consequence="point rejected; counted as name_too_long",
        least=16,
    )
    histogram_buckets_max: int = setting(
        1024,
        "buckets of one histogram point, both signs together",
        unit="buckets",
        consequence="point rejected; counted as buckets_too_many",
        least=2,
    )
    histogram_intervals_max: int = setting(
        4096,
        "intervals of one row's histogram, as of many senders with bounds of their own",
        unit="intervals",
        consequence="widened to a factor of 2 or of 16 each; counts and sums stay; counted as histogram_coarsened",
        least=256,
    )
    histogram_count_max: int = setting(
        2**48,
        "observations of one histogram point; keeps sums of 65,536 such counts within UInt64",
        unit="observations",
        consequence="point rejected; counted as count_too_large",
        least=1,
        most=2**48,
    )
    future_seconds_max: int = setting(
        600,
        "how far a point's time may be ahead of the collector's clock",
        unit="seconds",
        consequence="point rejected; counted as too_far_in_future",
        least=0,
    )
    past_seconds_max: int = setting(
        30 * _DAY,
        "how old a point may be; keeps a wrong clock from opening windows of long ago",
        unit="seconds",
        consequence="point rejected; counted as too_old",
        least=1,
    )

    # State of the collector.
    streams_max: int = setting(
        2_000_000,
        "streams whose baseline is kept; about 300 bytes each",
        unit="streams",
        consequence="points of new streams rejected; counted as streams_full; the last tenth is for small tenants",
        least=1,
    )
    baseline_buckets_max: int = setting(
        16_000_000,
        "buckets of all cumulative histograms that are remembered to difference the next point; 16 bytes each",
        unit="buckets",
        consequence="a histogram that has no room is not remembered: each of its points counts as baseline",
        least=1024,
    )
    stream_idle_seconds: int = setting(
        _DAY,
        "a stream without points for this long is evicted, and known_since rises to its start",
        unit="seconds",
        consequence="its next point is a baseline again; counted as baseline",
        least=60,
    )
    lives_per_stream_max: int = setting(
        8,
        "writers of one stream told apart by their start times",
        unit="lives",
        consequence="the life that was idle longest is evicted",
        least=1,
        most=64,
    )
    series_per_tenant_max: int = setting(
        200_000,
        "series of one tenant that the collector knows",
        unit="series",
        consequence="points fold into the series otel.metric.overflow=true; counted as overflow_tenant",
        least=1,
    )
    series_per_metric_max: int = setting(
        50_000,
        "series of one metric of one tenant that the collector knows",
        unit="series",
        consequence="points fold into the series otel.metric.overflow=true; counted as overflow_metric",
        least=1,
    )
    series_bytes_per_tenant_max: int = setting(
        64 * _MIB,
        "names and attributes of the series of one tenant that the collector knows",
        unit="bytes",
        consequence="points fold into the series otel.metric.overflow=true; counted as overflow_tenant",
        least=_KIB,
    )
    overflow_log_seconds: int = setting(
        600,
        "between two lines of the log that name the attribute which makes a metric's series overflow",
        unit="seconds",
        consequence="until then its overflow is in pipeline_drops and cardinality_top only",
        least=1,
    )
    cardinality_sketches_max: int = setting(
        20_000,
        "metrics and attributes of streams that began since the last flush; 1 KiB each, a quarter of them for a tenant",
        unit="sketches",
        consequence="metrics beyond count together as otel.overflow in cardinality_top, attributes beyond not at all",
        least=4,
    )
    lateness_seconds: int = setting(
        3600,
        "how late a delta or gauge point may be and still be checked against the repeats that are remembered",
        unit="seconds",
        consequence="older ones are accepted and counted as unverified",
        least=0,
    )
    late_heartbeat_seconds_max: int = setting(
        604_800,
        "how late a point may be and still be a sign of life of its cluster in the point's own window",
        unit="seconds",
        consequence="older ones are accepted, but their windows stay silent in coverage",
        least=0,
    )
    seen_points_max: int = setting(
        4_000_000,
        "delta and gauge points remembered to recognise repeats; 8 bytes each",
        unit="points",
        consequence="the oldest are forgotten early; their repeats are counted as unverified",
        least=1,
    )
    staleness_seconds: int = setting(
        300,
        "how long a gauge's value is held when no newer one comes",
        unit="seconds",
        consequence="observed_seconds stops growing",
        least=1,
    )
    metric_families_max: int = setting(
        100_000,
        "metric families whose type remote write 1.0 told, all clusters together; about 150 bytes each",
        unit="families",
        consequence="types of others stay unknown: suffixes make counters, the rest gauges; counted as families_full",
        least=1,
    )
    held_samples_max: int = setting(
        200_000,
        "samples of histograms and summaries of remote write that wait for the others of their point, which came in "
        "other requests; 300 bytes each, written with every flush",
        unit="samples",
        consequence="the points that wait longest are given up; counted as parts_missing",
        least=1,
    )
    held_seconds_max: int = setting(
        60,
        "how long they wait",
        unit="seconds",
        consequence="the point is counted without its missing buckets, or given up without a count or sum; "
        "counted as parts_missing",
        least=1,
    )
    parts_settle_seconds: int = setting(
        5,
        "how long the first point of a new histogram of remote write waits, for its series to make themselves known",
        unit="seconds",
        consequence="a shorter time leaves out the buckets that come later, once",
        least=0,
    )
    histogram_parts_max: int = setting(
        4_000_000,
        "series of histograms and summaries of remote write that are remembered as parts; 40 bytes each",
        unit="series",
        consequence="samples of new histograms are refused; counted as streams_full",
        least=1,
    )
    flush_bytes_max: int = setting(
        128 * _MIB,
        "rows in memory that wait for the next flush",
        unit="bytes",
        consequence="the flush comes early; at twice as much, 503 with Retry-After until a flush works",
        least=64 * _KIB,
    )
    points_per_chunk_max: int = setting(
        65_536,
        "points aggregated at once; bounds the memory of a flush",
        unit="points",
        consequence="the chunk is merged and the next one begun",
        least=1,
    )
    names_cached_max: int = setting(
        200_000,
        "raw attribute slices whose canonical form is remembered",
        unit="entries",
        consequence="the cache is emptied and fills again",
        least=1,
    )

    # On the way out.
    outbox_merge_bytes: int = setting(
        2 * _GIB,
        "envelopes on disk that were not forwarded yet, from where on the oldest are merged; at most half the maximum",
        unit="bytes",
        consequence="waiting flushes are merged, then their windows widened to 5 minutes, then to an hour",
        least=0,
    )
    outbox_bytes_max: int = setting(
        4 * _GIB,
        "envelopes on disk that were not forwarded yet",
        unit="bytes",
        consequence="503 with Retry-After until the log takes some",
        least=_MIB,
    )
    envelope_rows_max: int = setting(
        100_000, "rows of one envelope", unit="rows", consequence="rows are split over several envelopes", least=1
    )
    message_bytes_max: int = setting(
        32 * _MIB,
        "one message of the log; the broker's and the topic's limits must not be below it",
        unit="bytes",
        consequence="rows are split over several envelopes",
        least=64 * _KIB,
    )
    publish_bytes_max: int = setting(
        8 * _MIB,
        "what one transaction of the log takes; small ones cost the most per byte",
        unit="bytes",
        consequence="the rest waits for the next transaction",
        least=64 * _KIB,
    )
    publish_messages_max: int = setting(
        256, "messages of one transaction of the log", unit="messages", consequence="the rest waits", least=1
    )
    rollup_rows_max: int = setting(
        200_000,
        "rows of one global message, which is one insert of the store",
        unit="rows",
        consequence="rows are split over several messages",
        least=1,
        most=500_000,
    )
    rollup_bytes_max: int = setting(
        8 * _MIB,
        "encoded envelopes that one linger of the aggregator collects of a partition; 8 MiB is about 150,000 rows",
        unit="bytes",
        consequence="the roll-up is published before its linger is over",
        least=_MIB,
    )

    # Questions.
    query_seconds_default: int = setting(
        60, "run time of a query that asks for no other", unit="seconds", consequence="ClickHouse's error 159", least=1
    )
    query_seconds_max: int = setting(
        300, "the longest run time that a query may ask for", unit="seconds", consequence="error 159", least=1
    )
    query_memory_bytes_max: int = setting(
        _GIB, "memory of one query", unit="bytes", consequence="ClickHouse's error 241", least=16 * _MIB
    )
    query_threads_max: int = setting(
        4,
        "threads of one query",
        unit="threads",
        consequence="a query takes longer and leaves room for others",
        least=1,
    )
    query_bytes_max: int = setting(
        _MIB, "length of a query's text and address", unit="bytes", consequence="413, error 170", least=_KIB
    )
    query_result_bytes_max: int = setting(
        256 * _MIB,
        "size of one answer, which is held in memory",
        unit="bytes",
        consequence="ClickHouse's error 396",
        least=_MIB,
    )
    queries_in_flight_max: int = setting(
        8,
        "queries that run, or whose answers are being sent, at once",
        unit="queries",
        consequence="the next waits",
        least=1,
    )
    queries_waiting_max: int = setting(
        64, "queries that wait for a place", unit="queries", consequence="503, ClickHouse's error 202", least=0
    )
