"""Discovery against a fake Kubernetes API: lists in pages, watches, objects that come, change and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from collectors.scrape.record import Reading
from tests.clients.targets import listening, scraping, serving
from tests.integration.test_scrape import write

PLURALS = {"pods": "pod", "services": "service", "endpoints": "endpoints", "endpointslices": "slice", "nodes": "node"}


@dataclass
class Api:
    """An API server that keeps objects by plural, pages its lists and streams its changes; use `running`."""

    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {plural: {} for plural in PLURALS})
    version: int = 100
    watchers: list[tuple[str, asyncio.Queue[bytes | None]]] = field(default_factory=list)
    asked: list[web.Request] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    address: str = ""

    def put(self, plural: str, each: dict[str, Any]) -> None:
        """Add or change an object."""
        name = each["metadata"]["name"]
        self._tell("MODIFIED" if name in self.objects[plural] else "ADDED", plural, each)
        self.objects[plural][name] = each

    def delete(self, plural: str, name: str) -> None:
        """Take an object away."""
        self._tell("DELETED", plural, self.objects[plural].pop(name))

    def fail_watches(self) -> None:
        """Say to all that watch that their version is too old."""
        event = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
        for _, queue in self.watchers:
            queue.put_nowait(json.dumps(event).encode() + b"\n")

    def _tell(self, kind: str, plural: str, each: dict[str, Any]) -> None:
        self.version += 1
        each["metadata"]["resourceVersion"] = str(self.version)
        line = json.dumps({"type": kind, "object": each}).encode() + b"\n"
        for watched, queue in self.watchers:
            if watched == plural:
                # In two pieces, as a network may cut it.
                queue.put_nowait(line[:7])
                queue.put_nowait(line[7:])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """A list or a watch."""
        self.asked.append(request)
        if request.headers.get("Authorization") != "Bearer secret":
            return web.Response(status=401)
        if self.answers:
            return web.Response(status=self.answers.pop(0))
        plural = request.path.rsplit("/", 1)[-1]
        if "watch" in request.query:
            return await self._stream(request, plural)
        items, at = list(self.objects[plural].values()), int(request.query.get("continue", 0))
        page, rest = items[at : at + 1], at + 1 < len(items)
        meta = {"resourceVersion": str(self.version), **({"continue": str(at + 1)} if rest else {})}
        return web.json_response({"metadata": meta, "items": page})

    async def _stream(self, request: web.Request, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.watchers.append((plural, queue))
        while (piece := await queue.get()) is not None:
            await response.write(piece)
        return response

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Api]:
        """Serve on a free port."""
        async with listening(self.answer) as self.address:
            try:
                yield self
            finally:
                for _, queue in self.watchers:
                    queue.put_nowait(None)


def pod(name: str, address: str, **annotations: str) -> dict[str, Any]:
    """A running pod of one container with one port."""
    host, _, port = address.rpartition(":")
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "labels": {"app.kubernetes.io/name": "checkout"},
            "annotations": {key.replace("__", ".io/"): value for key, value in annotations.items()},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "rs", "controller": True}],
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [{"name": "main", "image": "i", "ports": [{"name": "web", "containerPort": int(port)}]}],
        },
        "status": {"podIP": host, "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def job(api: Api, role: str, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A job of that API's objects; every meta label becomes a label of the target."""
    return {
        "job_name": "k8s",
        "kubernetes_sd_configs": [
            {
                "role": role,
                "api_server": f"http://{api.address}",
                "authorization": {"credentials": "secret"},
                **more,
            }
        ],
        "relabel_configs": [*rules, {"action": "labelmap", "regex": "__meta_kubernetes_(.+)"}],
    }


def labels_of(scraping_: Any) -> list[dict[str, str]]:
    """The labels of all scrapes so far."""
    return [dict(Reading.of_line(record.reading).labels) for record in scraping_.intake.records]


ANNOTATED = {
    "source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_scrape"],
    "regex": "true",
    "action": "keep",
}


def test_pods_by_annotation(tmp_path: Path) -> None:
    """Pods are found by annotation, with the labels that Prometheus gives them; they come, change and go."""

    async def scenario() -> None:
        async with serving() as first, serving() as second, Api().running() as api:
            api.put("pods", pod("a", first.address, prometheus__scrape="true"))
            api.put("pods", pod("b", second.address, prometheus__scrape="false"))
            async with scraping(write(tmp_path, job(api, "pod", ANNOTATED))) as scraping_:
                await scraping_.scrapes(1)
                labels = labels_of(scraping_)[0]
                assert labels == {
                    "instance": first.address,
                    "job": "k8s",
                    "namespace": "shop",
                    "pod_annotation_prometheus_io_scrape": "true",
                    "pod_annotationpresent_prometheus_io_scrape": "true",
                    "pod_container_image": "i",
                    "pod_container_init": "false",
                    "pod_container_name": "main",
                    "pod_container_port_name": "web",
                    "pod_container_port_number": first.address.rpartition(":")[2],
                    "pod_container_port_protocol": "TCP",
                    "pod_controller_kind": "ReplicaSet",
                    "pod_controller_name": "rs",
                    "pod_ip": "127.0.0.1",
                    "pod_label_app_kubernetes_io_name": "checkout",
                    "pod_labelpresent_app_kubernetes_io_name": "true",
                    "pod_name": "a",
                    "pod_node_name": "node-1",
                    "pod_phase": "Running",
                    "pod_ready": "true",
                    "pod_uid": "uid-a",
                }
                assert not second.asked
                api.put("pods", pod("b", second.address, prometheus__scrape="true"))
                await scraping_.until(lambda: bool(second.asked))
                api.delete("pods", "a")
                await scraping_.until(lambda: any(record.ended for record in scraping_.intake.records))
                asked = len(first.asked)
                await scraping_.scrapes(2)
                assert len(first.asked) == asked

    asyncio.run(scenario())


