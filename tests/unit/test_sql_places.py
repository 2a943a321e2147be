"""Places of queries: how many run, how many wait, and whose."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from store.engine.port import EngineError
from store.places import Places
from store.readers import Reader

OWN, OTHER, OPERATOR = Reader("own", ("acme",)), Reader("other", ("foe",)), Reader("ops")


async def taken(stack: contextlib.AsyncExitStack, places: Places, reader: Reader) -> bool:
    """Whether the reader got a place, which it keeps until the stack ends."""
    try:
        await stack.enter_async_context(places.place(reader))
    except EngineError as error:
        assert error.code == 202
        return False
    return True


def test_one_reader_cannot_have_all_places() -> None:
    """A reader of some tenants gets half of the places, others the rest; an operator may take all that is free."""

    async def run() -> None:
        places = Places(4, 0, 5)
        async with contextlib.AsyncExitStack() as stack:
            assert [await taken(stack, places, OWN) for _ in range(3)] == [True, True, False]
            assert [await taken(stack, places, OTHER) for _ in range(2)] == [True, True]
            assert not await taken(stack, places, OPERATOR)
        async with contextlib.AsyncExitStack() as stack:
            assert [await taken(stack, places, OPERATOR) for _ in range(5)] == [True] * 4 + [False]
        async with contextlib.AsyncExitStack() as stack:
            assert await taken(stack, Places(1, 0, 5), OWN)

    asyncio.run(run())


def test_one_reader_cannot_fill_the_queue() -> None:
    """While its queries wait for its own places, another's query runs at once; what waits too long is refused."""

    async def run() -> None:
        places = Places(2, 4, 0.2)
        async with contextlib.AsyncExitStack() as stack:
            assert await taken(stack, places, OWN)
            waiting = [asyncio.create_task(taken(stack, places, OWN)) for _ in range(6)]
            await asyncio.sleep(0)
            assert await taken(stack, places, OTHER)
            assert await asyncio.gather(*waiting) == [False] * 6
        async with contextlib.AsyncExitStack() as stack:
            with pytest.raises(ZeroDivisionError):
                async with places.place(OWN):
                    assert 1 / 0
            assert await taken(stack, places, OWN)

    asyncio.run(run())
