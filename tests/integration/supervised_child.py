"""A child for the tests of the supervisor: a role process with a role that only waits.

Its configuration's ``cluster.name`` tells it how to behave: "stuck" does not stop, "refused" fails at start. It appends
a line to ``<data_dir>/<name>.events`` at each start and stop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from catchment.cli.exits import EnvironmentFault, guarded
from catchment.cli.role_process import Role, RoleContext, RoleProcess, exit_with_parent
from catchment.config import Config, Profile
from catchment.config_load import load
from catchment.units import Address


def main() -> int:
    """Run until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--state", type=Path)
    arguments = parser.parse_args()
    exit_with_parent()

    async def wait(config: Config, context: RoleContext) -> None:
        events = config.data_dir / "events"

        def note(what: str) -> None:
            with events.open("a") as file:
                file.write(f"{what} {arguments.name} {os.getpid()} {config.region}\n")

        if config.cluster.name == "refused":
            raise EnvironmentFault("the disk is not as needed")
        note("start")
        context.watch = tuple
        await context.stop.wait()
        if config.cluster.name == "stuck":
            await asyncio.sleep(600)
        note("stop")

    role = Role("waiter", Profile.UP, lambda config: config, lambda config: {}, wait)

    def run() -> None:
        process = RoleProcess(
            role, arguments.name, lambda: load(arguments.config), Address("127.0.0.1", 0), arguments.state
        )
        asyncio.run(process.run())

    return guarded(run)


if __name__ == "__main__":
    raise SystemExit(main())
