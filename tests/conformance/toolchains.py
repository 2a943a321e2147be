"""Third-party programs, built from their registries into a folder that git ignores: a second run builds nothing.

Versions are pinned: go.mod and go.sum, package-lock.json, pom.xml. Nothing is skipped: what cannot be built fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SENDERS = Path(__file__).parent / "senders"
BUILT = ROOT / ".conformance"
_BUILD_SECONDS_MAX = 900


class Toolchains:
    """Commands of the senders; each is built when it is first asked for."""

    @cache  # noqa: B019 # one object lives as long as the session
    def sender(self, language: str) -> tuple[str, ...]:
        """The command of an SDK's sender: python, go, java or javascript."""
        return {"python": self._python, "go": self._go, "java": self._java, "javascript": self._javascript}[language]()

    @cache  # noqa: B019
    def go_program(self, folder: str, package: str = ".") -> str:
        """A Go program of one of the folders of `SENDERS`."""
        binary = BUILT / (folder if package == "." else package.rpartition("/")[2])
        environment = {"GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
        _run(["go", "build", "-ldflags=-s -w", "-o", str(binary), package], SENDERS / folder, environment)
        return str(binary)

    def _python(self) -> tuple[str, ...]:
        return sys.executable, str(SENDERS / "python" / "sender.py")

    def _go(self) -> tuple[str, ...]:
        return (self.go_program("go"),)

    def _java(self) -> tuple[str, ...]:
        libraries = BUILT / "java"
        if not libraries.is_dir():
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={libraries}", "-DincludeScope=runtime"]
            _run(["mvn", "-q", "-B", *goal], SENDERS / "java")
        return "java", "-cp", f"{libraries}/*", str(SENDERS / "java" / "Sender.java")

    def _javascript(self) -> tuple[str, ...]:
        folder = SENDERS / "javascript"
        if not (folder / "node_modules").is_dir():
            _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
        return "node", str(folder / "sender.js")


def _run(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS_MAX,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
