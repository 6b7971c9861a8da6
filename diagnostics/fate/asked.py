"""What people call a frontend by: a Service's name, an address with a port, a NodePort."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from diagnostics.cluster.plans import Cluster
from diagnostics.fate.clients import EXTERNAL
from diagnostics.fate.frontends import Frontend
from diagnostics.trace.packet import PROTOCOL_NAMES, PROTOCOLS, Address
from diagnostics.trace.question import QuestionError
from proxy.model.addresses import IPFamily
from proxy.plan.service_plan import FrontendKind

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"  # RFC 1123
_NAME = re.compile(rf"(?:(?:svc|services?)/)?(?:({_LABEL})/)?({_LABEL})(?::({_LABEL}))?")
_NODE_PORT = re.compile(r"(?:nodeport[/:]|:)?(\d{1,5})")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\]:(\d{1,5})")
_MOST_NEAR = 3
# Where clients outside of the cluster usually come in, best first.
_OUTSIDE_FIRST = (
    FrontendKind.LOAD_BALANCER,
    FrontendKind.EXTERNAL_IP,
    FrontendKind.NODE_PORT,
    FrontendKind.CLUSTER_IP,
)


@dataclass(frozen=True, slots=True)
class Known:
    """A frontend's service port and kind; kind None where only the kernel is known."""

    name: str
    kind: FrontendKind | None = None

    @property
    def service(self) -> str:
        """``shop/web``."""
        return self.name.partition(":")[0]


Knowledge = Mapping[Frontend, Known]


def planned_knowledge(cluster: Cluster) -> dict[Frontend, Known]:
    """Return the frontends of all Services, in the order in which a Service has them."""
    found = {}
    for family in IPFamily:
        for plan in cluster.planners[family].all_effective():
            for one in plan.frontends:
                address = ip_address(one.address) if one.address else None
                key = Frontend(address, one.port, plan.protocol)
                found[key] = Known(str(plan.name), one.kind)
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What a user named: a Service, an address or a NodePort.

    Attributes:
        service: ``namespace/name``, "" for an address or a NodePort.
        port: a name or number as written, "" for all.
        address: None for a Service or a NodePort.
    """

    text: str
    service: str = ""
    port: str = ""
    address: Address | None = None


def read_asked(text: str, namespace: str) -> Asked:
    """
    Return what *text* names.

    It is ``NAMESPACE/NAME[:port]``, ``svc/NAME`` or ``NAME`` in *namespace*, ``IP[:port]``,
    ``[IPv6]:port``, or a NodePort: ``30080``, ``:30080``, ``nodeport/30080``.

    Raises:
        QuestionError: It is none of these.
    """
    text = text.strip()
    if found := _BRACKETED.fullmatch(text):
        return Asked(text, "", found[2], _address(found[1]))
    host, colon, port = text.rpartition(":")
    for candidate, number in ((text, ""), (host, port)):
        try:
            address = ip_address(candidate)
        except ValueError:
            continue
        if not number or (colon and number.isdigit()):
            return Asked(text, "", number, address)
    if found := _NODE_PORT.fullmatch(text):
        return Asked(text, "", found[1])
    if found := _NAME.fullmatch(text):
        return Asked(text, f"{found[1] or namespace or 'default'}/{found[2]}", found[3] or "")
    raise QuestionError(
        f"{text!r} is no Service (NAMESPACE/NAME[:port]), address with port or NodePort"
    )


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise QuestionError(f"{text!r} is not an IP address") from None


def chosen(
    asked: Asked,
    known: Knowledge,
    *,
    protocol: str = "",
    client: str = "",
    every: bool = False,
) -> list[Frontend]:
    """
    Return the frontends to follow.

    Args:
        asked: What the user named.
        known: Where names come from; an address with a port need not be in it.
        protocol: TCP, UDP, SCTP, or "" for what the frontend has (TCP if nobody knows).
        client: Kind of the client; one from outside calls what is meant for outsiders.
        every: All frontends of the Service instead of the most usual one of each port.

    Raises:
        QuestionError: Nothing of that name or port is known.
    """
    wanted = PROTOCOLS.get(protocol.upper(), 0)
    if protocol and not wanted:
        raise QuestionError(f"protocol: {protocol!r} is none of {', '.join(PROTOCOLS)}")
    if asked.service:
        found = _of_service(asked, known, wanted)
        return found if every else _usual(found, known, client)
    found = [
        frontend
        for frontend in known
        if frontend.address == asked.address
        and (not asked.port or frontend.port == int(asked.port))
        and wanted in (0, frontend.protocol)
    ]
    if found:
        return found
    if asked.port:
        return [Frontend(asked.address, _port(asked), wanted or PROTOCOLS["TCP"])]
    raise QuestionError(f"{asked.text}: no Service has this address; name a port to follow it")


def _port(asked: Asked) -> int:
    number = int(asked.port)
    if not 1 <= number <= 65535:
        raise QuestionError(f"{asked.text}: port {number} is not within 1..65535")
    return number


def _of_service(asked: Asked, known: Knowledge, protocol: int) -> list[Frontend]:
    mine = {front: one for front, one in known.items() if one.service == asked.service}
    if not mine:
        raise QuestionError(f"no Service {asked.service}{_near(asked.service, known.values())}")
    found = [
        frontend
        for frontend, one in mine.items()
        if protocol in (0, frontend.protocol)
        and asked.port in ("", one.name.partition(":")[2], str(frontend.port))
    ]
    if not found:
        named = {_port_text(front, one) for front, one in mine.items() if front.address}
        ports = sorted(named or {str(front.port) for front in mine})
        words = [f"port {asked.port!r}"] * bool(asked.port)
        words += [f"protocol {PROTOCOL_NAMES.get(protocol)}"] * bool(protocol)
        raise QuestionError(
            f"Service {asked.service} has no {' of '.join(words)}; it has {', '.join(ports)}"
        )
    return found


def _port_text(frontend: Frontend, known: Known) -> str:
    name = known.name.partition(":")[2]
    place = f"{frontend.port}/{PROTOCOL_NAMES.get(frontend.protocol, frontend.protocol)}"
    return f"{name} ({place})" if name else place


def _near(service: str, known: Iterable[Known]) -> str:
    names = sorted({one.service for one in known})
    ending = service.partition("/")[2]
    close = [name for name in names if name.partition("/")[2] == ending][:_MOST_NEAR]
    close = close or difflib.get_close_matches(service, names, _MOST_NEAR)
    return f"; did you mean {', '.join(close)}?" if close else f" among the {len(names)} known here"


def _usual(found: Sequence[Frontend], known: Knowledge, client: str) -> list[Frontend]:
    """Return the one frontend of each port and protocol that such a client calls."""
    best: dict[tuple[str, int], Frontend] = {}
    for frontend in sorted(found, key=lambda one: _rank(known[one].kind, client)):
        best.setdefault((known[frontend].name, frontend.protocol), frontend)
    return [frontend for frontend in found if frontend in best.values()]


def _rank(kind: FrontendKind | None, client: str) -> int:
    order = _OUTSIDE_FIRST if client == EXTERNAL else tuple(FrontendKind)
    return order.index(kind) if kind is not None else 0
