"""What all benchmarks share: CPU-seconds, medians, the machine, and the file of results.

A figure is per CPU-second wherever it can be, since wall time on a shared machine measures the neighbours.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

RESULTS: Final = Path(__file__).parent / "RESULTS.md"
_TITLE: Final = (
    "# Results\n\nMeasured by `make bench`; rates are per CPU-second of the process that is measured unless a row says"
    " otherwise.\n"
)


def cpu_seconds() -> float:
    """User and system time that this process has used, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def process_cpu_seconds(pid: int) -> float:
    """User and system time that a process and its living children have used."""
    process = psutil.Process(pid)
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended between being listed and being asked
        total += times.user + times.system
    return total


def resident_mebibytes(pid: int | None = None) -> float:
    """Resident memory of a process (this one by default) in MiB, without its children."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def measure(once: Callable[[], int], runs: int = 5) -> float:
    """Units per CPU-second of this process: ``once`` does the work and says how many units; median of ``runs``."""
    rates = []
    for _ in range(runs):
        begin = cpu_seconds()
        units = once()
        rates.append(units / (cpu_seconds() - begin))
    return statistics.median(rates)


def machine() -> str:
    """The machine and interpreter in one line."""
    cpu = platform.processor() or platform.machine()
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        cpu = match.group(1).strip() if match else cpu
    except OSError:
        pass  # not Linux: the architecture must do
    memory = psutil.virtual_memory().total / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def record(section: str, rows: list[tuple[str, str]], results: Path = RESULTS) -> None:
    """Write a section into the file of results, in the place of the older one of the same name.

    Args:
        section: its heading.
        rows: (what, figure with unit).
        results: the file.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    table = "".join(f"| {what} | {figure} |\n" for what, figure in rows)
    text = f"## {section}\n\n{today} · {machine()}\n\n| what | figure |\n| --- | --- |\n{table}"
    old = results.read_text() if results.exists() else _TITLE
    pattern = re.compile(rf"^## {re.escape(section)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if pattern.search(old):
        new = pattern.sub(lambda match: text + ("\n" if match.end() < len(old) else ""), old)
    else:
        new = old.rstrip("\n") + "\n\n" + text
    results.write_text(new)
    print(f"{section}: " + "; ".join(f"{what} {figure}" for what, figure in rows))


def run_alone(module: str, *arguments: str) -> None:
    """Run a benchmark module in a process of its own, so that memory and caches of others do not count."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)
