"""A change between nftables and iptables mode: nobody notices, and nothing of the old stays."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace
from proxy.config.types import IPTABLES, NFTABLES
from proxy.kernel.nftables import NetlinkNft
from proxy.kernel.xtables_backend import Kind
from proxy.model.addresses import IPFamily
from tests.packets.changing_node import ChangingNode, changing_node, many_services
from tests.support import golden
from tests.support.others_content import Others
from tests.support.waiting import eventually

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

KINDS: tuple[Kind, ...] = ("nft", "legacy")
HINT = "KUBE-IPTABLES-HINT"
OWN_TABLES = {"table ip kube-proxy", "table ip6 kube-proxy"}
# The kubelet's: by which programs know the node's backend, and what a proxy makes when it is
# missing and leaves alone. Nothing here needs connection tracking.
KUBELETS = """
*mangle
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
COMMIT
"""
FOREIGN_TABLES = """
table inet kube-proxy {
	map kept {
		type ipv4_addr : verdict
		elements = { 192.0.2.99 : drop }
	}

	chain kept {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 192.0.2.99 redirect
	}
}
table ip kube-proxy-of-mine {
	set kept {
		type inet_service
		elements = { 1, 2 }
	}
}
"""


def _own_tables(namespace: Namespace) -> set[str]:
    listing = namespace.run(["nft", "list", "tables"]).stdout
    return OWN_TABLES.intersection(listing.splitlines())


def _is_all_iptables(node: ChangingNode, others: Others) -> None:
    assert _own_tables(node.site.node) == set()
    others.are_untouched()


def _is_all_nftables(node: ChangingNode, others: Others) -> None:
    assert _own_tables(node.site.node) == OWN_TABLES
    others.are_alone()


MANY = many_services(1000)
MANY_LIMIT_S = 30.0  # for a busy machine; 1 to 4 s on a quiet one
# The first packets of new connections of pods, lost.
LOSS = """
table ip loss {
	chain loss {
		type filter hook prerouting priority raw; policy accept;
		tcp dport 80 tcp flags syn / syn,ack counter drop
	}
}
"""
LOST = ["nft", "list", "table", "ip", "loss"]
ALONE = {"rules": KUBELETS}
AMONG_OTHERS = {"tables": FOREIGN_TABLES}


@pytest.mark.parametrize(
    ("end", "content"),
    [(signal.SIGTERM, AMONG_OTHERS), (signal.SIGKILL, ALONE)],
    ids=["terminated among rules of others", "killed and alone"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_notices_a_change_of_mode_and_back(
    kind: Kind, end: signal.Signals, content: dict[str, str], tmp_path: Path
) -> None:
    others = Others(kind, **content)
    with changing_node(tmp_path, NFTABLES, prepare=others.add) as node:
        node.change_mode(IPTABLES, end)
        _is_all_iptables(node, others)
        node.change_mode(NFTABLES, end)
        _is_all_nftables(node, others)
        node.nobody_noticed()


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_notices_a_change_of_mode_with_a_thousand_services(
    kind: Kind, tmp_path: Path
) -> None:
    others = Others(kind, **AMONG_OTHERS)
    with changing_node(tmp_path, NFTABLES, MANY, prepare=others.add) as node:
        for mode, is_all in ((IPTABLES, _is_all_iptables), (NFTABLES, _is_all_nftables)):
            change = node.change_mode(mode)
            is_all(node, others)
            assert change.served_s < change.removed_s < MANY_LIMIT_S
        node.nobody_noticed()


def test_a_change_that_was_broken_off_can_be_undone(tmp_path: Path) -> None:
    others = Others("nft", **AMONG_OTHERS)
    with changing_node(tmp_path, NFTABLES, MANY, prepare=others.add) as node:
        node.run.break_off(IPTABLES, lambda: len(_chains(node)) > 500)
        node.run.begin(NFTABLES)
        node.go_on()
        _is_all_nftables(node, others)
        node.nobody_noticed()


def test_nobody_notices_that_iptables_rules_move_to_the_other_backend(tmp_path: Path) -> None:
    others = Others("nft", **ALONE)
    with changing_node(tmp_path, IPTABLES, prepare=others.add) as node:
        for program in golden.PROGRAMS:
            others.host.namespace.run([f"{program}-nft", "-t", "mangle", "-X", HINT])
        moved = Others("legacy", **ALONE)
        moved.add(node.site.node)
        assert "chain KUBE-SERVICES is also in nft's nat table" in node.change_mode(IPTABLES).said
        assert not [chain for chain in _chains(node) if chain.startswith("KUBE-")]
        moved.are_untouched()
        node.nobody_noticed()


def test_a_family_keeps_its_old_mode_until_the_new_one_serves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = Others("nft", **AMONG_OTHERS)
    with changing_node(tmp_path, NFTABLES, prepare=others.add) as node:
        failing = tmp_path / "bin" / "ip6tables-nft-restore"
        failing.parent.mkdir()
        failing.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
        failing.chmod(0o755)
        monkeypatch.setenv("PATH", f"{failing.parent}:{os.environ['PATH']}")
        node.change_mode(IPTABLES)
        assert _own_tables(node.site.node) == {"table ip6 kube-proxy"}, node.run.log()
        node.nobody_noticed()
        failing.unlink()
        eventually(lambda: _own_tables(node.site.node) == set())
        node.go_on()
        _is_all_iptables(node, others)
        node.nobody_noticed()


def test_the_load_notices_a_gap_in_service(tmp_path: Path) -> None:
    with changing_node(tmp_path, NFTABLES) as node:
        node.nobody_noticed()
        node.run.stop()
        node.site.node.run(["nft", "-f", "-"], stdin=LOSS)
        eventually(lambda: "packets 0" not in node.site.node.run(LOST).stdout)
        node.site.node.run(["nft", "delete", "table", "ip", "loss"])
        node.go_on()
        assert node.counts().late
        assert not node.counts().failed
        node.site.node.run(["nft", "delete", "table", "ip6", "kube-proxy"])
        node.go_on()
        assert {call.count("Endpoint(ip='172.30.") for call in node.counts().failed} == {0}
        with pytest.raises(AssertionError):
            node.nobody_noticed()


def _chains(node: ChangingNode) -> frozenset[str]:
    """The chains of iptables' nat table in the nft backend, IPv4."""
    with node.site.node.enter(), closing(NetlinkNft(IPFamily.IPV4)) as nft:
        return nft.chains("nat")
