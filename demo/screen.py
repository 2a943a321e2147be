"""What the demo shows while it runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.figures import Answer
from demo.report import mebibytes, report
from demo.watch import Look

WIDTH_MAX: Final = 100
_PLAIN_SECONDS: Final = 10.0


class Screen(Protocol):
    """Where the demo tells what happens."""

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """One phase, from entering to leaving."""
        ...

    def say(self, text: str) -> None:
        """One line."""
        ...

    def mark(self, text: str) -> None:
        """Something happened in the middle of the traffic."""
        ...

    def progress(self, look: Look, elapsed_seconds: float, duration_seconds: float) -> None:
        """How the traffic stands."""
        ...

    def answer(self, answer: Answer) -> None:
        """The answer."""
        ...


@contextlib.contextmanager
def make_screen() -> Iterator[Screen]:
    """The screen for this stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        yield PlainScreen(Console(width=WIDTH_MAX, highlight=False, no_color=True))
        return
    console.width = min(console.width, WIDTH_MAX)
    with LiveScreen(console) as screen:
        yield screen


class PlainScreen:
    """A line for each event, and one every ten seconds of traffic."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """See `Screen`."""
        self.say(name)
        began = time.monotonic()
        yield
        self.say(f"  done after {time.monotonic() - began:.1f} s")

    def say(self, text: str) -> None:
        """See `Screen`."""
        self._console.print(text, markup=False, soft_wrap=True)
        sys.stdout.flush()

    def mark(self, text: str) -> None:
        """See `Screen`."""
        self.say(f"  ! {text}")

    def progress(self, look: Look, elapsed_seconds: float, duration_seconds: float) -> None:
        """See `Screen`."""
        if elapsed_seconds - self._told < _PLAIN_SECONDS:
            return
        self._told = elapsed_seconds
        self.say(
            f"  {elapsed_seconds:3.0f} of {duration_seconds:g} s: {look.fleet.points:,} points acknowledged, "
            f"{look.stored:,} in SQL; {mebibytes(look.fleet.sent_bytes)} in, {mebibytes(look.regional_bytes)} out"
        )

    def answer(self, answer: Answer) -> None:
        """See `Screen`."""
        self._console.print(report(answer))
        sys.stdout.flush()


class LiveScreen:
    """A panel that changes in place; it stays, with what happened, above the answer."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phases: list[tuple[str, float, float | None]] = []
        self._marks: list[str] = []
        self._look: tuple[Look, float, float] | None = None
        self._live = Live(get_renderable=self._panel, console=console, refresh_per_second=4)

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """See `Screen`."""
        began = time.monotonic()
        self._phases.append((name, began, None))
        yield
        self._phases[-1] = (name, began, time.monotonic() - began)

    def say(self, text: str) -> None:
        """See `Screen`."""
        self._console.print(text, markup=False)

    def mark(self, text: str) -> None:
        """See `Screen`."""
        elapsed = self._look[1] if self._look else 0.0
        self._marks.append(f"{elapsed:4.0f} s  {text}")

    def progress(self, look: Look, elapsed_seconds: float, duration_seconds: float) -> None:
        """See `Screen`."""
        self._look = (look, elapsed_seconds, duration_seconds)

    def answer(self, answer: Answer) -> None:
        """See `Screen`."""
        self._live.stop()
        self._console.print(report(answer))

    def _panel(self) -> RenderableType:
        now = time.monotonic()
        parts: list[RenderableType] = []
        for name, began, took in self._phases:
            done = took is not None
            parts.append(
                Text.assemble(
                    (" ✓ " if done else " … ", "green" if done else "yellow"),
                    (name, "" if done else "bold"),
                    (f"  {took if took is not None else now - began:.1f} s", "dim"),
                )
            )
        if self._look is not None:
            parts += [Text(), *self._numbers(*self._look)]
        for mark in self._marks:
            parts.append(Text.assemble((" ▲ ", "red"), mark))
        return Panel(Group(*parts), title="catchment demo", title_align="left", border_style="cyan", padding=(1, 2))

    def _numbers(self, look: Look, elapsed_seconds: float, duration_seconds: float) -> list[RenderableType]:
        table = Table.grid(padding=(0, 2))
        table.add_column(justify="right", style="bold cyan", min_width=12)
        table.add_column()
        table.add_row(f"{look.fleet.points:,}", f"points acknowledged to {look.fleet.stations:,} stations")
        table.add_row(f"{look.stored:,}", f"of them in SQL already, {look.behind_seconds:.0f} s behind")
        table.add_row(mebibytes(look.fleet.sent_bytes), "in: OTLP, gzip, as the stations send it")
        table.add_row(mebibytes(look.regional_bytes), "out of the 8 zones, to their regions")
        table.add_row(f"{look.fleet.retries:,}", "requests sent again")
        done = min(elapsed_seconds, duration_seconds)
        bar = ProgressBar(total=duration_seconds, completed=done, width=60)
        return [bar, Text(), table, Text()]
