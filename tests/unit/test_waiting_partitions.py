"""What is said of partitions that do not move: enough to know, few enough to read."""

from __future__ import annotations

from catchment.cli.waiting_partitions import Waiting, retrying, standing


def test_one_cause_is_said_once_and_what_needs_somebody_each() -> None:
    """An outage makes all partitions retry: the first says why. One that is held or halted says its own reason."""
    waiting = [Waiting("t", number, "retrying", f"no broker ({number})") for number in range(12)]
    stands = [Waiting("u", 3, "held", "a newer version"), Waiting("u", 4, "halted", "offset 7")]
    assert retrying([*stands, *waiting]) == [
        "t/0 is retrying: no broker (0)",
        "11 more are retrying: t/1, t/2, t/3, t/4, t/5, t/6, t/7, t/8, …",
    ]
    assert retrying([*stands, *waiting[:2]])[1:] == ["1 more are retrying: t/1"]
    assert retrying(waiting[:1]) == ["t/0 is retrying: no broker (0)"]
    assert retrying(stands) == []
    assert standing([*waiting, *stands]) == ["u/3 is held: a newer version", "u/4 is halted: offset 7"]
