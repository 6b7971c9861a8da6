"""
An engine on a fake kernel, moved turn by turn in the test's own thread with a clock that the test
sets; and short ways to write the objects it is fed.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from proxy.backends.nftables import layout
from proxy.config.flags import parse_flags
from proxy.config.resolve import resolve
from proxy.config.types import ProxyConfig
from proxy.conntrack.stale import CleanupRequest
from proxy.engine import loop, publisher, start_gate
from proxy.engine.data_plane import DataPlane
from proxy.engine.loop import Engine, Kernel
from proxy.engine.nftables.plane import NftablesPlane
from proxy.engine.publisher import Outlets, Publisher
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.model.addresses import IPFamily, pack_address
from proxy.model.events import Removed, Replaced, Resource, Upserted
from proxy.model.objects import KINDS
from proxy.model.store import ClusterStore
from proxy.plan.planner import Planner
from proxy.runtime.events import Event
from proxy.runtime.health import ProxyHealth
from proxy.runtime.metrics import BuildInfo, ProxyMetrics
from tests.support.fake_nft import FakeNft

NODE = "node-a"
V4, V6 = IPFamily.IPV4, IPFamily.IPV6
TABLE = layout.TABLE
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}


# -- objects ---------------------------------------------------------------------------------------


def service(name: str, ip: str | list[str], namespace: str = "ns", **spec: Any) -> Any:
    """A Service; ``ports`` defaults to 80/TCP, ``created`` is its creationTimestamp."""
    ips = [ip] if isinstance(ip, str) else ip
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
    if created := spec.pop("created", ""):
        metadata["creationTimestamp"] = created
    ingress = [{"ip": address} for address in spec.pop("ingress", ())]
    body = {
        "type": "ClusterIP",
        "clusterIP": ips[0],
        "clusterIPs": ips,
        "ipFamilies": ["IPv6" if ":" in address else "IPv4" for address in ips],
        "ports": [{"port": 80, "protocol": "TCP"}],
    } | spec
    status = {"loadBalancer": {"ingress": ingress}}
    return decode("Service", {"metadata": metadata, "spec": body, "status": status})


def udp(port: int = 53) -> list[dict[str, Any]]:
    """The ports of a Service with one UDP port."""
    return [{"port": port, "protocol": "UDP"}]


def endpoint_slice(
    of: str,
    addresses: Iterable[str | dict[str, Any]],
    namespace: str = "ns",
    *,
    port: int = 8080,
    protocol: str = "TCP",
    triggered: str = "",
) -> Any:
    """An EndpointSlice; endpoints are addresses, or mappings that have one under ``address``."""
    endpoints = []
    for item in addresses:
        given = {"address": item} if isinstance(item, str) else dict(item)
        endpoints.append({"addresses": [given.pop("address")], **given})
    is_ipv6 = any(":" in endpoint["addresses"][0] for endpoint in endpoints)
    metadata = {
        "name": f"{of}-slice",
        "namespace": namespace,
        "labels": {"kubernetes.io/service-name": of},
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": triggered},
    }
    return decode(
        "EndpointSlice",
        {
            "metadata": metadata,
            "addressType": "IPv6" if is_ipv6 else "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "", "port": port, "protocol": protocol}],
        },
    )


def node(
    zone: str = "", addresses: Iterable[str] = ("192.168.0.10",), cidrs: Iterable[str] = ()
) -> Any:
    """The Node object of NODE."""
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return decode(
        "Node",
        {
            "metadata": {"name": NODE, "labels": labels},
            "spec": {"podCIDRs": list(cidrs)},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
        },
    )


def service_cidr(*cidrs: str) -> Any:
    """The ServiceCIDR of the cluster."""
    return decode("ServiceCIDR", {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}})


def decode(kind: str, value: dict[str, Any]) -> Any:
    return msgspec.convert(value, KINDS[kind])


def many_services(count: int, endpoints: int = 3) -> list[Any]:
    """Services svc-0 … with *endpoints* each, and their slices."""
    made: list[Any] = []
    for number in range(count):
        ip = f"10.96.{number // 250}.{number % 250 + 1}"
        made.append(service(f"svc-{number}", ip))
        made.append(endpoint_slice(f"svc-{number}", pods(number, endpoints)))
    return made


def pods(number: int, count: int) -> list[str]:
    """Addresses of the endpoints of service *number*."""
    return [f"10.{180 + index}.{number // 250}.{number % 250 + 1}" for index in range(count)]


def vip_key(ip: str, port: int = 80, protocol: str = "TCP") -> bytes:
    """The key of an address in the table's maps."""
    packed = pack_address(ip)
    assert packed is not None
    return packed + bytes((PROTOCOLS[protocol], 0, 0, 0)) + port.to_bytes(2, "big") + b"\0\0"


# -- the engine ------------------------------------------------------------------------------------


@dataclass
class FakeTime:
    """What modules use of ``time``; the wall clock runs along with the monotonic one."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def time(self) -> float:
        return self.now + 1_700_000_000

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)

    def wall_ns(self) -> int:
        return int(self.time() * 1e9)


class _EndOfTurn(BaseException):
    """The engine asked for more events than the turn had."""


class TurnQueue:
    """The engine's queue: one ``get`` per turn, never waiting, but noting how long it would."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.turns = 0
        self.pause = float("nan")

    def put(self, item: Any) -> None:
        self.items.append(item)

    def get(self, timeout: float) -> Any:
        self.pause = timeout
        if not self.turns:
            raise _EndOfTurn
        self.turns -= 1
        return self.get_nowait()

    def get_nowait(self) -> Any:
        if not self.items:
            raise queue.Empty
        return self.items.popleft()


