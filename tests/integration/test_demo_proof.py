"""The demo's proof and its answer: whatever is one off is seen, and what is not known is not shown as good."""

from __future__ import annotations

import dataclasses
import io
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from demo.accounts import Account, Accounts
from demo.figures import (
    Answer,
    BrokerKill,
    BrokerKillCost,
    Effort,
    Freshness,
    Hops,
    Incident,
    KafkaLook,
    Kill,
    KillCost,
    Next,
)
from demo.picture import confluence, terminal
from demo.plan import Plan
from demo.proof import Evidence, Proof, prove
from demo.questions import CloudState, Quantile, Sums
from demo.report import report
from demo.station import ENERGY, FAILED, REQUESTS, SERVICES, SESSIONS
from demo.watch import behind_seconds

DIGEST = 0xFEED


def account(energy: int) -> Account:
    """A station's account with 11 points, 6 requests and two latencies."""
    increments = {(REQUESTS, service): 2 for service in SERVICES} | {(FAILED, service): 0 for service in SERVICES}
    increments |= {(ENERGY, "charging"): energy, (SESSIONS, "charging"): 1}
    return Account(points=11, requests=1, increments=increments, latencies_seconds=array("d", [0.1, 0.2]))


def accounts() -> Accounts:
    """Two clouds in two regions, three stations."""
    return Accounts({"r1-a": {"s1": account(5), "s2": account(7)}, "r2-a": {"s3": account(11)}})


def sums(energy: int, stations: int = 1) -> Sums:
    """What a place of so many stations holds."""
    return Sums(1, 11 * stations, 6 * stations, 0, energy, stations)


def evidence() -> Evidence:
    """What SQL says when all is well."""
    return Evidence(
        edge=(33, DIGEST),
        stations={"s1": sums(5), "s2": sums(7), "s3": sums(11)},
        zones={"r1-a": sums(12, 2), "r2-a": sums(11)},
        regions={"r1": sums(12, 2), "r2": sums(11)},
        globe={"globe": sums(23, 3)},
        control_totals=dict.fromkeys(("cluster", "zone", "region", "globe"), (33, 33, DIGEST)),
        quantile=Quantile(0.19, 0.2, 0.21, 6),
    )


def proof_of(found: Evidence) -> Proof:
    """The proof of these accounts against what was found."""
    return prove(accounts(), 0.2, found)


def test_what_is_equal_everywhere_holds() -> None:
    """The proof holds when every level, each place alone, the digests and the tail agree."""
    proof = proof_of(evidence())
    assert proof.holds
    assert [line.name for line in proof.lines] == [
        "acknowledged to senders",
        "accepted by collectors",
        "Σ 3 stations",
        "Σ 2 zones",
        "Σ 2 regions",
        "globe",
    ]
    assert {line.points for line in proof.lines} == {33}


@pytest.mark.parametrize("level", ["stations", "zones", "regions", "globe"])
@pytest.mark.parametrize("value", ["points", "requests", "failed", "energy", "sessions"])
def test_one_unit_more_at_any_level_breaks_the_proof(level: str, value: str) -> None:
    """One point, request, failure, watt-hour or session too many is seen, in the line of its level."""
    found = evidence()
    places = dict(getattr(found, level))
    name, place = next(iter(places.items()))
    places[name] = dataclasses.replace(place, **{value: getattr(place, value) + 1})
    change: dict[str, Any] = {level: places}
    proof = proof_of(dataclasses.replace(found, **change))
    assert not proof.holds
    wrong = [line.name for line in proof.lines if not line.holds]
    assert wrong == [{"globe": "globe", "stations": "Σ 3 stations"}.get(level, f"Σ 2 {level}")]


def test_two_faults_that_cancel_out_are_seen() -> None:
    """A watt-hour that moved from one station to another leaves every sum equal; each alone, they differ."""
    stations = {"s1": sums(6), "s2": sums(6), "s3": sums(11)}
    proof = proof_of(dataclasses.replace(evidence(), stations=stations))
    assert all(line.holds for line in proof.lines)
    assert not proof.holds
    assert proof.one_by_one.unequal == ("s1", "s2")


