"""
One manifest file → the objects in it.

YAML means what it means to kubectl: timestamps and ``1:30`` are text. JSON goes through msgspec
without building Python dictionaries. Both end in the same typed decode as the API's bytes, plus
the defaults an API server would have filled in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml

from proxy.model.events import Resource, Unreadable
from proxy.model.objects import (
    KINDS,
    ApiObject,
    ClientIPConfig,
    EndpointSlice,
    Service,
    ServicePortSpec,
    ServiceSpec,
    SessionAffinityConfig,
    SlicePort,
    Struct,
)
from proxy.sources.decode import UNDECODABLE, ResourceDecoder, describe
from proxy.sources.source import SourceError

Key = tuple[Resource, str, str]
"""Resource, namespace, name."""

GROUPS = {
    Resource.SERVICE: "v1",
    Resource.ENDPOINT_SLICE: "discovery.k8s.io/v1",
    Resource.NODE: "v1",
    Resource.SERVICE_CIDR: "networking.k8s.io/v1",
}
NAMESPACED = (Resource.SERVICE, Resource.ENDPOINT_SLICE)
# The API server's defaultServiceAffinityTimeout, three hours.
AFFINITY_TIMEOUT_S = 10800
DEEPEST_LIST = 20
DEEPEST_YAML = 200

_DECODERS = {resource: ResourceDecoder(resource) for resource in Resource}
_RESOURCES = {resource.value: resource for resource in Resource}


class ManifestSyntaxError(SourceError):
    """The file is no YAML or JSON; the text says in which line and why."""


@dataclass(slots=True)
class FileContents:
    """What one file holds; ``problems`` are sentences that begin with a place in the file."""

    objects: dict[Key, ApiObject] = field(default_factory=dict)
    unreadable: dict[Key, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Head(Struct, frozen=True):
    """What tells the kind of a document, before its fields are looked at."""

    kind: str = ""
    api_version: str = ""
    items: list[msgspec.Raw] | None = None


_HEAD = msgspec.json.Decoder(_Head)


def read_manifest(name: str, data: bytes) -> FileContents:
    """
    Return the objects in the file *name*, whose suffix tells JSON from YAML.

    Objects of kinds a proxy does not follow are left out; one that cannot be decoded costs only
    itself.

    Raises:
        ManifestSyntaxError: The file as a whole cannot be read.
    """
    contents = FileContents()
    if name.endswith(".json"):
        _read_json(data, contents)
    else:
        _read_yaml(data, contents)
    return contents


def _read_json(data: bytes, contents: FileContents) -> None:
    if not data.strip():
        return
    try:
        raw = msgspec.json.decode(data, type=msgspec.Raw)
        _add_json(raw, "", "", contents, 0)
    except UNDECODABLE as error:
        raise ManifestSyntaxError(_json_place(error, data)) from error


def _json_place(error: Exception, data: bytes) -> str:
    text = describe(error)
    offset = re.search(r"\(byte (\d+)\)", text)
    position = int(offset[1]) if offset else len(data)
    line = data.count(b"\n", 0, position) + 1
    return f"line {line}: {text}"


def _add_json(
    raw: bytes | msgspec.Raw, kind: str, place: str, contents: FileContents, depth: int
) -> None:
    """Add the object or list in *raw*; *kind* is that of a list's items which tell none."""
    try:
        head = _HEAD.decode(raw)
    except msgspec.ValidationError as error:
        contents.problems.append(f"{place}{describe(error)}; ignored")
        return
    kind = head.kind or kind
    if head.items is not None and kind.endswith("List"):
        if depth >= DEEPEST_LIST:
            contents.problems.append(f"{place}lists are nested too deeply; ignored")
            return
        for index, item in enumerate(head.items):
            item_kind = kind.removesuffix("List")
            _add_json(item, item_kind, f"{place}items[{index}]: ", contents, depth + 1)
        return
    resource = _resource(kind, head.api_version, place, contents)
    if resource is not None:
        _add(_DECODERS[resource].decode_object(raw), resource, place, contents)


def _resource(
    kind: object, api_version: object, place: str, contents: FileContents
) -> Resource | None:
    if not kind:
        contents.problems.append(f"{place}no kind; ignored")
        return None
    resource = _RESOURCES.get(kind) if isinstance(kind, str) else None
    if resource is None or api_version not in ("", None, GROUPS[resource]):
        return None  # a Pod, or the Service of another API group
    return resource


def _add(
    decoded: ApiObject | Unreadable, resource: Resource, place: str, contents: FileContents
) -> None:
    if isinstance(decoded, Unreadable):
        namespace = (decoded.namespace or "default") if resource in NAMESPACED else ""
        if decoded.name:
            key = (resource, namespace, decoded.name)
            contents.unreadable[key] = f"{place}{decoded.problem}"
        else:
            contents.problems.append(
                f"{place}a {resource.value} without a readable name: {decoded.problem}; ignored"
            )
        return
    obj = with_defaults(decoded, resource)
    key = (resource, obj.metadata.namespace, obj.metadata.name)
    if key in contents.objects:
        contents.problems.append(
            f"{place}{resource.value} {describe_key(key)} is in this file twice; the first counts"
        )
        return
    contents.objects[key] = obj


def describe_key(key: Key) -> str:
    """Return ``namespace/name``, or the name alone of what has no namespace."""
    return f"{key[1]}/{key[2]}" if key[1] else key[2]


