"""The collector's flush: once it is committed it counts, whatever its housekeeping runs into."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from catchment.config import Config
from catchment.errors import CatchmentError, Invalid, Retry
from catchment.limits import Limits
from catchment.log.sqlite import SqliteLog
from catchment.telemetry import Telemetry
from catchment.tracing import Tracing
from collectors.collector import Collector
from collectors.state import StateFile


def counted(telemetry: Telemetry, name: str) -> float:
    """The sum of a counter's samples."""
    lines = telemetry.exposition().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("trouble", [Retry("disk full"), Invalid("checksum differs")])
def test_a_merge_that_fails_is_no_failed_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: CatchmentError
) -> None:
    """Its rows are counted, the merge's trouble is said until a later flush gets through, and that merges."""
    config = replace(Config(), data_dir=tmp_path, limits=replace(Limits(), outbox_merge_bytes=0)).for_collector()
    telemetry = Telemetry()
    collector = Collector(config, SqliteLog.open(tmp_path / "log.db"), telemetry, Tracing("collector"))

    def broken(*_: object) -> None:
        raise trouble

    try:
        with monkeypatch.context() as patched:
            patched.setattr(StateFile, "values", broken)
            asyncio.run(collector._flush_once())
            asyncio.run(collector._flush_once())
        assert collector.not_ready() == [f"what waits cannot be merged: {trouble}"]
        assert counted(telemetry, "catchment_flushed_rows_total") == 2.0
        assert counted(telemetry, "catchment_flush_seconds_count") == 2.0
        assert len(collector._state.waiting()) == 2
        asyncio.run(collector._flush_once())
        assert collector.not_ready() == []
        assert len(collector._state.waiting()) == 1
    finally:
        collector.close()
