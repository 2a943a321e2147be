"""Exit codes, and how an error becomes one line on stderr.

0 fine; 1 the check that was asked for says no; 2 usage or configuration; 3 the environment failed (disk, port, log).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from catchment.errors import Bug, CatchmentError, ConfigFaults

FINE = 0
CHECK_FAILED = 1
USAGE = 2
ENVIRONMENT = 3


class CheckFailed(CatchmentError):
    """The check that was asked for says no: exit code 1."""


class UsageFault(CatchmentError):
    """The command or its input is wrong: exit code 2."""


class EnvironmentFault(CatchmentError):
    """A disk, port, folder or another process is not as needed: exit code 3."""


def guarded(run: Callable[[], object]) -> int:
    """Run a command; its errors become a line each on stderr and the exit code that is returned.

    A `Bug`, and what nobody foresaw, is not caught: it must crash loudly.
    """
    try:
        result = _single(run)
    except ConfigFaults as error:
        return _say(error.faults, USAGE)
    except CheckFailed as error:
        return _say([str(error)], CHECK_FAILED)
    except UsageFault as error:
        return _say([str(error)], USAGE)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        hint = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        return _say([error.format_message().rstrip(".") + hint], USAGE)
    except click.ClickException as error:
        return _say([error.format_message()], USAGE)
    except (click.Abort, KeyboardInterrupt):
        return _say(["interrupted"], CHECK_FAILED)
    except Bug:
        raise
    except CatchmentError as error:
        return _say([str(error)], ENVIRONMENT)
    except OSError as error:
        return _say([_os_error(error)], ENVIRONMENT)
    return result if isinstance(result, int) else FINE


def _single(run: Callable[[], object]) -> object:
    # Concurrent tasks fail as a group; what nobody foresaw in it must crash, else its first error is the one to tell.
    try:
        return run()
    except BaseExceptionGroup as group:
        _, unforeseen = group.split((CatchmentError, OSError))
        bugs = group.subgroup(Bug)
        if unforeseen is not None or bugs is not None:
            raise
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _say(lines: list[str], code: int) -> int:
    for line in lines:
        print(f"catchment: {' '.join(line.split())}", file=sys.stderr)
    return code
