"""Programs that tests run to their end, and Go programs that they build first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def output_of(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds_max: float = 120.0,
) -> str:
    """What a program prints, if it ends well; ``environment`` adds to our own."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds_max,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def build_go(folder: Path, binary: Path, package: str = ".", *, seconds_max: float = 170.0) -> None:
    """Build a package as ``go.mod`` and ``go.sum`` of a folder pin it; what was built before costs nothing."""
    environment = {"GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
    command = ["go", "build", "-ldflags=-s -w", "-o", str(binary), package]
    output_of(command, folder=folder, environment=environment, seconds_max=seconds_max)
