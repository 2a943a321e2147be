"""Scraping over real HTTP: what targets say, how they are asked, and what becomes of those that do not answer."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from catchment.config_policies import MetricPolicy, Policies
from catchment.errors import ConfigFaults, Reject
from collectors.decode.client_messages import FamilyType
from collectors.scrape.record import Reading
from tests import client_model, remote_write
from tests.client_model import pb
from tests.clients.targets import Target, scraping, serving
from tests.clients.text_server import OPENMETRICS, PROTOBUF
from tests.edge_harness import EdgeHarness, total
from tests.kafka.certificates import FOR_CLIENTS, FOR_SERVERS, Authority

KEEP = Policies(metrics=(MetricPolicy(match="*", keep=("*",)),))


def write(folder: Path, *jobs: dict[str, Any], name: str = "prometheus.yml", **top: Any) -> Path:
    """A prometheus.yml with these jobs, scraped five times a second."""
    file = folder / name
    tree = {"global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"}, **top, "scrape_configs": list(jobs)}
    file.write_text(yaml.safe_dump(tree))
    return file


def static(*addresses: str, **more: Any) -> dict[str, Any]:
    """A job of fixed targets."""
    return {"job_name": "api", "static_configs": [{"targets": list(addresses)}], **more}


def ups(records: Any) -> list[bool]:
    """Which records say that their target is up."""
    return [b"\nup 1\n" in record.report for record in records]


def test_a_target_is_scraped(tmp_path: Path) -> None:
    """Counters become increases, gauges samples, and up and the scrape's own figures stand beside them."""

    async def scenario() -> None:
        async with serving() as target, scraping(write(tmp_path, static(target.address))) as scraping_:
            intake = scraping_.intake
            for i in range(1, 5):
                target.text = f"# TYPE hits_total counter\nhits_total {10 * i}\n# TYPE level gauge\nlevel {i}\n"
                await scraping_.scrapes(2)
            rows = intake.rows()
            assert total(rows, "hits_total", "sum_int") == 30
            (service,) = {row["service"] for row in rows}
            assert service == "api"
            seconds = [row for row in rows if row["metric"] == "scrape_duration_seconds"]
            assert 0 < seconds[0]["min"] < 1
            assert all(row["last_value"] in (1, None) for row in rows if row["metric"] == "up")
            samples = [row for row in rows if row["metric"] == "scrape_samples_scraped"]
            assert {row["last_value"] for row in samples} <= {2, None}
            (request, *_) = target.asked
            assert request.path == "/metrics"
            assert request.headers["Accept"].startswith("application/openmetrics-text;version=1.0.0;q=0.9")
            assert request.headers["X-Prometheus-Scrape-Timeout-Seconds"] == "0.25"
            (received, *_) = intake.received
            assert (received.tenant, received.cluster, received.labels) == ("acme", "tokyo-1", '{"zone":"a"}')
            assert received.policy_version == "policy-1"

    asyncio.run(scenario())


def test_a_target_that_goes_and_comes(tmp_path: Path) -> None:
    """A target that fails is down and its gauges end at once; counters go on where they were."""

    async def scenario() -> None:
        target = Target("# TYPE hits_total counter\nhits_total 5\n# TYPE level gauge\nlevel{a=\"b\"} 7\n")  # fmt: skip
        async with serving(target), scraping(write(tmp_path, static(target.address))) as scraping_:
            await scraping_.scrapes(2)
            target.status = 503
            await scraping_.until(lambda: not ups(scraping_.intake.records)[-1])
            down = scraping_.intake.records[-1]
            await scraping_.scrapes(1)
            assert down.ended == b'# TYPE level gauge\nlevel{a="b"} stale\n'
            assert scraping_.intake.records[-1].ended == b""
            assert b'catchment_scrape_targets{state="down"} 1.0' in scraping_.telemetry.exposition()
            # Held while it was there, not to staleness.
            rows = scraping_.intake.rows()
            assert total(rows, "level", "observed_seconds") < 10
            target.status, target.text = 200, str(target.text).replace("hits_total 5", "hits_total 25")
            await scraping_.until(lambda: ups(scraping_.intake.records)[-1])
            rows += scraping_.intake.rows()
            assert total(rows, "hits_total", "sum_int") == 20
            assert total(rows, "up", "sum_int") == sum(ups(scraping_.intake.records))
            assert total(rows, "up", "count") == len(scraping_.intake.records)
            assert b'catchment_scrapes_total{end="down"}' in scraping_.telemetry.exposition()

    asyncio.run(scenario())


