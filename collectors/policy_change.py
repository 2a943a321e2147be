"""Policies of one collector as they change: at its start, under way, and again when its inbox is replayed.

A change is a cut through everything: what was taken before it is flushed under the policies of then, and leaves in
envelopes that name them. Only then others are in force; lives go on as they were, and each stream is looked at again
when it comes. The order of writing is the safety: the new policies are on disk before the first request names them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from catchment.config_policies import Policies
from catchment.errors import Invalid, Retry
from catchment.policy_document import policies_of, text_of
from collectors.edge import Edge
from collectors.policy import Policy
from collectors.policy_history import History, Kept
from collectors.state import StateFile
from collectors.state_records import PolicyRow

log = logging.getLogger(__name__)


def opened(state: StateFile, configured: Policies) -> History:
    """What a folder knows of its policies; one that knows nothing begins with those that are configured.

    Raises:
        Retry: they cannot be noted.
    """
    kept = []
    for row in sorted(state.policies(), key=lambda row: (not row.until_ns, row.until_ns)):
        try:
            kept.append(Kept(policies_of(row.document), row.until_ns))
        except Invalid as error:
            log.warning("policies of before are not known any more", extra={"policies": row.version, "why": str(error)})
    if kept and not kept[-1].until_ns:
        return History(tuple(kept))
    history = History((*kept, Kept(configured)))
    state.keep_policies(rows_of(history))
    return history


def rows_of(history: History) -> list[PolicyRow]:
    """A history as it is persisted."""
    return [PolicyRow(each.version, text_of(each.policies), each.until_ns) for each in history.kept]


class PolicyChanges:
    """Changes the policies of one edge.

    Args:
        state: the flush's connection.
        edge: as it was made with ``history.in_force``.
        history: see `opened`.
        flush: makes all that was applied durable, as of a time (ns, UTC); raises `Retry`.
    """

    def __init__(self, state: StateFile, edge: Edge, history: History, flush: Callable[[int], object]) -> None:
        self._state = state
        self._edge = edge
        self._history = history
        self._flush = flush
        edge.remember(history.past(edge.policy.version))

    def replay_under(self, version: str, received_ns: int) -> None:
        """Put the policies of a version in force, for requests that were taken under them from ``received_ns`` on."""
        if self._history.find(version) is None:
            log.warning(
                "requests of unknown policies are replayed under others",
                extra={"recorded": version, "policies": self._edge.policy.version},
            )
        elif version != self._edge.policy.version:
            self._cut(received_ns)
            self._use(version)

    def begin(self, configured: Policies, now_ns: int) -> None:
        """After the replay: put what is configured in force.

        Raises:
            Retry: it cannot be noted.
        """
        in_force = self._history.in_force.version
        if in_force != self._edge.policy.version:
            self._cut(now_ns)
            self._use(in_force)
        if configured.version != in_force:
            self._cut(now_ns)
            self.change(configured, now_ns)

    def change(self, policies: Policies, now_ns: int) -> None:
        """Put other policies in force; all that was applied is flushed.

        Raises:
            Retry: nothing changed.
        """
        before = self._edge.policy.version
        history = self._history.changed(policies, now_ns)
        self._state.keep_policies(rows_of(history), series_anew=True)
        self._history = history
        self._use(policies.version)
        log.info("policies changed", extra={"policies": policies.version, "before": before})

    def trimmed(self, now_ns: int) -> Sequence[PolicyRow] | None:
        """What is still to be kept once a flush has consumed all that came before; None if that is as it was."""
        history = self._history.trimmed(now_ns, self._edge.limits.stream_idle_seconds)
        if history == self._history:
            return None
        self._history = history
        return rows_of(history)

    def _cut(self, now_ns: int) -> None:
        """Let what was replayed leave under its own policies; where that fails it leaves under the next, as right."""
        try:
            self._flush(now_ns)
        except Retry as error:
            log.warning("no flush before a change of policies", extra={"error": str(error)})

    def _use(self, version: str) -> None:
        policies = self._history.find(version)
        assert policies is not None
        self._edge.change_policy(Policy(policies), self._history.past(version))