@pytest.mark.parametrize("level", ["cluster", "zone", "region", "globe"])
@pytest.mark.parametrize("totals", [(34, 33, DIGEST), (33, 34, DIGEST), (33, 33, DIGEST + 1)])
def test_control_totals_and_digests_must_agree(level: str, totals: tuple[int, int, int]) -> None:
    """Points stated, points stored and digest of every level equal the edge's."""
    found = evidence()
    assert not proof_of(dataclasses.replace(found, control_totals={**found.control_totals, level: totals})).holds


@pytest.mark.parametrize(
    "change",
    [
        lambda found: dataclasses.replace(found, edge=(32, DIGEST)),
        lambda found: dataclasses.replace(found, quantile=Quantile(0.2, 0.2, 0.21, 6)),
        lambda found: dataclasses.replace(found, quantile=Quantile(0.19, 0.2, 0.21, 5)),
        lambda found: dataclasses.replace(found, control_totals={}),
    ],
    ids=["edge", "bracket", "observations", "no totals"],
)
def test_edge_and_tail_are_part_of_the_proof(change: Callable[[Evidence], Evidence]) -> None:
    """A point that the edge does not have, or an exact quantile outside of its bracket, breaks the proof."""
    assert not proof_of(change(evidence())).holds


def cloud(name: str, *, failed: int = 0, silent: int = 0, total: int = 1_000_000) -> CloudState:
    """A cloud of 375 stations."""
    return CloudState(name, 375, total, failed, 3_000, 3_000 - silent, 1_795_449_000 if failed > 9 else None, silent)


def answer(proof: Proof | None = None, lost: int = 0) -> Answer:
    """An answer with figures as wide as they get."""
    regions = ("jp-east", "jp-north", "jp-south", "jp-west")
    clouds = [cloud(f"{region}-{zone}") for region in regions for zone in "ab"]
    clouds[-1] = cloud("jp-west-b", failed=43_000, silent=2)
    failing = [
        {"cluster": f"osaka-b-{n:04d}", "service": "authorisation", "total": 1_000, "failed": 999} for n in range(75)
    ]
    silent = [{"cluster": "osaka-b-0375", "last_seen": "2026-11-23 16:14:35"}]
    return Answer(
        stations=3_000,
        regions=4,
        traffic_seconds=120.0,
        clouds=clouds,
        incident=Incident("jp-west-b", failing, silent, 75),
        proof=proof or proof_of(evidence()),
        hops=Hops(140_800_000, 116_500_000, {"metrics_cluster": 88_900_000}, {"metrics_region": 742_000, "totals": 9}),
        kills=[KillCost(Kill("jp-north-a", 166.0, 12.5, 1_840), 1_550, lost)],
        freshness=Freshness.of([3.0, 5.0, 4.0], 6.0),
        effort=Effort(14, 2_100_000_000, 120.0, 139.0),
        station_series=33_000,
        region_series=44,
        next=Next("http://127.0.0.1:45678", "http://127.0.0.1:45679", ""),
    )


def shown(some: Answer) -> str:
    """The answer on a terminal of 80 columns."""
    console = Console(width=80, file=io.StringIO(), no_color=True)
    console.print(report(some))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_answer_fits_80_columns_without_cutting() -> None:
    """No cell is cut and every figure of a cloud is on its line."""
    text = shown(answer())
    assert "…\n" not in text and max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if "jp-west-b" in line)
    assert line.split() == "● jp-west-b 375 95.700 % spent 43 times 99.933 % 2 15:50:00Z".split()
    assert "… and 71 more: 75 found; the incident hit 75" in text
    assert "fresh    4.0 s" in text


def test_many_silent_stations_are_counted_not_listed() -> None:
    """Where cores are overloaded a whole cloud may be silent: a few of its stations are named, the others counted."""
    silent = [{"cluster": f"osaka-b-{n:04d}", "last_seen": "2026-11-23 16:14:35"} for n in range(375)]
    text = shown(dataclasses.replace(answer(), incident=Incident("jp-west-b", [], silent, 75)))
    assert text.count("is silent since") == 4 and "… and 371 more are silent" in text
    assert "more are silent" not in shown(answer())


@pytest.mark.parametrize(("failed", "shares"), [(1, "99.999 %"), (0, "100.000 %")])
def test_not_whole_is_never_shown_as_whole(failed: int, shares: str) -> None:
    """Shares are cut off, not rounded: one failure in ten million is not 100 %."""
    clouds = [cloud("jp-east-a", failed=failed, total=10_000_000)]
    text = shown(dataclasses.replace(answer(), clouds=clouds))
    line = next(line for line in text.splitlines() if line.startswith("● jp-east-a"))
    assert f" {shares} " in line and (failed == 0 or line.count("100.000 %") == 1)