def test_a_series_that_is_no_longer_offered(tmp_path: Path) -> None:
    """A gauge that is left out of an answer ends then; the others go on."""

    async def scenario() -> None:
        target = Target("no_type 3\n# TYPE level gauge\n# UNIT level bytes\nlevel 1\nlevel{a=\"b\"} 2\n")  # fmt: skip
        async with serving(target), scraping(write(tmp_path, static(target.address))) as scraping_:
            await scraping_.scrapes(1)
            target.text = "# TYPE level gauge\n# UNIT level bytes\nlevel 1\n"
            await scraping_.until(lambda: bool(scraping_.intake.records[-1].ended))
            assert scraping_.intake.records[-1].ended == (
                b'no_type stale\n# TYPE level gauge\n# UNIT level bytes\nlevel{a="b"} stale\n'
            )
            await scraping_.scrapes(1)
            assert scraping_.intake.records[-1].ended == b""
            scraping_.intake.rows()
            assert not scraping_.intake.edge.points_tallied("line_malformed")
            assert scraping_.intake.edge.points_tallied("no_recorded_value") == 2

    asyncio.run(scenario())


def test_how_targets_are_asked(tmp_path: Path) -> None:
    """Path, parameters, basic auth, bearer tokens from files that change, and compression are as configured."""
    secret = tmp_path / "secret"
    secret.write_text("one\n")

    async def scenario() -> None:
        async with serving() as first, serving() as second, serving() as third:
            jobs = (
                static(first.address, job_name="a", metrics_path="/m", params={"x": ["1", "2"], "y": ["z"]}),
                static(second.address, job_name="b", basic_auth={"username": "u", "password": "p:w"}),
                static(
                    third.address, job_name="c", authorization={"credentials_file": "secret"}, enable_compression=False
                ),
            )
            async with scraping(write(tmp_path, *jobs)) as scraping_:
                await scraping_.until(lambda: bool(first.asked and second.asked and third.asked))
                assert first.asked[0].path_qs == "/m?x=1&x=2&y=z"
                assert first.asked[0].headers["Accept-Encoding"] == "gzip"
                assert "Authorization" not in first.asked[0].headers
                assert second.asked[0].headers["Authorization"] == "Basic dTpwOnc="
                assert third.asked[0].headers["Authorization"] == "Bearer one"
                assert third.asked[0].headers["Accept-Encoding"] == "identity"
                secret.write_text("two")
                await scraping_.until(lambda: third.asked[-1].headers["Authorization"] == "Bearer two")
                secret.unlink()
                await scraping_.until(lambda: not all(ups(scraping_.intake.records)))

    asyncio.run(scenario())


