"""Opening the embedded log as the configuration says."""

from __future__ import annotations

from pathlib import Path

from catchment.cli.exits import EnvironmentFault
from catchment.config import LogSettings
from catchment.limits import Limits
from catchment.log.sqlite import SqliteLimits, SqliteLog

FILE_NAME = "log.db"


def open_log(log_dir: Path, settings: LogSettings, limits: Limits, *, must_exist: bool = False) -> SqliteLog:
    """Open the log in a folder; it is born if it does not exist, unless ``must_exist``.

    Raises:
        EnvironmentFault: there is none although there must be.
        Retry, Corrupt, Invalid: it cannot be opened; the reason says why.
    """
    path = log_dir / FILE_NAME
    if must_exist and not path.exists():
        raise EnvironmentFault(f"there is no log at {path}; give the --config or --data-dir of a running catchment")
    # Envelopes are split to message_bytes_max by estimate; what is a little over it must still get through.
    bounds = SqliteLimits(bytes_max=settings.bytes_max, message_bytes_max=2 * limits.message_bytes_max)
    return SqliteLog.open(path, bounds)
