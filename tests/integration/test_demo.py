"""`catchment demo` as a user runs it, with a small fleet: real processes, sockets, a kill −9, and the proof."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

COMMAND = (sys.executable, "-m", "catchment.cli.main")
SMALL = ("demo", "--stations", "40", "--duration")


def run(*arguments: str, temporary: Path, seconds: float = 170) -> subprocess.CompletedProcess[str]:
    """A command of the CLI, to its end, within ``seconds``; temporary folders are made below ``temporary``."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env={"TMPDIR": str(temporary), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that were started with something of this folder in their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in argument for argument in process.info["cmdline"] or ())
    ]


def line_of(text: str, start: str) -> str:
    """The one line that starts so."""
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line


@pytest.mark.slow
def test_a_small_demo_adds_up_draws_itself_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """All levels agree after a kill −9, the incident is found, the pictures can be read, and the folder is gone."""
    pictures = tmp_path / "pictures"
    done = run(*SMALL, "12s", "--picture", str(pictures), temporary=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "It adds up. Each alone: 40 of 40 stations, 8 of 8 clouds equal." in done.stdout
    levels = [line_of(done.stdout, name) for name in ("Σ 40 stations", "Σ 8 zones", "Σ 4 regions", "globe")]
    assert len({tuple(level.split()[-5:]) for level in levels}) == 1, levels
    told = line_of(done.stdout, "acknowledged to senders").split()
    assert told[3:6] == levels[0].split()[3:6] and int(told[3].replace(",", "")) > 1_000
    assert "0 points lost" in done.stdout and "kill -9 of the collector of jp-east-a" in done.stdout
    assert "1 found; the incident hit 1" in done.stdout
    assert "\x1b" not in done.stdout, "no escape sequences without a terminal"
    for name in ("demo.svg", "confluence.svg"):
        text = (pictures / name).read_text()
        ElementTree.fromstring(text)
        assert "url(http" not in text and told[3] in text
    assert list(tmp_path.glob("catchment-demo-*")) == []
    assert processes_of(tmp_path / "catchment-demo-") == []


@pytest.mark.proof
@pytest.mark.slow
def test_kept_demo_answers_sql_until_it_is_interrupted(tmp_path: Path) -> None:
    """With --keep the plant stays up to be asked; Ctrl-C then stops it gracefully, exit code 0, and the data stays."""
    folder = tmp_path / "data"
    arguments = [*COMMAND, *SMALL, "10s", "--keep", "--data-dir", str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            text = ""
            while "Ctrl-C stops it." not in text:
                line = process.stdout.readline()
                assert line, text
                text += line
            url = re.search(r"catchment sql --url (\S+)", text)
            sdk = re.search(r"OTEL_EXPORTER_OTLP_ENDPOINT=(\S+)", text)
            assert url is not None and sdk is not None
            query = (
                "SELECT count() AS regions, sum(reported) > 0 AS heard FROM (SELECT region, sum(reported) AS reported"
            )
            query += " FROM coverage_1m WHERE tenant = 'ev-charging' GROUP BY region)"
            asked = run("sql", query, "--url", url[1], "--format", "jsonl", temporary=tmp_path)
            assert json.loads(asked.stdout) == {"regions": 4, "heard": 1}, asked.stderr
            sent = run("send", "parcels", "7", "--url", sdk[1], temporary=tmp_path)
            assert sent.returncode == 0, sent.stderr
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert (folder / "log" / "log.db").exists()
    assert processes_of(folder) == []


@pytest.mark.slow
def test_an_interrupted_demo_cleans_up(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the traffic ends it within seconds: exit code 1, no process and no folder is left."""
    arguments = [*COMMAND, *SMALL, "60s"]
    environment = {"TMPDIR": str(tmp_path), "PYTHONUTF8": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, env=environment, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        while not process.stdout.readline().startswith("traffic"):
            assert process.poll() is None
        assert len(processes_of(tmp_path)) == 13
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 1
        assert process.stderr.read().strip() == "catchment: interrupted"
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_what_cannot_work_is_said_before_anything_starts(tmp_path: Path) -> None:
    """A folder with something in it or too little to show is usage (2), a folder that cannot be made is not (3)."""
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for code, says, arguments in (
        (2, "is not empty", ("demo", "--data-dir", str(tmp_path / "used"))),
        (2, "at least 10s", ("demo", "--duration", "1s")),
        (2, "at least 16", ("demo", "--stations", "3")),
        (2, "--duration", ("demo", "--duration", "soon")),
        (3, "nowhere", ("demo", "--data-dir", "/proc/nowhere")),
    ):
        done = run(*arguments, temporary=tmp_path)
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (code, 1, ""), done
        assert says in done.stderr
