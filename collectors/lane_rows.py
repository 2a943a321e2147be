"""Rows of one lane and tenant on their way into envelopes."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class LaneRows:
    """Rows of one lane and tenant, and the digest of their points."""

    lane: str
    tenant: str
    table: pa.Table
    digest: int = 0
