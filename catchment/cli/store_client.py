"""Asking the store's process to do something, over its status server."""

from __future__ import annotations

import json
from collections.abc import Mapping

from catchment.cli.endpoints import Endpoint
from catchment.cli.exits import EnvironmentFault, UsageFault
from catchment.cli.http_client import request
from catchment.config import Config


def ask_store(config: Config, endpoint: Endpoint, action: str, texts: Mapping[str, str]) -> str:
    """Do ``action`` in the store at ``endpoint``, by default the configuration's; returns what it says.

    Raises:
        UsageFault: it refuses.
        EnvironmentFault: it does not answer, or cannot now.
    """
    address = (endpoint.url or _store_status(config)).rstrip("/")
    tls = endpoint.files.context(address, None if endpoint.url else config.status.tls)
    answer = request(f"{address}/-/{action}", body=json.dumps(texts).encode(), tls=tls)
    if answer.status != 200:
        raise UsageFault(answer.text) if answer.status == 400 else EnvironmentFault(answer.text)
    return answer.text


def _store_status(config: Config) -> str:
    # Under `up` the store has a status server of its own, which its state file names.
    try:
        state = json.loads((config.data_dir / "run" / "store.json").read_text("utf-8"))
        return f"http://127.0.0.1:{state['status_port']}"
    except FileNotFoundError:
        return f"{config.status.tls.scheme}://{config.listen.status}"
