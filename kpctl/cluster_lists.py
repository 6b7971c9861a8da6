"""Lists of API objects as JSON bytes, for snapshots and for commands that look at the cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from diagnostics.snapshot.parts import Part
from proxy.model.endpoints import SERVICE_NAME_LABEL
from proxy.model.events import Resource
from proxy.sources.client import Client
from proxy.sources.credentials import ApiLocation, Credentials
from proxy.sources.decode import ResourceDecoder
from proxy.sources.failures import ApiError
from proxy.sources.source import ConfigurationError

PAGE_OBJECTS = 500
_CONFIG_PATH = "/api/v1/namespaces/kube-system/configmaps/kube-proxy"
_PATHS = {
    Part.SERVICES: ("/api/v1/services", "Service", "v1"),
    Part.SLICES: (
        "/apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice", "discovery.k8s.io/v1"
    ),
    Part.NODES: ("/api/v1/nodes", "Node", "v1"),
    Part.PODS: ("/api/v1/pods", "Pod", "v1"),
    Part.SERVICE_CIDRS: (
        "/apis/networking.k8s.io/v1/servicecidrs", "ServiceCIDR", "networking.k8s.io/v1"
    ),
}  # fmt: skip


def kubeconfig_path(given: str) -> str:
    """Return the kubeconfig that kubectl would use, "" for the credentials of a pod."""
    if given:
        return given
    if named := os.environ.get("KUBECONFIG", "").partition(os.pathsep)[0]:
        return named
    default = Path.home() / ".kube" / "config"
    return str(default) if default.exists() else ""


class Narrow(NamedTuple):
    """
    What to ask for instead of everything: one Service, one Pod, one Node; "" for none of a kind.

    Names of Services and Pods are ``namespace/name``.
    """

    service: str = ""
    pod: str = ""
    node: str = ""

    def request(self, part: Part, path: str) -> tuple[str, dict[str, str]] | None:
        """Return path and parameters for a part whose list is at *path*; None for none of it."""
        if part is Part.SERVICE_CIDRS:
            return path, {}
        if part is Part.NODES:
            return (path, {"fieldSelector": f"metadata.name={self.node}"}) if self.node else None
        namespace, _, name = (self.pod if part is Part.PODS else self.service).partition("/")
        if not name:
            return None
        group, _, plural = path.rpartition("/")
        selector = {"fieldSelector": f"metadata.name={name}"}
        if part is Part.SLICES:
            selector = {"labelSelector": f"{SERVICE_NAME_LABEL}={name}"}
        return f"{group}/namespaces/{namespace}/{plural}", selector


class ClusterLists:
    """
    Lists of one API server.

    Args:
        location: Where the server is, and who asks.
        user_agent: As ``Client``'s.
        narrow: None for whole lists.

    Raises:
        ConfigurationError: There is no kubeconfig and this is no pod, or it is broken.
    """

    def __init__(
        self, location: ApiLocation, user_agent: str, narrow: Narrow | None = None
    ) -> None:
        credentials = Credentials(location)
        credentials.check()
        self._client = Client(credentials, user_agent)
        self._narrow = narrow

    def __call__(self, part: Part) -> bytes:
        """
        Return all objects of a part as one JSON list, read in pages, or kube-proxy's ConfigMap.

        Raises:
            SourceError: The server cannot be reached, or refuses.
        """
        if part is Part.CONFIG:
            with self._client.get(_CONFIG_PATH, {}) as response:
                return bytes(response.body())
        if part not in _PATHS:
            raise ConfigurationError(f"{part.value} is no list of the API")
        path, kind, version = _PATHS[part]
        selectors: dict[str, str] = {}
        if self._narrow is not None:
            request = self._narrow.request(part, path)
            if request is None:
                raise ConfigurationError(f"{kind}s were not asked for")
            path, selectors = request
        # Any resource's decoder takes pages apart without looking at their items.
        decoder = ResourceDecoder(Resource.SERVICE)
        items: list[msgspec.Raw] = []
        token = ""
        try:
            while True:
                params = {"limit": str(PAGE_OBJECTS)} | selectors
                params |= {"continue": token} if token else {}
                with self._client.get(path, params) as response:
                    page = decoder.decode_page(bytes(response.body()))
                items += page.items
                token = page.meta.continue_token
                if not token:
                    break
        except ApiError as error:
            if part is not Part.SERVICE_CIDRS or error.status != 404:
                raise  # a server before 1.33 has no ServiceCIDRs
        value = {"kind": f"{kind}List", "apiVersion": version, "items": items}
        return msgspec.json.encode(value)
