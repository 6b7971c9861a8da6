"""What a node proxy left in the kernel goes; what belongs to anybody else stays, to the byte."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from kpctl.lab.netns import Namespace, create_all, delete_all
from proxy.backends.iptables.names import ENDPOINT, SERVICE
from proxy.config.types import IPTABLES, IPVS, NFTABLES
from proxy.engine.cleanup.node import clean_ipvs, clean_tables
from proxy.engine.cleanup.outcome import Outcome
from proxy.engine.cleanup.running import Running
from proxy.kernel import command
from proxy.kernel.xtables_backend import Kind
from tests.packets.cluster import (
    BACKEND_PORT,
    NODE,
    NODE_IP,
    OUTSIDER,
    POD,
    SERVICE_CIDR,
    backend,
    vip,
)
from tests.packets.flows.scenario import Endpoint, NodeSpec, Scenario
from tests.packets.flows.site import PREFIX, site_for
from tests.packets.traffic import Call, Echo, Talkers, connect
from tests.support import golden
from tests.support.left_behind import FOREIGN, Host

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

_NODE = NodeSpec(
    name=NODE,
    ip_family=4,
    ips=(NODE_IP,),
    interfaces={"eth0": (f"{NODE_IP}/24",)},
    labels={},
    cluster_cidr=None,
    masquerade_all=False,
    node_port_addresses=(),
    localhost_node_ports=False,
    service_cidrs=(SERVICE_CIDR,),
)
_serial = itertools.count(1)
KINDS: tuple[Kind, ...] = ("nft", "legacy")
MODES = (IPTABLES, IPVS)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace(f"{PREFIX}{os.getpid()}-clean{next(_serial)}")
    create_all([made])
    yield made
    delete_all([made])


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, namespace: Namespace) -> Host:
    return Host(namespace, request.param)


@pytest.fixture
def shared_site(site: Host) -> Host:
    """A node with rules of others in both families, and all ipsets."""
    site.add_sets()
    for program in golden.PROGRAMS:
        site.restore(program, FOREIGN)
    return site


def _sites_of_both_backends(namespace: Namespace) -> list[Host]:
    sites = [Host(namespace, kind) for kind in KINDS]
    for site in sites:
        for program in golden.PROGRAMS:
            site.restore(program, FOREIGN)
    return sites


# -- everything goes -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_clean_up_leaves_exactly_the_rules_of_others(shared_site: Host, mode: str) -> None:
    before = shared_site.everything()
    shared_site.load(mode)
    assert shared_site.everything() != before
    outcome = shared_site.clean()
    assert outcome.errors == []
    assert outcome.removed
    assert shared_site.everything() == before


def test_both_modes_on_top_of_each_other_go_in_one_pass(shared_site: Host) -> None:
    before = shared_site.everything()
    for mode in MODES:
        shared_site.load(mode)
    assert shared_site.clean().errors == []
    assert shared_site.everything() == before


def test_both_backends_are_cleaned(namespace: Namespace) -> None:
    sites = _sites_of_both_backends(namespace)
    before = [site.everything() for site in sites]
    for site in sites:
        site.load(IPTABLES)
    assert sites[0].clean(NFTABLES).errors == []
    assert [site.everything() for site in sites] == before


def test_a_second_clean_up_finds_nothing_to_do(shared_site: Host) -> None:
    shared_site.load(IPTABLES)
    shared_site.clean()
    assert shared_site.clean() == Outcome()


def test_jumps_of_older_releases_and_repeated_ones_go_too(shared_site: Host) -> None:
    before = shared_site.everything()
    shared_site.load(IPTABLES)
    before_release_1_10 = (
        "*filter\n"
        '-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
        "-I INPUT -j KUBE-SERVICES\n"
        "COMMIT\n*nat\n:KUBE-XLB-ABCDEFGHIJKLMNOP - [0:0]\n"
        '-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
        "-I PREROUTING -g KUBE-SERVICES\nCOMMIT\n"
    )
    shared_site.restore("iptables", before_release_1_10)
    assert shared_site.clean().errors == []
    assert shared_site.everything() == before


def test_a_chain_that_others_lead_to_is_emptied_and_stays_and_is_named(
    shared_site: Host,
) -> None:
    plugin = "*nat\n:KUBE-MARK-MASQ - [0:0]\n-A CNI-HOSTPORT-MASQ -j KUBE-MARK-MASQ\nCOMMIT\n"
    shared_site.restore("iptables", plugin)
    before = shared_site.everything()
    shared_site.load(IPTABLES)
    outcome = shared_site.clean()
    (said,) = outcome.errors
    assert "KUBE-MARK-MASQ is emptied but stays" in said
    assert "CNI-HOSTPORT-MASQ leads to it" in said
    assert shared_site.everything() == before


def test_thousands_of_chains_go(site: Host) -> None:
    text = ["*nat", ":KUBE-SERVICES - [0:0]", "-A PREROUTING -j KUBE-SERVICES"]
    for number in range(1500):
        service, endpoint = f"{SERVICE}{number:016}", f"{ENDPOINT}{number:016}"
        text += [f":{service} - [0:0]", f":{endpoint} - [0:0]", f"-A {service} -j {endpoint}"]
        text.append(f"-A KUBE-SERVICES -d 10.1.{number // 250}.{number % 250}/32 -j {service}")
    site.restore("iptables", "\n".join([*text, "COMMIT", ""]))
    outcome = site.clean()
    assert outcome.errors == []
    assert outcome.removed == [
        f"1 jump of table nat (IPv4, iptables-{site.kind})",
        f"3001 chains of table nat (IPv4, iptables-{site.kind})",
    ]


# -- change of mode --------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(IPTABLES, IPVS), (IPVS, IPTABLES)])
def test_what_the_new_mode_has_in_force_stays(shared_site: Host, old: str, new: str) -> None:
    shared_site.load(new)
    wanted = shared_site.unordered()
    shared_site.clean()
    shared_site.load(old)
    shared_site.load(new)
    assert shared_site.unordered() != wanted
    assert shared_site.clean(new).errors == []
    assert shared_site.unordered() == wanted


@pytest.mark.parametrize("mode", MODES)
def test_a_running_mode_without_leftovers_keeps_all_it_has(shared_site: Host, mode: str) -> None:
    shared_site.load(mode)
    before = shared_site.everything()
    assert shared_site.clean(mode) == Outcome()
    assert shared_site.everything() == before


def test_the_other_backend_is_cleaned_of_the_running_mode_too(namespace: Namespace) -> None:
    running, other = _sites_of_both_backends(namespace)
    running.load(IPTABLES)
    before = running.everything()
    others = other.everything()
    other.load(IPTABLES)
    assert running.clean(IPTABLES).errors == []
    assert running.everything() == before
    assert other.everything() == others


def test_rules_of_the_running_mode_stay_where_its_backend_is_not_told(site: Host) -> None:
    for program in golden.PROGRAMS:
        site.restore(program, FOREIGN)
    site.load(IPTABLES)
    before = site.everything()
    with site.namespace.enter():
        assert clean_tables(Running(IPTABLES)) == Outcome()
    assert site.everything() == before


# -- ipsets ------------------------------------------------------------------------------------


def test_ipsets_of_both_families_go_after_their_rules_and_others_stay(
    shared_site: Host,
) -> None:
    foreign = ["ipset", "create", "KUBE-SRC-ABCDEFGH", "hash:ip"]
    shared_site.namespace.run(foreign)
    shared_site.load(IPVS)
    assert len(shared_site.sets()) == 35
    assert shared_site.clean().errors == []
    assert shared_site.clean_ipvs() == Outcome(["34 ipsets"])
    assert set(shared_site.sets()) == {"KUBE-SRC-ABCDEFGH"}


def test_an_ipset_that_a_rule_of_others_uses_stays_and_is_named(shared_site: Host) -> None:
    rule = "-A cali-PREROUTING -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN"
    shared_site.restore("iptables", f"*nat\n{rule}\nCOMMIT\n")
    shared_site.load(IPVS)
    shared_site.clean()
    outcome = shared_site.clean_ipvs()
    assert outcome.errors == ["ipset KUBE-CLUSTER-IP stays: a rule uses it"]
    assert len(shared_site.sets()["KUBE-CLUSTER-IP"].members) == 7
    assert len(shared_site.sets()) == 1


# -- connections -----------------------------------------------------------------------------


_SERVED = f"""
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-ABCDEFGHIJKLMNOP - [0:0]
:KUBE-SEP-ABCDEFGHIJKLMNOP - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d {vip(1)}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-ABCDEFGHIJKLMNOP
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-SVC-ABCDEFGHIJKLMNOP
-A KUBE-SVC-ABCDEFGHIJKLMNOP -j KUBE-MARK-MASQ
-A KUBE-SVC-ABCDEFGHIJKLMNOP -j KUBE-SEP-ABCDEFGHIJKLMNOP
-A KUBE-SEP-ABCDEFGHIJKLMNOP -p tcp -m tcp -j DNAT --to-destination {backend(1)}:{BACKEND_PORT}
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
COMMIT
"""
_CALLS = (Call(POD, Endpoint(vip(1), 80)), Call(OUTSIDER, Endpoint(NODE_IP, 30080)))


@pytest.mark.packets
@pytest.mark.parametrize("kind", KINDS)
def test_established_connections_live_on_and_new_ones_are_no_longer_served(kind: Kind) -> None:
    scenario = Scenario("clean-up", "", IPTABLES, _NODE, ())
    with site_for(scenario) as made, Echo(made.world):
        cleaned = Host(made.node, kind)
        # Without any rule that needs it the kernel stops connection tracking, and so translating.
        cleaned.restore("iptables", FOREIGN)
        cleaned.restore("iptables", _SERVED)
        with Talkers(made, _CALLS) as talkers:
            assert cleaned.clean().errors == []
            talkers.go_on(rounds=3)
            for call in _CALLS:
                with pytest.raises(OSError, match=r"refused|timed out"):
                    connect(made, call, patience_s=0.2)
            talkers.go_on(rounds=3)
            talkers.pause()
            assert talkers.failures == []


# -- nothing to do ---------------------------------------------------------------------------


def test_a_clean_node_is_left_as_it_is_without_starting_a_program(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    with monkeypatch.context() as patch:
        patch.setattr(command.subprocess, "Popen", refuse)
        with namespace.enter():
            assert clean_tables(Running()) == Outcome()
            assert clean_ipvs() == Outcome()
    assert namespace.run(["nft", "list", "tables"]).stdout == ""
    for names in ("ip_tables_names", "ip6_tables_names"):
        assert namespace.run(["cat", f"/proc/net/{names}"]).stdout == ""


# -- nftables mode ---------------------------------------------------------------------------


def test_tables_of_nftables_mode_go_and_others_stay(namespace: Namespace) -> None:
    own = "".join(f"table {f} kube-proxy {{ chain services {{ }}; }}\n" for f in ("ip", "ip6"))
    foreign = "table ip kube-proxy-of-mine {\n}\ntable inet kube-proxy {\n}\n"
    namespace.run(["nft", "-f", "-"], stdin=own + foreign)
    with namespace.enter():
        assert clean_tables(Running(NFTABLES)) == Outcome()
        outcome = clean_tables(Running(IPTABLES, "nft"))
    assert outcome == Outcome(
        ["nftables table kube-proxy (IPv4)", "nftables table kube-proxy (IPv6)"]
    )
    assert namespace.run(["nft", "list", "ruleset"]).stdout == foreign