def test_no_traffic_and_no_window_are_unknown() -> None:
    """A cloud that sent nothing has no availability and no budget."""
    empty = CloudState("jp-east-a", 5, 0, 0, 0, 0, None, 0)
    line = next(
        line
        for line in shown(dataclasses.replace(answer(), clouds=[empty])).splitlines()
        if line.startswith("● jp-east-a")
    )
    assert line.split() == "● jp-east-a 5 – – no window yet – –".split()


def test_what_does_not_hold_is_said() -> None:
    """A broken line, a lost point and names of what is unequal are in the text; the answer does not hold."""
    broken = proof_of(dataclasses.replace(evidence(), stations={"s1": sums(6), "s2": sums(7), "s3": sums(11)}))
    text = shown(answer(broken, lost=3))
    assert "It does NOT add up" in text and "unequal: s1" in text and "✗" in text and "3 points lost" in text
    assert not answer(broken).holds and not answer(lost=1).holds and answer().holds


def over_kafka(lost: int = 0, caught_up: float | None = 21.5) -> Answer:
    """The same with the log on Kafka, whose broker was killed."""
    kill = BrokerKill(166.0, 12.5, caught_up, 1_550)
    hops = dataclasses.replace(answer().hops, messages=(112_345, 101_234))
    look = KafkaLook(
        ["kafka-1.jp-east.example.org:9092", "kafka-2.jp-east.example.org:9092"], "catchment-demo-0123abcd", 26, False
    )
    return dataclasses.replace(answer(), hops=hops, kafka=look, broker_kills=[BrokerKillCost(kill, lost)])


def test_a_log_on_kafka_is_said_and_its_kill_counts() -> None:
    """Brokers, topics and messages are shown within 80 columns; a point that a broker's kill lost fails the answer."""
    text = shown(over_kafka())
    trimmed = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 80
    assert "Kafka: kafka-1.jp-east.example.org:9092 and 1 more\n" in trimmed
    assert "26 topics catchment-demo-0123abcd.*\n" in trimmed
    assert "112,345 messages out of the zones, 101,234 to the globe\n" in trimmed
    assert "broker at 166 s: answers after 12.5 s, 0 points lost" in text
    assert "SQL had all of the meantime after 21.5 s; 1,550 requests sent again" in text
    assert over_kafka().holds and not over_kafka(lost=1).holds
    broken = shown(over_kafka(lost=1, caught_up=None))
    assert "It does NOT add up" in broken and "all of the meantime never" in broken
    assert "demo&#160;--kafka" in terminal(over_kafka()) and "kafka" not in terminal(answer())


def test_pictures_show_the_figures() -> None:
    """Every dot is a station, every confluence has its sum, and nothing is loaded from elsewhere."""
    drawn = confluence(answer())
    assert drawn.count("h0") == 3_000
    assert drawn.count("33 points") == 4 and drawn.count(">=</text>") == 3 and "≠" not in drawn
    broken = proof_of(dataclasses.replace(evidence(), globe={"globe": sums(24, 3)}))
    assert "≠" in confluence(answer(broken))
    assert "@font-face" not in terminal(answer())


def test_freshness_is_found_between_two_looks() -> None:
    """What can be queried now was acknowledged at the time that lies evenly between two looks."""
    times, counts = [0.0, 1.0, 2.0, 3.0], [0, 100, 200, 300]
    assert behind_seconds(times, counts, now=3.0, stored=150) == 1.5
    assert behind_seconds(times, counts, now=3.0, stored=300) == 0.0
    assert behind_seconds(times, counts, now=3.0, stored=0) == 3.0


@pytest.mark.parametrize("stations", [16, 40, 400, 3_000, 20_000])
def test_windows_are_longer_than_the_stations_period(stations: int) -> None:
    """A healthy station is heard in every window, and the window divides an hour."""
    plan = Plan(120.0, stations)
    assert plan.pace.resolution_seconds >= 1.5 * plan.period_seconds
    assert 3_600 % plan.pace.resolution_seconds == 0
    assert stations / plan.period_seconds <= 300
