"""`catchment demo`: start the plant, let the fleet send, break things, ask, prove.

Phases: start → traffic (an incident, and a kill −9 in the middle) → drain → ask → answer. A Kafka broker of ours is
started before all else, killed once after the collector, and stopped in the end. The folder is removed at the end
unless it was given or is to be kept. Exit codes: 0 it adds up, 1 it does not, 2 usage, 3 the environment failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from catchment.cli.exits import CHECK_FAILED, FINE, EnvironmentFault, UsageFault
from catchment.errors import CatchmentError
from catchment.sql_client import SqlClient
from demo import log_choice, questions
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
from demo.fleet import STATIONS, clouds
from demo.local_kafka import LocalKafka, require_jars
from demo.plan import TROUBLED, Plan
from demo.plant import Plant
from demo.proof import Evidence, Proof, prove
from demo.report import counted
from demo.screen import Screen, make_screen
from demo.simulator import Incident as Trouble
from demo.simulator import Simulator
from demo.station import ENERGY
from demo.watch import LogTail, Watch

DURATION_SECONDS_MIN: Final = 10.0
STATIONS_MIN: Final = 16
_SEED: Final = 1
_DRAIN_SECONDS_MAX: Final = 60.0
_KILLED: Final = "jp-east-a"


def main(
    *,
    data_dir: Path | None,
    duration_seconds: float,
    keep: bool,
    tamper: bool = False,
    stations: int = STATIONS,
    picture: Path | None = None,
    kafka: str = "",
) -> int:
    """Run the demo; returns the exit code.

    Raises:
        UsageFault: the folder is in use, there is too little to show, or a broker's address is none.
        EnvironmentFault: the plant cannot start, or breaks.
    """
    plan = Plan(duration_seconds, stations, data_dir, keep, tamper, picture, kafka)
    if duration_seconds < DURATION_SECONDS_MIN:
        raise UsageFault(f"--duration {duration_seconds:g}s shows nothing; give at least {DURATION_SECONDS_MIN:g}s")
    if stations < STATIONS_MIN:
        raise UsageFault(f"--stations {stations} leaves clouds empty; give at least {STATIONS_MIN}")
    log_choice.brokers_of(kafka or log_choice.LOCAL)
    if kafka == log_choice.LOCAL:
        require_jars()
    with _folder(plan) as folder, make_screen() as screen:
        return asyncio.run(_Demo(plan, folder, screen).run())


@contextlib.contextmanager
def _folder(plan: Plan) -> Iterator[Path]:
    if plan.data_dir is not None:
        folder = plan.data_dir.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageFault(f"{folder} is not empty, and the sums would mix; give a new folder")
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="catchment-demo-"))
    try:
        yield folder
    finally:
        if not plan.keep:
            shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    def __init__(self, plan: Plan, folder: Path, screen: Screen) -> None:
        self._plan = plan
        self._screen = screen
        self._started = time.monotonic()
        self._fleet = clouds(plan.stations)
        self._regions = tuple(dict.fromkeys(cloud.region for cloud in self._fleet))
        self._broker = LocalKafka(folder / "kafka") if plan.kafka == log_choice.LOCAL else None
        if plan.kafka:
            self._log = log_choice.on_kafka(
                (self._broker.plain,) if self._broker else log_choice.brokers_of(plan.kafka)
            )
        else:
            self._log = log_choice.embedded(folder)
        self._plant = Plant(folder, self._fleet, _SEED, plan.pace, self._log)
        self._simulator = Simulator(
            self._fleet,
            self._plant.endpoints,
            _SEED,
            incident=plan.trouble,
            period_seconds=plan.period_seconds,
        )
        self._sql = SqlClient(self._plant.sql_url)
        self._kills: list[Kill] = []
        self._broker_kills: list[BrokerKill] = []

    async def run(self) -> int:
        """All phases; Ctrl-C ends them with everything cleaned up."""
        task = asyncio.current_task()
        assert task is not None
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupt)
        try:
            holds = await self._phases()
            if self._plan.keep:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                interrupted = False
                task.uncancel()
                self._screen.say("stopping")
                await self._plant.stop()
            return FINE if holds else CHECK_FAILED
        except asyncio.CancelledError:
            if not interrupted:
                raise
            task.uncancel()
            raise KeyboardInterrupt from None
        finally:
            await self._plant.kill_all()
            if self._broker is not None:
                self._broker.stop()

    async def _phases(self) -> bool:
        plan, screen = self._plan, self._screen
        await self._start()
        tail = LogTail(self._log, self._regions)
        try:
            watch = Watch(self._simulator, self._sql, tail)
            with screen.phase(f"traffic: {plan.stations:,} stations send for {plan.duration_seconds:g} s"):
                span = await self._traffic(watch)
            effort = self._plant.effort([self._broker.pid] if self._broker is not None else [])
            with screen.phase("drain: until SQL has all that was acknowledged"):
                drained_seconds = await self._drain(watch)
            with screen.phase("ask, and prove"):
                answer = await self._answer(span, tail, Freshness.of(watch.delays_seconds, drained_seconds), effort)
        finally:
            await tail.close()
        screen.answer(answer)
        if plan.picture is not None:
            from demo.picture import write_pictures

            write_pictures(answer, plan.picture)
        return answer.holds

    async def _start(self) -> None:
        screen, brokers = self._screen, ", ".join(self._log.kafka.brokers)
        self._plant.take_logs()
        if self._broker is not None:
            with screen.phase(f"start a Kafka broker on {brokers}"):
                await asyncio.to_thread(self._broker.start)
        where = ""
        if brokers:
            where = f"; their log is Kafka on {brokers}, topics {self._log.log.topic_prefix}.*"
            await log_choice.check_brokers(self._log)
        with screen.phase(f"start {len(self._plant.supervisor.children)} processes on this machine{where}"):
            await self._plant.start()

    async def _traffic(self, watch: Watch) -> questions.Span:
        plan, trouble = self._plan, self._plan.trouble
        begin = int(time.time()) + 1
        began = time.monotonic()
        jobs = [
            asyncio.create_task(watch.run()),
            asyncio.create_task(self._show(watch, began)),
            asyncio.create_task(self._mark_trouble(trouble)),
            asyncio.create_task(self._kills_in_turn(watch, began)),
        ]
        sending = asyncio.create_task(self._simulator.run(plan.duration_seconds, _DRAIN_SECONDS_MAX))
        try:
            await asyncio.sleep(plan.duration_seconds)
            end = int(time.time())
            await sending
            await jobs[3]
        finally:
            for job in (*jobs, sending):
                job.cancel()
            await asyncio.gather(*jobs, sending, return_exceptions=True)
        if self._simulator.unacknowledged:
            raise EnvironmentFault(f"{self._simulator.unacknowledged} requests were never answered")
        return questions.Span(begin, end)

    async def _show(self, watch: Watch, began: float) -> None:
        while True:
            self._screen.progress(watch.look, time.monotonic() - began, self._plan.duration_seconds)
            await asyncio.sleep(0.5)

    async def _mark_trouble(self, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.begin_seconds)
        affected = counted(len(self._simulator.affected()), "station")
        self._screen.mark(f"incident: {trouble.service} fails at {affected} of {trouble.cloud}, one more falls silent")

    async def _kills_in_turn(self, watch: Watch, began: float) -> None:
        await asyncio.sleep(self._plan.kill_seconds)
        await self._kill(began)
        if self._broker is not None:
            await asyncio.sleep(max(0.0, began + self._plan.broker_kill_seconds - time.monotonic()))
            await self._kill_broker(self._broker, watch, began)

    async def _kill(self, began: float) -> None:
        self._screen.mark(f"kill -9 of the collector of {_KILLED}")
        kill = await self._plant.kill_collector(_KILLED, began)
        self._kills.append(kill)
        replayed = counted(kill.replayed, "request")
        self._screen.mark(f"ready again after {kill.ready_seconds:.1f} s, {replayed} replayed from its inbox")

    async def _kill_broker(self, broker: LocalKafka, watch: Watch, began: float) -> None:
        self._screen.mark("kill -9 of the Kafka broker")
        before, killed = self._simulator.accounts().fleet(), time.monotonic()
        watch.is_log_away = True
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        answers_seconds = time.monotonic() - killed
        now = self._simulator.accounts().fleet()
        meanwhile = counted(now.points - before.points, "point")
        self._screen.mark(f"it answers again after {answers_seconds:.1f} s, {meanwhile} were acknowledged meanwhile")
        caught_up_seconds: float | None = None
        while caught_up_seconds is None and time.monotonic() - killed < answers_seconds + _DRAIN_SECONDS_MAX:
            await asyncio.sleep(0.2)
            if watch.look.stored >= now.points:
                watch.is_log_away = False
                caught_up_seconds = time.monotonic() - killed
                self._screen.mark(f"SQL has all of the meantime after {caught_up_seconds:.1f} s")
        self._broker_kills.append(
            BrokerKill(killed - began, answers_seconds, caught_up_seconds, now.retries - before.retries)
        )

    async def _drain(self, watch: Watch) -> float:
        """Wait until all levels have what was acknowledged, or time is up: then the proof says what is missing."""
        began = time.monotonic()
        wanted = self._simulator.accounts().fleet().points
        while time.monotonic() - began < _DRAIN_SECONDS_MAX:
            await watch.once()
            self._screen.progress(watch.look, self._plan.duration_seconds, self._plan.duration_seconds)
            if watch.look.stored >= wanted:
                try:
                    totals = await asyncio.to_thread(questions.control_totals, self._sql)
                except CatchmentError:
                    totals = {}
                if totals and all(stated == stored == wanted for stated, stored, _ in totals.values()):
                    break
            await asyncio.sleep(0.2)
        return time.monotonic() - began

    async def _answer(self, span: questions.Span, tail: LogTail, freshness: Freshness, effort: Effort) -> Answer:
        await tail.read()
        proof = await asyncio.to_thread(self._prove)
        states = await asyncio.to_thread(questions.clouds, self._sql, span)
        rows = await asyncio.to_thread(questions.series, self._sql)
        incident = await asyncio.to_thread(self._incident, span, states)
        fleet = self._simulator.accounts().fleet()
        return Answer(
            stations=self._plan.stations,
            regions=len(self._regions),
            traffic_seconds=self._plan.duration_seconds,
            clouds=states,
            incident=incident,
            proof=proof,
            hops=self._hops(tail),
            kills=[self._cost(kill) for kill in self._kills],
            broker_kills=[BrokerKillCost(kill, fleet.points - proof.lines[-1].points) for kill in self._broker_kills],
            kafka=await self._kafka(),
            freshness=freshness,
            effort=replace(effort, wall_seconds=time.monotonic() - self._started),
            station_series=rows[0],
            region_series=rows[1],
            next=self._next(),
        )

    def _prove(self) -> Proof:
        accounts = self._simulator.accounts()
        if self._plan.tamper:
            next(iter(accounts.by_cloud[TROUBLED].values())).increments[ENERGY, "charging"] += 1
        evidence = Evidence(
            edge=self._plant.edge_totals(),
            stations=questions.sums_of_stations(self._sql),
            zones=questions.sums_of_zones(self._sql),
            regions=questions.sums_of_regions(self._sql),
            globe=questions.sums_of_globe(self._sql),
            control_totals=questions.control_totals(self._sql),
            quantile=questions.latency_quantile(self._sql, 0.99),
        )
        return prove(accounts, accounts.latency_quantile_seconds(0.99), evidence)

    def _incident(self, span: questions.Span, states: list[questions.CloudState]) -> Incident:
        worst = min(states, key=lambda state: state.availability)
        since = worst.bad_since or span.begin
        return Incident(
            cloud=worst.name,
            failing=questions.failing_stations(self._sql, worst.name, since),
            silent=[row for row in questions.silences(self._sql, span) if row["cloud"] == worst.name],
            caused=len(self._simulator.affected()),
        )

    def _cost(self, kill: Kill) -> KillCost:
        told = self._simulator.accounts().cloud(kill.cloud)
        return KillCost(kill, told.retries, told.points - questions.sums_of_zones(self._sql)[kill.cloud].points)

    def _hops(self, tail: LogTail) -> Hops:
        fleet, traffic = self._simulator.accounts().fleet(), tail.traffic
        messages = traffic.regional_messages.total(), traffic.globe_messages.total()
        return Hops(fleet.body_bytes, fleet.sent_bytes, dict(traffic.regional), dict(traffic.globe), messages)

    async def _kafka(self) -> KafkaLook | None:
        if not self._plan.kafka:
            return None
        topics = await log_choice.count_topics(self._log)
        return KafkaLook(self._log.kafka.brokers, self._log.log.topic_prefix, topics, self._broker is not None)

    def _next(self) -> Next:
        plant = self._plant
        host, port = plant.endpoints[_KILLED]
        running = self._plan.keep
        kept = running or self._plan.data_dir is not None
        return Next(
            sql_url=plant.sql_url if running else "",
            otlp_url=f"http://{host}:{port}" if running else "",
            folder=str(plant.folder) if kept else "",
        )
