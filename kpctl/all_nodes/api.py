"""The requests to the API server that reading all nodes takes, besides lists of objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from proxy.sources.client import READ_TIMEOUT_S, Client
from proxy.sources.credentials import Credentials
from proxy.sources.failures import ApiError, GarbledError

_PAGE_OBJECTS = 500
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_MOST_LOG_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Right:
    """One thing somebody may do; ``resource`` is as RBAC writes it, such as ``pods/exec``."""

    verb: str
    resource: str
    namespace: str = ""

    def __str__(self) -> str:
        place = f"in namespace {self.namespace}" if self.namespace else "in the cluster"
        return f"{self.verb} {self.resource} {place}"


class NodesApi(Client):
    """
    Nodes, pods and rights; thread-safe. All methods raise SourceError as ``Client.get`` does.

    Args:
        credentials: Who asks; websockets use them too.
        user_agent: As ``Client``'s.
    """

    def __init__(self, credentials: Credentials, user_agent: str) -> None:
        super().__init__(credentials, user_agent)
        self.credentials = credentials

    def nodes(self, labels: str = "") -> list[dict[str, Any]]:
        """Return the Nodes that a label selector chooses, all for ""."""
        return self._list("/api/v1/nodes", {"labelSelector": labels} if labels else {})

    def pods(self, namespace: str, labels: str) -> list[dict[str, Any]]:
        """Return the Pods of a namespace with some labels."""
        return self._list(_pods_path(namespace), {"labelSelector": labels})

    def pod(self, namespace: str, name: str, timeout_s: float) -> dict[str, Any]:
        """Return one Pod."""
        with self.get(f"{_pods_path(namespace)}/{quote(name)}", {}, timeout_s) as response:
            return _object(bytes(response.body()))

    def create_pod(self, namespace: str, pod: Mapping[str, Any]) -> None:
        """Create a Pod."""
        self.post(_pods_path(namespace), pod)

    def delete_pod(self, namespace: str, name: str, timeout_s: float) -> None:
        """Delete a Pod at once; one that is not there is deleted already."""
        target = f"{_pods_path(namespace)}/{quote(name)}?gracePeriodSeconds=0"
        try:
            raw = self._request("DELETE", target, None, timeout_s)
        except ApiError as error:
            if error.status != 404:
                raise
            return
        raw.close()

    def log(self, namespace: str, name: str, container: str, timeout_s: float) -> bytes:
        """Return the end of a container's log, at most 8 MiB."""
        params = {"container": container, "tailLines": "20000"}
        params["limitBytes"] = str(_MOST_LOG_BYTES)
        path = f"{_pods_path(namespace)}/{quote(name)}/log"
        with self.get(path, params, timeout_s) as response:
            return bytes(response.body())

    def may(self, right: Right) -> bool:
        """Return whether the server would let us."""
        resource, _, subresource = right.resource.partition("/")
        attributes = {"verb": right.verb, "resource": resource, "subresource": subresource}
        if right.namespace:
            attributes["namespace"] = right.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        raw = self._request("POST", _REVIEWS, msgspec.json.encode(review), READ_TIMEOUT_S)
        try:
            status = _object(raw.read(1 << 20)).get("status")
        finally:
            raw.close()
        return isinstance(status, dict) and status.get("allowed") is True

    def _list(self, path: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            asked = {**params, "limit": str(_PAGE_OBJECTS)}
            if token:
                asked["continue"] = token
            with self.get(path, asked) as response:
                page = _object(bytes(response.body()))
            items = page.get("items")
            found += [item for item in items or () if isinstance(item, dict)]
            metadata = page.get("metadata")
            token = metadata.get("continue") or "" if isinstance(metadata, dict) else ""
            if not token:
                return found


def _pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace)}/pods"


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise GarbledError(f"the API server's answer is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise GarbledError("the API server's answer is no object")
    return value
