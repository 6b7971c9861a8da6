"""Changes of API objects, as a user names them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Any, TypeVar

import msgspec
import yaml

from diagnostics.readers.objects import ClusterObjects, read_objects
from proxy.model.objects import (
    ApiObject,
    EndpointConditions,
    EndpointSlice,
    Service,
    ServiceSpec,
    SliceEndpoint,
)

T = TypeVar("T", bound=ApiObject)
_CHOICES = {
    "type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "externalTrafficPolicy": ("Cluster", "Local"),
    "internalTrafficPolicy": ("Cluster", "Local"),
    "sessionAffinity": ("None", "ClientIP"),
}
_DOWN = EndpointConditions(ready=False, serving=False, terminating=False)


class EditError(ValueError):
    """A change cannot be made; the text says which and why."""


def applied(objects: ClusterObjects, manifests: Iterable[tuple[str, bytes]]) -> ClusterObjects:
    """
    Return the objects after ``kubectl apply`` of manifests, pairs of a name and content.

    Raises:
        EditError: A manifest cannot be read, or has nothing that a node proxy looks at.
    """
    new = read_objects(manifests)
    if new.problems:
        raise EditError("; ".join(new.problems))
    if not any((new.services, new.slices, new.nodes)):
        raise EditError("the manifests have no Service, EndpointSlice or Node")
    return with_kinds(
        objects,
        services=_merged(objects.services, new.services),
        slices=_merged(objects.slices, new.slices),
        nodes=_merged(objects.nodes, new.nodes),
    )


def with_kinds(objects: ClusterObjects, **changes: Any) -> ClusterObjects:
    """Return the objects with some kinds replaced; a kind that is None stays as it was."""
    from dataclasses import replace

    return replace(objects, **{name: new for name, new in changes.items() if new is not None})


def _merged(old: tuple[T, ...] | None, new: tuple[T, ...] | None) -> tuple[T, ...] | None:
    if not new:
        return None
    found = {(one.metadata.namespace, one.metadata.name): one for one in old or ()}
    found |= {(one.metadata.namespace, one.metadata.name): one for one in new}
    return tuple(found.values())


def with_settings(objects: ClusterObjects, service: str, settings: Sequence[str]) -> ClusterObjects:
    """
    Return the objects with fields of a Service's spec set, ``externalTrafficPolicy=Local``.

    Raises:
        EditError: There is no such Service or field, or the value has the wrong type.
    """
    found = _service(objects, service)
    values: dict[str, Any] = msgspec.to_builtins(found.spec)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise EditError(f"--set {setting}: write FIELD=VALUE")
        _set(values, path.removeprefix("spec.").split("."), text, setting)
    try:
        spec = msgspec.convert(values, ServiceSpec)
    except msgspec.ValidationError as error:
        raise EditError(f"--set {', '.join(settings)}: {error}") from error
    _check_known(msgspec.to_builtins(spec), settings)
    return _with_service(objects, found, msgspec.structs.replace(found, spec=spec))


def _check_known(spec: Any, settings: Iterable[str]) -> None:
    """Raise EditError for a field that was not taken over, or a value that nothing allows."""
    for setting in settings:
        path, _, text = setting.partition("=")
        found, names = spec, path.removeprefix("spec.").split(".")
        for name in names:
            if not isinstance(found, dict) or (name not in found and yaml.safe_load(text)):
                raise EditError(f"--set {setting}: a node proxy looks at no field {name!r} there")
            found = found.get(name)
        allowed = _CHOICES.get(names[0])
        if allowed and found not in allowed and found is not None:
            raise EditError(f"--set {setting}: {names[0]} is one of {', '.join(allowed)}")


def _set(values: dict[str, Any], path: Sequence[str], text: str, setting: str) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(ServiceSpec)}
    if path[0] not in known:
        raise EditError(
            f"--set {setting}: a node proxy looks at no field {path[0]!r} of a Service; "
            f"it looks at {', '.join(sorted(known))}"
        )
    for name in path[:-1]:
        inner = values.get(name)
        values[name] = inner = dict(inner) if isinstance(inner, dict) else {}
        values = inner
    try:
        values[path[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise EditError(f"--set {setting}: the value is no YAML: {why}") from error


def without_service(objects: ClusterObjects, service: str) -> ClusterObjects:
    """Return the objects without a Service; raises EditError if there is none of that name."""
    return _with_service(objects, _service(objects, service), None)


def with_endpoints_down(objects: ClusterObjects, address: str) -> ClusterObjects:
    """
    Return the objects after an address failed its readiness probe.

    Raises:
        EditError: It is no address, or no EndpointSlice has it.
    """
    try:
        wanted = ip_address(address)
    except ValueError:
        raise EditError(f"--endpoint-down {address}: this is not an IP address") from None
    return _down(
        objects,
        lambda one: any(_same(text, wanted) for text in one.addresses or ()),
        f"--endpoint-down {address}: no EndpointSlice has this address",
    )


def with_node_down(objects: ClusterObjects, node: str) -> ClusterObjects:
    """Return the objects after all endpoints on a Node failed; raises EditError if it has none."""
    return _down(
        objects,
        lambda one: one.node_name == node,
        f"--node-down {node}: no EndpointSlice has an endpoint on this Node",
    )


def _same(text: str, address: object) -> bool:
    try:
        return ip_address(text) == address
    except ValueError:
        return False


def _down(
    objects: ClusterObjects, fails: Callable[[SliceEndpoint], bool], otherwise: str
) -> ClusterObjects:
    count = 0
    slices: list[EndpointSlice] = []
    for one in objects.slices or ():
        endpoints = []
        for endpoint in one.endpoints or ():
            if fails(endpoint):
                count += 1
                endpoint = msgspec.structs.replace(endpoint, conditions=_DOWN)
            endpoints.append(endpoint)
        slices.append(msgspec.structs.replace(one, endpoints=endpoints))
    if not count:
        raise EditError(otherwise)
    return with_kinds(objects, slices=tuple(slices))


def _service(objects: ClusterObjects, name: str) -> Service:
    for one in objects.services or ():
        if f"{one.metadata.namespace}/{one.metadata.name}" == name:
            return one
    raise EditError(f"there is no Service {name}")


def _with_service(objects: ClusterObjects, old: Service, new: Service | None) -> ClusterObjects:
    changed = [new if one is old else one for one in objects.services or ()]
    return with_kinds(objects, services=tuple(one for one in changed if one is not None))
