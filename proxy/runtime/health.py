"""
Is this proxy keeping up, and should load balancers send traffic to this node?

A family is late when the oldest change that it was told about is still waiting after the health
timeout. Nothing has to happen for a proxy to stay healthy: no change, no lateness. The endpoints,
their JSON and their status codes are those of kube-proxy's healthz port.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from proxy.runtime.clock import NEVER, Clock, rfc3339_nano

# The cluster autoscaler sets this taint on a node that it is about to remove.
DELETION_TAINT = "ToBeDeletedByClusterAutoscaler"


@dataclass(slots=True)
class _Family:
    """What is known of one IP family; times in ns, None for never and for nothing pending."""

    updated_wall: int | None = None
    pending_since: int | None = None


@dataclass(frozen=True, slots=True)
class HealthReport:
    """An answer to a probe: ``status`` is the HTTP status, ``body`` compact JSON."""

    status: int
    body: bytes


class ProxyHealth:
    """
    The health of all IP families and of the node; safe to use from any thread.

    Args:
        sync_timeout_s: How long a change may wait; kube-proxy uses twice the sync period.
        clock: Monotonic time decides, wall time is printed.
    """

    def __init__(self, sync_timeout_s: float, clock: Clock) -> None:
        self._timeout_ns = int(sync_timeout_s * 1_000_000_000)
        self._clock = clock
        self._lock = threading.Lock()
        self._families: dict[str, _Family] = {}
        self._node_eligible = False

    def queued(self, family: str) -> None:
        """A change for *family* (``IPv4`` or ``IPv6``) waits to be written, if none did before."""
        with self._lock:
            state = self._families.setdefault(family, _Family())
            if state.pending_since is None:
                state.pending_since = self._clock.monotonic_ns()

    def updated(self, family: str) -> None:
        """Everything known so far was written, or the family's sync loop has just begun."""
        with self._lock:
            state = self._families.setdefault(family, _Family())
            state.updated_wall = self._clock.wall_ns()
            state.pending_since = None

    def set_node(self, *, deleting: bool, taint_keys: Iterable[str]) -> None:
        """Take over what the Node object says: a deletion timestamp, the keys of its taints."""
        self._node_eligible = not deleting and DELETION_TAINT not in taint_keys

    def forget_node(self) -> None:
        """The Node object does not exist; an unknown node is not eligible."""
        self._node_eligible = False

    def healthy(self) -> bool:
        """Whether no family is late. The node does not matter here."""
        now = self._clock.monotonic_ns()
        with self._lock:
            return all(self._in_time(state, now) for state in self._families.values())

    def healthz(self) -> HealthReport:
        """What /healthz answers: 200 when healthy and the node is eligible for traffic, or 503."""
        return self._report(self._node_eligible)

    def livez(self) -> HealthReport:
        """What /livez answers: 200 when healthy, or 503."""
        return self._report(None)

    def _in_time(self, state: _Family, now: int) -> bool:
        pending = state.pending_since
        return pending is None or now - pending < self._timeout_ns

    def _report(self, node_eligible: bool | None) -> HealthReport:
        """The report; *node_eligible* is None where the node does not matter."""
        now, now_wall = self._clock.monotonic_ns(), self._clock.wall_ns()
        status: dict[str, dict[str, object]] = {}
        newest: int | None = None
        with self._lock:
            for family, state in sorted(self._families.items()):
                status[family] = {
                    "lastUpdated": _time(state.updated_wall),
                    "healthy": self._in_time(state, now),
                }
                newest = max(newest or 0, state.updated_wall or 0) or None
        healthy = all(entry["healthy"] for entry in status.values())
        ok = healthy and node_eligible is not False
        # A 200 has always said "updated just now", and load balancers came to rely on it.
        body: dict[str, object] = {"lastUpdated": _time(now_wall if ok else newest)}
        body["currentTime"] = _time(now_wall)
        if node_eligible is not None:
            body["nodeEligible"] = node_eligible
        body["healthy"] = healthy
        if status:
            body["status"] = status
        return HealthReport(200 if ok else 503, msgspec.json.encode(body))


def _time(wall_ns: int | None) -> str:
    return NEVER if wall_ns is None else rfc3339_nano(wall_ns)