def test_endpoints_with_the_labels_of_their_pods(tmp_path: Path) -> None:
    """Endpoints and slices are targets with the labels of the pods behind them; services and nodes are, too."""

    async def scenario() -> None:
        async with serving() as target, Api().running() as api:
            host, _, port = target.address.rpartition(":")
            meta = {"name": "checkout", "namespace": "shop", "labels": {"tier": "front"}}
            reference = {"kind": "Pod", "name": "a", "namespace": "shop"}
            api.put("pods", pod("a", target.address))
            api.put(
                "endpoints",
                {
                    "metadata": dict(meta),
                    "subsets": [
                        {
                            "addresses": [{"ip": host, "nodeName": "n", "targetRef": reference}],
                            "ports": [{"name": "web", "port": int(port)}],
                        }
                    ],
                },
            )
            api.put(
                "endpointslices",
                {
                    "metadata": dict(meta),
                    "addressType": "IPv4",
                    "ports": [{"name": "web", "port": int(port), "protocol": "TCP"}],
                    "endpoints": [{"addresses": [host], "conditions": {"ready": True}, "targetRef": reference}],
                },
            )
            api.put(
                "nodes",
                {
                    "metadata": {"name": "n", "labels": {"zone": "a"}},
                    "status": {
                        "addresses": [{"type": "InternalIP", "address": host}],
                        "daemonEndpoints": {"kubeletEndpoint": {"Port": int(port)}},
                    },
                },
            )
            for role, expected in (
                (
                    "endpoints",
                    {"endpoint_ready": "true", "pod_container_name": "main", "endpoints_label_tier": "front"},
                ),
                ("endpointslice", {"endpointslice_endpoint_conditions_ready": "true", "pod_name": "a"}),
                ("node", {"node_name": "n", "node_label_zone": "a", "instance": "n"}),
            ):
                async with scraping(write(tmp_path, job(api, role))) as scraping_:
                    await scraping_.scrapes(1)
                    assert expected.items() <= labels_of(scraping_)[0].items(), role

    asyncio.run(scenario())


def test_services_have_names(tmp_path: Path) -> None:
    """A service is asked by its name in the cluster, each of its ports."""

    async def scenario() -> None:
        async with Api().running() as api:
            service = {"metadata": {"name": "s", "namespace": "shop"}, "spec": {"ports": [{"port": 80}, {"port": 81}]}}
            api.put("services", service)
            # Names that do not exist here may take long to be found out.
            async with scraping(write(tmp_path, job(api, "service")), wait_seconds_min=0) as scraping_:
                expected = {"s.shop.svc:80", "s.shop.svc:81"}
                await scraping_.until(lambda: {labels["instance"] for labels in labels_of(scraping_)} >= expected)
                assert {labels["instance"] for labels in labels_of(scraping_)} == expected

    asyncio.run(scenario())


def test_namespaces_and_selectors(tmp_path: Path) -> None:
    """Only the namespaces that are named are asked, with the selectors of the role."""

    async def scenario() -> None:
        async with serving() as target, Api().running() as api:
            api.put("pods", pod("a", target.address))
            more = {"namespaces": {"names": ["shop"]}, "selectors": [{"role": "pod", "label": "app=x", "field": "f=g"}]}
            async with scraping(write(tmp_path, job(api, "pod", **more))) as scraping_:
                await scraping_.scrapes(1)
                assert api.asked[0].path == "/api/v1/namespaces/shop/pods"
                assert api.asked[0].query["labelSelector"] == "app=x"
                assert all(request.query["fieldSelector"] == "f=g" for request in api.asked)

    asyncio.run(scenario())


def test_an_api_that_is_away(tmp_path: Path) -> None:
    """Errors and versions that are too old lead to a new list; what was known stays, and what changed is seen."""

    async def scenario() -> None:
        async with serving() as first, serving() as second, Api().running() as api:
            api.put("pods", pod("a", first.address))
            api.answers = [500]
            async with scraping(write(tmp_path, job(api, "pod"))) as scraping_:
                await scraping_.scrapes(1)
                await scraping_.until(lambda: bool(api.watchers))
                # Unseen by the watch, which then is told that it is too old.
                watchers, api.watchers = api.watchers, []
                api.put("pods", pod("b", second.address))
                api.watchers = watchers
                api.fail_watches()
                await scraping_.until(lambda: bool(second.asked))
                api.answers = [503, 503]
                for _, queue in api.watchers:
                    queue.put_nowait(None)
                await scraping_.scrapes(4)
                assert not any(record.ended for record in scraping_.intake.records)

    asyncio.run(scenario())
