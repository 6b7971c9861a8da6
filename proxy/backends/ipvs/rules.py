"""
The few iptables rules around the virtual servers: masquerading, source ranges, access.

Order and text are kube-proxy's (1.36). Most rules look into an ipset and are there only while the
set has entries, so the rules change only when a set becomes empty or stops being so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from proxy.backends.iptables.fixed import ChainKey, forwarding, masquerading
from proxy.backends.iptables.names import FORWARD, MARK_MASQ, PROXY_FIREWALL, SERVICES
from proxy.backends.iptables.names import POSTROUTING as POSTROUTING_CHAIN
from proxy.backends.iptables.rules import host, not_local
from proxy.backends.ipvs import names
from proxy.backends.ipvs.names import SetKind
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.backends.xtables import FILTER, LOOPBACK, NAT, REJECT_WITH, comment
from proxy.model.addresses import unpack_address
from proxy.netfilter.ipvs import ServerKey

_BOTH = "dst,dst"
_TO_LOCAL = "-m addrtype --dst-type LOCAL"
_FROM_OUTSIDE = "-m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL"


def chains(
    settings: IpvsSettings, filled: Collection[SetKind], unanswered: Iterable[ServerKey]
) -> dict[ChainKey, tuple[str, ...]]:
    """
    Return all chains of the mode with their rules, in the order in which they are declared.

    Args:
        settings: those of the family.
        filled: the ipsets that have entries.
        unanswered: see PortState.
    """
    return _Chains(settings, frozenset(filled)).all(tuple(unanswered))


class _Chains:
    def __init__(self, settings: IpvsSettings, filled: frozenset[SetKind]) -> None:
        self.settings = settings
        self.filled = filled

    def all(self, unanswered: tuple[ServerKey, ...]) -> dict[ChainKey, tuple[str, ...]]:
        masquerade = masquerading(self.settings, random_fully=self.settings.random_fully)
        content: dict[ChainKey, tuple[str, ...]] = {
            **masquerade,
            (NAT, SERVICES): tuple(self._services()),
            (NAT, POSTROUTING_CHAIN): (
                *self._if_filled(names.LOOP_BACK, "dst,dst,src", "-j MASQUERADE"),
                *masquerade[NAT, POSTROUTING_CHAIN],
            ),
            (NAT, names.NODE_PORT): tuple(self._node_ports()),
            (NAT, names.LOAD_BALANCER_CHAIN): (
                *self._if_filled(names.LOAD_BALANCER_LOCAL, _BOTH, "-j RETURN"),
                f"-j {MARK_MASQ}",
            ),
            (FILTER, FORWARD): forwarding(self.settings),
            (FILTER, names.NODE_PORT): (
                self._said(names.HEALTH_CHECK_NODE_PORT, "dst", "-j ACCEPT"),
            ),
            (FILTER, PROXY_FIREWALL): tuple(
                self._if_filled(names.LOAD_BALANCER_FW, _BOTH, f"-j {names.SOURCE_RANGES}")
            ),
            (FILTER, names.SOURCE_RANGES): (
                *self._if_filled(names.LOAD_BALANCER_SOURCE_CIDR, "dst,dst,src", "-j RETURN"),
                *self._if_filled(names.LOAD_BALANCER_SOURCE_IP, "dst,dst,src", "-j RETURN"),
                "-j DROP",
            ),
            (FILTER, names.IPVS_FILTER): tuple(self._access()),
            (FILTER, names.IPVS_OUT_FILTER): tuple(map(_unanswered, unanswered)),
        }
        order = [(NAT, c) for c in names.NAT_CHAINS] + [(FILTER, c) for c in names.FILTER_CHAINS]
        return {key: content[key] for key in order}

    def _services(self) -> Iterator[str]:
        yield f"-s {LOOPBACK[self.settings.family]} -j RETURN"
        yield from self._if_filled(names.LOAD_BALANCER, _BOTH, f"-j {names.LOAD_BALANCER_CHAIN}")
        yield from self._masquerade_cluster_ips()
        target = f"-j {MARK_MASQ}"
        yield from self._if_filled(names.EXTERNAL_IP, _BOTH, target)
        for kind in (names.EXTERNAL_IP, names.EXTERNAL_IP_LOCAL):
            yield from self._if_filled(kind, _BOTH, f"{_FROM_OUTSIDE} -j ACCEPT")
            yield from self._if_filled(kind, _BOTH, f"{_TO_LOCAL} -j ACCEPT")
        yield f"{_TO_LOCAL} -j {names.NODE_PORT}"
        for kind in (names.CLUSTER_IP, names.LOAD_BALANCER):
            if kind in self.filled:
                yield f"{self._match(kind, _BOTH)} -j ACCEPT"

    def _masquerade_cluster_ips(self) -> Iterator[str]:
        kind, target = names.CLUSTER_IP, f"-j {MARK_MASQ}"
        if kind not in self.filled:
            return
        if self.settings.masquerade_all:
            yield self._said(kind, _BOTH, target)
        elif self.settings.local_traffic:
            yield f"{not_local(self.settings)} {self._said(kind, _BOTH, target)}"
        else:
            # Packets of the node itself to a cluster IP leave with that address as their source.
            yield self._said(kind, "src,dst", target)

    def _node_ports(self) -> Iterator[str]:
        for protocol, local, everyone, direction in (
            ("tcp", names.NODE_PORT_LOCAL_TCP, names.NODE_PORT_TCP, "dst"),
            ("udp", names.NODE_PORT_LOCAL_UDP, names.NODE_PORT_UDP, "dst"),
            ("sctp", names.NODE_PORT_LOCAL_SCTP, names.NODE_PORT_SCTP, _BOTH),
        ):
            for kind, target in ((local, "-j RETURN"), (everyone, f"-j {MARK_MASQ}")):
                for rule in self._if_filled(kind, direction, target):
                    yield f"-p {protocol} {rule}"

    def _access(self) -> Iterator[str]:
        for kind in (
            names.LOAD_BALANCER,
            names.CLUSTER_IP,
            names.EXTERNAL_IP,
            names.EXTERNAL_IP_LOCAL,
        ):
            yield f"{self._match(kind, _BOTH)} -j RETURN"
        yield f"{self._match(names.HEALTH_CHECK_NODE_PORT, 'dst')} -j RETURN"
        yield (
            f"-m conntrack --ctstate NEW {self._match(names.IPVS_IPS, 'dst')}"
            f" -j REJECT --reject-with {REJECT_WITH[self.settings.family]}"
        )

    def _if_filled(self, kind: SetKind, direction: str, rest: str) -> Iterator[str]:
        if kind in self.filled:
            yield self._said(kind, direction, rest)

    def _said(self, kind: SetKind, direction: str, rest: str) -> str:
        return f"{comment(kind.comment)} {self._match(kind, direction)} {rest}"

    def _match(self, kind: SetKind, direction: str) -> str:
        return f"-m set --match-set {kind.name(self.settings.family)} {direction}"


def _unanswered(key: ServerKey) -> str:
    address = unpack_address(key.address)
    return (
        f"-s {host(key.address)} -m ipvs --vproto {key.protocol} --vaddr {address}"
        f" --vport {key.port} -j DROP"
    )
