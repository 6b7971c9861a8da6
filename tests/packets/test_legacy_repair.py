"""On the legacy backend only damage to the proxy's own rules is repaired."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace
from proxy.backends.iptables import names
from proxy.kernel.legacy_tables import LegacyTables
from proxy.model.addresses import IPFamily
from tests.support.iptables_text import Ruleset, differences
from tests.support.kpctl_process import CONFIG, KpctlNode, Running, kpctl_node, web
from tests.support.xtables_programs import saved

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

HINT = ("-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
COUNTED = re.compile(r'kpctl_self_repair_total\{ip_family="(\w+)",reason="\w+"\} (\d+)')


@pytest.fixture
def node(tmp_path: Path) -> Iterator[KpctlNode]:
    """A node whose kubelet uses the legacy backend."""
    with kpctl_node(tmp_path) as made:
        made.config.write_text(CONFIG.replace("nftables", "iptables"))
        made.namespace.ip(["link set lo up"])
        edit(made, *HINT)
        made.write("web.json", *web())
        yield made


def edit(node: KpctlNode, *arguments: str, program: str = "iptables") -> None:
    node.namespace.run([f"{program}-legacy", "-w", "5", *arguments])


def rules(node: KpctlNode) -> Ruleset:
    return saved(node.namespace, "iptables", "legacy")


def repairs(node: KpctlNode, family: str = "IPv4") -> int:
    status, text = node.get("/metrics", 10249)
    assert status == 200
    return sum(int(count) for where, count in COUNTED.findall(text) if where == family)


@contextmanager
def running(node: KpctlNode) -> Iterator[Running]:
    with node.running() as proxy:
        proxy.wait_for_log("Services are served")
        yield proxy


def endpoint_chain(node: KpctlNode) -> str:
    return next(chain for chain in rules(node)["nat"] if chain.startswith(names.ENDPOINT))


def test_what_the_kernel_holds_is_counted_as_iptables_save_lists_it(node: KpctlNode) -> None:
    with running(node) as proxy:
        listed = rules(node)
        status, text = node.get("/metrics", 10249)
        assert status == 200
        for table in ("nat", "filter"):
            count = sum(len(c.rules) for name, c in listed[table].items() if "KUBE-" in name)
            name = "kubeproxy_sync_proxy_rules_iptables_total"
            assert f'{name}{{ip_family="IPv4",table="{table}"}} {count}.0' in _sorted_labels(text)
        assert proxy.terminate() == 0


@pytest.mark.parametrize("kind", IPFamily, ids=lambda family: family.value)
def test_chains_and_jumps_are_read_as_iptables_save_lists_them(
    node: KpctlNode, kind: IPFamily
) -> None:
    with running(node):
        program = "iptables" if kind is IPFamily.IPV4 else "ip6tables"
        listed = saved(node.namespace, program, "legacy")
        with node.namespace.enter():
            tables = LegacyTables(kind)
        with tables:
            for table, chains in listed.items():
                content = tables.content(table)
                assert content is not None
                assert content.rules == {name: len(c.rules) for name, c in chains.items()}
                assert content.jumps == {
                    (name, rule.rpartition(" ")[2])
                    for name, chain in chains.items()
                    if chain.policy != "-"
                    for rule in chain.rules
                }


def test_others_rules_come_and_go_and_nothing_happens(node: KpctlNode) -> None:
    with running(node) as proxy:
        edit(node, "-t", "nat", "-N", "CNI-a1")
        edit(node, "-t", "nat", "-A", "CNI-a1", "-d", "10.1.0.1", "-j", "ACCEPT")
        edit(node, "-t", "filter", "-I", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
        # All tables are looked at together: after the repair of IPv6, IPv4 has been looked at.
        edit(node, "-t", "mangle", "-X", names.CANARY, program="ip6tables")
        proxy.wait_until(lambda: repairs(node, "IPv6") == 1, "not repaired")
        assert repairs(node) == 0
        assert proxy.log().count("Another program changed") == 1
        assert "-d 10.1.0.1/32 -j ACCEPT" in rules(node)["nat"]["CNI-a1"].rules


@pytest.mark.parametrize("what", ["flush", "rule", "jump"])
def test_damage_is_repaired_and_counted(node: KpctlNode, what: str) -> None:
    with running(node) as proxy:
        before = rules(node)
        arguments = {
            "flush": ("-t", "nat", "-F"),
            "rule": ("-t", "nat", "-D", endpoint_chain(node), "1"),
            "jump": ("-t", "filter", "-D", "FORWARD", "1"),
        }[what]
        edit(node, *arguments)
        assert differences(before, rules(node))
        proxy.wait_until(lambda: not differences(before, rules(node)), "not repaired")
        proxy.wait_until(lambda: repairs(node) == 1, "not counted")


def _sorted_labels(text: str) -> str:
    def ordered(match: re.Match[str]) -> str:
        return "{" + ",".join(sorted(match[1].split(","))) + "}"

    return re.sub(r"\{([^}]*)\}", ordered, text)


def test_tables_that_do_not_exist_have_no_content() -> None:
    namespace = Namespace("kpctl-tests-no-legacy-tables")
    namespace.create()
    try:
        with namespace.enter(), LegacyTables(IPFamily.IPV4) as tables:
            assert tables.content("nat") is None
            assert tables.names() == frozenset()
    finally:
        namespace.delete()
