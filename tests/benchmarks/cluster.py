"""The API side of a benchmark: a stub or real API server, and the one Service that is measured."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

NAMESPACE = "bench"
NAME = "kpctl-probe"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
TARGET_PORT = 9000


class Api:
    """A keep-alive connection to an API server, from the calling thread's network namespace."""

    def __init__(self, url: str, token: str = "", context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(host, port, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port)

    def request(
        self, method: str, path: str, body: object = None, *, content_type: str = ""
    ) -> tuple[int, Any]:
        """Send one request; return status and decoded answer."""
        headers = self._headers | ({"Content-Type": content_type} if content_type else {})
        data = json.dumps(body).encode() if body is not None else None
        self._connection.request(method, path, data, headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")


def api_of_kubeconfig(path: Path) -> Api:
    """Return a connection as the first user of a kubeconfig; token or client certificate."""
    config = yaml.safe_load(path.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context()
    if data := cluster.get("certificate-authority-data"):
        context.load_verify_locations(cadata=base64.b64decode(data).decode())
    elif file := cluster.get("certificate-authority"):
        context.load_verify_locations(cafile=file)
    return Api(cluster["server"], user.get("token", ""), context)


@dataclass(frozen=True, slots=True)
class ProbeService:
    """One UDP Service with one endpoint that moves between two addresses of the node."""

    api: Api
    vip: str

    @classmethod
    def create(cls, api: Api, vip: str, target: str) -> ProbeService:
        """Make the Service (its VIP must be free) and its slice pointing at *target*."""
        meta = {"name": NAME, "namespace": NAMESPACE}
        ports = [{"name": "udp", "port": 80, "protocol": "UDP", "targetPort": TARGET_PORT}]
        spec = {"clusterIP": vip, "clusterIPs": [vip], "ipFamilies": ["IPv4"], "ports": ports}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
        _expect(api.request("POST", SERVICES, service))
        labels = {"kubernetes.io/service-name": NAME}
        piece = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta | {"labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "udp", "port": TARGET_PORT, "protocol": "UDP"}],
            "endpoints": [{"addresses": [target], "conditions": {"ready": True}}],
        }
        _expect(api.request("POST", SLICES, piece))
        return cls(api, vip)

    def move(self, target: str) -> None:
        """Replace the endpoint; returns when the API server has answered."""
        patch = {"endpoints": [{"addresses": [target], "conditions": {"ready": True}}]}
        answer = self.api.request(
            "PATCH", f"{SLICES}/{NAME}", patch, content_type="application/merge-patch+json"
        )
        _expect(answer)

    def delete(self) -> None:
        """Remove both objects."""
        self.api.request("DELETE", f"{SERVICES}/{NAME}")
        self.api.request("DELETE", f"{SLICES}/{NAME}")


def _expect(answer: tuple[int, Any]) -> None:
    status, body = answer
    if status not in (200, 201, 409):
        raise SystemExit(f"the API server answered {status}: {body.get('message', body)}")
