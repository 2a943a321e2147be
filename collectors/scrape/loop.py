"""Scraping one target again and again. A shell: it asks, surveys and hands the record to the intake.

Rules:

1. A target's turn comes at a phase of its own, a hash of its name, so that turns are spread and stay where they are.
2. What cannot be had is a record, too: ``up 0``, and all its gauges have ended. An answer beyond a limit is none.
3. While the intake pushes back a record is offered again, until the target's next turn; then it is given up and
   counted, and the next one says what has ended since the last that was taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from catchment.errors import CatchmentError, Invalid, Reject
from catchment.identity import hash_parts
from catchment.version import PROGRAM
from collectors.decode.lines import STALE_VALUE
from collectors.records import Outcome
from collectors.scrape.fetch import Answer, Client, ScrapeFailed
from collectors.scrape.job import Job
from collectors.scrape.prometheus_yml import PROTOCOLS
from collectors.scrape.record import Format, Record
from collectors.scrape.survey import NOTHING, Survey, Surveyor
from collectors.scrape.targets import Target, reading_of

log = logging.getLogger(__name__)

REPORTED = (
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
)
"""What a scrape says of itself."""

Submit = Callable[[bytes], Awaitable[Outcome]]
"""Makes a record durable; raises `Reject` for backpressure."""

_FORMATS = {
    "application/openmetrics-text": Format.OPENMETRICS,
    "application/vnd.google.protobuf": Format.PROTOBUF,
}
_ACCEPTED = {
    "PrometheusProto": "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
    "PrometheusText0.0.4": "text/plain;version=0.0.4",
    "PrometheusText1.0.0": "text/plain;version=1.0.0",
    "OpenMetricsText0.0.1": "application/openmetrics-text;version=0.0.1",
    "OpenMetricsText1.0.0": "application/openmetrics-text;version=1.0.0",
}
# Protobuf is what native histograms come in: asked for where they, or it, are configured.
_TEXT_PROTOCOLS = tuple(name for name in PROTOCOLS if name != "PrometheusProto")


@dataclass
class Shared:
    """What all loops of a collector use.

    Attributes:
        in_thread: runs what takes CPU, off the event loop.
        count: counts a scrape by its end: up, down, or refused by the intake.
        clock_ns, monotonic: now.
    """

    submit: Submit
    surveyor: Surveyor
    in_thread: Callable[[Callable[[], Survey]], Awaitable[Survey]]
    count: Callable[[str], None]
    clock_ns: Callable[[], int]
    monotonic: Callable[[], float]
    body_bytes_max: int


@dataclass
class Loop:
    """One target's turns.

    Attributes:
        survey: of the last record that was taken.
        trouble: why the last turn brought nothing; "" where it did. None before the first.
    """

    job: Job
    target: Target
    client: Client
    shared: Shared
    survey: Survey = NOTHING
    trouble: str | None = None

    async def run(self) -> None:
        """Scrape until cancelled."""
        period = self.target.interval_seconds
        name = hash_parts("scrape", self.target.job, self.target.url, *(v for pair in self.target.labels for v in pair))
        phase = name % 1_000_000 / 1_000_000 * period
        while True:
            now = self.shared.clock_ns() / 1e9
            wait = period - (now - phase) % period
            await asyncio.sleep(wait)
            try:
                await self.turn(self.shared.monotonic() + period)
            except CatchmentError:
                log.exception("a scrape failed unexpectedly", extra={"url": self.target.url})

    async def turn(self, deadline: float) -> None:
        """One scrape; its record is offered until ``deadline``, in seconds of the monotonic clock."""
        time_ns = self.shared.clock_ns() // 10**6 * 10**6
        begin = self.shared.monotonic()
        survey, body, reading = NOTHING, b"", reading_of(self.job, self.target)
        try:
            answer = await self._ask()
            reading = reading_of(self.job, self.target, format_of(answer))
            record = Record(time_ns, reading.line(), b"", answer.body, b"")
            survey = await self.shared.in_thread(lambda: self.shared.surveyor.survey(record, self.survey))
            self._check(answer, survey)
            body, trouble = answer.body, ""
        except (ScrapeFailed, Invalid) as error:
            survey, trouble = NOTHING, error.reason
        self._tell(trouble)
        report = report_of(not trouble, self.shared.monotonic() - begin, survey, survey.added(self.survey))
        whole = Record(time_ns, reading.line(), report, body, self.survey.ended(survey))
        if await self._hand_in(whole, deadline):
            self.survey = survey
            self.shared.count("down" if trouble else "up")

    async def end(self) -> None:
        """Say that all its series have ended: the target is there no longer."""
        reading = reading_of(self.job, self.target)
        report = _gauges(dict.fromkeys(REPORTED, STALE_VALUE.decode()))
        record = Record(self.shared.clock_ns(), reading.line(), report, b"", self.survey.ended(NOTHING))
        await self._hand_in(record, self.shared.monotonic())

    async def _ask(self) -> Answer:
        target, job = self.target, self.job
        protocols = job.protocols or (PROTOCOLS if job.native_histograms else _TEXT_PROTOCOLS)
        accepted = [f"{_ACCEPTED[name]};q=0.{9 - i}" for i, name in enumerate(protocols)]
        headers = {
            "Accept": ",".join([*accepted, "*/*;q=0.1"]),
            "Accept-Encoding": "gzip" if job.enable_compression else "identity",
            "User-Agent": f"catchment/{PROGRAM}",
            "X-Prometheus-Scrape-Timeout-Seconds": f"{target.timeout_seconds:g}",
        }
        bytes_max = min(job.body_size_limit or self.shared.body_bytes_max, self.shared.body_bytes_max)
        return await self.client.get(
            target.url, headers=headers, timeout_seconds=target.timeout_seconds, bytes_max=bytes_max
        )

    def _check(self, answer: Answer, survey: Survey) -> None:
        is_openmetrics = format_of(answer) is Format.OPENMETRICS
        if is_openmetrics and answer.body.rstrip(b"\n").rpartition(b"\n")[2] != b"# EOF":
            raise ScrapeFailed("the answer is cut off: OpenMetrics ends with # EOF")
        if not survey.is_exposition:
            raise ScrapeFailed(f"the answer holds no samples: {answer.body[:60].decode('utf-8', 'replace')!r}")
        if self.job.sample_limit and survey.kept > self.job.sample_limit:
            raise ScrapeFailed(f"{survey.kept} samples, sample_limit is {self.job.sample_limit}")

    def _tell(self, trouble: str) -> None:
        """Log where a target's state changes."""
        if trouble and not self.trouble:
            log.warning("target is down", extra={"job": self.job.name, "url": self.target.url, "error": trouble})
        elif self.trouble and not trouble:
            log.info("target is up again", extra={"job": self.job.name, "url": self.target.url})
        self.trouble = trouble

    async def _hand_in(self, record: Record, deadline: float) -> bool:
        """Whether the intake took a record before ``deadline``."""
        payload = record.payload()
        while True:
            try:
                outcome = await self.shared.submit(payload)
            except Reject as error:
                wait = max(1.0, float(error.retry_after_seconds))
                if self.shared.monotonic() + wait >= deadline:
                    self.shared.count("refused")
                    return False
                await asyncio.sleep(wait)
            else:
                if outcome.points_rejected:
                    log.debug("samples refused", extra={"url": self.target.url, "refused": outcome.message})
                return True


def format_of(answer: Answer) -> Format:
    """What an answer says that it is; text, where it says nothing that we know."""
    media_type = answer.content_type.partition(";")[0].strip().lower()
    return _FORMATS.get(media_type, Format.TEXT)


def report_of(is_up: bool, duration_seconds: float, survey: Survey, added: int) -> bytes:
    """What a scrape says of itself, as exposition text."""
    values = (int(is_up), round(duration_seconds, 6), survey.samples, survey.kept, added)
    return _gauges(dict(zip(REPORTED, map(str, values), strict=True)))


def _gauges(values: Mapping[str, str]) -> bytes:
    return "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in values.items()).encode()