def test_protobuf_is_asked_for(tmp_path: Path) -> None:
    """Where native histograms are wanted, or the protocol is named; and what comes in it is read, also what ends."""

    def answer(at: int, *, with_level: bool) -> bytes:
        native = pb.Metric(histogram=client_model.native_of(remote_write.native(0, 3, {5: at, 9: 2 * at})))
        families = [client_model.family("size", FamilyType.HISTOGRAM, native)]
        level = pb.Metric(gauge=pb.Number(value=at))
        families += [client_model.family("level", FamilyType.GAUGE, level)] if with_level else []
        return client_model.delimited(*families)

    async def scenario() -> None:
        async with serving() as plain, serving() as wanted, serving() as named:
            wanted.text, wanted.content_type = answer(1, with_level=True), PROTOBUF
            jobs = (
                static(plain.address, job_name="plain"),
                static(wanted.address, job_name="wanted", scrape_native_histograms=True),
                static(named.address, job_name="named", scrape_protocols=["PrometheusText0.0.4", "PrometheusProto"]),
            )
            async with scraping(write(tmp_path, *jobs)) as scraping_:
                await scraping_.until(lambda: bool(plain.asked and wanted.asked and named.asked))
                await scraping_.scrapes(6)
                wanted.text = answer(4, with_level=False)
                await scraping_.scrapes(9)
                rows = scraping_.intake.rows()
            asked = [target.asked[0].headers["Accept"].split(",")[:-1] for target in (plain, wanted, named)]
            assert not any("protobuf" in each for each in asked[0])
            protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            assert (asked[1][0], len(asked[1])) == (f"{protobuf};q=0.9", 5)
            assert asked[2] == ["text/plain;version=0.0.4;q=0.9", f"{protobuf};q=0.8"]
            assert total(rows, "size", "count") == 3 * (4 - 1)
            (ended,) = {record.ended for record in scraping_.intake.records if record.ended}
            assert ended == b'# TYPE "level" gauge\n{"level"} stale\n'

    asyncio.run(scenario())


