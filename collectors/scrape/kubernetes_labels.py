"""Objects of the Kubernetes API → target groups with Prometheus' meta labels. Pure.

Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#kubernetes_sd_config.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from collectors.scrape.job import Group

Object = Mapping[str, Any]
Pods = Mapping[tuple[str, str], Object]
"""Pods by (namespace, name)."""

_META = "__meta_kubernetes_"
_NO_LABEL = re.compile(r"[^a-zA-Z0-9_]")


def groups_of(role: str, objects: Iterable[Object], pods: Pods) -> tuple[Group, ...]:
    """The groups of some objects of a role, in the order of their names.

    Args:
        pods: what addresses of endpoints are looked up among.
    """
    make = _MAKERS[role]
    found = [make(each, pods) for each in sorted(objects, key=key_of)]
    return tuple(group for group in found if group.targets)


def key_of(each: Object) -> tuple[str, str]:
    """Namespace, empty where it has none, and name."""
    meta = each.get("metadata") or {}
    return str(meta.get("namespace", "")), str(meta.get("name", ""))


def _common(role: str, each: Object) -> dict[str, str]:
    """Name, namespace, labels and annotations as meta labels."""
    meta = each.get("metadata") or {}
    labels = {}
    if meta.get("namespace"):
        labels[f"{_META}namespace"] = str(meta["namespace"])
    labels[f"{_META}{role}_name"] = str(meta.get("name", ""))
    for sort in ("label", "annotation"):
        for name, value in (meta.get(f"{sort}s") or {}).items():
            safe = _NO_LABEL.sub("_", str(name))
            labels[f"{_META}{role}_{sort}_{safe}"] = str(value)
            labels[f"{_META}{role}_{sort}present_{safe}"] = "true"
    return labels


def _named(values: Mapping[str, Any]) -> dict[str, str]:
    """Labels whose value is there."""
    return {f"{_META}{name}": str(value) for name, value in values.items() if value not in (None, "")}


def _host(address: str, port: Any = None) -> str:
    host = f"[{address}]" if ":" in address else address
    return host if port is None else f"{host}:{port}"


def _pod_labels(pod: Object) -> dict[str, str]:
    """What every target of a pod has."""
    meta, spec, status = (pod.get(key) or {} for key in ("metadata", "spec", "status"))
    ready = next(
        (each.get("status") for each in status.get("conditions") or [] if each.get("type") == "Ready"), "unknown"
    )
    owner: Object = next((each for each in meta.get("ownerReferences") or [] if each.get("controller")), {})
    return _common("pod", pod) | _named(
        {
            "pod_ip": status.get("podIP"),
            "pod_ready": str(ready).lower(),
            "pod_phase": status.get("phase"),
            "pod_node_name": spec.get("nodeName"),
            "pod_host_ip": status.get("hostIP"),
            "pod_uid": meta.get("uid"),
            "pod_controller_kind": owner.get("kind"),
            "pod_controller_name": owner.get("name"),
        }
    )


def _containers(pod: Object) -> list[tuple[Object, bool]]:
    spec = pod.get("spec") or {}
    return [
        *((each, False) for each in spec.get("containers") or []),
        *((each, True) for each in spec.get("initContainers") or []),
    ]


def _container_labels(pod: Object, container: Object, is_init: bool, port: Object | None) -> dict[str, str]:
    statuses = pod.get("status") or {}
    listed = statuses.get("initContainerStatuses" if is_init else "containerStatuses") or []
    own: Object = next((each for each in listed if each.get("name") == container.get("name")), {})
    labels = _named(
        {
            "pod_container_name": container.get("name"),
            "pod_container_image": container.get("image"),
            "pod_container_id": own.get("containerID"),
            "pod_container_init": str(is_init).lower(),
        }
    )
    if port is not None:
        labels |= _named(
            {
                "pod_container_port_name": port.get("name"),
                "pod_container_port_number": port.get("containerPort"),
                "pod_container_port_protocol": port.get("protocol", "TCP"),
            }
        )
    return labels


def _pod(pod: Object, _: Pods) -> Group:
    """One target for each port of each container, or for a container without ports; none before it has an address."""
    address = (pod.get("status") or {}).get("podIP")
    targets = []
    for container, is_init in _containers(pod) if address else []:
        for port in container.get("ports") or [None]:
            number = None if port is None else port.get("containerPort")
            labels = _container_labels(pod, container, is_init, port)
            targets.append({"__address__": _host(str(address), number), **labels})
    return Group(f"pod/{'/'.join(key_of(pod))}", tuple(targets), _pod_labels(pod))


def _service(service: Object, _: Pods) -> Group:
    """One target for each port, by the name of the service."""
    namespace, name = key_of(service)
    spec = service.get("spec") or {}
    labels = _common("service", service) | _named(
        {
            "service_cluster_ip": spec.get("clusterIP") if spec.get("type") != "ExternalName" else None,
            "service_external_name": spec.get("externalName"),
            "service_type": spec.get("type", "ClusterIP"),
            "service_loadbalancer_ip": spec.get("loadBalancerIP"),
        }
    )
    targets = [
        {
            "__address__": f"{name}.{namespace}.svc:{port.get('port')}",
            **_named(
                {
                    "service_port_name": port.get("name"),
                    "service_port_number": port.get("port"),
                    "service_port_protocol": port.get("protocol", "TCP"),
                }
            ),
        }
        for port in spec.get("ports") or []
    ]
    return Group(f"service/{namespace}/{name}", tuple(targets), labels)


def _node(node: Object, _: Pods) -> Group:
    """One target for each node: its kubelet."""
    status, name = node.get("status") or {}, key_of(node)[1]
    addresses: dict[str, str] = {}
    for each in status.get("addresses") or []:
        addresses.setdefault(str(each.get("type")), str(each.get("address")))
    order = ("InternalIP", "InternalDNS", "ExternalIP", "ExternalDNS", "LegacyHostIP", "Hostname")
    address = next((addresses[sort] for sort in order if sort in addresses), "")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port", 10250)
    labels = _common("node", node) | _named({"node_provider_id": (node.get("spec") or {}).get("providerID")})
    labels |= {f"{_META}node_address_{sort}": value for sort, value in addresses.items()}
    targets = ({"__address__": _host(address, port), "instance": name},) if address else ()
    return Group(f"node/{name}", targets, labels)


def _endpoints(endpoints: Object, pods: Pods) -> Group:
    """One target for each address and port; where it is a pod's, with the pod's labels."""
    namespace, name = key_of(endpoints)
    targets = []
    for subset in endpoints.get("subsets") or []:
        for port in subset.get("ports") or []:
            for ready, key in (("true", "addresses"), ("false", "notReadyAddresses")):
                for address in subset.get(key) or []:
                    labels = _named(
                        {
                            "endpoint_port_name": port.get("name"),
                            "endpoint_port_protocol": port.get("protocol", "TCP"),
                            "endpoint_ready": ready,
                            "endpoint_node_name": address.get("nodeName"),
                            "endpoint_hostname": address.get("hostname"),
                        }
                    )
                    ip, number = str(address.get("ip")), port.get("port")
                    target = _of_pod(address.get("targetRef") or {}, namespace, number, pods, "endpoint")
                    targets.append({"__address__": _host(ip, number), **labels, **target})
    return Group(f"endpoints/{namespace}/{name}", tuple(targets), _common("endpoints", endpoints))


def _slice(each: Object, pods: Pods) -> Group:
    """One target for each address and port of a slice."""
    namespace, name = key_of(each)
    targets = []
    for port in each.get("ports") or []:
        for endpoint in each.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            for address in endpoint.get("addresses") or []:
                labels = _named(
                    {
                        "endpointslice_port": port.get("port"),
                        "endpointslice_port_name": port.get("name"),
                        "endpointslice_port_protocol": port.get("protocol", "TCP"),
                        "endpointslice_address_type": each.get("addressType"),
                        "endpointslice_endpoint_conditions_ready": _truth(conditions.get("ready")),
                        "endpointslice_endpoint_conditions_serving": _truth(conditions.get("serving")),
                        "endpointslice_endpoint_conditions_terminating": _truth(conditions.get("terminating")),
                        "endpointslice_endpoint_hostname": endpoint.get("hostname"),
                        "endpointslice_endpoint_node_name": endpoint.get("nodeName"),
                        "endpointslice_endpoint_zone": endpoint.get("zone"),
                    }
                )
                number = port.get("port")
                reference = endpoint.get("targetRef") or {}
                target = _of_pod(reference, namespace, number, pods, "endpointslice_address_target")
                targets.append({"__address__": _host(str(address), number), **labels, **target})
    return Group(f"endpointslice/{namespace}/{name}", tuple(targets), _common("endpointslice", each))


def _truth(value: Any) -> str | None:
    return None if value is None else str(bool(value)).lower()


def _of_pod(reference: Object, namespace: str, port: Any, pods: Pods, prefix: str) -> dict[str, str]:
    """What the object behind an address adds to its target."""
    if not reference:
        return {}
    names = ("address_target_kind", "address_target_name") if prefix == "endpoint" else ("kind", "name")
    labels = _named({f"{prefix}_{names[0]}": reference.get("kind"), f"{prefix}_{names[1]}": reference.get("name")})
    pod = pods.get((str(reference.get("namespace") or namespace), str(reference.get("name"))))
    if reference.get("kind") != "Pod" or pod is None:
        return labels
    for container, is_init in _containers(pod):
        for own in container.get("ports") or []:
            if own.get("containerPort") == port:
                return labels | _pod_labels(pod) | _container_labels(pod, container, is_init, own)
    return labels | _pod_labels(pod)


_MAKERS: Mapping[str, Callable[[Object, Pods], Group]] = {
    "pod": _pod,
    "service": _service,
    "node": _node,
    "endpoints": _endpoints,
    "endpointslice": _slice,
}
