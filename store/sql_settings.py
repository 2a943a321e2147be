"""Which settings a reader may send, and how high. Pure.

Rules:

1. What clients and dashboards set for the transport (`TRANSPORT`) is read by the endpoint or means nothing to it; it is
   accepted and never reaches the engine.
2. `QueryLimits` are locked: a reader may lower them, never raise them or turn them off with 0.
3. Of all other settings only those that shape a result or lower a cost (`ALLOWED`, `ALLOWED_PREFIXES`) are passed on.
   The rest is refused: among 1,000 settings some read files (format schemas), some lift limits, some crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from store.engine.port import EngineError
from store.sql_guard import words

SETTING_CONSTRAINT_VIOLATION = 452
UNKNOWN_SETTING = 115
BAD_ARGUMENTS = 36

TRANSPORT = words(
    "query database default_format user password quota_key query_id session_id session_timeout session_check "
    "close_session wait_end_of_query buffer_size compress decompress stacktrace role client_protocol_version "
    "enable_http_compression http_zlib_compression_level http_write_exception_in_output_format add_http_cors_header "
    "network_compression_method network_zstd_compression_level send_progress_in_http_headers send_logs_level "
    "cancel_http_readonly_queries_on_client_close http_native_compression_disable_checksumming_on_decompress "
    "log_queries log_comment log_profile_events log_query_settings date_time_input_format "
    "cast_string_to_dynamic_use_inference http_response_buffer_size http_make_head_request connect_timeout "
    "receive_timeout send_timeout readonly allow_ddl"
)
TRANSPORT_PREFIXES = ("http_headers_", "http_connection_", "http_send_", "http_receive_", "http_max_")

ALLOWED = words(
    "max_block_size max_rows_to_read max_bytes_to_read max_rows_to_group_by max_rows_to_sort max_bytes_to_sort "
    "max_rows_in_set max_bytes_in_set max_rows_in_join max_bytes_in_join max_columns_to_read max_subquery_depth "
    "read_overflow_mode group_by_overflow_mode sort_overflow_mode result_overflow_mode timeout_overflow_mode "
    "join_overflow_mode set_overflow_mode distinct_overflow_mode max_rows_in_distinct max_bytes_in_distinct "
    "extremes totals_mode join_use_nulls join_algorithm join_default_strictness transform_null_in any_join_distinct "
    "use_uncompressed_cache use_query_cache enable_analyzer allow_experimental_analyzer prefer_column_name_to_alias "
    "final optimize_read_in_order optimize_move_to_prewhere optimize_aggregation_in_order force_primary_key "
    "force_index_by_date use_skip_indexes session_timezone limit offset group_by_use_nulls union_default_mode "
    "intersect_default_mode except_default_mode empty_result_for_aggregation_by_empty_set cast_keep_nullable "
    "aggregate_functions_null_for_empty allow_suspicious_types_in_group_by allow_suspicious_types_in_order_by "
    "date_time_output_format date_time_overflow_behavior bool_true_representation bool_false_representation "
    "format_csv_delimiter format_csv_null_representation format_tsv_null_representation "
    "describe_compact_output describe_include_subcolumns show_table_uuid_in_table_create_query_if_not_nil "
    "low_cardinality_allow_in_native_format max_streams_to_max_threads_ratio priority"
)
ALLOWED_PREFIXES = ("output_format_", "format_custom_")
_REFUSED = frozenset({"output_format_schema", "output_format_parallel_formatting"})


@dataclass(frozen=True)
class QueryLimits:
    """What one query may cost. Beyond it the engine stops the query; nothing else is hurt.

    Attributes:
        memory_bytes_max: beyond it code 241.
        execution_seconds_default: where the reader says nothing; beyond it code 159.
        execution_seconds_max: the most that a reader may ask for.
        result_bytes_max: of the result, formatted and not compressed; beyond it code 396. It is held in memory.
        threads_max: of the engine, per query.
    """

    memory_bytes_max: int = 1024**3
    execution_seconds_default: float = 60
    execution_seconds_max: float = 300
    result_bytes_max: int = 256 * 1024**2
    threads_max: int = 4

    def locked(self) -> dict[str, float]:
        """The highest value of each locked setting."""
        return {
            "max_memory_usage": self.memory_bytes_max,
            "max_execution_time": self.execution_seconds_max,
            "max_result_bytes": self.result_bytes_max,
            "max_threads": self.threads_max,
        }


def engine_settings(
    asked: Mapping[str, str],
    limits: QueryLimits,
    known: frozenset[str] = frozenset(),
    refused: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """The settings to run a query with, from those that the reader asked for.

    Args:
        asked: by name, as text.
        limits: the locked ones.
        known: names that the engine knows, for telling an unknown name (115) from a refused one (452).
        refused: names that this reader may not send, although others may.

    Returns:
        Settings for the engine, the locked ones always among them; ``readonly`` is last.

    Raises:
        EngineError: 115, 452, or 36 for a value that is no number where one is needed.
    """
    locked = limits.locked()
    result = {name: _text(value) for name, value in locked.items()}
    result["max_execution_time"] = _text(limits.execution_seconds_default)
    for name, value in asked.items():
        if name in refused:
            raise _violation(f"Setting {name} should not be changed")
        if name in locked:
            result[name] = _lowered(name, value, locked[name])
        elif name in TRANSPORT or name.startswith(TRANSPORT_PREFIXES):
            _check_unlocking(name, value)
        elif name in ALLOWED or (name.startswith(ALLOWED_PREFIXES) and name not in _REFUSED):
            result[name] = value
        elif known and name not in known:
            raise EngineError(UNKNOWN_SETTING, "UNKNOWN_SETTING", f"Unknown setting '{name}'.")
        else:
            raise _violation(f"Setting {name} should not be changed")
    result["readonly"] = "1"
    return result


def _lowered(name: str, value: str, highest: float) -> str:
    try:
        number = float(value)
    except ValueError:
        raise EngineError(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"Setting {name}: '{value}' is not a number.") from None
    if not 0 < number <= highest:
        raise _violation(f"Setting {name} shouldn't be greater than {_text(highest)} or be turned off (asked: {value})")
    return _text(number if name == "max_execution_time" else int(number))


def _check_unlocking(name: str, value: str) -> None:
    """``readonly`` and ``allow_ddl`` are accepted when they ask for what is so anyway."""
    if (name == "readonly" and value not in ("1", "2")) or (name == "allow_ddl" and value != "0"):
        raise EngineError(164, "READONLY", f"Cannot modify '{name}' setting in readonly mode.")


def _violation(message: str) -> EngineError:
    return EngineError(SETTING_CONSTRAINT_VIOLATION, "SETTING_CONSTRAINT_VIOLATION", message + ".")


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
