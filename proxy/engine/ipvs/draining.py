"""
Real servers that get no new connections and wait for their old ones to end.

kube-proxy waits without limit: an idle connection counts as established for 15 minutes after its
last packet, and one that is used keeps the real server for ever. Here the wait can be limited.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from proxy.kernel.ipvs import IpvsPort
from proxy.model.endpoints import target_text
from proxy.netfilter.ipvs import Action, Operation, RealKey, RealServer, ServerKey, VirtualServer
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

TCP = 6
LOOK_S = 10.0


class Draining:
    """Withdraws real servers; *limit_s* 0 means to wait as long as there are connections."""

    def __init__(self, port: IpvsPort, limit_s: float) -> None:
        self._port = port
        self._limit_s = limit_s
        self._waiting: dict[ServerKey, tuple[VirtualServer, dict[RealKey, float]]] = {}
        self._look_at = float("inf")

    @property
    def due(self) -> float:
        """The monotonic time of the next look at the connections; infinity for none."""
        return self._look_at

    def has(self, key: ServerKey, real: RealKey) -> bool:
        """Return whether a real server waits for its connections to end."""
        return key in self._waiting and real in self._waiting[key][1]

    def withdraw(self, operations: Iterable[Operation], now: float) -> list[Operation]:
        """
        Return what withdraws real servers, given by the operations that would delete them.

        A TCP server with connections gets weight 0 and is remembered; any other is deleted.
        """
        made = []
        counted: dict[ServerKey, dict[RealKey, RealServer]] = {}
        for operation in operations:
            server, real = operation.server, operation.real
            assert real is not None
            if server.key not in counted:
                counted[server.key] = self._reals(server)
            found = counted[server.key].get(real)
            if found is None:
                continue
            if server.key.protocol == TCP and found.active + found.inactive:
                self._wait(server, real, now)
                made.append(Operation(Action.SET_REAL, server, real, 0))
            else:
                made.append(operation)
        return made

    def restored(self, key: ServerKey, real: RealKey) -> None:
        """Forget a real server that is wanted again."""
        if self.has(key, real):
            del self._waiting[key][1][real]
            self._tidy(key)

    def forget(self, key: ServerKey) -> None:
        """Forget all real servers of a virtual server that is deleted."""
        if self._waiting.pop(key, None) is not None:
            self._tidy(key)

    def found(self, present: Mapping[ServerKey, Collection[RealKey]]) -> None:
        """Forget what the kernel does not hold any more; what it holds keeps its time limit."""
        for key in list(self._waiting):
            reals = self._waiting[key][1]
            for real in reals.keys() - set(present.get(key, ())):
                del reals[real]
            self._tidy(key)

    def ended(self, now: float) -> list[Operation]:
        """Return what deletes real servers whose connections ended, or whose time is up."""
        made = []
        for key, (server, reals) in list(self._waiting.items()):
            found = self._reals(server)
            for real, deadline in list(reals.items()):
                counts = found.get(real)
                connections = counts.active + counts.inactive if counts else 0
                if connections and now < deadline:
                    continue
                if counts is not None:
                    made.append(Operation(Action.DELETE_REAL, server, real))
                    log.info(
                        "Removed a drained real server",
                        virtualServer=_text(key.address, key.port),
                        realServer=_text(real.address, real.port),
                        connectionsCut=connections,
                    )
                del reals[real]
            self._tidy(key)
        self._look_at = now + LOOK_S if self._waiting else float("inf")
        return made

    def _wait(self, server: VirtualServer, real: RealKey, now: float) -> None:
        deadline = now + self._limit_s if self._limit_s else float("inf")
        reals = self._waiting.setdefault(server.key, (server, {}))[1]
        reals.setdefault(real, deadline)
        self._look_at = min(self._look_at, now + LOOK_S)

    def _tidy(self, key: ServerKey) -> None:
        if key in self._waiting and not self._waiting[key][1]:
            del self._waiting[key]
        if not self._waiting:
            self._look_at = float("inf")

    def _reals(self, server: VirtualServer) -> dict[RealKey, RealServer]:
        return {real.key: real for real in self._port.real_servers(server)}


def _text(address: bytes, port: int) -> str:
    return target_text(address + port.to_bytes(2, "big"))
