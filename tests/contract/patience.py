"""Other processes' doings that a shared machine delays, and that no test of the contract fails by."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

from catchment.errors import Retry
from catchment.log.port import Log, Source, Writer


async def patient_writer(log: Log, source: Source, seconds: float = 60.0) -> Writer:
    """A writer beside another process that writes all the time: who asks for a lock may lose it again and again."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while True:
        try:
            return await log.writer(source)
        except Retry:
            if clock() > deadline:
                raise


@contextlib.contextmanager
def publishing(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process of `tests.contract.log_publisher` and how far it has come; killed in the end.

    One that a Retry ends at its start is started again, as a role is.
    """
    command = [sys.executable, "-m", "tests.contract.log_publisher", *arguments]
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None
                if line := child.stdout.readline():
                    yield child, int(line)
                    return
                _, errors = child.communicate()
            finally:
                child.kill()
        assert b"Retry" in errors, errors.decode()
    raise AssertionError(errors.decode())