@dataclass
class Recorder:
    """Conntrack worker, Event recorder and health port server in one: keeps what it was told."""

    requests: list[CleanupRequest] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ports: dict[tuple[str, str], int] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def submit(self, request: CleanupRequest) -> None:
        self.requests.append(request)

    def record(self, event: Event) -> None:
        self.events.append(event)

    def set_service(self, name: tuple[str, str], port: int | None) -> None:
        if port is None:
            del self.ports[name]
        else:
            self.ports[name] = port

    def set_endpoints(self, name: tuple[str, str], count: int) -> None:
        self.counts[name] = count

    def retry_failed(self) -> None:
        """Ports never fail here."""


class Rig:
    """
    An engine with everything around it.

    ``rig.turn(*items)`` lets the engine take these items and do one round of work; ``rig.nft`` is
    the kernel of the first family; *nft* hands in one that a predecessor has written to. *plane*
    makes another data plane than nftables, given the monotonic clock.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *flags: str,
        families: tuple[IPFamily, ...] = (V4,),
        wait_for_node: bool = True,
        nft: FakeNft | None = None,
        plane: Callable[[Callable[[], float]], DataPlane] | None = None,
    ) -> None:
        self.time = FakeTime()
        patch.setattr(loop, "time", self.time)
        patch.setattr(start_gate, "time", self.time)
        patch.setattr(publisher, "time", self.time)
        self.config: ProxyConfig = resolve(parse_flags(flags)).config
        self.nft = nft or FakeNft()
        self.ports = {family: FakeNft() for family in families} | {families[0]: self.nft}
        self.addresses: dict[IPFamily, frozenset[bytes]] = dict.fromkeys(families, frozenset())
        self.metrics = ProxyMetrics(BuildInfo("v1.36.2"))
        self.health = ProxyHealth(60, self.time)
        self.told = Recorder()
        self.started = 0
        self.planned = _count_planner_calls(patch)
        outlets = Outlets(
            self.metrics,
            self.health,
            dict.fromkeys(families, self.told),  # type: ignore[arg-type]
            self.told,
            self.told,  # type: ignore[arg-type]
        )
        self.store = ClusterStore(families, NODE)
        make = plane or (lambda clock: NftablesPlane(self.ports, monotonic=clock))
        self.engine = Engine(
            self.config,
            NODE,
            self.store,
            Kernel(make(self.time.monotonic), lambda family: self.addresses[family]),
            Publisher(outlets),
            wait_for_node=wait_for_node,
            on_started=self._note_start,
        )
        self.queue = TurnQueue()
        self.engine._queue = self.queue  # type: ignore[assignment]

    def _note_start(self) -> None:
        self.started += 1

    # -- moving --------------------------------------------------------------------------------

    def turn(self, *items: Any) -> None:
        """One round of the engine with these items; API objects count as added or modified."""
        for item in items:
            known = isinstance(item, tuple(KINDS.values()))
            self.engine.submit(Upserted(item) if known else item)
        self.queue.turns = 1
        with suppress(_EndOfTurn):
            self.engine.run()

    def start(self, *objects: Any) -> None:
        """Feed a complete listing of *objects* (a Node is added when none is there) and start."""
        if not any(type(obj).__name__ == "Node" for obj in objects):
            objects = (*objects, node())
        self.turn(*listings(*objects))

    def after(self, seconds: float, *items: Any) -> None:
        """Let time pass, then take a turn."""
        self.time.now += seconds
        self.turn(*items)

    def until_due(self) -> float:
        """Return how long the engine would sleep now; 0 or less means not at all."""
        self.queue.turns = 0
        with suppress(_EndOfTurn):
            self.engine.run()
        return self.queue.pause

    # -- looking -------------------------------------------------------------------------------

    @property
    def reconciler(self) -> Any:
        return self.engine.families[V4].reconciler

    def serves(self, ip: str, port: int = 80, protocol: str = "TCP") -> bool:
        """Whether the IPv4 kernel table sends packets for this address anywhere."""
        return bool(self.chain_of(ip, port, protocol))

    def chain_of(self, ip: str, port: int = 80, protocol: str = "TCP") -> str:
        return self.nft.target_of(TABLE, layout.SERVICE_IPS, vip_key(ip, port, protocol))

    def endpoints_of(self, ip: str, port: int = 80, protocol: str = "TCP") -> set[str]:
        """Addresses that the kernel would send packets for this address to."""
        head = vip_key(ip, port, protocol)
        found = self.nft.tables[TABLE].sets[layout.ENDPOINTS].elements.items()
        return {".".join(map(str, element.data[:4])) for key, element in found if key[:-4] == head}


def listings(*objects: Any) -> list[Replaced]:
    """Return a complete list of each resource."""
    return [
        Replaced(resource, tuple(o for o in objects if type(o) is KINDS[resource.value]))
        for resource in Resource
    ]


def removed(resource: Resource, name: str, namespace: str = "ns") -> Removed:
    return Removed(resource, namespace, name)


def foreign_edit(reason: str = "table") -> ForeignEdit:
    """Somebody else changed the IPv4 table."""
    return ForeignEdit(V4, (f"{reason} deleted: 1",), (), reason, "nft[42]")


def _count_planner_calls(patch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of every Service is added when the planner plans it."""
    asked: list[str] = []
    update = Planner.update

    def counted(self: Planner, name: Any, *rest: Any) -> Any:
        asked.append(str(name))
        return update(self, name, *rest)

    patch.setattr(Planner, "update", counted)
    return asked
