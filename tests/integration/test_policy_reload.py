"""A policies file that changes under `catchment up`: no sender notices, every sum stays, SQL names the version."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from catchment.config_load import load
from tests.faults.known_data import KnownData, of_sender
from tests.faults.stack import UP, Stack, wait_until
from tests.faults.totals import differences, disagreements, stored

VERSIONS = (
    "version: one\n",
    "version: two\ndefault_drop: []\n",
    "version: three\nmetrics: [{match: orders, tenants: [default], keep: [key]}]\n",
)


@pytest.mark.slow
def test_a_policies_file_is_taken_while_senders_send(tmp_path: Path) -> None:
    """Every request is answered 200 over two changes and a faulty file, and sums and digests are what was sent."""
    policies = tmp_path / "policies.yaml"
    policies.write_text(VERSIONS[0])
    with Stack(tmp_path / "stack", f"policies: {policies}\n") as stack:
        stack.start(UP)
        stack.wait_ready(UP)
        sender = KnownData("shop", stack.ports["otlp_http"])
        answers: set[int] = set()
        stop = threading.Event()

        def send() -> None:
            while not stop.is_set():
                answers.add(sender.offer(sender.request()))
                stop.wait(0.02)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            for text in VERSIONS:
                policies.write_text(text)
                version = load(stack.config(UP)).policies.version
                wait_until(lambda version=version: _versions(stack) == {version}, f"{version} is in SQL")  # type: ignore[misc]
            policies.write_text("metrics: [{match: a}]\n")
            wait_until(lambda: 'result="refused"' in stack.metrics(UP), "the faulty file is refused")
        finally:
            stop.set()
            sending.join()
        stack.drain()
        assert answers == {200}
        assert _versions(stack) == {version}
        found = of_sender(sender, stored(stack, "metrics_cluster_1m"))
        faults = [*differences(sender.expected, found), *disagreements(stack)]
        # Several series of one window have a latest value each.
        assert [fault for fault in faults if " last: " not in fault] == []
        counted = stack.rows("SELECT DISTINCT reason FROM pipeline_drops")
        assert {row["reason"] for row in counted} <= {"baseline"}, counted


def _versions(stack: Stack) -> set[str]:
    """The policy versions that SQL shows."""
    return {row["policy_version"] for row in stack.rows("SELECT policy_version FROM clusters")}
