"""A role's process: reloads that the role takes up without a restart, or cannot take up just then."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from catchment.cli import role_process
from catchment.cli.role_process import Role, RoleContext, RoleProcess
from catchment.config import Config, Profile
from catchment.errors import Retry
from catchment.units import Address
from tests.integration.test_supervisor import until


def test_what_cannot_be_taken_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the moment of a reload is told to who asked, and leaves the change for a few seconds later."""
    monkeypatch.setattr(role_process, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(role_process, "_AGAIN_SECONDS", 0.05)
    regions = ["first"]
    tried: list[str] = []
    contexts: list[RoleContext] = []

    async def run(config: Config, context: RoleContext) -> None:
        async def adopt(view: Config) -> bool:
            tried.append(view.region)
            if len(tried) < 3:
                raise Retry("disk full")
            return True

        context.watch, context.adopt = tuple, adopt
        contexts.append(context)
        await context.stop.wait()

    def load() -> Config:
        return dataclasses.replace(Config(), data_dir=tmp_path, region=regions[-1])

    async def scenario() -> None:
        role = Role("waiter", Profile.UP, lambda config: config, lambda config: {}, run)
        process = RoleProcess(role, "waiter", load, Address("127.0.0.1", 0), None)
        running = asyncio.create_task(process.run())
        await until(lambda: bool(contexts))
        regions.append("second")
        (said,) = await process._reload()
        assert said.startswith("cannot be taken now: disk full; it is tried again every ")
        await until(lambda: len(tried) == 3)
        await asyncio.sleep(0.2)
        assert tried == ["second"] * 3 and len(contexts) == 1
        assert await process._reload() == []
        process._stop()
        await running

    asyncio.run(scenario())
