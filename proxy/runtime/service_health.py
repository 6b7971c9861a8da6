"""
The healthCheckNodePort servers: one TCP port per Service that asks for one.

A load balancer outside asks every node on that port whether to send it traffic for the Service:
yes while the node has ready endpoints of its own and its proxy keeps up.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from proxy.runtime.http_message import JSON, Request, Response
from proxy.runtime.http_server import HttpLoop, Listener
from proxy.runtime.listening import Address, BindError
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

# Namespace and name.
ServiceKey = tuple[str, str]

_WILDCARD = {"IPv4": "0.0.0.0", "IPv6": "::"}
_NOSNIFF = ("X-Content-Type-Options", "nosniff")


@dataclass(frozen=True, slots=True)
class PortFailure:
    """A health port that could not be opened; ``error`` says which address and why."""

    service: ServiceKey
    port: int
    error: str


@dataclass(slots=True)
class _Port:
    """The health port of one Service; ``count`` is its number of local ready endpoints."""

    port: int
    count: int = 0
    listeners: list[Listener] = field(default_factory=list)


class ServiceHealth:
    """
    The health ports of one IP family; safe to use from any thread.

    Args:
        loop: Serves the ports; it belongs to the caller.
        family: ``IPv4`` or ``IPv6``; ports take connections of this family only.
        proxy_healthy: Whether the proxy keeps up, without regard to the node.
        on_failure: Told about each port that could not be opened, each time it is tried.
        addresses: Local addresses to listen on, of this family; None means every address.
            No address at all means that no port is ever opened, which is no failure.
    """

    def __init__(
        self,
        loop: HttpLoop,
        family: str,
        proxy_healthy: Callable[[], bool],
        on_failure: Callable[[PortFailure], None],
        addresses: Iterable[str] | None = None,
    ) -> None:
        self._loop = loop
        self._proxy_healthy = proxy_healthy
        self._on_failure = on_failure
        self._addresses = (_WILDCARD[family],) if addresses is None else tuple(addresses)
        self._lock = threading.Lock()
        self._ports: dict[ServiceKey, _Port] = {}
        self._failed: dict[ServiceKey, int] = {}

    def sync_services(self, ports: Mapping[ServiceKey, int]) -> None:
        """
        Serve exactly these Services on these ports.

        Ports that are not wanted any more are closed first, so that Services can exchange theirs.
        A changed port starts at zero endpoints. Ports that failed before are tried again.
        """
        with self._lock:
            for service in [key for key, one in self._ports.items() if ports.get(key) != one.port]:
                self._close(service)
            self._failed = {key: port for key, port in ports.items() if key not in self._ports}
            failures = self._open_failed()
        self._report(failures)

    def set_service(self, service: ServiceKey, port: int | None) -> None:
        """Serve one Service on *port*, or no longer when that is None or 0; others stay."""
        with self._lock:
            current = self._ports.get(service)
            if current is not None and current.port == port:
                return
            if current is not None:
                self._close(service)
            self._failed.pop(service, None)
            failures = self._open(service, port) if port else []
        self._report(failures)

    def retry_failed(self) -> None:
        """Try the ports again that could not be opened; costs nothing when there are none."""
        if self._failed:
            with self._lock:
                failures = self._open_failed()
            self._report(failures)

    def sync_endpoints(self, counts: Mapping[ServiceKey, int]) -> None:
        """Set every served Service's number of local ready endpoints; zero where none is given."""
        with self._lock:
            for service, one in self._ports.items():
                one.count = counts.get(service, 0)

    def set_endpoints(self, service: ServiceKey, count: int) -> None:
        """Set one Service's number of local ready endpoints; unknown Services are ignored."""
        with self._lock:
            if (one := self._ports.get(service)) is not None:
                one.count = count

    def local_endpoints(self) -> dict[ServiceKey, int]:
        """The Services served and their numbers of local ready endpoints."""
        with self._lock:
            return {service: one.count for service, one in self._ports.items()}

    def listening(self) -> list[str]:
        """``ip:port`` of every open listener."""
        with self._lock:
            return [str(lis.address) for one in self._ports.values() for lis in one.listeners]

    def close(self) -> None:
        """Close every port."""
        self.sync_services({})

    def _open_failed(self) -> list[PortFailure]:
        pending, self._failed = self._failed, {}
        return [
            failure for service, port in pending.items() for failure in self._open(service, port)
        ]

    def _open(self, service: ServiceKey, port: int) -> list[PortFailure]:
        """Open all listeners of a Service or none; the failure, if any, is kept for a retry."""
        one = _Port(port)
        # Known before the first connection, which the loop's thread may answer at once.
        self._ports[service] = one
        try:
            for host in self._addresses:
                address = Address(host, port)
                one.listeners.append(
                    self._loop.listen(address, self._handler(service, one), dual_stack=False)
                )
        except BindError as error:
            self._close(service)
            self._failed[service] = port
            return [PortFailure(service, port, str(error))]
        log.v(2).info("Opening healthcheck", service="/".join(service), port=port)
        return []

    def _close(self, service: ServiceKey) -> None:
        one = self._ports.pop(service)
        for listener in one.listeners:
            self._loop.close(listener)
        log.v(2).info("Closing healthcheck", service="/".join(service), port=one.port)

    def _report(self, failures: list[PortFailure]) -> None:
        for failure in failures:
            log.error(
                "Failed to start healthcheck",
                err=failure.error,
                service="/".join(failure.service),
                port=failure.port,
            )
            self._on_failure(failure)

    def _handler(self, service: ServiceKey, one: _Port) -> Callable[[Request], Response]:
        def answer(_request: Request) -> Response:
            return _answer(service, one.count, self._proxy_healthy())

        return answer


def _answer(service: ServiceKey, count: int, healthy: bool) -> Response:
    namespace, name = service
    body = {
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    }
    return Response(
        200 if count and healthy else 503,
        json.dumps(body, indent="\t").encode(),
        JSON,
        (_NOSNIFF, ("X-Load-Balancing-Endpoint-Weight", str(count))),
    )
