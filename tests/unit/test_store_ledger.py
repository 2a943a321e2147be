from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from catchment.errors import Bug
from store.ledger import Intent, Ledger, Loaded, Verdict, judge
from store.position import Position

TABLE = "catchment_data.totals"


def at(offset: int) -> Position:
    """A message of the one partition used here."""
    return Position("log", "topic", 0, offset)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger with a window of ten blocks."""
    found = Ledger(tmp_path, deduplication_window=10)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("offset", "intent_blocks", "verdict"),
    [
        (4, None, Verdict.SKIP),
        (5, None, Verdict.LOAD),
        (9, None, Verdict.LOAD),
        (5, 10, Verdict.REPLAY),
        (5, 11, Verdict.HALT),
    ],
)
def test_the_ledger_decides(offset: int, intent_blocks: int | None, verdict: Verdict) -> None:
    """Done is skipped, new is loaded, an open intent is replayed while its token is remembered and halts beyond."""
    intent = None if intent_blocks is None else Intent(at(5), TABLE, intent_blocks)
    assert judge(at(offset), 5, intent, window=10) is verdict


def test_an_intent_for_another_message_is_a_bug() -> None:
    """The log cannot go on with another offset than the one that was begun."""
    with pytest.raises(Bug, match="open intent for offset 5"):
        judge(at(6), 5, Intent(at(5), TABLE, 1), window=10)


def test_intent_and_done_step_on_and_add_up(ledger: Ledger) -> None:
    """After done there is no intent, the next offset is one on, and sums hold what was loaded."""
    ledger.intend(at(7), TABLE, 2)
    assert ledger.judge(at(7)) is Verdict.REPLAY
    ledger.done(at(7), rows=3, points=30)
    ledger.intend(at(8), TABLE, 2)
    ledger.done(at(8), rows=1, points=5)
    assert ledger.next_offset("log", "topic", 0) == 9
    assert ledger.judge(at(8)) is Verdict.SKIP
    assert ledger.open_intents() == []
    assert ledger.loaded("log", "topic", 0) == Loaded(messages=2, rows=4, points=35)


def test_a_second_intent_of_a_partition_is_a_bug(ledger: Ledger) -> None:
    """One message at a time: neither a second intent nor one for what is done is taken, and nothing changes."""
    ledger.intend(at(1), TABLE, 2)
    with pytest.raises(Bug):
        ledger.intend(at(2), TABLE, 2)
    ledger.done(at(1), rows=1, points=1)
    with pytest.raises(Bug):
        ledger.intend(at(1), TABLE, 2)
    assert ledger.next_offset("log", "topic", 0) == 2


def test_blocks_of_other_partitions_age_an_intent(ledger: Ledger) -> None:
    """What other messages and drop rows add to the table counts against the window; other tables do not."""
    ledger.intend(at(1), TABLE, 2)
    ledger.intend(Position("log", "topic", 1, 0), TABLE, 4)
    ledger.count_blocks("catchment_data.drops", 100)
    ledger.count_blocks(TABLE, 4)
    assert ledger.judge(at(1)) is Verdict.REPLAY
    ledger.count_blocks(TABLE, 1)
    assert ledger.judge(at(1)) is Verdict.HALT


def test_a_quarantined_message_is_done_and_listed(ledger: Ledger) -> None:
    """Quarantine closes the intent, steps on and keeps coordinates, reason and file."""
    ledger.intend(at(3), TABLE, 2)
    ledger.quarantine(at(3), reason="refused", file="f", now_ns=9)
    (entry,) = ledger.quarantined()
    assert (entry.position, entry.reason, entry.file, entry.quarantined_ns) == (at(3), "refused", "f", 9)
    assert ledger.judge(at(3)) is Verdict.SKIP
    assert ledger.loaded("log", "topic", 0).quarantined == 1


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    """An intent without its done survives the process."""
    first = Ledger(tmp_path, deduplication_window=10)
    first.intend(at(0), TABLE, 2)
    first.close()
    second = Ledger(tmp_path, deduplication_window=10)
    assert [intent.position for intent in second.open_intents()] == [at(0)]
    assert second.judge(at(0)) is Verdict.REPLAY
    second.close()
