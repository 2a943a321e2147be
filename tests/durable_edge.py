"""An edge with its state file and an inbox in memory: restarts, crashes and failing flushes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from catchment.algebra.merge import merge
from catchment.columns import LANES
from catchment.config_policies import Policies
from catchment.envelope import decode
from catchment.limits import Limits
from collectors import policy_change
from collectors.content import PROTOBUF
from collectors.flush import Flusher
from collectors.policy import Policy
from collectors.policy_change import PolicyChanges
from collectors.records import Outcome, Received
from collectors.restored import restored
from collectors.state import StateFile
from collectors.state_records import OutboxRow
from tests.edge_harness import Row, received, rows_of
from tests.otlp import ns

INBOX_ID = "inbox-of-the-test"
BORN_SECONDS = -3600.0


class DurableEdge:
    """One collector's folder. The inbox is a list: what is in it was acknowledged and survives any crash."""

    def __init__(self, folder: Path, limits: Limits, policies: Policies | None = None) -> None:
        self._path = folder / "state.db"
        self._limits = limits
        self._configured = policies or Policies()
        self.inbox: list[tuple[bytes, Received]] = []
        self.applied = 0
        self.latest = 0.0
        self.open()

    def open(self) -> None:
        """Open the folder, as a start of the process does, and replay what no flush has consumed."""
        self.state = StateFile(self._path)
        meta = self.state.meta(inbox_id=INBOX_ID, now_ns=ns(BORN_SECONDS))
        history = policy_change.opened(self.state, self._configured)
        self.edge, _ = restored(
            self.state, meta, Policy(history.in_force), self._limits, window_seconds=60, now_ns=2**63 - 1
        )
        self.flusher = Flusher(self.edge, self.state, meta, region="r", name="tokyo-1")
        self.applied = meta.consumed
        self.policies = PolicyChanges(
            self.state, self.edge, history, lambda ns: self.flusher.flush(self.applied, ns, release=True)
        )
        self.edge.replay(begins=True)
        for _, request in self.inbox[self.applied :]:
            if request.policy_version != self.edge.policy.version:
                self.policies.replay_under(request.policy_version, request.received_ns)
            self._apply_next()
        self.edge.replay(begins=False)
        self.policies.begin(self._configured, ns(self.latest))

    def crash(self, policies: Policies | None = None) -> None:
        """Lose all that is in memory and start again, with other policies in the configuration if some are given."""
        self.state.close()
        self._configured = policies or self._configured
        self.open()

    def send(
        self,
        body: bytes,
        at: float,
        tenant: str = "acme",
        cluster: str = "tokyo-1",
        content_type: str = PROTOBUF,
    ) -> None:
        """Acknowledge and apply one request."""
        request = replace(received(body, at, tenant, cluster, content_type), policy_version=self.edge.policy.version)
        self.inbox.append((body, request))
        self.latest = at
        self._apply_next()

    def flush(self, at: float, *, release: bool = False) -> None:
        """Flush at the present position; raises what the flush raises."""
        self.flusher.flush(self.applied, ns(at), policies=self.policies.trimmed(ns(at)), release=release)

    def change(self, policies: Policies, at: float) -> None:
        """Reload with other policies; raises what the flush before it raises."""
        self.flush(at, release=True)
        self.policies.change(policies, ns(at))
        self._configured = policies

    def _apply_next(self) -> None:
        body, request = self.inbox[self.applied]
        outcomes, staged = self.edge.stage([request], [body])
        self.edge.apply(staged, [request] if isinstance(outcomes[0], Outcome) else [])
        self.applied += 1

    def outbox(self) -> list[OutboxRow]:
        """All envelopes that wait."""
        return self.state.outbox(0, messages_max=10**9, bytes_max=10**12)


def outbox_rows(rows: list[OutboxRow], lane: str = "metrics_cluster") -> dict[str, pa.Table]:
    """The rows of a lane in some envelopes, merged, by tenant."""
    tables: dict[str, list[pa.Table]] = {}
    for row in rows:
        if row.lane == lane:
            envelope = decode(row.value)
            tables.setdefault(envelope.header.tenant, []).append(envelope.rows)
    return {tenant: merge(pa.concat_tables(each), LANES[lane].columns) for tenant, each in tables.items()}


def metric_rows(rows: list[OutboxRow]) -> list[Row]:
    """The metric rows in some envelopes as dicts, one a series and window."""
    return rows_of(outbox_rows(rows))


def totals_of(rows: list[OutboxRow]) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Points and digest by tenant, cluster and window, from the lane of control totals."""
    found: dict[tuple[str, str, int], tuple[int, int]] = {}
    for tenant, table in outbox_rows(rows, "totals").items():
        for row in table.to_pylist():
            if row["points"]:
                key = tenant, row["cluster"], row["window_start_ns"]
                points, digest = found.get(key, (0, 0))
                found[key] = points + row["points"], digest + row["digest"]
    return {key: (points, digest % 2**64) for key, (points, digest) in found.items()}
