"""Packets through what a real kube-proxy left in the kernel land where real packets landed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from diagnostics.snapshot.open import open_snapshot
from diagnostics.trace.build import node_of
from diagnostics.trace.node import Node
from diagnostics.trace.packet import PROTOCOLS, Packet, place_text
from diagnostics.trace.report import CERTAIN, Trace, trace
from proxy.model.addresses import IPFamily
from tests.support import golden
from tests.support.iptables_text import render

DATA = Path(golden.__file__).parents[1] / "data"
FAMILIES = {"iptables": "iptables-save.txt", "ip6tables": "ip6tables-save.txt"}
LOOPBACK: dict[str, Any] = {"lo": ("127.0.0.1/8", "::1/128")}


def flows_of(name: str, step: int) -> list[dict[str, Any]]:
    """The flows that were sent at a stage of a scenario."""
    scenario = json.loads((DATA / "flows" / f"{name}.json").read_text())
    stage = scenario if step == 0 else scenario["steps"][step - 1]
    found: list[dict[str, Any]] = stage["flows"]
    return found


def write_node(directory: Path, interfaces: dict[str, Any]) -> None:
    """Write the addresses and routes of a node."""
    links = []
    for index, (device, addresses) in enumerate(interfaces.items(), start=1):
        info = []
        for address in addresses:
            local, _, length = address.partition("/")
            family = "inet6" if ":" in local else "inet"
            info.append({"family": family, "local": local, "prefixlen": int(length)})
        links.append({"ifindex": index, "ifname": device, "addr_info": info, "flags": ["UP"]})
    (directory / "ip-addr.json").write_text(json.dumps(links))
    route = [{"dst": "default", "gateway": "192.168.0.1", "dev": "eth0", "flags": []}]
    (directory / "ip-route.json").write_text(json.dumps(route))


def followed(node: Node, flow: dict[str, Any]) -> Trace:
    """The trace of a flow."""
    source, destination = ip_address(flow["from"]["ip"]), ip_address(flow["to"]["ip"])
    local = bool(node.facts.is_local(source))
    packet = Packet(
        source,
        destination,
        PROTOCOLS[flow["to"]["protocol"]],
        flow["to"]["port"],
        iif="" if local else "eth0",
    )
    return trace(node, packet, from_node=local)


def differences(directory: Path, flows: list[dict[str, Any]]) -> Iterator[str]:
    """What the traces of flows through a recorded node got wrong."""
    snapshot = open_snapshot(directory).node()
    nodes: dict[int, Node] = {}
    for flow in flows:
        version = ip_address(flow["to"]["ip"]).version
        family = IPFamily.IPV4 if version == 4 else IPFamily.IPV6
        if version not in nodes:
            nodes[version] = node_of(snapshot, family)
        found, wanted = followed(nodes[version], flow), flow["expect"]
        places = sorted(place_text(d.address, d.port) for d in found.destinations)
        shares = {d.probability for d in found.destinations}
        masquerade = {d.masquerade for d in found.destinations}
        if sum(end.branch.probability for end in found.ends) != 1:
            yield f"{flow['name']}: the probabilities of all branches do not sum to 1"
        if (found.verdict, found.certainty) != (wanted["verdict"], CERTAIN):
            yield f"{flow['name']}: {found.verdict}, {found.certainty}"
        elif wanted["verdict"] == "dnat" and (
            places != sorted(wanted["endpoints"])
            or shares != {Fraction(1, len(places))}
            or (wanted["masquerade"] is not None and masquerade != {wanted["masquerade"]})
        ):
            yield f"{flow['name']}: {places} {shares} {masquerade}"


@pytest.mark.parametrize("name", golden.names("iptables"))
def test_every_flow_of_a_scenario_in_iptables_mode(name: str, tmp_path: Path) -> None:
    case = golden.load(name, "iptables")
    for number, step in enumerate(case.steps):
        for program, rules in step.rulesets.items():
            (tmp_path / FAMILIES[program]).write_text(render(rules))
        write_node(tmp_path, LOOPBACK | dict(case.interfaces))
        assert not list(differences(tmp_path, flows_of(name, number)))


RECORDED_NFT = {
    "cluster-ip-ports-and-protocols": "cluster-ip-ports-and-protocols.nftables",
    "every-service-kind": "every-service-kind.nftables",
    "masquerade-normal": "masquerade-normal.nftables",
    "nodeport-v6-primary-only": "nodeport-v6-primary-only",
    "topology-both-local-some-here": "topology-both-local-some-here",
}


@pytest.mark.parametrize("form", ["json", "txt"])
@pytest.mark.parametrize("name", RECORDED_NFT)
def test_every_flow_of_a_scenario_in_nftables_mode(name: str, form: str, tmp_path: Path) -> None:
    recorded = (DATA / "nft" / f"{name}.{form}").read_text()
    (tmp_path / f"nft-ruleset.{form}").write_text(recorded)
    scenario = json.loads((DATA / "flows" / f"{RECORDED_NFT[name]}.json").read_text())
    write_node(tmp_path, LOOPBACK | scenario["node"]["interfaces"])
    assert not list(differences(tmp_path, flows_of(RECORDED_NFT[name], 0)))


# Rules of IPVS mode are alike on nodes with one configuration; some were not recorded.
_RULES_OF = "ipvs-draining-local-some-ready"


def write_ipvs_node(directory: Path, case: golden.Case, step: golden.Step) -> None:
    """Write what a recorded node in IPVS mode was, complete or not."""
    settled = golden.load(_RULES_OF, "ipvs").steps[0].rulesets
    for program, rules in (settled | dict(step.rulesets)).items():
        (directory / FAMILIES[program]).write_text(render(rules))
    servers = [
        f"-A {server}\n" + "".join(f"-a {server.split(' -s ')[0]} -r {real}\n" for real in reals)
        for server, reals in step.state.servers.items()
    ]
    (directory / "ipvsadm-save.txt").write_text("".join(servers))
    sets = [
        f"create {name} {found.kind}\n" + "".join(f"add {name} {one}\n" for one in found.members)
        for name, found in step.state.sets.items()
    ]
    (directory / "ipset-save.txt").write_text("".join(sets))
    virtual = {"kube-ipvs0": tuple(step.state.addresses)}
    write_node(directory, LOOPBACK | dict(case.interfaces) | virtual)


def scenario_modes(name: str) -> list[str]:
    """The modes that the flows of a scenario hold in."""
    found: list[str] = json.loads((DATA / "flows" / f"{name}.json").read_text())["modes"]
    return found


@pytest.mark.parametrize(
    "name", [name for name in golden.names("ipvs") if "ipvs" in scenario_modes(name)]
)
def test_every_flow_of_a_scenario_in_ipvs_mode(name: str, tmp_path: Path) -> None:
    case = golden.load(name, "ipvs")
    for number, step in enumerate(case.steps):
        write_ipvs_node(tmp_path, case, step)
        assert not list(differences(tmp_path, flows_of(name, number)))


# What IPVS does otherwise than the modes that these scenarios were written for: an unused port of
# a Service is refused, backends of other nodes are no hairpins, loopback has no node ports, source
# ranges are not asked for the node's own packets, and local endpoints alone serve external traffic
# of policy Local. Real packets were seen to do the same (tests/ipvs/test_flows.py).
_UNLIKE = {
    "cluster-ip-ports-and-protocols.iptables": {
        "pod to an unoffered port of the cluster IP": "reject",
    },
    "draining-local-policy-some-ready": {},
    "every-service-kind.iptables": {
        "backend 10.180.0.": "{False}",
        "node to an external IP of ns2/svc2, 80/TCP": "{False}",
        "node to load balancer 1.2.3.4 of ns2/svc2, 80/TCP": "{False}",
        "node to the node port of ns2/svc2 on the node, 31001/TCP": "{False}",
        "outsider to an external IP of ns2/svc2, 80/TCP": "dnat",
        "outsider to load balancer 1.2.3.4 of ns2/svc2, 80/TCP": "dnat",
        "outsider to the node port of ns2/svc2 on the node, 31001/TCP": "dnat",
        "node to load balancer 5.6.7.8 of ns5/svc5, 80/TCP": "dnat",
    },
    "internal-policy-local-two": {},
    "masquerade-normal.iptables": {
        "loopback to the node port": "none",
        "pod to the node port of ns2/svc2": "['10.180.0.2:80']",
        "pod to load balancer 5.6.7.8": "['10.180.0.2:80']",
        "node to load balancer 5.6.7.8": "['10.180.0.2:80']",
    },
}


@pytest.mark.parametrize("name", _UNLIKE)
def test_ipvs_differs_from_other_modes_where_it_is_known_to(name: str, tmp_path: Path) -> None:
    case, unlike = golden.load(name, "ipvs"), _UNLIKE[name]
    seen = set()
    for number, step in enumerate(case.steps):
        write_ipvs_node(tmp_path, case, step)
        for text in differences(tmp_path, flows_of(name, number)):
            flow, _, found = text.partition(": ")
            reasons = [begin for begin in unlike if flow.startswith(begin)]
            assert reasons, text
            assert unlike[reasons[0]] in found, text
            seen.add(reasons[0])
    assert seen == set(unlike)


def test_no_recorded_ipvs_node_is_forgotten() -> None:
    ours = {name for name in golden.names("ipvs") if "ipvs" in scenario_modes(name)}
    assert ours | set(_UNLIKE) == set(golden.names("ipvs"))