def test_targets_over_tls(tmp_path: Path) -> None:
    """A target's certificate is verified against ca_file and server_name, ours is shown, and both may be rotated."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    server, client = old.issue("server", FOR_SERVERS), old.issue("client", FOR_CLIENTS)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=old.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.cert, server.key)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(old.ca.read_bytes())
    tls = {"ca_file": "ca.pem", "cert_file": str(client.cert), "key_file": str(client.key)}

    async def scenario() -> None:
        async with serving(tls=context) as target:

            def states(*settings: dict[str, Any]) -> Path:
                jobs = [
                    static(target.address, job_name=f"j{i}", scheme="https", tls_config=each)
                    for i, each in enumerate(settings)
                ]
                return write(tmp_path, *jobs)

            nobody = {"ca_file": "ca.pem"}
            other_name = {**tls, "server_name": "other"}
            unverified = {**tls, "ca_file": str(new.ca), "insecure_skip_verify": True}
            async with scraping(states(tls, nobody, other_name, unverified)) as scraping_:

                def state(job: str) -> list[bool]:
                    records = [
                        record
                        for record in scraping_.intake.records
                        if Reading.of_line(record.reading).labels["job"] == job
                    ]
                    return ups(records)

                await scraping_.until(lambda: all(len(state(f"j{i}")) > 1 for i in range(4)))
                assert [state(f"j{i}")[0] for i in range(4)] == [True, False, False, True]
                # The authority is replaced: what comes now is verified anew, also where a connection stood.
                ca.write_bytes(new.ca.read_bytes())
                await scraping_.until(lambda: not state("j0")[-1])
                ca.write_bytes(old.ca.read_bytes())
                await scraping_.until(lambda: state("j0")[-1])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("target", "limits", "says"),
    [
        (Target(text="level 1\n" * 50), {"sample_limit": 49}, "sample_limit is 49"),
        (Target(text="level 1\n" * 50), {"body_size_limit": "100B"}, "larger than 100 bytes"),
        (Target(text="a 1\n" * 300_000), {}, "larger than 1048576 bytes"),
        (Target(wait_seconds=1), {}, "within 0.25 seconds"),
        (Target(status=404), {}, "answered 404"),
        (Target(text="a 1\n", content_type=OPENMETRICS), {}, "cut off"),
        (Target(text=b"\x05\x0a\x03abc\x05\x0a", content_type=PROTOBUF), {}, "cut off"),
        (Target(text=b"level 1\n", content_type=PROTOBUF), {}, "cut off"),
        (Target(text=b"\x02\x22\x7f", content_type=PROTOBUF), {}, "no MetricFamily"),
        (Target(text="<html>\n<td> 1\n</html>\n", content_type="text/html"), {}, "no samples: '<html>"),
        (Target(text="a 1\n" * 110_000), {}, "more than 100000 samples"),
    ],
)
def test_answers_that_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: Target, limits: dict[str, Any], says: str
) -> None:
    """An answer beyond a limit, too late, cut off or an error makes the target down, and the log says why, once."""

    async def scenario() -> None:
        # Where it is too late, its timeout holds.
        wait_seconds_min = 0.0 if target.wait_seconds else 30.0
        async with serving(target):
            file = write(tmp_path, static(target.address, **limits))
            async with scraping(file, wait_seconds_min=wait_seconds_min) as scraping_:
                await scraping_.scrapes(3)
                assert not any(ups(scraping_.intake.records))
                assert all(record.body == b"" for record in scraping_.intake.records)

    target.asked.clear()
    asyncio.run(scenario())
    said = [record.__dict__["error"] for record in caplog.records if record.getMessage() == "target is down"]
    assert len(said) == 1
    assert says in said[0]


def test_nobody_there(tmp_path: Path) -> None:
    """A target that refuses connections, and one whose name does not exist, are down; others are not held up."""

    async def scenario() -> None:
        async with serving() as target:
            job = static("127.0.0.1:1", "no-such-host.invalid:80", target.address)
            # A name that does not exist may take long to be found out.
            async with scraping(write(tmp_path, job), EdgeHarness(policies=KEEP), wait_seconds_min=0) as scraping_:
                await scraping_.until(lambda: len(target.asked) >= 3)
                await scraping_.until(lambda: ups(scraping_.intake.records).count(False) >= 2)

    asyncio.run(scenario())


def test_the_intake_pushes_back(tmp_path: Path) -> None:
    """A record that is pushed back is offered until the next turn, then given up and counted; nothing ends twice."""

    async def scenario() -> None:
        refusal = Reject("full", retry_after_seconds=1)
        target = Target("# TYPE hits_total counter\nhits_total 1\n# TYPE level gauge\nlevel 1\n")
        job = static(target.address)
        async with serving(target):
            job = static(target.address, scrape_interval="3s", scrape_timeout="1s")
            async with scraping(write(tmp_path, job), None, refusal) as scraping_:
                await scraping_.scrapes(1)  # offered a second time
                assert len(target.asked) == 1
            job = static(target.address)
            async with scraping(write(tmp_path, job), None, refusal, refusal) as scraping_:
                await scraping_.scrapes(2)
                target.text = "# TYPE hits_total counter\nhits_total 11\n"
                scraping_.intake.refusals.append(refusal)
                await scraping_.scrapes(2)
                exposition = scraping_.telemetry.exposition()
                assert b'catchment_scrapes_total{end="refused"} 3.0' in exposition
                ended = [record.ended for record in scraping_.intake.records if record.ended]
                assert ended == [b"# TYPE level gauge\nlevel stale\n"]
                assert total(scraping_.intake.rows(), "hits_total", "sum_int") == 10

    asyncio.run(scenario())


def test_the_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed file is used: jobs come, go and change, what is known of targets stays, and faults change nothing."""

    async def scenario() -> None:
        async with serving() as first, serving() as second:
            file = write(tmp_path, static(first.address))
            async with scraping(file) as scraping_:
                intake = scraping_.intake
                await scraping_.scrapes(1)
                file.write_text("scrape_configs: [{job_name: x, scrape_intervall: 3s}]")
                await scraping_.until(lambda: "did you mean scrape_interval?" in caplog.text)
                refused = b'catchment_files_refused{file="scrape.file"} '
                assert refused + b"1.0" in scraping_.telemetry.exposition()
                await scraping_.scrapes(2)
                # Another interval: the job is another, its target is not.
                write(tmp_path, static(first.address, scrape_interval="300ms"), static(second.address, job_name="b"))
                await scraping_.until(lambda: bool(second.asked))
                assert refused + b"0.0" in scraping_.telemetry.exposition()
                assert not any(record.ended for record in intake.records)
                write(tmp_path, static(second.address, job_name="b"))
                await scraping_.until(lambda: any(record.ended for record in intake.records))
                (last,) = [record for record in intake.records if record.ended]
                assert last.ended == b"# TYPE level gauge\nlevel stale\n"
                assert b"up stale\n" in last.report
                assert Reading.of_line(last.reading).labels["instance"] == first.address
                asked = len(first.asked)
                await scraping_.scrapes(3)
                assert len(first.asked) == asked

    asyncio.run(scenario())


