"""
A stub Kubernetes API server: the requests a node proxy makes, answered as the real one does.

    python -m tests.support.apiserver --port 0 --services 10000 --endpoints 3

prints ``listening on http://127.0.0.1:PORT`` and serves until it is terminated. Lists are paged
from snapshots, watches replay history and then stream, selectors turn updates into additions
and deletions, compaction makes old versions 410. PUT, POST, PATCH (merge) and DELETE of any
stored kind reach the watchers before they are answered, so that the time from an API write to
its effect can be measured. Tests script misbehaviour per resource and verb with ``script``.
"""

from __future__ import annotations

import argparse
import socket
import socketserver
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tests.support import stub_objects
from tests.support.stub_store import (
    Expired,
    Store,
    Stored,
    Watcher,
    join_items,
    merge_patch,
    selector,
)

KINDS = {
    "services": ("v1", "Service"),
    "nodes": ("v1", "Node"),
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "servicecidrs": ("networking.k8s.io/v1", "ServiceCIDR"),
    "events": ("events.k8s.io/v1", "Event"),
}
REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound",
           410: "Expired", 429: "TooManyRequests", 500: "InternalError",
           503: "ServiceUnavailable"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the server saw it; ``verb`` is get, list, watch, create, update, …"""

    verb: str
    plural: str
    namespace: str
    name: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Cut(Exception):
    """The connection ends here, without a farewell."""


Fault = Callable[["Handler", Asked], bool]
"""A scripted misbehaviour; returns True when it has answered the request itself."""


@dataclass(slots=True)
class _Script:
    fault: Fault
    times: int


class Handler(socketserver.StreamRequestHandler):
    """One connection, kept alive between requests."""

    server: _Server
    disable_nagle_algorithm = True
    wbufsize = 0

    def handle(self) -> None:
        try:
            while (asked := self._read_request()) is not None:
                self.server.api.answer(self, asked)
        except (OSError, Cut):
            return

    def _read_request(self) -> Asked | None:
        first = self.rfile.readline().split()
        if len(first) != 3:
            return None
        headers: dict[str, str] = {}
        while line := self.rfile.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        url = urlsplit(first[1].decode("ascii"))
        params = dict(parse_qsl(url.query, keep_blank_values=True))
        namespace, plural, name = _split_path(unquote(url.path))
        method = first[0].decode("ascii")
        verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
        read = "watch" if params.get("watch") in ("1", "true") else "get" if name else "list"
        return Asked(verbs.get(method, read), plural, namespace, name, params, headers, body)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer with a JSON body."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'OK')}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        self.wfile.write("\r\n".join(lines).encode() + body)

    def send_status(
        self, status: int, message: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Answer with a metav1.Status."""
        self.send(status, msgspec.json.encode(status_object(status, message)), headers)

    def start_stream(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")


def _split_path(path: str) -> tuple[str, str, str]:
    """Return namespace, plural and name of an API path."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    return namespace, parts[0] if parts else "", parts[1] if len(parts) > 1 else ""


def status_object(code: int, message: str = "") -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": REASONS.get(code, ""),
        "code": code,
    }


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    api: ApiServer
    tls: ssl.SSLContext | None = None

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self.tls is not None:
            # The handshake happens at the first read, in the connection's own thread.
            connection = self.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        with self.api.lock:
            self.api.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address  # a client that went away


@dataclass
class ApiServer:
    """
    The stub; ``with ApiServer() as api`` serves on ``api.url``.

    ``tokens`` are the accepted bearer tokens, None accepts everyone. ``page_from_cache`` says
    whether a list at version 0 is paged; a real server answers it whole.
    """

    store: Store = field(default_factory=Store)
    tokens: set[str] | None = None
    page_from_cache: bool = False
    absent: set[str] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    port: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._scripts: dict[tuple[str, str], deque[_Script]] = {}
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; on the same port as before when it was stopped."""
        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._server.api, self._server.tls = self, self.tls
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse and cut all connections, as a killed server does."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        self.cut_connections()

    def cut_connections(self) -> None:
        with self.lock:
            connections, self.connections = self.connections, []
        for watcher in self.store.watchers():
            watcher.closed.set()
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def script(self, plural: str, verb: str, fault: Fault, times: int = 1) -> None:
        """Let *fault* meet the next *times* requests of this kind, after those scripted before."""
        with self.lock:
            self._scripts.setdefault((plural, verb), deque()).append(_Script(fault, times))

    def requests(self, plural: str, verb: str) -> list[Asked]:
        """Return the requests of this kind so far."""
        return [a for a in list(self.asked) if (a.plural, a.verb) == (plural, verb)]

    def send_to_watchers(self, plural: str, line: bytes) -> None:
        """Send a line into all open watches of a resource, whatever it is."""
        for watcher in self.store.watchers(plural):
            watcher.tell_raw(line)

    def bookmark(self, plural: str) -> None:
        """Tell the watchers of a resource the current version."""
        with self.store.lock:
            self.send_to_watchers(plural, self._bookmark_line(plural))

    def _bookmark_line(self, plural: str) -> bytes:
        version, kind = KINDS[plural]
        meta = {"resourceVersion": str(self.store.version), "creationTimestamp": None}
        obj = {"kind": kind, "apiVersion": version, "metadata": meta}
        return msgspec.json.encode({"type": "BOOKMARK", "object": obj}) + b"\n"

    def answer(self, handler: Handler, asked: Asked) -> None:
        """Answer one request."""
        with self.lock:
            self.asked.append(asked)
            scripts = self._scripts.get((asked.plural, asked.verb), deque())
            script = scripts[0] if scripts else None
            if script is not None:
                script.times -= 1
                if not script.times:
                    scripts.popleft()
        if script is not None and script.fault(handler, asked):
            return
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token not in self.tokens:
            handler.send_status(401, "Unauthorized")
        elif asked.plural not in KINDS or asked.plural in self.absent:
            handler.send_status(404, "the server could not find the requested resource")
        else:
            getattr(self, f"_{asked.verb}")(handler, asked)

    def _get(self, handler: Handler, asked: Asked) -> None:
        stored = self.store.get(asked.plural, asked.namespace, asked.name)
        self._send_stored(handler, 200, stored, asked)

    def _list(self, handler: Handler, asked: Asked) -> None:
        matches = _selector_of(asked)
        limit = int(asked.params.get("limit", "0"))
        from_cache = asked.params.get("resourceVersion") == "0"
        with self.store.lock:
            try:
                if token := asked.params.get("continue"):
                    version, items = self.store.snapshot(token)
                else:
                    version, items = self.store.version, self.store.select(asked.plural, matches)
            except Expired:
                handler.send_status(410, "The provided continue parameter is too old")
                return
            rest: list[Stored] = []
            if limit and (self.page_from_cache or not from_cache):
                items, rest = items[:limit], items[limit:]
            meta: dict[str, Any] = {"resourceVersion": str(version)}
            if rest:
                meta["continue"] = self.store.keep_snapshot(rest, version)
                meta["remainingItemCount"] = len(rest)
        api_version, kind = KINDS[asked.plural]
        head = b'{"kind":"%bList","apiVersion":"%b","metadata":%b,"items":[' % (
            kind.encode(), api_version.encode(), msgspec.json.encode(meta),
        )  # fmt: skip
        handler.send(200, head + join_items(items) + b"]}\n")

    def _watch(self, handler: Handler, asked: Asked) -> None:
        watcher = Watcher(asked.plural, _selector_of(asked), handler.send_chunk)
        handler.start_stream()
        try:
            self.store.watch(watcher, int(asked.params.get("resourceVersion") or "0"))
        except Expired:
            error = {"type": "ERROR", "object": status_object(410, "too old resource version")}
            handler.send_chunk(msgspec.json.encode(error) + b"\n")
            handler.end_stream()
            return
        try:
            was_cut = watcher.closed.wait(float(asked.params.get("timeoutSeconds", "1800")))
        finally:
            self.store.unwatch(watcher)
        if was_cut:
            raise Cut
        if asked.params.get("allowWatchBookmarks") == "true":
            handler.send_chunk(self._bookmark_line(asked.plural))
        handler.end_stream()

    def _create(self, handler: Handler, asked: Asked) -> None:
        obj = msgspec.json.decode(asked.body)
        if asked.namespace:
            obj["metadata"]["namespace"] = asked.namespace
        self._send_stored(handler, 201, self.store.put(asked.plural, obj), asked)

    def _update(self, handler: Handler, asked: Asked) -> None:
        stored = self.store.put(asked.plural, msgspec.json.decode(asked.body))
        self._send_stored(handler, 200, stored, asked)

    def _patch(self, handler: Handler, asked: Asked) -> None:
        stored = self.store.get(asked.plural, asked.namespace, asked.name)
        if stored is not None:
            merged = merge_patch(stored.obj, msgspec.json.decode(asked.body))
            stored = self.store.put(asked.plural, merged)
        self._send_stored(handler, 200, stored, asked)

    def _delete(self, handler: Handler, asked: Asked) -> None:
        stored = self.store.delete(asked.plural, asked.namespace, asked.name)
        self._send_stored(handler, 200, stored, asked)

    def _send_stored(
        self, handler: Handler, status: int, stored: Stored | None, asked: Asked
    ) -> None:
        if stored is None:
            handler.send_status(404, f'{asked.plural} "{asked.name}" not found')
        else:
            handler.send(status, stored.raw)

    def fill(self, services: int, endpoints: int, node: str = "node-0") -> None:
        """Store the cluster of the benchmarks: svc-0 … in namespaces ns-0 … ns-19, and a node."""
        self.store.put("nodes", stub_objects.node(node))
        self.store.put("servicecidrs", stub_objects.service_cidr())
        for index in range(services):
            name, namespace = f"svc-{index}", f"ns-{index % 20}"
            ip = stub_objects.service_ip(index)
            self.store.put("services", stub_objects.service(name, namespace, ip))
            first = index * endpoints
            ips = [stub_objects.endpoint_ip(first + number) for number in range(endpoints)]
            self.store.put("endpointslices", stub_objects.endpoint_slice(name, ips, namespace))


def _selector_of(asked: Asked) -> Callable[[dict[str, Any]], bool]:
    return selector(asked.params.get("labelSelector", ""), asked.params.get("fieldSelector", ""))


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description="A stub Kubernetes API server.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--services", type=int, default=0)
    parser.add_argument("--endpoints", type=int, default=3)
    parser.add_argument("--node", default="node-0")
    parser.add_argument("--bookmark-seconds", type=float, default=60.0)
    options = parser.parse_args()
    api = ApiServer(port=options.port)
    api.fill(options.services, options.endpoints, options.node)
    with api:
        print(f"listening on {api.url}", flush=True)
        while True:
            time.sleep(options.bookmark_seconds)
            for plural in KINDS:
                api.bookmark(plural)


if __name__ == "__main__":
    main()
