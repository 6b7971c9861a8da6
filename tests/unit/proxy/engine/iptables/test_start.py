"""The first synchronisation in iptables mode: on a fresh node, and where somebody was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.backends.iptables import names
from proxy.backends.iptables.settings import COUNTERS
from proxy.backends.xtables import Jump
from proxy.engine.iptables.jumps import missing_jumps
from proxy.engine.iptables.plane import ROUTE_LOCALNET, KernelFacts
from proxy.engine.start_gate import FatalError
from proxy.kernel.sysctl import SysctlError
from tests.support.engine_rig import V4, V6, endpoint_slice, many_services, service, udp
from tests.support.fake_iptables import FakeIptables
from tests.support.iptables_rig import IptablesRig

INPUT = ["KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES"]
FORWARD = ["KUBE-PROXY-FIREWALL", "KUBE-FORWARD", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"]
OUTPUT = ["KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"]


def targets(kernel: FakeIptables, table: str, chain: str) -> list[str]:
    return [rule.rpartition(" ")[2] for rule in kernel.rules(table, chain)]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_fresh_node_serves_every_service(monkeypatch, legacy) -> None:
    rig = IptablesRig(monkeypatch, kernel=FakeIptables(legacy=legacy))
    rig.start(*many_services(300), service("empty", "10.97.0.1"))
    assert all(len(rig.endpoints_of(f"10.96.0.{n}")) == 3 for n in range(1, 251))
    assert rig.refuses("10.97.0.1")
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 0}
    assert rig.started == 1


def test_a_fresh_node_gets_jumps_in_the_order_of_runbooks(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    rig.start()
    assert targets(rig.kernel, "filter", "INPUT") == INPUT
    assert targets(rig.kernel, "filter", "FORWARD") == FORWARD
    assert targets(rig.kernel, "filter", "OUTPUT") == OUTPUT
    assert targets(rig.kernel, "nat", "PREROUTING") == ["KUBE-SERVICES"]
    assert targets(rig.kernel, "nat", "OUTPUT") == ["KUBE-SERVICES"]
    assert targets(rig.kernel, "nat", "POSTROUTING") == ["KUBE-POSTROUTING"]
    assert all(names.CANARY in rig.kernel.tables[table] for table in ("mangle", "nat", "filter"))


def test_the_api_server_and_cluster_dns_are_served_before_the_rest(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    served: list[tuple[bool, bool, bool]] = []

    def look() -> None:
        served.append(
            (rig.serves("10.96.0.1"), rig.serves("10.96.0.10", 53, "UDP"), bool(others()))
        )

    def others() -> set[str]:
        return rig.endpoints_of("10.96.1.1")

    rig.kernel.watch = look
    rig.start(
        service("kubernetes", "10.96.0.1", "default"),
        endpoint_slice("kubernetes", ["10.180.0.1"], "default"),
        service("kube-dns", "10.96.0.10", "kube-system", ports=udp()),
        endpoint_slice("kube-dns", ["10.180.0.2"], "kube-system", protocol="UDP"),
        *many_services(251, 1),
    )
    assert (True, True, False) in served
    assert (False, False, True) not in served
    assert served[-1] == (True, True, True)


def test_both_families_have_their_own_tables(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch, families=(V4, V6))
    rig.start(
        service("web", ["10.96.0.1", "fd00::1"]),
        endpoint_slice("web", ["10.180.0.1"]),
    )
    assert rig.serves("10.96.0.1")
    [refusal] = rig.kernels[V6].rules("filter", names.SERVICES)
    assert refusal.startswith("-d fd00::1/128 ")
    assert "--reject-with icmp6-port-unreachable" in refusal
    assert not any("fd00" in text for text in rig.kernel.inputs)


def test_counters_and_liberal_tcp_come_from_the_kernel(monkeypatch) -> None:
    facts = KernelFacts(frozenset(COUNTERS), tcp_be_liberal=False)
    rig = IptablesRig(monkeypatch, facts=facts)
    rig.start()
    assert COUNTERS[0] in rig.kernel.rules("filter", names.FORWARD)[0]
    rig = IptablesRig(monkeypatch, facts=KernelFacts(frozenset(COUNTERS), tcp_be_liberal=True))
    rig.start()
    assert len(rig.kernel.rules("filter", names.FORWARD)) == 2


# -- route_localnet --------------------------------------------------------------------------


def test_localhost_node_ports_come_with_their_protection(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    rig.start()
    assert rig.sysctls.values == {ROUTE_LOCALNET: "1"}
    assert "127.0.0.0/8" in rig.kernel.rules("filter", names.KUBELET_FIREWALL)[0]


@pytest.mark.parametrize(
    "flags",
    [("--iptables-localhost-nodeports=false",), ("--nodeport-addresses=192.168.0.0/16",)],
)
def test_without_localhost_node_ports_route_localnet_is_left_alone(monkeypatch, flags) -> None:
    rig = IptablesRig(monkeypatch, *flags)
    rig.start()
    assert rig.sysctls.values == {}
    assert rig.kernel.rules("filter", names.KUBELET_FIREWALL) == []


def test_ipv6_never_sets_route_localnet(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch, families=(V6,))
    rig.start()
    assert rig.sysctls.values == {}


def test_a_node_where_route_localnet_cannot_be_set_says_what_to_do(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)

    def refuse(key: str, value: int) -> None:
        raise SysctlError("write", Path("/proc/sys", key), OSError(30, "Read-only file system"))

    monkeypatch.setattr(rig.sysctls, "write", refuse)
    with pytest.raises(FatalError, match=r"iptables\.localhostNodePorts: false"):
        rig.start()


# -- somebody was here before ----------------------------------------------------------------


@pytest.fixture
def kernel(monkeypatch) -> FakeIptables:
    """Tables that another proxy wrote, for other endpoints and for Services that are gone."""
    rig = IptablesRig(monkeypatch, "--masquerade-all")
    rig.start(
        service("web", "10.96.0.1", sessionAffinity="ClientIP"),
        endpoint_slice("web", ["10.200.0.1", "10.180.0.2"]),
        service("gone", "10.96.0.2"),
        endpoint_slice("gone", ["10.180.0.9"]),
    )
    rig.kernel.tables["nat"]["KUBE-KUBELET-CANARY"] = []
    rig.kernel.tables["nat"]["OTHERS"] = ["-j ACCEPT"]
    rig.kernel.tables["nat"]["PREROUTING"].insert(0, "-j OTHERS")
    rig.kernel.inputs.clear()
    return rig.kernel


def test_what_a_predecessor_left_is_taken_over_and_the_rest_removed(monkeypatch, kernel) -> None:
    rig = IptablesRig(monkeypatch, kernel=kernel)
    rig.start(service("web", "10.96.0.1"), endpoint_slice("web", ["10.180.0.1", "10.180.0.2"]))
    fresh = IptablesRig(monkeypatch)
    fresh.start(service("web", "10.96.0.1"), endpoint_slice("web", ["10.180.0.1", "10.180.0.2"]))
    assert kernel.tables["nat"].pop("KUBE-KUBELET-CANARY") == []
    assert kernel.tables["nat"].pop("OTHERS") == ["-j ACCEPT"]
    assert kernel.tables["nat"]["PREROUTING"].pop(0) == "-j OTHERS"
    assert kernel.tables == fresh.kernel.tables


def test_a_taken_over_service_is_served_at_every_instant(monkeypatch, kernel) -> None:
    rig = IptablesRig(monkeypatch, kernel=kernel)
    seen: list[frozenset[str]] = []
    kernel.watch = lambda: seen.append(frozenset(rig.endpoints_of("10.96.0.1")))
    rig.start(service("web", "10.96.0.1"), endpoint_slice("web", ["10.180.0.1", "10.180.0.2"]))
    old, new = {"10.200.0.1", "10.180.0.2"}, {"10.180.0.1", "10.180.0.2"}
    assert set(seen) == {frozenset(old), frozenset(new)}
    assert seen == sorted(seen, key=lambda each: each == new)


def test_a_service_that_lost_its_endpoints_meanwhile_is_refused_not_left_hanging(
    monkeypatch, kernel
) -> None:
    rig = IptablesRig(monkeypatch, kernel=kernel)
    rig.start(service("web", "10.96.0.1"))
    assert not rig.serves("10.96.0.1")
    assert rig.refuses("10.96.0.1")
    assert not any(names.is_service_chain(chain) for chain in kernel.tables["nat"])


# -- jumps -----------------------------------------------------------------------------------


def test_a_jump_that_is_printed_in_other_words_is_not_put_in_twice() -> None:
    kernel = FakeIptables()
    words = "-m comment --comment kubernetes\\ service\\ portals"
    kernel.tables["nat"]["OUTPUT"] = [f"{words} -j KUBE-SERVICES"]
    jump = next(j for j in names.JUMPS if j[:2] == ("nat", "OUTPUT"))
    assert missing_jumps(kernel, [jump]) == []


def test_another_rule_to_the_same_chain_is_not_taken_for_the_jump() -> None:
    kernel = FakeIptables()
    kernel.tables["filter"]["FORWARD"] = ["-s 10.0.0.0/8 -j KUBE-FORWARD"]
    jump = Jump("filter", "FORWARD", "-j KUBE-FORWARD")
    [section] = missing_jumps(kernel, [jump])
    assert [line.text for line in section.lines] == ["-I FORWARD -j KUBE-FORWARD"]


@pytest.mark.parametrize("missing", range(len(names.JUMPS)))
def test_only_a_missing_jump_is_put_in(monkeypatch, missing) -> None:
    rig = IptablesRig(monkeypatch)
    rig.start()
    lost = names.JUMPS[missing]
    rig.kernel.tables[lost.table][lost.chain].remove(lost.rule)
    [section] = missing_jumps(rig.kernel, [*names.JUMPS, *names.KUBELET_JUMPS])
    assert [line.text for line in section.lines] == [f"-I {lost.chain} {lost.rule}"]
