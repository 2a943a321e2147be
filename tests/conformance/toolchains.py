"""Third-party programs, built from their registries into a folder that git ignores: a second run builds nothing.

Versions are pinned: go.mod and go.sum, package-lock.json, pom.xml. Nothing is skipped: what cannot be built fails.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from tests.clients.programs import build_go, output_of

ROOT = Path(__file__).parents[2]
SENDERS = Path(__file__).parent / "senders"
BUILT = ROOT / ".conformance"
_BUILD_SECONDS_MAX = 900


class Toolchains:
    """Commands of the senders; each is built when it is first asked for."""

    def send(self, language: str, endpoint: str, protocol: str, temporality: str, service: str, rounds: int) -> None:
        """Run the workload once (senders/README.md)."""
        options = ["--endpoint", endpoint, "--protocol", protocol, "--temporality", temporality]
        output_of([*self.sender(language), *options, "--service", service, "--rounds", str(rounds)])

    @cache  # noqa: B019 # one object lives as long as the session
    def sender(self, language: str) -> tuple[str, ...]:
        """The command of an SDK's sender: python, go, java or javascript."""
        return {"python": self._python, "go": self._go, "java": self._java, "javascript": self._javascript}[language]()

    @cache  # noqa: B019
    def go_program(self, folder: str, package: str = ".") -> str:
        """A Go program of one of the folders of `SENDERS`."""
        binary = BUILT / (folder if package == "." else package.rpartition("/")[2])
        build_go(SENDERS / folder, binary, package, seconds_max=_BUILD_SECONDS_MAX)
        return str(binary)

    def _python(self) -> tuple[str, ...]:
        return sys.executable, str(SENDERS / "python" / "sender.py")

    def _go(self) -> tuple[str, ...]:
        return (self.go_program("go"),)

    def _java(self) -> tuple[str, ...]:
        libraries = BUILT / "java"
        if not libraries.is_dir():
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={libraries}", "-DincludeScope=runtime"]
            output_of(["mvn", "-q", "-B", *goal], folder=SENDERS / "java", seconds_max=_BUILD_SECONDS_MAX)
        return "java", "-cp", f"{libraries}/*", str(SENDERS / "java" / "Sender.java")

    def _javascript(self) -> tuple[str, ...]:
        folder = SENDERS / "javascript"
        if not (folder / "node_modules").is_dir():
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            output_of(command, folder=folder, seconds_max=_BUILD_SECONDS_MAX)
        return "node", str(folder / "sender.js")
