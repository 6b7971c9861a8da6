"""API objects for tests, decoded as a source would: from manifests, or from data files' words."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.model.addresses import pack_address
from proxy.model.endpoints import Endpoint
from proxy.model.events import Upserted
from proxy.model.objects import EndpointSlice, Node, Service, ServiceCIDR
from proxy.model.services import ServicePortName

DATA = Path(__file__).parents[1] / "data"
CONDITIONS = ("ready", "serving", "terminating")


@cache
def document(name: str) -> Any:
    """Return a data file."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def cases(name: str, group: str | None = None) -> list[Any]:
    """Return the cases of a file or of one of its groups as pytest parameters."""
    part = document(name)[group] if group else document(name)
    return [pytest.param(case, id=case["name"]) for case in part["cases"]]


def _decoded(manifest: dict[str, Any], kind: Any) -> Any:
    return msgspec.json.decode(json.dumps(manifest).encode(), type=kind)


def service(manifest: dict[str, Any]) -> Service:
    """Decode a Service."""
    return _decoded(manifest, Service)


def node(manifest: dict[str, Any]) -> Node:
    """Decode a Node."""
    return _decoded(manifest, Node)


def service_cidr(name: str, *cidrs: str) -> ServiceCIDR:
    """Return a ServiceCIDR."""
    return _decoded({"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}, ServiceCIDR)


def a_service(name: str, cluster_ip: str = "172.30.0.1", **changes: Any) -> Service:
    """
    Return Service ``ns/name`` with port http of 80/TCP; *changes* replace fields of its spec.

    ``created``, ``uid`` and ``status`` are no fields of the spec but go where they belong.
    """
    family = "IPv6" if ":" in cluster_ip else "IPv4"
    metadata = {
        "name": name,
        "namespace": "ns",
        "uid": changes.pop("uid", name),
        "creationTimestamp": changes.pop("created", "2026-01-01T00:00:00Z"),
    }
    status = changes.pop("status", None)
    spec = {
        "type": "ClusterIP",
        "clusterIP": cluster_ip,
        "clusterIPs": [cluster_ip],
        "ipFamilies": [family],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        **changes,
    }
    return service({"metadata": metadata, "spec": spec, "status": status})


def slice_manifest(words: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a slice written as in the data files."""
    namespace, name = words["slice"].split("/")
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "labels": {"kubernetes.io/service-name": words["service"]},
    }
    if "triggered" in words:
        key = "endpoints.kubernetes.io/last-change-trigger-time"
        metadata["annotations"] = {key: words["triggered"]}
    ports = []
    for text in words["ports"]:
        port_name, protocol, number = text.split("/")
        ports.append({"name": port_name, "protocol": protocol, "port": int(number)})
    return {
        "metadata": metadata,
        "addressType": words.get("family", "IPv4"),
        "ports": ports,
        "endpoints": [_endpoint_manifest(text) for text in words["endpoints"]],
    }


def _endpoint_manifest(text: str) -> dict[str, Any]:
    address, *words = text.split()
    options = dict(word.split("=") for word in words if "=" in word)
    conditions = {w.lstrip("!"): not w.startswith("!") for w in words if "=" not in w}
    manifest: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    if "on" in options:
        manifest["nodeName"] = options["on"]
    hints = {
        field: [{"name": name} for name in options[word].split(",")]
        for word, field in (("zones", "forZones"), ("nodes", "forNodes"))
        if word in options
    }
    return {**manifest, "hints": hints} if hints else manifest


def endpoint_slice(words: dict[str, Any]) -> EndpointSlice:
    """Decode a slice written as in the data files."""
    return _decoded(slice_manifest(words), EndpointSlice)


def slice_from(manifest: dict[str, Any]) -> EndpointSlice:
    """Decode the manifest of a slice."""
    return _decoded(manifest, EndpointSlice)


def a_slice(name: str, service_name: str, *endpoints: str, **changes: Any) -> EndpointSlice:
    """Return slice ``ns/name`` of *service_name* with port http of 8080/TCP."""
    words = {"slice": f"ns/{name}", "service": service_name, "ports": ["http/TCP/8080"]}
    return endpoint_slice({**words, "endpoints": list(endpoints), **changes})


def upserted(*objects: Any) -> list[Upserted]:
    """Return one event for each object."""
    return [Upserted(obj) for obj in objects]


def port_key(name: ServicePortName) -> str:
    """Return a service port as the data files write it."""
    return f"{name.namespace}/{name.name}:{name.port}/{name.protocol}"


def endpoint_from(text: str) -> Endpoint:
    """Return the endpoint that the data files write as ``ADDRESS:PORT`` and words."""
    target, *words = text.split()
    host, _, port = target.rpartition(":")
    options = dict(word.split("=") for word in words if "=" in word)
    packed = pack_address(host.strip("[]"))
    assert packed is not None
    hints = {word: frozenset(value.split(",")) for word, value in options.items()}
    return Endpoint(
        packed,
        int(port),
        "local" in words,
        *(word in words for word in CONDITIONS),
        zone_hints=hints.get("zones"),
        node_hints=hints.get("nodes"),
    )


def endpoint_text(endpoint: Endpoint) -> str:
    """Return an endpoint as the data files write it, without its hints."""
    words = [str(endpoint)]
    words += ["local"] if endpoint.is_local else []
    return " ".join(words + [word for word in CONDITIONS if getattr(endpoint, word)])
