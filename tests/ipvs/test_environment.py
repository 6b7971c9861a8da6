"""The kernel that IPVS mode is tested on has what the mode can use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace, link
from tests.packets.flows.attempts import Probe
from tests.packets.flows.probes import exchange
from tests.packets.flows.scenario import Endpoint, load
from tests.packets.flows.site import site_for

SCHEDULERS = (
    *("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh"),
    *("sed", "nq", "mh", "fo", "ovf"),
)
SETS = {
    "hash:ip,port": "192.0.2.1,tcp:80",
    "hash:ip,port,ip": "192.0.2.1,sctp:80,192.0.2.2",
    "hash:ip,port,net": "192.0.2.1,udp:80,198.51.100.0/24",
    "bitmap:port range 0-65535": "30080",
}
MATCHES = (
    "-m comment --comment text",
    "-m mark --mark 0x4000/0x4000",
    "-m addrtype --dst-type LOCAL",
    "-m conntrack --ctstate NEW",
    "-m physdev ! --physdev-is-in",
    "-m ipvs --ipvs",
    "-m set --match-set things dst,dst",
)

pytestmark = [pytest.mark.kernel]


@pytest.fixture
def node() -> Iterator[Namespace]:
    made = Namespace(f"kpctl-t{os.getpid()}-kernel").create()
    try:
        yield made
    finally:
        made.delete()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_takes_a_server_of_each_protocol_and_family(
    node: Namespace, scheduler: str
) -> None:
    for option in ("-t", "-u", "--sctp-service"):
        for service, server in (
            ("192.0.2.1:80", "198.51.100.1:8080"),
            ("[2001:db8::1]:80", "[2001:db8:1::1]:8080"),
        ):
            node.run(["ipvsadm", "-A", option, service, "-s", scheduler, "-p", "60"])
            node.run(["ipvsadm", "-a", option, service, "-r", server, "-m", "-w", "1"])
    saved = node.run(["ipvsadm", "-Sn"]).stdout
    assert saved.count(f" -s {scheduler} -p 60") == 6
    assert saved.count(":8080 -m -w 1") == 6


def test_a_scheduler_is_loaded_when_a_virtual_server_asks_for_it(node: Namespace) -> None:
    node.run(["modprobe", "-r", "ip_vs_lblcr"])
    assert not Path("/sys/module/ip_vs_lblcr").exists()
    node.run(["ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "lblcr"])
    assert Path("/sys/module/ip_vs_lblcr").exists()


@pytest.mark.parametrize("kind", SETS)
def test_every_kind_of_ipset_holds_entries(node: Namespace, kind: str) -> None:
    node.run(["ipset", "create", "things", *kind.split()])
    node.run(["ipset", "add", "things", SETS[kind]])
    node.run(["ipset", "test", "things", SETS[kind]])


@pytest.mark.parametrize("match", MATCHES)
def test_iptables_is_the_legacy_one_and_knows_every_match(node: Namespace, match: str) -> None:
    node.run(["ipset", "create", "things", "hash:ip,port"])
    assert "(legacy)" in node.run(["iptables", "--version"]).stdout
    node.run(["iptables", "-A", "FORWARD", *match.split(), "-j", "ACCEPT"])
    assert match in node.run(["iptables-save"]).stdout


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_the_targets_of_ipvs_mode_are_there(node: Namespace, program: str) -> None:
    for rule in (
        "-t nat -A POSTROUTING -j MASQUERADE --random-fully",
        "-t nat -A PREROUTING -j MARK --or-mark 0x4000",
        "-t filter -A INPUT -j REJECT",
    ):
        node.run([program, *rule.split()])


def test_a_dummy_device_holds_addresses_of_both_families(node: Namespace) -> None:
    node.ip(["link add kube-ipvs0 type dummy"])
    for address in ("192.0.2.1/32", "2001:db8::1/128"):
        node.ip([f"addr add {address} dev kube-ipvs0"])
        assert address in node.run(["ip", "-o", "addr", "show", "dev", "kube-ipvs0"]).stdout


def test_namespaces_have_ipvs_and_sysctls_of_their_own(node: Namespace) -> None:
    other = Namespace(f"{node.name}2").create()
    try:
        link(node, "a0", other, "b0")
        node.set_sysctls({"net.ipv4.vs.conntrack": "1", "net.ipv4.vs.expire_nodest_conn": "1"})
        node.run(["ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "rr"])
        assert "192.0.2.1" not in other.run(["ipvsadm", "-Sn"]).stdout
        assert other.sysctl("net.ipv4.vs.conntrack") == "0"
    finally:
        other.delete()


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("ipvs-v4-nodeport-tcp", "10.0.0.2", "203.0.113.9"),
        ("ipvs-v6-own-family-only", "fd00:10::2", "2600:5200::9"),
    ],
)
def test_packets_cross_the_site_of_a_scenario(name: str, source: str, target: str) -> None:
    places = [
        (Probe(source, Endpoint(target, 8080), protocol), protocol)
        for protocol in ("TCP", "UDP", "SCTP")
    ]
    probes = [probe for probe, _ in places]
    with site_for(load(name, "ipvs")) as site, exchange(site, probes, []) as made:
        outcomes = made.send(probes)
    assert [(each.fate, each.at, each.source) for each in outcomes] == [
        ("landed", Endpoint(target, 8080), source)
    ] * 3


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_a_virtual_server_made_by_hand_sends_packets_to_its_server(protocol: str) -> None:
    scenario = load("ipvs-v4-nodeport-tcp", "ipvs")
    vip, server = Endpoint("172.30.7.7", 80), Endpoint("10.180.7.7", 8080)
    option = {"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service"}[protocol]
    probe = Probe("10.0.0.2", vip, protocol)
    with site_for(scenario) as site:
        site.node.set_sysctls({"net.ipv4.vs.conntrack": "1"})
        site.node.ip(["link add kube-ipvs0 type dummy", f"addr add {vip.ip}/32 dev kube-ipvs0"])
        site.node.run(["ipvsadm", "-A", option, str(vip), "-s", "rr"])
        site.node.run(["ipvsadm", "-a", option, str(vip), "-r", str(server), "-m", "-w", "1"])
        with exchange(site, [probe], [server]) as made:
            (outcome,) = made.send([probe])
    assert (outcome.fate, outcome.at, outcome.answered) == ("landed", server, True)
