"""`catchment tenant`: the file that collectors read says what was asked for, and nothing else changes in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from catchment.cli.main import run
from collectors.tenants import Sender, Tenants

HAND_WRITTEN = """# who may send
- token_sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  # "test"
  tenant: acme
  cluster: tokyo-1
  labels: {zone: a}

# by its certificate
- certificate: spiffe://acme/osaka-1
  tenant: acme
  cluster: osaka-1
"""


@pytest.fixture(params=[".yaml", ".json"])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file that does not exist yet."""
    return tmp_path / f"tenants{request.param}"


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `catchment tenant`."""
    code = run(["tenant", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out.strip(), said.err


def test_a_cluster_s_life(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Added, rotated, the old token removed, then all: at each step exactly those tokens speak for the cluster."""
    sender = Sender("acme", "no", '{"kind":"007"}')
    code, first, _ = command(capsys, "add", "acme", "no", "--label", "kind=007", "--file", file)
    assert code == 0 and Tenants.load(file).find(first) == sender
    assert first not in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    second = command(capsys, "rotate", "acme", "no", "--file", file)[1]
    other = command(capsys, "add", "acme", "x", "--file", file)[1]
    assert [Tenants.load(file).find(token) for token in (first, second)] == [sender, sender]
    assert command(capsys, "remove", "acme", "no", "--old", "--file", file)[:2] == (0, "acme/no: 1 removed, 1 left")
    assert [Tenants.load(file).find(token) for token in (first, second)] == [None, sender]
    assert command(capsys, "remove", "acme", "no", "--file", file)[:2] == (0, "acme/no: 1 removed, 0 left")
    assert Tenants.load(file).find(second) is None
    assert Tenants.load(file).find(other) == Sender("acme", "x")
    assert command(capsys, "remove", "acme", "x", "--file", file)[0] == 0
    assert Tenants.load(file).count == 0


def test_what_a_person_wrote_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Comments, order and style of other entries are kept byte for byte."""
    file = tmp_path / "tenants.yaml"
    file.write_text(HAND_WRITTEN)
    file.chmod(0o640)
    assert command(capsys, "add", "acme", "kyoto-1", "--certificate", "kyoto", "--file", file)[0] == 0
    assert file.read_text().startswith(HAND_WRITTEN) and file.stat().st_mode & 0o777 == 0o640
    assert Tenants.load(file).certified(["kyoto"]) == {Sender("acme", "kyoto-1")}
    assert command(capsys, "remove", "acme", "kyoto-1", "--file", file)[0] == 0
    assert file.read_text() == HAND_WRITTEN
    assert command(capsys, "remove", "acme", "tokyo-1", "--file", file)[0] == 0
    assert file.read_text() == "# who may send\n\n" + HAND_WRITTEN[HAND_WRITTEN.index("# by its") :]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "acme", "tokyo-1"), "has an entry already"),
        (("add", "a/b", "x"), "tenant: must be 1 to 128"),
        (("add", "acme", "x", "--label", "zone"), "is not KEY=VALUE"),
        (("add", "acme", "x", "--certificate", "spiffe://acme/osaka-1"), "stands in an earlier entry"),
        (("rotate", "acme", "x"), "has no entry"),
        (("remove", "acme", "x"), "has no entry"),
    ],
)
def test_mistakes_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    """What cannot be done is said with exit code 2, and the file is as it was."""
    file = tmp_path / "tenants.yaml"
    file.write_text(HAND_WRITTEN)
    code, out, error = command(capsys, *arguments, "--file", file)
    assert (code, out) == (2, "") and says in error
    assert file.read_text() == HAND_WRITTEN


@pytest.mark.parametrize(
    "text",
    [
        f"[{{token_sha256: {'a' * 64}, tenant: t, cluster: c}}]\n",
        f"---\n- token_sha256: {'a' * 64}\n  tenant: t\n  cluster: c\n...\n",
        "- nonsense\n",
        "- {a: 1\n",
    ],
)
def test_a_form_that_is_not_edited_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Flow style, an explicit end of the document, faults: refused with exit code 2 and not touched."""
    file = tmp_path / "tenants.yaml"
    file.write_text(text)
    assert command(capsys, "add", "acme", "x", "--file", file)[0] == 2
    assert file.read_text() == text


def test_the_file_is_found_by_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --config it is the one that collectors read; with neither it is asked which."""
    tenants, config = tmp_path / "tenants.yaml", tmp_path / "catchment.yaml"
    tenants.write_text(HAND_WRITTEN)
    config.write_text(f"region: jp-east\ndata_dir: {tmp_path}/data\ntenants: {tenants}\n")
    code, out, _ = command(capsys, "rotate", "acme", "tokyo-1", "--config", config, "--json")
    assert code == 0
    assert Tenants.load(tenants).find(json.loads(out)["token"]) == Sender("acme", "tokyo-1", '{"zone":"a"}')
    assert command(capsys, "add", "acme", "x")[0] == 2


def test_commands_at_once_lose_no_entry(tmp_path: Path) -> None:
    """Many processes that add at the same time come one after the other."""
    file = tmp_path / "tenants.yaml"
    program = [sys.executable, "-m", "catchment.cli.main", "tenant", "add", "acme"]
    running = [
        subprocess.Popen([*program, f"c-{number}", "--file", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(6)
    ]
    tokens = [process.communicate(timeout=60)[0].decode().strip() for process in running]
    found = Tenants.load(file)
    assert [found.find(token) for token in tokens] == [Sender("acme", f"c-{number}") for number in range(6)]


def test_a_file_that_cannot_be_written_is_the_environment_s_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No such folder: exit code 3 with the reason."""
    code, out, error = command(capsys, "add", "acme", "x", "--file", tmp_path / "none" / "tenants.yaml")
    assert (code, out) == (3, "") and "No such file or directory" in error
