"""
What kubectl prints, or the API answers, in JSON or YAML: single objects, lists, many documents.

Services, EndpointSlices and Nodes become the proxy's own structs, with the defaults an API server
fills in; of Pods only what tells which address belongs to whom.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import yaml

from proxy.config.types import ProxyConfig
from proxy.model.events import Resource
from proxy.model.objects import (
    ApiObject,
    EndpointSlice,
    Node,
    ObjectMeta,
    Service,
    ServiceCIDR,
    Struct,
)
from proxy.sources.decode import UNDECODABLE
from proxy.sources.manifest_files import (
    DEEPEST_LIST,
    FileContents,
    ManifestSyntaxError,
    _documents,
    _Loader,
    describe_key,
    read_manifest,
)

T = TypeVar("T")
POD = "Pod"
_KIND = re.compile(rb"""["']?kind["']?\s*:\s*["']?(\w+)""")
# The kind of a list stands at its beginning in JSON, and at its end in YAML.
_HEAD_BYTES, _TAIL_BYTES = 4096, 1024
_CONFIGZ = "kubeproxy.config.k8s.io"


class PodIP(Struct, frozen=True):
    """One entry of ``status.podIPs``."""

    ip: str = ""


class PodSpec(Struct, frozen=True):
    """``spec`` of a Pod."""

    node_name: str = ""
    host_network: bool = False


class PodStatus(Struct, frozen=True):
    """``status`` of a Pod."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[PodIP] | None = msgspec.field(default=None, name="podIPs")


class Pod(Struct, frozen=True):
    """A core/v1 Pod."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses as the API tells them, the primary one first."""
        several = tuple(entry.ip for entry in self.status.pod_ips or () if entry.ip)
        return several or ((self.status.pod_ip,) if self.status.pod_ip else ())


@dataclass(frozen=True, slots=True)
class ClusterObjects:
    """
    The objects of all files; None where no file has that kind, () where one says there are none.

    ``problems`` are sentences that begin with the file.
    """

    services: tuple[Service, ...] | None = None
    slices: tuple[EndpointSlice, ...] | None = None
    nodes: tuple[Node, ...] | None = None
    pods: tuple[Pod, ...] | None = None
    service_cidrs: tuple[ServiceCIDR, ...] | None = None
    problems: tuple[str, ...] = ()


def read_objects(files: Iterable[tuple[str, bytes]]) -> ClusterObjects:
    """
    Return the objects in *files*, pairs of a name and content.

    Of an object that several files have, the first counts. A file that is neither JSON nor YAML
    is a problem.
    """
    found: dict[object, ApiObject] = {}
    pods: dict[tuple[str, str], Pod] = {}
    kinds: set[str] = set()
    problems: list[str] = []
    for name, data in files:
        contents = _read_file(name, data, problems)
        for key, obj in contents.objects.items():
            found.setdefault(key, obj)
        problems += [f"{name}: {problem}" for problem in contents.problems]
        for unreadable, problem in contents.unreadable.items():
            problems.append(f"{name}: {unreadable[0].value} {describe_key(unreadable)}: {problem}")
        kinds |= _kinds_of(data) | {key[0].value for key in contents.objects}
        if POD in kinds:
            for pod in read_pods(name, data):
                pods.setdefault((pod.metadata.namespace, pod.metadata.name), pod)

    def of(resource: Resource, kind: type[T]) -> tuple[T, ...] | None:
        if resource.value not in kinds:
            return None
        return tuple(obj for obj in found.values() if isinstance(obj, kind))

    return ClusterObjects(
        of(Resource.SERVICE, Service),
        of(Resource.ENDPOINT_SLICE, EndpointSlice),
        of(Resource.NODE, Node),
        tuple(pods.values()) if POD in kinds else None,
        of(Resource.SERVICE_CIDR, ServiceCIDR),
        tuple(problems),
    )


def _read_file(name: str, data: bytes, problems: list[str]) -> FileContents:
    try:
        return read_manifest("x.json" if is_json(data) else "x.yaml", data)
    except ManifestSyntaxError as error:
        problems.append(f"{name}: {error}")
        return FileContents()


def is_json(data: bytes) -> bool:
    """Return whether *data* is meant to be JSON rather than YAML."""
    return data.lstrip()[:1] in (b"{", b"[")


def _kinds_of(data: bytes) -> set[str]:
    """Return the kinds that *data* speaks of, those of empty lists included."""
    found = {match.decode() for match in _KIND.findall(data[:_HEAD_BYTES] + data[-_TAIL_BYTES:])}
    if POD not in found and re.search(rb"""["']?kind["']?\s*:\s*["']?Pod\b""", data):
        found.add(POD)
    return {kind.removesuffix("List") for kind in found}


def documents(data: bytes) -> Iterator[dict[str, Any]]:
    """
    Yield the objects of a JSON or YAML file as plain values, lists taken apart.

    What cannot be read is left out: ``read_objects`` has told of it.
    """
    for value in _values(data):
        yield from _items(value, "", 0)


def _values(data: bytes) -> Iterator[Any]:
    if is_json(data):
        try:
            yield msgspec.json.decode(data)
        except UNDECODABLE:
            return
        return
    loader = None
    try:
        loader = _Loader(data)
        for _, value in _documents(loader):
            yield value
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    finally:
        if loader is not None:
            loader.dispose()


def _items(value: object, kind: str, depth: int) -> Iterator[dict[str, Any]]:
    if not isinstance(value, dict) or depth > DEEPEST_LIST:
        return
    told = str(value.get("kind") or kind)
    items = value.get("items")
    if told.endswith("List") and isinstance(items, list):
        for item in items:
            yield from _items(item, told.removesuffix("List"), depth + 1)
    else:
        yield value if value.get("kind") else value | {"kind": told}


def read_pods(name: str, data: bytes) -> Iterator[Pod]:
    """Yield the Pods in a file; those that cannot be decoded are left out."""
    for value in documents(data):
        if value.get("kind") != POD:
            continue
        try:
            yield msgspec.convert(value, Pod)
        except UNDECODABLE:
            continue


class ConfigProblem(Exception):
    """A file has no usable KubeProxyConfiguration; the text says why."""


def read_config(data: bytes) -> ProxyConfig:
    """
    Return the configuration in a file.

    That is a KubeProxyConfiguration, its ConfigMap, a list of ConfigMaps with one of them, or what
    kube-proxy answers at ``/configz``.

    Raises:
        ConfigProblem: There is none, or it is wrong.
    """
    from proxy.config.file import load_text
    from proxy.config.problems import InvalidConfiguration

    try:
        return load_text(_config_text(data)).config
    except InvalidConfiguration as error:
        raise ConfigProblem("; ".join(map(str, error.problems))) from error


def _config_text(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    if _CONFIGZ in text and is_json(data):
        value = next(_values(data), None)
        if isinstance(value, dict) and isinstance(value.get(_CONFIGZ), dict):
            return msgspec.json.encode(value[_CONFIGZ]).decode()
    if b"ConfigMapList" in data or re.search(rb"""kind["']?:\s*["']?List\b""", data):
        for value in documents(data):
            entries = value.get("data")
            if value.get("kind") != "ConfigMap" or not isinstance(entries, dict):
                continue
            for entry in entries.values():
                if isinstance(entry, str) and "KubeProxyConfiguration" in entry:
                    return entry
    return text
