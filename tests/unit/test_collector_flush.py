"""The collector's flush: once it is committed it counts, whatever its housekeeping runs into."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from catchment.config import Config
from catchment.errors import CatchmentError, Invalid, Reject, Retry
from catchment.limits import Limits
from catchment.log.sqlite import SqliteLog
from catchment.telemetry import Telemetry
from catchment.tracing import Tracing
from collectors.collector import Collector
from collectors.records import Received
from collectors.state import StateFile
from tests import otlp
from tests.edge_harness import received
from tests.otlp import SECOND_NS, T0_NS


def counted(telemetry: Telemetry, name: str) -> float:
    """The sum of a counter's samples."""
    lines = telemetry.exposition().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


NOW = (time.time() - T0_NS / SECOND_NS) // 60 * 60


def many_windows(stream: int, points: int = 1_000) -> Received:
    """A request whose points are each in a window of its own, so that each makes a row."""
    numbers = [
        otlp.number(NOW - 60 * window, 1, start=NOW - 60 * window - 1, attributes={"stream": stream})
        for window in range(points)
    ]
    return received(otlp.body(otlp.counter("orders", *numbers, temporality=otlp.DELTA)), NOW)


def test_rows_that_wait_for_a_flush_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond the limit are flushed early; while flushing fails senders are pushed back, and none is lost."""
    limits = replace(Limits(), flush_bytes_max=64 << 10, points_per_chunk_max=1)
    config = replace(Config(), data_dir=tmp_path, limits=limits, flush_seconds=3600).for_collector()
    collector = Collector(config, SqliteLog.open(tmp_path / "log.db"), Telemetry(), Tracing("collector"))
    stop = asyncio.Event()

    def broken(*_: object) -> None:
        raise Retry("disk full")

    async def send(streams: range) -> None:
        for stream in streams:
            await collector._intake.submit(many_windows(stream))

    async def scenario() -> None:
        working = [asyncio.create_task(collector._intake.run()), asyncio.create_task(collector.flushing.forever(stop))]
        with monkeypatch.context() as patched:
            patched.setattr(StateFile, "commit", broken)
            with pytest.raises(Reject, match=r"rows of .* wait for a flush"):
                await send(range(100))
            assert collector.edge.rows_bytes < 6 * limits.flush_bytes_max
            assert any("wait for a flush" in reason for reason in collector.flushing.troubles())
        await collector.flushing.once()
        assert collector.edge.rows_bytes == 0 and collector.flushing.troubles() == []
        async with asyncio.timeout(60):
            for stream in range(100, 105):
                with contextlib.suppress(Reject):  # a flush may be on its way
                    await send(range(stream, stream + 1))
            while collector.edge.rows_bytes >= limits.flush_bytes_max:  # noqa: ASYNC110 - nobody is told of a flush
                await asyncio.sleep(0.01)
        stop.set()
        collector._intake.close()
        await asyncio.gather(*working)

    try:
        asyncio.run(scenario())
        assert len(collector._state.outbox(0, messages_max=1_000, bytes_max=1 << 30)) > 2
    finally:
        collector.close()


def test_rows_are_bounded_in_a_replay_too(tmp_path: Path) -> None:
    """An inbox that holds more than memory should is flushed while it is replayed; all of it counts once."""
    config = replace(Config(), data_dir=tmp_path, flush_seconds=3600).for_collector()
    log = SqliteLog.open(tmp_path / "log.db")
    collector = Collector(config, log, Telemetry(), Tracing("collector"))
    requests = [many_windows(number, 200) for number in range(600)]

    async def fill() -> None:
        working = asyncio.create_task(collector._intake.run())
        await asyncio.gather(*(collector._intake.submit(request) for request in requests))
        collector._intake.close()
        await working

    asyncio.run(fill())
    collector.close()
    small = replace(config, limits=replace(config.limits, flush_bytes_max=64 << 10))
    again = Collector(small, log, Telemetry(), Tracing("collector"))
    try:
        assert 0 < again._flusher.meta.consumed < again._pipeline.applied
        asyncio.run(again.flushing.once())
        assert sum(points for points, _ in again._state.acknowledged().values()) == 600 * 200
    finally:
        again.close()


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
            asyncio.run(collector.flushing.once())
            asyncio.run(collector.flushing.once())
        assert collector.flushing.troubles() == [f"what waits cannot be merged: {trouble}"]
        assert counted(telemetry, "catchment_flushed_rows_total") == 2.0
        assert counted(telemetry, "catchment_flush_seconds_count") == 2.0
        assert len(collector._state.waiting()) == 2
        asyncio.run(collector.flushing.once())
        assert collector.flushing.troubles() == []
        assert len(collector._state.waiting()) == 1
    finally:
        collector.close()
