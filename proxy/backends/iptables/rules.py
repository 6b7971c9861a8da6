"""
The rules of one service port: its own chains, and its rules in the chains that all share.

Order and text are kube-proxy's (1.36), so that either program can continue where the other one
stopped and every listing looks as runbooks say. Where packets go was decided by the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from proxy.backends.iptables import names
from proxy.backends.iptables.settings import LOCALHOST_COUNTER, IptablesSettings
from proxy.backends.settings import Settings
from proxy.backends.xtables import FILTER, NAT, REJECT_WITH, comment
from proxy.model.addresses import IPFamily, unpack_address
from proxy.model.endpoints import target_text
from proxy.plan.service_plan import (
    Frontend,
    FrontendKind,
    Refusal,
    Route,
    ServicePortPlan,
    Target,
)

_HOST_MASK = {IPFamily.IPV4: "255.255.255.255", IPFamily.IPV6: ":".join(["ffff"] * 8)}
_LOCAL_SOURCE = "-m addrtype --src-type LOCAL"
_LOCAL_DESTINATION = "-m addrtype --dst-type LOCAL"


class SharedRule(NamedTuple):
    """A rule in a chain that all service ports share."""

    table: str
    chain: str
    rule: str


class PortRules(NamedTuple):
    """
    All rules of one service port.

    ``shared`` are in the order in which they must stand within one chain; ``chains`` are those of
    the nat table that belong to this service port alone.
    """

    shared: tuple[SharedRule, ...]
    chains: dict[str, tuple[str, ...]]


NOTHING = PortRules((), {})


def port_rules(
    plan: ServicePortPlan, settings: IptablesSettings, *, endpoint_comments: bool
) -> PortRules:
    """
    Return the rules of a service port.

    Args:
        plan: what its packets should experience.
        settings: those of its family.
        endpoint_comments: name Services and endpoints in the rules of endpoints; kube-proxy leaves
            that out on nodes with more than 1,000 endpoints.
    """
    return _PortCompiler(plan, settings, endpoint_comments).rules()


class _PortCompiler:
    def __init__(
        self, plan: ServicePortPlan, settings: IptablesSettings, endpoint_comments: bool
    ) -> None:
        self.plan = plan
        self.settings = settings
        self.endpoint_comments = endpoint_comments
        self.text = str(plan.name)
        self.protocol = plan.name.protocol.lower()
        self.hash = names.port_hash(plan.name)

    def rules(self) -> PortRules:
        """Compile the plan."""
        shared: list[SharedRule] = []
        for frontend in self.plan.frontends:
            shared += _SHARED[frontend.kind](self, frontend)
        if number := self.plan.health_check_node_port:
            rule = (
                f"-p tcp {comment(f'{self.text} health check node port')}"
                f" -m tcp --dport {number} -j ACCEPT"
            )
            shared.append(SharedRule(FILTER, names.NODEPORTS, rule))
        return PortRules(tuple(shared), dict(self._chains()))

    # -- shared chains -----------------------------------------------------------------------

    def _cluster_ip(self, frontend: Frontend) -> Iterator[SharedRule]:
        if frontend.route is not Route.NOWHERE:
            match = self._to(frontend, "cluster IP")
            yield SharedRule(NAT, names.SERVICES, f"{match} -j {self._internal_chain(frontend)}")
        yield from self._refused(frontend, names.SERVICES)

    def _external_ip(self, frontend: Frontend) -> Iterator[SharedRule]:
        if frontend.route is not Route.NOWHERE:
            match = self._to(frontend, "external IP")
            yield SharedRule(NAT, names.SERVICES, f"{match} -j {names.EXTERNAL}{self.hash}")
        yield from self._refused(frontend, names.EXTERNAL_SERVICES)

    def _load_balancer(self, frontend: Frontend) -> Iterator[SharedRule]:
        if frontend.route is not Route.NOWHERE:
            prefix = names.FIREWALL if frontend.restricted else names.EXTERNAL
            match = self._to(frontend, "loadbalancer IP")
            yield SharedRule(NAT, names.SERVICES, f"{match} -j {prefix}{self.hash}")
            if frontend.restricted:
                text = f"traffic not accepted by {names.FIREWALL}{self.hash}"
                rule = f"{self._to(frontend, text)} -j DROP"
                yield SharedRule(FILTER, names.PROXY_FIREWALL, rule)
        yield from self._refused(frontend, names.EXTERNAL_SERVICES)

    def _node_port(self, frontend: Frontend) -> Iterator[SharedRule]:
        port = f"-m {self.protocol} --dport {frontend.port}"
        if frontend.route is not Route.NOWHERE:
            match = f"-p {self.protocol} {comment(self.text)} {port}"
            target = f"-j {names.EXTERNAL}{self.hash}"
            if self._counts_localhost():
                counted = f"-d 127.0.0.0/8 {match} -m nfacct --nfacct-name  {LOCALHOST_COUNTER}"
                yield SharedRule(NAT, names.NODEPORTS, f"{counted} {target}")
            yield SharedRule(NAT, names.NODEPORTS, f"{match} {target}")
        if frontend.refusal is not Refusal.NONE:
            match = f"-p {self.protocol} {self._refusal_comment(frontend)} {_LOCAL_DESTINATION}"
            rule = f"{match} {port} {self._refusal(frontend)}"
            yield SharedRule(FILTER, names.EXTERNAL_SERVICES, rule)

    def _counts_localhost(self) -> bool:
        return self.settings.localhost_node_ports and LOCALHOST_COUNTER in self.settings.counters

    def _refused(self, frontend: Frontend, chain: str) -> Iterator[SharedRule]:
        if frontend.refusal is not Refusal.NONE:
            match = self._match(frontend, self._refusal_comment(frontend))
            yield SharedRule(FILTER, chain, f"{match} {self._refusal(frontend)}")

    def _refusal_comment(self, frontend: Frontend) -> str:
        local = "local " if frontend.refusal is Refusal.DROP else ""
        return comment(f"{self.text} has no {local}endpoints")

    def _refusal(self, frontend: Frontend) -> str:
        if frontend.refusal is Refusal.DROP:
            return "-j DROP"
        return f"-j REJECT --reject-with {REJECT_WITH[self.settings.family]}"

    def _to(self, frontend: Frontend, what: str) -> str:
        return self._match(frontend, comment(f"{self.text} {what}"))

    def _match(self, frontend: Frontend, said: str) -> str:
        return (
            f"-d {host(frontend.address)} -p {self.protocol} {said}"
            f" -m {self.protocol} --dport {frontend.port}"
        )

    # -- own chains --------------------------------------------------------------------------

    def _chains(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        plan = self.plan
        # A service port that lost its ClusterIP to another one has none.
        internal = next((f for f in plan.frontends if f.kind is FrontendKind.CLUSTER_IP), None)
        external = [
            f
            for f in plan.frontends
            if f.kind is not FrontendKind.CLUSTER_IP and f.route is not Route.NOWHERE
        ]
        inside, masquerade = "", tuple[str, ...]()
        if internal is not None and internal.route is not Route.NOWHERE:
            inside = self._internal_chain(internal)
            masquerade = tuple(self._masquerade_outsiders(internal))
        if external:
            chain = f"{names.EXTERNAL}{self.hash}"
            yield chain, tuple(self._external(external[0]))
        restricted = [f for f in external if f.restricted]
        if restricted:
            yield f"{names.FIREWALL}{self.hash}", tuple(self._firewall())
        pools = ((names.SERVICE, plan.cluster), (names.LOCAL, plan.local))
        for prefix, targets in pools:
            if targets:
                chain = f"{prefix}{self.hash}"
                own = masquerade if chain == inside else ()
                yield chain, (*own, *self._balance(targets))
        for target in plan.reachable:
            text = target_text(target)
            yield names.endpoint_chain(plan.name, text), tuple(self._endpoint(target, text))

    def _internal_chain(self, frontend: Frontend) -> str:
        prefix = names.LOCAL if frontend.route is Route.LOCAL else names.SERVICE
        return f"{prefix}{self.hash}"

    def _masquerade_outsiders(self, frontend: Frontend) -> Iterator[str]:
        match = self._to(frontend, "cluster IP")
        if self.settings.masquerade_all:
            yield f"{match} -j {names.MARK_MASQ}"
        elif self.settings.local_traffic:
            yield f"{not_local(self.settings)} {match} -j {names.MARK_MASQ}"

    def _external(self, frontend: Frontend) -> Iterator[str]:
        cluster = f"{names.SERVICE}{self.hash}"
        if frontend.always_masquerade:
            text = f"masquerade traffic for {self.text} external destinations"
            yield f"{comment(text)} -j {names.MARK_MASQ}"
            yield f"-j {cluster}"
            return
        if self.settings.local_traffic:
            text = f"pod traffic for {self.text} external destinations"
            yield f"{local(self.settings)} {comment(text)} -j {cluster}"
        text = f"masquerade LOCAL traffic for {self.text} external destinations"
        yield f"{comment(text)} {_LOCAL_SOURCE} -j {names.MARK_MASQ}"
        text = f"route LOCAL traffic for {self.text} external destinations"
        yield f"{comment(text)} {_LOCAL_SOURCE} -j {cluster}"
        if self.plan.local:
            yield f"-j {names.LOCAL}{self.hash}"

    def _firewall(self) -> Iterator[str]:
        said = comment(f"{self.text} loadbalancer IP")
        target = f"-j {names.EXTERNAL}{self.hash}"
        for network in self.plan.source_ranges:
            yield f"-s {network} {said} {target}"
        for address in self.plan.own_sources:
            yield f"-s {host(address)} {said} {target}"
        text = f"other traffic to {self.text} will be dropped by {names.PROXY_FIREWALL}"
        yield comment(text)

    def _balance(self, targets: tuple[Target, ...]) -> Iterator[str]:
        texts = [target_text(target) for target in targets]
        chains = [names.endpoint_chain(self.plan.name, text) for text in texts]
        said = [self._said(f"{self.text} -> {text}") for text in texts]
        if timeout := self.plan.affinity_timeout_s:
            for chain, words in zip(chains, said, strict=True):
                seconds = f"--rcheck --seconds {timeout} --reap"
                yield f"{words}{self._recent(chain, seconds)} -j {chain}"
        for index, (chain, words) in enumerate(zip(chains, said, strict=True)):
            left = len(targets) - index
            chance = f"-m statistic --mode random --probability {1 / left:.10f} "
            yield f"{words}{chance if left > 1 else ''}-j {chain}"

    def _endpoint(self, target: Target, text: str) -> Iterator[str]:
        said = self._said(self.text)
        yield f"-s {host(target[:-2])} {said}-j {names.MARK_MASQ}"
        learn = ""
        if self.plan.affinity_timeout_s:
            chain = names.endpoint_chain(self.plan.name, text)
            learn = f"{self._recent(chain, '--set')} "
        port = f"-m {self.protocol}"
        yield f"-p {self.protocol} {said}{learn}{port} -j DNAT --to-destination {text}"

    def _recent(self, chain: str, what: str) -> str:
        return (
            f"-m recent {what} --name {chain} --mask {_HOST_MASK[self.settings.family]} --rsource"
        )

    def _said(self, text: str) -> str:
        return f"{comment(text)} " if self.endpoint_comments else ""


_SHARED = {
    FrontendKind.CLUSTER_IP: _PortCompiler._cluster_ip,
    FrontendKind.EXTERNAL_IP: _PortCompiler._external_ip,
    FrontendKind.LOAD_BALANCER: _PortCompiler._load_balancer,
    FrontendKind.NODE_PORT: _PortCompiler._node_port,
}


def host(address: bytes) -> str:
    """Return a packed address as iptables-save prints it: ``10.0.0.1/32``."""
    return f"{unpack_address(address)}/{len(address) * 8}"


def local(settings: Settings) -> str:
    """Return the match of traffic that comes from this cluster's pods."""
    return _local_match(settings, "")


def not_local(settings: Settings) -> str:
    """Return the match of traffic that comes from anywhere else."""
    return _local_match(settings, "! ")


def _local_match(settings: Settings, negation: str) -> str:
    traffic = settings.local_traffic
    if traffic.network is not None:
        return f"{negation}-s {traffic.network}"
    if traffic.interface:
        return f"{negation}-i {traffic.interface}"
    return f"{negation}-i {traffic.interface_prefix}+"