def test_file_sd(tmp_path: Path) -> None:
    """Targets of files come, go and change with the files; one that is half written changes nothing."""
    files = tmp_path / "targets"
    files.mkdir()

    async def scenario() -> None:
        async with serving() as first, serving() as second:
            groups = [{"targets": [first.address], "labels": {"zone": "a"}}]
            (files / "a.json").write_text(json.dumps(groups))
            job = {"job_name": "api", "file_sd_configs": [{"files": ["targets/*.json", "targets/*.yml"]}]}
            async with scraping(write(tmp_path, job), EdgeHarness(policies=KEEP)) as scraping_:
                intake = scraping_.intake
                await scraping_.scrapes(1)
                (files / "a.json").write_text(json.dumps(groups)[:-5])
                (files / "b.yml").write_text(yaml.safe_dump([{"targets": [second.address]}]))

                def labels() -> list[Mapping[str, str]]:
                    return [Reading.of_line(record.reading).labels for record in intake.records]

                await scraping_.until(lambda: {"instance": second.address, "job": "api"} in labels())
                assert {"instance": first.address, "job": "api", "zone": "a"} in labels()
                assert not any(record.ended for record in intake.records)
                (files / "b.yml").unlink()
                await scraping_.until(lambda: any(record.ended for record in intake.records))
                (files / "a.json").write_text("[]")
                await scraping_.until(lambda: sum(bool(record.ended) for record in intake.records) == 2)

    asyncio.run(scenario())


def test_relabelling_makes_the_target(tmp_path: Path) -> None:
    """Relabelling chooses targets, their address, path, parameters and labels, as with the blackbox exporter."""

    async def scenario() -> None:
        async with serving() as target:
            job = static(
                "https://example.org/a?b=c d",
                "dropped:1",
                metrics_path="/probe",
                relabel_configs=[
                    {"source_labels": ["__address__"], "regex": "dropped:.*", "action": "drop"},
                    {"source_labels": ["__address__"], "target_label": "__param_target"},
                    {"source_labels": ["__param_target"], "target_label": "instance"},
                    {"target_label": "__address__", "replacement": target.address},
                    {"target_label": "__scrape_interval__", "replacement": "100ms"},
                    {"target_label": "__scrape_timeout__", "replacement": "90ms"},
                ],
            )
            async with scraping(write(tmp_path, job)) as scraping_:
                await scraping_.scrapes(1)
                assert target.asked[0].path == "/probe"
                assert list(target.asked[0].query.items()) == [("target", "https://example.org/a?b=c d")]
                labels = Reading.of_line(scraping_.intake.records[0].reading).labels
                assert labels == {"instance": "https://example.org/a?b=c d", "job": "api"}
                assert target.asked[0].headers["X-Prometheus-Scrape-Timeout-Seconds"] == "0.09"

    asyncio.run(scenario())


def test_target_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond target_limit none of a job's targets is scraped, and the log says so."""

    async def scenario() -> None:
        async with serving() as first, serving() as second:
            jobs = static(first.address, "127.0.0.1:1", target_limit=1), static(second.address, job_name="b")
            async with scraping(write(tmp_path, *jobs)) as scraping_:
                await scraping_.until(lambda: len(second.asked) >= 3)
            assert not first.asked

    asyncio.run(scenario())
    assert "job api: 2 targets, target_limit is 1: none is scraped" in caplog.text


def test_a_file_with_faults(tmp_path: Path) -> None:
    """At start all faults are told at once."""
    file = write(tmp_path, static("http://x:1", scheme="ftp"), {"static_configs": []})

    async def scenario() -> None:
        async with scraping(file):
            pass

    with pytest.raises(ConfigFaults) as found:
        asyncio.run(scenario())
    assert len(found.value.faults) == 3
