"""The rows that the golden envelopes hold, of every lane, version 1."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

_KEYS = {"window_start_ns": 1_763_900_040_000_000_000, "window_seconds": 60, "cluster": "tokyo-1"}

_COUNTER = {
    **_KEYS,
    "service": "shop/cart",
    "metric": "http.server.requests",
    "kind": "counter",
    "unit": "{request}",
    "attributes": '{"route":"/é","status":200}',
    "series_id": 2**64 - 1,
    "points": 3,
    "count": 3,
    "sum_int": Decimal(-(10**37)),
    "sum_float": 0.1,
    "min": None,
    "max": None,
    "last_time_ns": None,
    "last_value": None,
    "integral": 0.0,
    "observed_seconds": 0.0,
    "histogram": {},
    "exemplar_value": None,
    "exemplar_time_ns": None,
    "exemplar_trace_id": None,
    "exemplar_span_id": None,
}

_HISTOGRAM = {
    **_COUNTER,
    "window_seconds": 300,
    "cluster": "osaka-2",
    "metric": "http.server.duration",
    "kind": "histogram",
    "unit": "s",
    "series_id": 7,
    "sum_int": Decimal(0),
    "min": -0.0,
    "max": 1.5,
    "last_time_ns": 1_763_900_041_000_000_001,
    "last_value": 0.25,
    "histogram": {-(2**63): 1, 0: 0, 2**40: 2**64 - 1},
    "exemplar_value": 1.5,
    "exemplar_time_ns": 1_763_900_042_000_000_000,
    "exemplar_trace_id": "0af7651916cd43dd8448eb211c80319c",
    "exemplar_span_id": "b7ad6b7169203331",
}


def _region(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "cluster"}


ROWS: dict[str, list[dict[str, Any]]] = {
    "metrics_cluster": [_COUNTER, _HISTOGRAM],
    "metrics_region": [_region(_COUNTER), _region(_HISTOGRAM)],
    "totals": [{**_KEYS, "lane": "metrics_cluster", "points": 6, "rows": 2, "digest": 2**63 + 1}],
    "drops": [{**_KEYS, "tier": "collector", "lane": "metrics_cluster", "reason": "nan", "unit": "points", "count": 5}],
    "health": [
        {
            **_KEYS,
            "source": "collector-a",
            "heartbeat_ns": 1_763_900_099_000_000_000,
            "sequence": 42,
            "labels": '{"zone":"a"}',
            "version": "0.1.0",
            "policy_version": "p1",
        }
    ],
    "cardinality": [
        {
            **_KEYS,
            "metric": "http.server.requests",
            "attribute": "route",
            "streams": 12,
            "folded": 3,
            "registers": {0: 1, 511: 3, 1023: 54},
        }
    ],
}
