"""What can be asked of the store's process by POST on its status server, as texts in and a text out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from catchment.errors import Invalid
from catchment.status_http import Action
from catchment.windows import NANOSECONDS
from store.clusters import reinstate, retire
from store.decisions import Action as Decided
from store.engine.port import Engine, EngineError
from store.operations import InQuarantine, Operations

_CLUSTER = ("tenant", "region", "cluster")
_RESUMED = {
    Decided.RESUME_LOADED: "taken as loaded, the partition goes on behind it",
    Decided.RESUME_AGAIN: "will be loaded again",
    Decided.RESUME_LOST: "is where the partition goes on; what the log lost before it is not in the tables",
}


def cluster_actions(engine: Engine) -> dict[str, Action]:
    """Retiring a cluster, and taking it back."""

    async def retire_one(texts: Mapping[str, str]) -> str:
        names = _texts(texts, *_CLUSTER)
        from_ns, now_ns = _times(texts)
        await _refusable(lambda: retire(engine, **names, from_ns=from_ns, now_ns=now_ns))
        return f"retired {names['tenant']}/{names['region']}/{names['cluster']}"

    async def reinstate_one(texts: Mapping[str, str]) -> str:
        names = _texts(texts, *_CLUSTER)
        from_ns, now_ns = _times(texts)
        await _refusable(lambda: reinstate(engine, **names, from_ns=from_ns, now_ns=now_ns))
        return f"reinstated {names['tenant']}/{names['region']}/{names['cluster']}"

    return {"cluster-retire": retire_one, "cluster-reinstate": reinstate_one}


def store_actions(operations: Operations) -> dict[str, Action]:
    """What a person decides about a halted partition, or a message in quarantine."""

    async def resume(texts: Mapping[str, str]) -> str:
        given = _texts(texts, "topic", "partition", "offset", "as", "who", "why")
        try:
            partition, offset = int(given["partition"]), int(given["offset"])
        except ValueError:
            raise Invalid("partition and offset are numbers") from None
        how = given["as"]
        decision = await operations.resume(
            given["topic"], partition, offset, how=how, who=given["who"], why=given["why"]
        )
        return f"{decision.position.token}: {_RESUMED[decision.action]} (decision {decision.number})"

    async def list_all(_: Mapping[str, str]) -> str:
        return json.dumps([_described(entry) for entry in await asyncio.to_thread(operations.listed)])

    async def replay(texts: Mapping[str, str]) -> str:
        decision = await operations.replay(**_texts(texts, "name", "who", "why"))
        return f"replayed {decision.position.token} (decision {decision.number})"

    async def discard(texts: Mapping[str, str]) -> str:
        decision = await operations.discard(**_texts(texts, "name", "who", "why"))
        return f"discarded {decision.position.token} (decision {decision.number})"

    return {
        "store-resume": resume,
        "quarantine-list": list_all,
        "quarantine-replay": replay,
        "quarantine-discard": discard,
    }


def _described(entry: InQuarantine) -> dict[str, object]:
    message, decision = entry.message, entry.decision
    decided = None
    if decision is not None:
        decided = {**vars(decision), "action": decision.action.value, "time": _time(decision.decided_ns)}
        del decided["position"], decided["decided_ns"]
    return {
        "name": message.position.token,
        "time": _time(message.quarantined_ns),
        "reason": message.reason,
        "file": str(entry.path.absolute()),
        "decision": decided,
    }


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="seconds")


def _texts(texts: Mapping[str, str], *names: str) -> dict[str, str]:
    try:
        return {name: texts[name] for name in names}
    except KeyError as error:
        raise Invalid(f"{error} is missing") from None


def _times(texts: Mapping[str, str]) -> tuple[int, int]:
    """From when on a decision holds, and when it is made: the same, unless the texts name a time."""
    now_ns = time.time_ns()
    if "from" not in texts:
        return now_ns, now_ns
    try:
        start = datetime.fromisoformat(texts["from"])
    except ValueError:
        raise Invalid("not a time", given=texts["from"], right="such as 2026-11-26T12:00:00Z") from None
    aware = start if start.tzinfo else start.replace(tzinfo=UTC)
    return round(aware.timestamp()) * NANOSECONDS, now_ns


async def _refusable(work: Callable[[], None]) -> None:
    try:
        await asyncio.to_thread(work)
    except EngineError as error:
        raise Invalid(f"the engine refuses: {error.message}") from error
