"""
A stub API server for reading nodes: lists, rights, pods that come and go, exec by websocket.

    with ExecApi() as api:
        api.add_node("a", programs=recorded(folder))
        ...  # api.url, api.kubeconfig(path)

A pod's programs are a function of its argv; faults are in what they return. Messages are those of
a real API server and of containerd.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from diagnostics.snapshot.parts import FACTS, Part

_FRAME_BYTES = 32 << 10
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


@dataclass(frozen=True, slots=True)
class Output:
    """What a program does; ``cut`` ends the connection without a Status, ``hang_s`` comes first."""

    stdout: bytes = b""
    stderr: bytes = b""
    code: int = 0
    absent: bool = False
    cut: bool = False
    hang_s: float = 0.0
    runtime_error: str = ""


ABSENT = Output(absent=True)
Programs = Callable[[Sequence[str]], Output]


def recorded(folder: Path, others: dict[tuple[str, ...], Output] | None = None) -> Programs:
    """Return programs that print the files of a snapshot directory; all others are absent."""
    known = {
        FACTS[part].command: Output((folder / part.value).read_bytes())
        for part in Part
        if FACTS[part].command and (folder / part.value).exists()
    }
    known |= others or {}
    return lambda argv: known.get(tuple(argv), ABSENT)


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}}


def proxy_pod(node_name: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": f"kube-proxy-{node_name}",
            "namespace": "kube-system",
            "labels": {"k8s-app": more.get("app", "kube-proxy")},
        },
        "spec": {"nodeName": node_name, "hostNetwork": more.get("host_network", True)},
        "status": {
            "phase": more.get("phase", "Running"),
            "containerStatuses": [{"name": "kube-proxy", "state": {"running": {}}}],
        },
    }


@dataclass
class ExecApi:
    """
    The stub.

    ``lists`` are the items by path; ``forbidden`` are ``verb resource`` that nobody may; ``debug``
    says how a debug pod starts (its status) and what it runs. ``deaf`` pods never answer an exec;
    so many execs as ``unauthorized`` says are answered 401.
    """

    lists: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    programs: dict[str, Programs] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    debug_programs: Programs = lambda _: ABSENT
    debug_status: dict[str, Any] = field(
        default_factory=lambda: {
            "phase": "Running",
            "containerStatuses": [{"name": "kpctl", "state": {"running": {}}}],
        }
    )
    ran: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    most_at_once: int = 0
    refuse_delete: bool = False
    deaf: set[str] = field(default_factory=set)
    unauthorized: int = 0

    client: Any = None

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.at_once = 0
        self.stopping = threading.Event()
        for path in ("/api/v1/nodes", "/api/v1/namespaces/kube-system/pods"):
            self.lists.setdefault(path, [])

    @property
    def pods(self) -> list[dict[str, Any]]:
        return self.lists["/api/v1/namespaces/kube-system/pods"]

    def add_node(self, name: str, programs: Programs | None = None, **more: Any) -> None:
        """Add a node, and its proxy's pod if there are programs."""
        self.lists["/api/v1/nodes"].append(node(name, **more.pop("labels", {})))
        if programs is not None:
            pod = proxy_pod(name, **more)
            self.pods.append(pod)
            self.programs[pod["metadata"]["name"]] = programs

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def kubeconfig(self, path: Path) -> Path:
        entry = {"name": "x", "cluster": {"server": self.url}}
        context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
        user = {"name": "x", "user": {"token": "t"}}
        value = {"current-context": "x", "clusters": [entry], "contexts": [context]}
        path.write_text(json.dumps(value | {"users": [user]}))
        return path

    def __enter__(self) -> ExecApi:
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.api = self
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: ExecApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        params = dict(parse_qsl(url.query))
        parts = url.path.strip("/").split("/")
        if url.path.endswith("/exec"):
            if not self._refused("get", "pods/exec"):
                self._exec(parts[5], parse_qs(url.query)["command"])
        elif url.path in self.server.api.lists:
            if not self._refused("list", parts[-1]):
                chosen = [one for one in self.server.api.lists[url.path] if _matches(one, params)]
                self._answer(200, {"kind": "List", "metadata": {}, "items": chosen})
        elif "pods" in parts and parts[-1] == "log":
            self._answer(200, None, b"I0101 the log\n")
        elif "pods" in parts:
            found = [pod for pod in self.server.api.pods if pod["metadata"]["name"] == parts[-1]]
            self._answer(200, found[0]) if found else self._status(404, "NotFound", "not found")
        else:
            self._status(404, "NotFound", "the server could not find the requested resource")

    def do_POST(self) -> None:
        api = self.server.api
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "selfsubjectaccessreviews" in self.path:
            asked = body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
            allowed = f"{asked['verb']} {resource}" not in api.forbidden
            self._answer(201, {"status": {"allowed": allowed}})
        elif not self._refused("create", "pods"):
            body["status"] = api.debug_status
            with api.lock:
                api.created.append(body)
                api.pods.append(body)
                api.programs[body["metadata"]["name"]] = api.debug_programs
            self._answer(201, body)

    def do_DELETE(self) -> None:
        name = urlsplit(self.path).path.rsplit("/", 1)[-1]
        api = self.server.api
        if api.refuse_delete:
            self._status(403, "Forbidden", 'pods is forbidden: User "x" cannot delete')
            return
        with api.lock:
            api.deleted.append(name)
            there = [pod for pod in api.pods if pod["metadata"]["name"] == name]
            for pod in there:
                api.pods.remove(pod)
        self._answer(200, {}) if there else self._status(404, "NotFound", "not found")

    def _refused(self, verb: str, resource: str) -> bool:
        if f"{verb} {resource}" not in self.server.api.forbidden:
            return False
        text = f'{resource} is forbidden: User "x" cannot {verb} resource "{resource}"'
        self._status(403, "Forbidden", text)
        return True

    def _status(self, code: int, reason: str, message: str) -> None:
        value = {"kind": "Status", "status": "Failure", "reason": reason, "message": message}
        self._answer(code, value | {"code": code})

    def _answer(self, code: int, value: object, body: bytes = b"") -> None:
        body = body or json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _exec(self, pod: str, argv: list[str]) -> None:
        api = self.server.api
        if pod not in api.programs:
            self._status(404, "NotFound", f'pods "{pod}" not found')
            return
        if api.unauthorized:
            api.unauthorized -= 1
            self._status(401, "Unauthorized", "Unauthorized")
            return
        if pod in api.deaf:
            api.stopping.wait(60)
            return
        self._upgrade()
        self.close_connection = True
        output = api.programs[pod](argv)
        with api.lock:
            api.ran.append((pod, tuple(argv)))
            api.at_once += 1
            api.most_at_once = max(api.most_at_once, api.at_once)
        try:
            self._print(output)
        finally:
            # Before the client can know that it is over, and start another.
            with api.lock:
                api.at_once -= 1
        if not output.cut:
            self._frame(2, bytes((255, 1)))
            self._frame(2, b"\x03" + json.dumps(_end_of(output, argv)).encode())
            self._frame(8, struct.pack(">H", 1000))

    def _upgrade(self) -> None:
        magic = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        digest = hashlib.sha1(magic.encode(), usedforsecurity=False).digest()
        offered = [name.strip() for name in self.headers["Sec-WebSocket-Protocol"].split(",")]
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
        chosen = next(name for name in _PROTOCOLS if name in offered)
        self.send_header("Sec-WebSocket-Protocol", chosen)
        self.end_headers()

    def _print(self, output: Output) -> None:
        self.server.api.stopping.wait(output.hang_s)
        for channel, data in ((1, output.stdout), (2, output.stderr)):
            for start in range(0, len(data), _FRAME_BYTES):
                self._frame(2, bytes((channel,)) + data[start : start + _FRAME_BYTES])

    def _frame(self, opcode: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = bytes((0x80 | opcode, size))
        elif size < 1 << 16:
            head = bytes((0x80 | opcode, 126)) + struct.pack(">H", size)
        else:
            head = bytes((0x80 | opcode, 127)) + struct.pack(">Q", size)
        self.wfile.write(head + data)


def _end_of(output: Output, argv: list[str]) -> dict[str, Any]:
    failure = {"metadata": {}, "status": "Failure"}
    if output.absent:
        text = (
            "Internal error occurred: Internal error occurred: error executing command in "
            'container: failed to exec in container: failed to start exec "1f": OCI runtime exec '
            f'failed: exec failed: unable to start container process: exec: "{argv[0]}": '
            "executable file not found in $PATH: unknown"
        )
        return failure | {"reason": "InternalError", "code": 500, "message": text}
    if output.runtime_error:
        return failure | {"reason": "InternalError", "code": 500, "message": output.runtime_error}
    if output.code:
        causes = [{"reason": "ExitCode", "message": str(output.code)}]
        text = f"command terminated with non-zero exit code: exit status {output.code}"
        found = failure | {"reason": "NonZeroExitCode", "details": {"causes": causes}}
        return found | {"message": text}
    return {"metadata": {}, "status": "Success"}


def _matches(one: dict[str, Any], params: dict[str, str]) -> bool:
    labels = one["metadata"].get("labels") or {}
    text = params.get("labelSelector", "")
    name, is_in, values = text.partition(" in ")
    if is_in:
        return labels.get(name) in values.strip("()").split(",")
    name, _, value = text.partition("=")
    return not text or labels.get(name) == value
