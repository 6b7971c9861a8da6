"""
The running node as a snapshot: each part is read when it is asked for, and nothing is changed.

ipvsadm and ipset load their kernel modules when they find them missing, so that they are not even
started where the kernel shows that there is nothing to list.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from diagnostics.snapshot.legacy import legacy_counters
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import FACTS, OBJECT_PARTS, Gap, Part, gap
from diagnostics.snapshot.source import Content
from proxy.kernel.command import CommandError, ToolMissing, find_tool, run
from proxy.model.addresses import IPFamily

ReadObjects = Callable[[Part], bytes]
"""Returns the objects of a part as a JSON list, or the proxy's ConfigMap; raises SourceError."""

TIMEOUT_S = 120.0
_HTTP_TIMEOUT_S = 2.0
_MOST_HTTP_BYTES = 64 << 20
_MOST_LOG_BYTES = 8 << 20
_METRICS_PLACE = ("127.0.0.1", 10249)
_LOADED = {
    Part.IPVS: "proc/net/ip_vs",
    Part.IPVS_LIST: "proc/net/ip_vs",
    Part.IPSET: "sys/module/ip_set",
}
_FAMILIES = {Part.IPTABLES: IPFamily.IPV4, Part.IP6TABLES: IPFamily.IPV6}
_LOGS = "var/log/pods"


class LiveSource:
    """
    The node this process runs on, in its network namespace.

    Args:
        objects: Asks the API; None when no API server is at hand.
        why_no_objects: What a gap says then.
        root: Where proc, sys and var are, for tests.
    """

    def __init__(
        self,
        objects: ReadObjects | None = None,
        why_no_objects: str = "no API server was named",
        root: Path = Path("/"),
    ) -> None:
        self._objects = objects
        self._why_no_objects = why_no_objects
        self._root = root

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        """As ``PartSource.read``."""
        if part in OBJECT_PARTS:
            return self._ask_api(part)
        others: dict[Part, Callable[[], tuple[Content, ...] | Gap]] = {
            Part.RECENT: self._recent,
            Part.LEGACY: self._legacy,
            Part.HOSTNAME: self._hostname,
            Part.CONFIG: self._config,
            Part.METRICS: lambda: self._get(Part.METRICS, "/metrics"),
            Part.LOG: self._log,
            Part.CONNTRACK: self._conntrack,
            Part.MANIFEST: lambda: gap(Part.MANIFEST, "this is the running node"),
        }
        if part in others:
            return others[part]()
        if part in _FAMILIES:
            return self._rules(part)
        loaded = _LOADED.get(part)
        if loaded and not (self._root / loaded).exists():
            return (Content(part.value, b"", f"/{loaded} is absent: there are none"),)
        return self._run(part)

    def _run(self, part: Part) -> tuple[Content, ...] | Gap:
        command = FACTS[part].command
        try:
            # sysctl ends with 1 when a single key may not be read.
            done = run(command, timeout_s=TIMEOUT_S, check=part is not Part.SYSCTL)
        except CommandError as error:
            return gap(part, str(error), _next_step(error))
        return (Content(part.value, done.stdout.encode()),)

    def _rules(self, part: Part) -> tuple[Content, ...] | Gap:
        """Read both of iptables' backends where both have rules: the plain program shows one."""
        from diagnostics.live.xtables import Programs, second_dump

        def program(argv: Sequence[str]) -> str:
            return run(argv, timeout_s=TIMEOUT_S, check=True).stdout

        first = self._run(part)
        if isinstance(first, Gap):
            return first
        programs = Programs(program, lambda tool: find_tool(tool) is not None)
        try:
            second = second_dump(_FAMILIES[part], self._root, programs)
        except (CommandError, OSError) as error:
            note = f"rules of the other backend are not known: {error}"
            return tuple(replace(content, note=note) for content in first)
        if second is None:
            return first
        return (*first, Content(f"{second[0]}.txt", second[1].encode()))

    def _ask_api(self, part: Part) -> tuple[Content, ...] | Gap:
        from proxy.sources.source import SourceError

        if part is Part.OBJECTS:
            return gap(part, "asked for by kind")
        if self._objects is None:
            return gap(part, self._why_no_objects)
        try:
            return (Content(part.value, self._objects(part)),)
        except SourceError as error:
            return gap(part, f"API server: {error}")

    def _config(self) -> tuple[Content, ...] | Gap:
        """Ask the proxy itself, else the API for the ConfigMap."""
        found = self._get(Part.CONFIG, "/configz")
        if not isinstance(found, Gap) or self._objects is None:
            return found
        asked = self._ask_api(Part.CONFIG)
        return found if isinstance(asked, Gap) else asked

    def _conntrack(self) -> tuple[Content, ...] | Gap:
        found = self._run(Part.CONNTRACK)
        if isinstance(found, Gap):
            try:
                table = (self._root / "proc/net/nf_conntrack").read_bytes()
            except OSError:
                return found
            return (Content(Part.CONNTRACK.value, table),)
        return found

    def _recent(self) -> tuple[Content, ...] | Gap:
        folder = self._root / "proc/net/xt_recent"
        text = ""
        try:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                text += f"==> {path} <==\n{path.read_text()}\n"
        except OSError as error:
            return gap(Part.RECENT, f"{folder}: {error.strerror}", "run as root")
        return (Content(Part.RECENT.value, text.encode()),)

    def _legacy(self) -> tuple[Content, ...] | Gap:
        try:
            text = legacy_counters(self._root)
        except OSError as error:
            return gap(Part.LEGACY, str(error), "run as root")
        return (Content(Part.LEGACY.value, text.encode()),)

    def _hostname(self) -> tuple[Content, ...]:
        return (Content(Part.HOSTNAME.value, f"{platform.node()}\n".encode()),)

    def _get(self, part: Part, path: str) -> tuple[Content, ...] | Gap:
        connection = HTTPConnection(*_METRICS_PLACE, timeout=_HTTP_TIMEOUT_S)
        place = f"http://{_METRICS_PLACE[0]}:{_METRICS_PLACE[1]}{path}"
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(_MOST_HTTP_BYTES)
        except (OSError, HTTPException) as error:
            return gap(part, f"{place}: {error or type(error).__name__}")
        finally:
            connection.close()
        if response.status != 200:
            return gap(part, f"{place}: HTTP status {response.status}")
        return (Content(part.value, body),)

    def _log(self) -> tuple[Content, ...] | Gap:
        folder = self._root / _LOGS
        found = sorted(folder.glob("*_kube-proxy-*/kube-proxy/*.log"))
        if not found:
            return gap(Part.LOG, f"no log of a kube-proxy pod below {folder}")
        try:
            with found[-1].open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - _MOST_LOG_BYTES))
                return (Content(Part.LOG.value, stream.read()),)
        except OSError as error:
            return gap(Part.LOG, f"{found[-1]}: {error.strerror}", "run as root")


def _next_step(error: CommandError) -> str:
    if isinstance(error, ToolMissing):
        return error.hint
    return error.hint or "see what the command says when run by hand"


def live_snapshot(
    objects: ReadObjects | None = None, name: str = "", why_no_objects: str = ""
) -> NodeSnapshot:
    """
    Return the running node.

    Args:
        objects: Asks the API, None without one.
        name: The Node's name, "" for the host's.
        why_no_objects: What gaps say without *objects*.
    """
    return NodeSnapshot(LiveSource(objects, why_no_objects or "no API server was named"), name)
