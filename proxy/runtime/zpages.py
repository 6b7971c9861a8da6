"""
/flagz and /statusz: how this process was started and what it is.

For people they are plain text; programs ask for the config.k8s.io kinds with an Accept header
such as ``application/json;v=v1beta1;g=config.k8s.io;as=Flagz``. As in Kubernetes' components,
JSON without naming the kind is refused, so that nobody comes to depend on a default.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from proxy.runtime.clock import Clock, rfc3339
from proxy.runtime.http_message import JSON, Request, Response

_COMPONENT = "kube-proxy"
_GROUP = "config.k8s.io"
_NOTE = (
    "For people to read: the layout may change. Programs: see the Accept header of config.k8s.io."
)
_DEPRECATED = (
    "Warning",
    '299 - "config.k8s.io/v1alpha1 is deprecated; use config.k8s.io/v1beta1"',
)
_YAML = "application/yaml"


@dataclass(frozen=True, slots=True)
class Process:
    """
    What the pages show: ``flags`` by name, the binary's version, the Kubernetes version it
    stands in for, and the start of the process in nanoseconds since the epoch and monotonic.
    """

    flags: Mapping[str, str]
    version: str
    emulation_version: str
    clock: Clock
    started_wall_ns: int
    started_monotonic_ns: int

    def uptime_s(self) -> int:
        """Whole seconds since the start."""
        return (self.clock.monotonic_ns() - self.started_monotonic_ns) // 1_000_000_000


class _Wanted(NamedTuple):
    """A structured form that the client accepts."""

    media_type: str
    version: str


def flagz(request: Request, process: Process) -> Response:
    """Answer /flagz: every flag with its value."""
    lines = [f"{name}: {value}" for name, value in sorted(process.flags.items())]
    return _answer(request, "Flagz", {"flags": dict(sorted(process.flags.items()))}, lines)


def statusz(request: Request, process: Process, paths: list[str]) -> Response:
    """Answer /statusz: since when which version runs; the language is Python, not Go."""
    up = process.uptime_s()
    language = f"python{platform.python_version()}"
    content = {
        "startTime": rfc3339(process.started_wall_ns),
        "uptimeSeconds": up,
        "goVersion": language,
        "binaryVersion": process.version,
        "emulationVersion": process.emulation_version,
        "paths": paths,
    }
    started = time.gmtime(process.started_wall_ns // 1_000_000_000)
    lines = [
        "",
        time.strftime("Started: %a %b %e %H:%M:%S UTC %Y", started),
        f"Up: {up // 3600} hr {up // 60 % 60:02d} min {up % 60:02d} sec",
        f"Language version: {language}",
        f"Binary version: {process.version}",
        f"Emulation version: {process.emulation_version}",
        f"Paths: {' '.join(paths)}",
    ]
    return _answer(request, "Statusz", content, lines)


def _answer(
    request: Request, kind: str, content: Mapping[str, object], lines: list[str]
) -> Response:
    if request.method not in ("GET", "HEAD"):
        return Response(405, b"method not allowed\n", headers=(("Allow", "GET"),))
    accept = request.header("accept") or "*/*"
    for clause in accept.split(","):
        media_type, *parameters = (part.strip() for part in clause.split(";"))
        if media_type in ("*/*", "text/*", "text/plain"):
            text = "\n".join(["", f"{_COMPONENT} {kind.lower()}", _NOTE, *lines, ""])
            return Response(200, text.encode())
        if wanted := _structured(media_type, parameters, kind):
            return _encode(wanted, kind, content)
    example = f"text/plain or {JSON};v=v1beta1;g={_GROUP};as={kind}"
    return Response(406, f"cannot answer as {accept!r}; accepted: {example}\n".encode())


def _structured(media_type: str, parameters: list[str], kind: str) -> _Wanted | None:
    values = {name: value for name, _, value in (one.partition("=") for one in parameters)}
    version = values.get("v", "")
    known = media_type in (JSON, _YAML) and version in ("v1alpha1", "v1beta1")
    if known and values.get("g") == _GROUP and values.get("as") == kind:
        return _Wanted(media_type, version)
    return None


def _encode(wanted: _Wanted, kind: str, content: Mapping[str, object]) -> Response:
    body = {
        "kind": kind,
        "apiVersion": f"{_GROUP}/{wanted.version}",
        "metadata": {"name": _COMPONENT},
        **content,
    }
    headers = (_DEPRECATED,) if wanted.version == "v1alpha1" else ()
    if wanted.media_type == JSON:
        return Response(200, msgspec.json.encode(body), JSON, headers)
    import yaml

    return Response(200, yaml.safe_dump(body, sort_keys=False).encode(), _YAML, headers)