def with_defaults(obj: ApiObject, resource: Resource) -> ApiObject:
    """Return *obj* as the API server would have stored it, as far as a proxy can see."""
    namespace = (obj.metadata.namespace or "default") if resource in NAMESPACED else ""
    replace = msgspec.structs.replace
    if namespace != obj.metadata.namespace:
        obj = replace(obj, metadata=replace(obj.metadata, namespace=namespace))
    if isinstance(obj, Service):
        return replace(obj, spec=_service_defaults(obj))
    if isinstance(obj, EndpointSlice) and obj.ports:
        return replace(obj, ports=[_slice_port_defaults(port) for port in obj.ports])
    return obj


def _service_defaults(service: Service) -> Any:
    spec = service.spec
    changes: dict[str, object] = {"ports": [_port_defaults(port) for port in spec.ports or []]}
    if spec.session_affinity == "ClientIP":
        given = spec.session_affinity_config and spec.session_affinity_config.client_ip
        if not given or given.timeout_seconds is None:
            changes["session_affinity_config"] = SessionAffinityConfig(
                client_ip=ClientIPConfig(timeout_seconds=AFFINITY_TIMEOUT_S)
            )
    if spec.type != "ExternalName":
        changes |= _address_defaults(spec)
    return msgspec.structs.replace(spec, **changes)


def _address_defaults(spec: ServiceSpec) -> dict[str, object]:
    """clusterIP, clusterIPs and ipFamilies say one thing three times: complete them."""
    addresses = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    if not addresses:
        return {}
    families = ["IPv6" if ":" in address else "IPv4" for address in addresses]
    return {
        "cluster_ip": spec.cluster_ip or addresses[0],
        "cluster_ips": addresses,
        "ip_families": spec.ip_families or ([] if addresses == ["None"] else families),
    }


def _port_defaults(port: ServicePortSpec) -> ServicePortSpec:
    if port.protocol:
        return port
    return msgspec.structs.replace(port, protocol="TCP")


def _slice_port_defaults(port: SlicePort) -> SlicePort:
    if port.protocol and port.name is not None:
        return port
    return msgspec.structs.replace(port, protocol=port.protocol or "TCP", name=port.name or "")


_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):  # type: ignore[misc]
    """Plain data, typed as the Kubernetes tools do, with duplicate keys noticed."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute, replaced as a whole
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.rpartition(":")[2] not in ("timestamp", "int", "float")
        ]
        for first, resolvers in _BaseLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []
        self._depth = 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        """Count the nesting: libyaml's binding recurses until the stack is full, and crashes."""
        self._depth += 1
        if self._depth > DEEPEST_YAML:
            mark = current_node.start_mark
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)

    def ascend_resolver(self) -> None:
        """The counterpart of ``descend_resolver``, which finds no path resolvers to apply here."""
        self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Note keys that occur twice; the last one counts, as for the API server."""
        names = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if len(set(names)) != len(names):
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str):
                    if key.value in seen:
                        line = key.start_mark.line + 1
                        self.duplicates.append(f"line {line}: key {key.value!r} occurs twice")
                    seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9]*|0[0-7]+|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def _read_yaml(data: bytes, contents: FileContents) -> None:
    try:
        loader = _Loader(data)
        try:
            for line, value in _documents(loader):
                _add_value(value, "", f"line {line}: ", contents, 0)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ManifestSyntaxError(_yaml_place(error)) from error
    except (ValueError, RecursionError) as error:
        raise ManifestSyntaxError(f"line 1: {describe(error)}") from error
    contents.problems += [f"{duplicate}; the last one counts" for duplicate in loader.duplicates]


def _documents(loader: Any) -> Iterator[tuple[int, Any]]:
    while loader.check_node():
        node = loader.get_node()
        yield node.start_mark.line + 1, loader.construct_document(node)


def _yaml_place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1 if mark else 1}: {what}"


def _add_value(value: object, kind: str, place: str, contents: FileContents, depth: int) -> None:
    """As ``_add_json``, for what PyYAML built."""
    if value is None:
        return
    if not isinstance(value, dict):
        contents.problems.append(f"{place}a {type(value).__name__} is no object; ignored")
        return
    told = value.get("kind") or kind
    items = value.get("items")
    if isinstance(told, str) and told.endswith("List") and isinstance(items, list):
        if depth >= DEEPEST_LIST:
            contents.problems.append(f"{place}lists are nested too deeply; ignored")
            return
        for index, item in enumerate(items):
            item_kind = told.removesuffix("List")
            _add_value(item, item_kind, f"{place}items[{index}]: ", contents, depth + 1)
        return
    resource = _resource(told, value.get("apiVersion"), place, contents)
    if resource is not None:
        _add(_convert(value, resource), resource, place, contents)


def _convert(value: dict[str, Any], resource: Resource) -> ApiObject | Unreadable:
    try:
        obj: ApiObject = msgspec.convert(value, KINDS[resource.value])
    except UNDECODABLE as error:
        metadata = value.get("metadata")
        meta = metadata if isinstance(metadata, dict) else {}
        name, namespace = (
            text if isinstance(text := meta.get(field_name), str) else ""
            for field_name in ("name", "namespace")
        )
        return Unreadable(resource, namespace, name, describe(error))
    if not obj.metadata.name:
        return Unreadable(resource, obj.metadata.namespace, "", "metadata.name: missing")
    return obj
