"""The state file: whom it belongs to, which version it takes, what its outbox promises."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import pytest

from catchment.envelope import decode
from catchment.errors import CatchmentError, Corrupt, Retry, TooNew
from catchment.limits import Limits
from collectors.state import VERSION, StateFile
from tests import otlp
from tests.durable_edge import DurableEdge, metric_rows, outbox_rows


def _filled(folder: Path, flushes: int) -> DurableEdge:
    edge = DurableEdge(folder, Limits())
    for i in range(flushes):
        edge.send(otlp.body(otlp.counter("hits", otlp.number(100 + i, i, start=1))), 100 + i)
        edge.flush(100 + i)
    return edge


def test_birth_is_remembered(tmp_path: Path) -> None:
    """known_since is the time of the first opening, whatever time later ones have."""
    for now_ns in (100, 200):
        state = StateFile(tmp_path / "state.db")
        meta = state.meta(inbox_id="one", now_ns=now_ns)
        assert (meta.known_since_ns, meta.seen_horizon_ns, meta.consumed, meta.sequence) == (100, 100, 0, 0)
        state.close()


def test_the_state_of_another_inbox_is_refused(tmp_path: Path) -> None:
    """Mixed folders would count twice or lose: they are named, not guessed about."""
    state = StateFile(tmp_path / "state.db")
    state.meta(inbox_id="one", now_ns=1)
    with pytest.raises(Corrupt, match="folders mixed"):
        state.meta(inbox_id="another", now_ns=1)
    state.close()


def test_a_newer_version_is_held(tmp_path: Path) -> None:
    """What a newer program wrote is not touched."""
    state = StateFile(tmp_path / "state.db")
    state.meta(inbox_id="one", now_ns=1)
    state._db.execute("UPDATE meta SET version = ?", (VERSION + 1,))
    with pytest.raises(TooNew):
        state.meta(inbox_id="one", now_ns=1)
    state.close()


def test_what_is_no_database_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    """Overwritten bytes are no reason to begin anew silently."""
    path = tmp_path / "state.db"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(CatchmentError, match=r"state\.db") as caught:
        StateFile(path)
    assert not isinstance(caught.value, Retry)
    assert path.read_bytes().startswith(b"no database")


def test_outbox_sequences_go_on_after_a_trim_to_empty(tmp_path: Path) -> None:
    """Also over a restart: a sequence names one envelope for ever."""
    edge = _filled(tmp_path, 2)
    last = edge.state.outbox_last()
    edge.state.trim(last)
    assert edge.outbox() == [] and edge.state.outbox_last() == last
    edge.crash()
    assert edge.state.outbox_last() == last
    edge.send(otlp.body(otlp.counter("hits", otlp.number(200, 9, start=1))), 200)
    edge.flush(200)
    assert min(row.sequence for row in edge.outbox()) == last + 1
    edge.state.close()


def test_outbox_is_read_in_portions(tmp_path: Path) -> None:
    """By number and by bytes, at least one however large, in order."""
    edge = _filled(tmp_path, 4)
    everything = edge.outbox()
    read = edge.state.outbox(0, messages_max=3, bytes_max=10**9)
    assert read == everything[:3]
    assert edge.state.outbox(read[-1].sequence, messages_max=10**6, bytes_max=1) == everything[3:4]
    messages, size, oldest_ns = edge.state.outbox_size()
    assert (messages, size) == (len(everything), sum(len(row.value) for row in everything))
    assert oldest_ns == everything[0].created_ns
    edge.state.close()


def test_envelopes_are_split_at_the_limit_of_bytes(tmp_path: Path) -> None:
    """Rows with many buckets make several messages, none larger than a message may be; nothing is lost between."""
    edge = DurableEdge(tmp_path, Limits(message_bytes_max=20_000))
    rng = Random(1)
    for n in range(100):
        counts = [rng.randrange(2**40) for _ in range(160)]
        point = otlp.exponential(100, 5, 0, counts, start=1, attributes={"n": n})
        edge.send(otlp.body(otlp.exponential_histogram("lat", point)), 100)
    edge.flush(101)
    rows = [row for row in edge.outbox() if row.lane == "metrics_cluster"]
    headers = [decode(row.value).header for row in rows]
    assert len(rows) > 4
    assert max(len(row.value) for row in rows) <= 20_000
    assert sum(header.totals.points for header in headers) == 100
    points, digest = edge.state.acknowledged()["acme", "metrics"]
    assert (points, digest) == (100, sum(header.totals.digest for header in headers) % 2**64)
    assert [header.sequence for header in headers] == sorted({header.sequence for header in headers})
    edge.state.close()


def test_a_locked_database_is_a_retry(tmp_path: Path) -> None:
    """Another writer that does not let go in time: nothing changed, try again."""
    edge = _filled(tmp_path, 1)
    edge.state._db.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    edge.send(otlp.body(otlp.counter("hits", otlp.number(200, 9, start=1))), 200)
    before = edge.outbox()
    with pytest.raises(Retry):
        edge.flush(200)
    assert edge.outbox() == before
    other.execute("ROLLBACK")
    other.close()
    edge.flush(201)
    assert len(edge.outbox()) > len(before)
    edge.state.close()


def test_saved_lives_do_not_grow_without_end(tmp_path: Path) -> None:
    """Segments are rewritten whole once they outweigh what there is."""
    edge = DurableEdge(tmp_path, Limits())
    for i in range(60):
        points = [otlp.number(100 + i, i, start=1, attributes={"n": n}) for n in range(50)]
        edge.send(otlp.body(otlp.counter("hits", *points)), 100 + i)
        edge.flush(100 + i)
    assert edge.state.lives_rows() <= 4 * 50 + 1024
    edge.state.close()


def test_a_sum_that_overflows_is_counted_once_and_leaves_all_the_same(tmp_path: Path) -> None:
    """Finite gauges whose sum is beyond a float: the row is infinite, and the drops say so, after a retry as well."""
    edge = DurableEdge(tmp_path, Limits())
    big = [otlp.number(100, 1.7e308, attributes={"host.name": name}) for name in ("a", "b")]
    edge.send(otlp.body(otlp.gauge("level", *big), otlp.gauge("calm", otlp.number(100, 1.5))), 100)
    edge.flusher._edge.put_back(edge.edge.drain(otlp.ns(100)))
    edge.flush(101)
    rows = {row["metric"]: row["sum_float"] for row in metric_rows(edge.outbox())}
    assert rows == {"level": float("inf"), "calm": 1.5}
    drops = outbox_rows(edge.outbox(), "drops")["acme"].to_pylist()
    assert [(row["cluster"], row["unit"], row["count"]) for row in drops if row["reason"] == "sum_overflow"] == [
        ("tokyo-1", "rows", 1)
    ]
    edge.state.close()
