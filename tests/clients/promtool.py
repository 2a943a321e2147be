"""Prometheus' own checker; where it is missing tests fail rather than skip."""

from __future__ import annotations

import shutil
import subprocess


def promtool(*arguments: str, text: str = "") -> str:
    """What promtool says about files, or about ``text``; fails if that is a complaint."""
    program = shutil.which("promtool")
    assert program is not None, "promtool is missing: install Debian's package prometheus, or Prometheus itself"
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
