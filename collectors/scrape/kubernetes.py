"""Following the Kubernetes API: list, then watch, and list again where a watch is too old. A shell.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes.

Rules:

1. What is known stays while the API does not answer; it is asked again, after one second and then ever longer up to 30.
2. Endpoints follow pods too, whose labels and container ports their targets carry.
3. Changes that come together make one list of groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from collectors.scrape.fetch import Client, ScrapeFailed
from collectors.scrape.job import Group, Http, Kubernetes, Tls
from collectors.scrape.kubernetes_labels import Object, groups_of, key_of

log = logging.getLogger(__name__)

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATHS = {
    "pod": ("/api/v1", "pods"),
    "service": ("/api/v1", "services"),
    "node": ("/api/v1", "nodes"),
    "endpoints": ("/api/v1", "endpoints"),
    "endpointslice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
}
_LIST_SECONDS, _LIST_BYTES_MAX, _LINE_BYTES_MAX = 30.0, 1 << 28, 1 << 24
_WATCH_SECONDS = 300
_SETTLE_SECONDS = 0.2
_WAIT_SECONDS_MAX = 30.0


class _Gone(Exception):
    """The version from which was watched is too old."""


async def watch_kubernetes(settings: Kubernetes, take: Callable[[tuple[Group, ...]], None]) -> None:
    """Give the groups of one configuration whenever they change; until cancelled."""
    settings = _resolved(settings)
    namespaces = [*settings.namespaces, *([_own_namespace()] if settings.own_namespace else [])] or [""]
    roles = [settings.role, *(["pod"] if settings.role.startswith("endpoint") else [])]
    changed = asyncio.Event()
    client = Client(settings.http)
    watches = [
        _Watch(client, settings, role, namespace, changed)
        for role in roles
        for namespace in (namespaces if role != "node" else [""])
    ]
    tasks = [asyncio.create_task(watch.run(), name=f"watch {watch.role}") for watch in watches]
    try:
        while True:
            await changed.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            changed.clear()
            if all(watch.is_listed for watch in watches):
                pods = {key: each for watch in watches if watch.role == "pod" for key, each in watch.objects.items()}
                own = [each for watch in watches if watch.role == settings.role for each in watch.objects.values()]
                take(groups_of(settings.role, own, pods))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


def _resolved(settings: Kubernetes) -> Kubernetes:
    """Settings with the address and the credentials of the cluster that we run in, where none are given."""
    if settings.api_server:
        return settings
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host or "kubernetes.default.svc"
    http = Http(
        authorization_type="Bearer",
        credentials_file=_ACCOUNT / "token",
        tls=Tls(ca_file=_ACCOUNT / "ca.crt"),
    )
    return replace(settings, api_server=f"https://{host}:{port}", http=http)


def _own_namespace() -> str:
    with contextlib.suppress(OSError):
        return (_ACCOUNT / "namespace").read_text("utf-8").strip()
    return "default"


class _Watch:
    """All objects of one role in one namespace, kept as the API has them."""

    def __init__(self, client: Client, settings: Kubernetes, role: str, namespace: str, changed: asyncio.Event) -> None:
        self.role = role
        self.objects: dict[tuple[str, str], Object] = {}
        self.is_listed = False
        self._client = client
        self._changed = changed
        group, plural = _PATHS[role]
        self._url = f"{settings.api_server}{group}{f'/namespaces/{namespace}' if namespace else ''}/{plural}"
        label, field = settings.selectors.get(role, ("", ""))
        self._selectors = {k: v for k, v in (("labelSelector", label), ("fieldSelector", field)) if v}

    async def run(self) -> None:
        """List and watch until cancelled."""
        wait, version = 1.0, ""
        while True:
            try:
                if not version:
                    version = await self._list()
                wait = 1.0
                version = await self._watch(version)
            except _Gone:
                version = ""
            except (ScrapeFailed, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                log.warning("the Kubernetes API does not answer", extra={"url": self._url, "error": str(error)})
                version = ""
                await asyncio.sleep(wait)
                wait = min(2 * wait, _WAIT_SECONDS_MAX)

    async def _list(self) -> str:
        """Take all objects; the version that they have."""
        found: dict[tuple[str, str], Object] = {}
        more, version = "", ""
        while True:
            query = {**self._selectors, "limit": "500", **({"continue": more} if more else {})}
            answer = await self._client.get(
                f"{self._url}?{urlencode(query)}",
                headers={"Accept": "application/json"},
                timeout_seconds=_LIST_SECONDS,
                bytes_max=_LIST_BYTES_MAX,
            )
            page = json.loads(answer.body)
            found |= {key_of(each): each for each in page.get("items") or []}
            meta = page.get("metadata") or {}
            more, version = meta.get("continue") or "", str(meta.get("resourceVersion") or "")
            if not more:
                break
        self.objects = found
        self.is_listed = True
        self._changed.set()
        return version

    async def _watch(self, version: str) -> str:
        """Follow changes from a version on, until the API ends the answer; the version that was reached."""
        query = {
            **self._selectors,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        rest = b""
        async with (
            asyncio.timeout(_WATCH_SECONDS + _LIST_SECONDS),
            self._client.stream(f"{self._url}?{urlencode(query)}", {"Accept": "application/json"}) as response,
        ):
            if response.status == 410:
                raise _Gone
            if response.status != 200:
                raise ScrapeFailed(f"the server answered {response.status} {response.reason or ''}".rstrip())
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    version = self._apply(json.loads(line), version) if line.strip() else version
                if len(rest) > _LINE_BYTES_MAX:
                    raise ScrapeFailed(f"an event is larger than {_LINE_BYTES_MAX} bytes")
        return version

    def _apply(self, event: Any, version: str) -> str:
        kind, each = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            if each.get("code") == 410:
                raise _Gone
            raise ScrapeFailed(f"the API ended a watch: {each.get('message')}")
        if kind in ("ADDED", "MODIFIED"):
            self.objects[key_of(each)] = each
            self._changed.set()
        elif kind == "DELETED":
            self.objects.pop(key_of(each), None)
            self._changed.set()
        return str((each.get("metadata") or {}).get("resourceVersion") or version)
