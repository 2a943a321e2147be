"""The command line: exit codes, and one line on stderr for each fault."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from catchment.cli.exits import CheckFailed, EnvironmentFault, UsageFault, guarded
from catchment.cli.main import run
from catchment.config import Config
from catchment.config_load import load
from catchment.errors import Bug, ConfigFaults, Retry
from catchment.version import PROGRAM


def raising(error: BaseException) -> Callable[[], object]:
    """A command that fails."""

    def command() -> object:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckFailed("no"), 1),
        (UsageFault("what?"), 2),
        (ConfigFaults(["a", "b"]), 2),
        (EnvironmentFault("port taken"), 3),
        (Retry("log is away"), 3),
        (OSError(28, "No space left on device", "/data"), 3),
        (KeyboardInterrupt(), 1),
    ],
)
def test_an_error_decides_the_exit_code(error: BaseException, code: int) -> None:
    """1 is the check's no, 2 usage or configuration, 3 the environment."""
    assert guarded(raising(error)) == code


def test_every_fault_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Several faults are several lines, one with line breaks in it still one."""
    guarded(raising(ConfigFaults(["first", "second\nwith a break"])))
    assert capsys.readouterr().err == "catchment: first\ncatchment: second with a break\n"


def test_an_os_error_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is reported with the path that it happened at."""
    guarded(raising(OSError(28, "No space left on device", "/data")))
    assert capsys.readouterr().err == "catchment: /data: No space left on device\n"


def test_a_bug_crashes_loudly() -> None:
    """A broken invariant is not dressed up as a trouble of the environment."""
    with pytest.raises(Bug):
        guarded(raising(Bug("impossible")))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["sql"], "Missing argument 'QUERY'"),
        (["send", "requests", "many"], "'many' is not a valid float"),
        (["send", "requests", "1", "--attr", "x"], "'x' is not KEY=VALUE"),
        (["demo", "--duration", "soon"], "expected a duration"),
        (["collector"], "Missing option '--config'"),
        (["sql", "SELECT 1", "--url", "ftp://x"], "must begin with http:// or https://"),
        (["config", "check", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line is told in one line, with exit code 2."""
    assert run(arguments) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("command", [["sql", "SELECT 1"], ["send", "requests", "1"], ["status"]])
def test_nobody_at_home_exits_with_3(
    command: list[str], free_port: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A client command says that nobody answers and what to do, with exit code 3."""
    assert run([*command, "--url", f"http://127.0.0.1:{free_port()}"]) == 3
    assert "is `catchment up` running there?" in capsys.readouterr().err


def test_version_as_json_names_program_engine_and_envelopes(capsys: pytest.CaptureFixture[str]) -> None:
    """A program can read which versions meet."""
    assert run(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["program"] == PROGRAM
    assert versions["envelopes"]["metrics_cluster"] >= 1
    assert "ClickHouse" in versions["engine"]


def test_config_check_tells_every_fault_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two mistakes are two lines on stderr."""
    file = tmp_path / "c.yaml"
    file.write_text("regio: a\nflush: 5\n")
    assert run(["config", "check", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "did you mean region?" in lines[0]


def test_config_show_is_a_file_that_means_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `config show` prints can be used as a configuration, and explains every key."""
    file, shown = tmp_path / "c.yaml", tmp_path / "shown.yaml"
    file.write_text("region: jp-east\ncluster: {labels: {a: $$x}}\nlimits: {streams_max: 7}\n")
    assert run(["config", "show", str(file)]) == 0
    output = capsys.readouterr().out
    shown.write_text(output)
    assert load(shown) == load(file)
    assert "# streams whose baseline is kept; about 300 bytes each -> points of new streams rejected" in output


def test_config_show_as_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the same values are JSON."""
    file = tmp_path / "c.yaml"
    file.write_text("region: jp-east\n")
    assert run(["config", "show", str(file), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["region"] == "jp-east"
    assert values["listen"]["sql"] == str(Config().listen.sql)


def test_the_overview_lists_every_command_and_loads_none(capsys: pytest.CaptureFixture[str]) -> None:
    """`catchment --help` names the commands without importing Arrow, so that it is quick."""
    assert run(["--help"]) == 0
    output = capsys.readouterr().out
    for command in ("up", "demo", "sql", "send", "status", "config", "dlq", "cluster", "version"):
        assert f"\n  {command} " in output
    assert "_role" not in output
    loaded = "import sys; from catchment.cli.main import run; run(['--help']); sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=False).returncode == 0
