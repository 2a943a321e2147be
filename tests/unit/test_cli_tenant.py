"""`catchment tenant`: the file that collectors read says what was asked for, and nothing else changes in it."""

from __future__ import annotations

import json
import os
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


COMMENTED = f"""# first
- token_sha256: {"a" * 64}  # its own
  # between its lines
  tenant: acme
  cluster: one
  labels:
    zone: a  # the last of it
  # indented, but behind it

- certificate: two  # another's
  tenant: acme
  cluster: two
# at the end
"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_removed_entry_takes_its_own_comments_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line_end: str, mark: str
) -> None:
    """Comments on and between its lines go with an entry; all else stays byte for byte, also as Windows writes it."""
    file = tmp_path / "tenants.yaml"
    before = (mark + COMMENTED.replace("\n", line_end)).encode()
    file.write_bytes(before)
    assert command(capsys, "add", "acme", "three", "--certificate", "three", "--file", file)[0] == 0
    added = f'- certificate: "three"{line_end}  tenant: "acme"{line_end}  cluster: "three"{line_end}'
    assert file.read_bytes() == before + added.encode()
    assert command(capsys, "remove", "acme", "three", "--file", file)[0] == 0
    assert file.read_bytes() == before
    assert command(capsys, "remove", "acme", "one", "--file", file)[0] == 0
    first, last = before.index(b"- token"), before.index(b"  # indented")
    assert file.read_bytes() == before[:first] + before[last:]


def test_a_value_of_several_lines_goes_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of a label's text that looks like a comment is none."""
    entry = "- certificate: one\n  tenant: acme\n  cluster: one\n  labels:\n    note: |\n      line\n      # line\n"
    file = tmp_path / "tenants.yaml"
    file.write_text(entry + "# a comment\n- {certificate: two, tenant: acme, cluster: two}\n")
    assert command(capsys, "remove", "acme", "one", "--file", file)[0] == 0
    assert file.read_text() == "# a comment\n- {certificate: two, tenant: acme, cluster: two}\n"


def test_names_of_any_script_are_written_as_they_are(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A label may hold what its file can, and other entries keep theirs."""
    labels = ("--label", "city=東京 🚄", "--label", "odd=\u2028\u0085\x7f")
    assert command(capsys, "add", "acme", "x", *labels, "--file", file)[0] == 0
    token = command(capsys, "add", "acme", "y", "--label", "a=é", "--file", file)[1]
    assert "東京 🚄" in file.read_text("utf-8")
    assert Tenants.load(file).find(token) == Sender("acme", "y", '{"a":"é"}')


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.yaml", HAND_WRITTEN.encode("utf-16"), "is not UTF-8"),
        (
            "t.json",
            b'[{"certificate": "x", "certificate": "y", "tenant": "a", "cluster": "b"}]',
            "'certificate' stands",
        ),
        ("t.yaml", b"-\n  certificate: x\n  tenant: acme\n  cluster: old\n", "edit it by hand"),
    ],
)
def test_what_cannot_be_edited_faithfully_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, says: str
) -> None:
    """Another encoding, a key that stands twice, an entry that begins below its dash: exit code 2, not touched."""
    file = tmp_path / name
    file.write_bytes(content)
    code, _, error = command(capsys, "remove", "acme", "old", "--file", file)
    assert code == 2 and says in error
    assert file.read_bytes() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_leaves_the_file_to_its_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Edited by root, the file keeps owner, group and mode, and its owner can go on editing it."""
    file = tmp_path / "tenants.yaml"
    file.write_text(HAND_WRITTEN)
    file.chmod(0o640)
    os.chown(file, 1234, 2345)
    assert command(capsys, "rotate", "acme", "tokyo-1", "--file", file)[0] == 0
    status, lock = file.stat(), (tmp_path / ".tenants.yaml.lock").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 2345, 0o640)
    assert lock.st_uid == 1234


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "acme", "tokyo-1"), "has an entry already"),
        (("add", "a/b", "x"), "tenant: must be 1 to 128"),
        (("add", "acme", "x", "--label", "zone"), "is not KEY=VALUE"),
        (("add", "acme", "x", "--certificate", "spiffe://acme/osaka-1"), "stands in an earlier entry"),
        (("add", "acme", "x", "--certificate", ""), "certificate: must be a name"),
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
    tenants.unlink()
    assert command(capsys, "rotate", "acme", "tokyo-1", "--config", config)[0] == 2
    code, token, _ = command(capsys, "add", "acme", "tokyo-1", "--config", config)
    assert code == 0, "the first entry makes the file"
    assert Tenants.load(tenants).find(token) == Sender("acme", "tokyo-1", "{}")
    config.write_text(f"region: jp-east\ndata_dir: {tmp_path}/data\ntenants: {tmp_path}\n")
    assert command(capsys, "add", "acme", "x", "--config", config)[0] == 2


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
