"""
Events about the node and its Services, for ``kubectl describe`` and ``kubectl get events``.

An event is a courtesy: it never delays the proxy, is lost rather than queued without end, and is
not repeated for as long as the same thing keeps happening. Types, reasons, actions and notes are
kube-proxy's.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Protocol

from proxy.runtime.clock import rfc3339_micro
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

CONTROLLER = "kube-proxy"
# Limits of the API for events.k8s.io/v1.
_MAX_NOTE_BYTES = 1024
_MAX_NAME_CHARS = 253
_MAX_KEYS = 1024
_NS = 1_000_000_000


IPVS_DEPRECATION = (
    "Mode ipvs works, but upstream has deprecated it since Kubernetes 1.35, and kube-proxy will "
    "refuse it by default from 1.40 on: plan to move to mode nftables, which is recommended"
)


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object an event is about; ``namespace`` is empty for a Node."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    api_version: str = "v1"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened. ``type`` is ``Normal`` or ``Warning``; ``note`` is for people."""

    regarding: Regarding
    type: str
    reason: str
    action: str
    note: str = ""


class EventRecorder(Protocol):
    """Where the proxy reports events. Never waits, never raises."""

    def record(self, event: Event) -> None:
        """Report one event; it may be dropped, or counted into an earlier one."""


@dataclass(frozen=True, slots=True)
class NodeEvents:
    """The events about one node; kube-proxy uses the node's name for its UID."""

    node: str

    def started(self) -> Event:
        """The proxy starts."""
        return self._event("Normal", "Starting", "")

    def healthz_failed(self, error: str) -> Event:
        """The healthz port cannot be opened, and the configuration makes that fatal."""
        return self._event("Warning", "FailedToStartProxierHealthcheck", error)

    def metrics_failed(self, error: str) -> Event:
        """The metrics port cannot be opened, and the configuration makes that fatal."""
        return self._event("Warning", "FailedToStartMetricServer", error)

    def ipvs_deprecated(self) -> Event:
        """The proxy starts in mode ipvs."""
        return self._event("Warning", "IPVSDeprecation", IPVS_DEPRECATION)

    def service_health_failed(
        self, namespace: str, name: str, port: int, error: str, uid: str = ""
    ) -> Event:
        """A Service's healthCheckNodePort cannot be opened on this node."""
        key = f"{namespace}/{name}"
        note = f'node {self.node} failed to start healthcheck "{key}" on port {port}: {error}'
        regarding = Regarding("Service", name, namespace, uid or key)
        return Event(regarding, "Warning", "FailedToStartServiceHealthcheck", "Listen", note)

    def _event(self, kind: str, reason: str, note: str) -> Event:
        regarding = Regarding("Node", self.node, uid=self.node)
        return Event(regarding, kind, reason, "StartKubeProxy", note)


def warn_of_ipvs(recorder: EventRecorder, node: str) -> None:
    """Say in the log and in an Event about the node that mode ipvs has no future upstream."""
    log.error(IPVS_DEPRECATION)
    recorder.record(NodeEvents(node).ipvs_deprecated())


def namespace_of(event: Event) -> str:
    """The namespace an event is stored in: its object's, or ``default`` for a Node."""
    return event.regarding.namespace or "default"


def event_object(
    event: Event, host: str, wall_ns: int, count: int = 1, *, controller: str = CONTROLLER
) -> dict[str, object]:
    """
    Return the events.k8s.io/v1 object to create.

    Args:
        event: What happened; a note beyond the API's limit is cut.
        host: Name of the node that reports.
        wall_ns: When it happened (last), nanoseconds since the epoch; also makes the name unique.
        count: How often it happened since it was last reported.
        controller: Name of the reporting program.
    """
    suffix = f".{wall_ns:x}"
    regarding = {
        "kind": event.regarding.kind,
        "apiVersion": event.regarding.api_version,
        "name": event.regarding.name,
        "namespace": event.regarding.namespace,
        "uid": event.regarding.uid,
    }
    moment = rfc3339_micro(wall_ns)
    content: dict[str, object] = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": event.regarding.name[: _MAX_NAME_CHARS - len(suffix)] + suffix,
            "namespace": namespace_of(event),
        },
        "eventTime": moment,
        "reportingController": controller,
        "reportingInstance": f"{controller}-{host}"[:128],
        "action": event.action,
        "reason": event.reason,
        "regarding": {name: value for name, value in regarding.items() if value},
        "note": _cut(event.note),
        "type": event.type,
    }
    if count > 1:
        content["series"] = {"count": count, "lastObservedTime": moment}
    return content


def _cut(note: str) -> str:
    """*note*, shortened to what the API takes."""
    data = note.encode(errors="replace")
    if len(data) <= _MAX_NOTE_BYTES:
        return note
    return data[: _MAX_NOTE_BYTES - 3].decode(errors="ignore") + "..."


class EventThrottle:
    """
    Decides what is worth sending; no I/O, and time is handed in.

    The same event within *repeat_s* of its last report is only counted, and the count goes out
    with the next report. Of all events, at most *per_minute* pass in any 60 s.
    """

    def __init__(self, per_minute: int = 30, repeat_s: float = 300.0) -> None:
        self._per_minute = per_minute
        self._repeat_ns = int(repeat_s * _NS)
        self._sent: deque[int] = deque()
        # Last report and occurrences since then; the least recently reported come first.
        self._seen: OrderedDict[Event, tuple[int, int]] = OrderedDict()
        self.dropped = 0

    def offer(self, event: Event, now_ns: int) -> int:
        """
        Return how many occurrences to report now; 0 means to keep quiet.

        *now_ns* is monotonic. ``dropped`` counts the events that the rate limit held back.
        """
        reported, unreported = self._seen.get(event, (None, 0))
        if reported is not None and now_ns - reported < self._repeat_ns:
            self._seen[event] = (reported, unreported + 1)
            return 0
        while self._sent and now_ns - self._sent[0] >= 60 * _NS:
            self._sent.popleft()
        if len(self._sent) >= self._per_minute:
            self.dropped += 1
            return 0
        self._sent.append(now_ns)
        self._seen[event] = (now_ns, 0)
        self._seen.move_to_end(event)
        if len(self._seen) > _MAX_KEYS:
            self._seen.popitem(last=False)
        return unreported + 1
