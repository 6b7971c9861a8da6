"""Where a Service's packets land, asked many thousand times a second by UDP."""

from __future__ import annotations

import select
import socket
import time

from tests.benchmarks.cluster import TARGET_PORT

_PACKET_WAIT_S = 0.0005
_PATIENCE_S = 1.0
_SLOW_PACKET_S = 0.005


class Probe:
    """Two sockets on addresses of this namespace, and fresh connections to a VIP."""

    def __init__(self, vip: str, targets: tuple[str, str]) -> None:
        self._vip = (vip, 80)
        self._sockets = {}
        self._poll = select.poll()
        for target in targets:
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            receiver.bind((target, TARGET_PORT))
            receiver.setblocking(False)
            self._sockets[receiver.fileno()] = (receiver, target)
            self._poll.register(receiver, select.POLLIN)

    def where(self) -> str:
        """Send one packet of a new flow; return the address it reached, or "" for nowhere."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            try:
                sender.sendto(b"?", self._vip)
            except OSError:
                return ""
            landed = ""
            for descriptor, _ in self._poll.poll(_PACKET_WAIT_S * 1000):
                receiver, landed = self._sockets[descriptor]
                receiver.recv(16)
            return landed

    def wait_for(self, target: str, timeout_s: float) -> float:
        """Return time.perf_counter() when a new flow first reaches *target*."""
        began = time.perf_counter()
        while self.where() != target:
            waited = time.perf_counter() - began
            if waited > timeout_s:
                raise TimeoutError(f"no packet reached {target} within {timeout_s:g} s")
            if waited > _PATIENCE_S:
                # Source ports must not come round while their old flows are still tracked.
                time.sleep(_SLOW_PACKET_S)
        return time.perf_counter()

    def close(self) -> None:
        """Close the sockets."""
        for receiver, _ in self._sockets.values():
            receiver.close()
