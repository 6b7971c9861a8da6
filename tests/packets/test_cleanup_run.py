"""``kpctl run --cleanup`` on a node that all modes were in, with what others have on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proxy.config.types import IPTABLES, IPVS
from proxy.kernel.xtables_backend import Kind
from tests.support import golden
from tests.support.kpctl_process import KpctlNode, kpctl_node, web
from tests.support.left_behind import FOREIGN, Host

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

_COUNTERS = re.compile(r"\[\d+:\d+\]")
KINDS: tuple[Kind, ...] = ("nft", "legacy")
NOBODY = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
FOREIGN_TABLES = """
table ip kube-proxy-of-mine {
	set kept {
		type inet_service
		elements = { 1, 2 }
	}
}
table inet kube-proxy {
	chain kept {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 192.0.2.99 redirect
	}
}
"""
FOREIGN_SETS = "create KUBE-SRC-ABCDEFGH hash:ip\nadd KUBE-SRC-ABCDEFGH 192.0.2.99\n"


class Node:
    """A node with foreign content in both backends of iptables, nf_tables, ipsets and links."""

    def __init__(self, made: KpctlNode) -> None:
        self.made = made
        self.namespace = made.namespace
        self.hosts = [Host(made.namespace, kind) for kind in KINDS]
        for host in self.hosts:
            for program in golden.PROGRAMS:
                host.restore(program, FOREIGN)
        made.nft_script(FOREIGN_TABLES)
        self.namespace.run(["ipset", "restore"], stdin=FOREIGN_SETS)
        self._add_device("kube-ipvs1")

    def fill(self) -> None:
        """Leave behind what each mode does, as far as this kernel can."""
        self.made.write("web.json", *web())
        with self.made.running() as proxy:
            proxy.wait_for_log("Services are served")
        self.hosts[0].add_sets()
        for host in self.hosts:
            for mode in (IPTABLES, IPVS):
                host.load(mode)
        self._add_device("kube-ipvs0")

    def _add_device(self, name: str) -> None:
        # Not a dummy, which this kernel may lack: what counts is the name.
        self.namespace.ip(
            [f"link add {name} type veth peer name {name}-end", f"addr add 10.96.0.1/32 dev {name}"]
        )

    def content(self) -> list[str]:
        """All there is, as the usual programs print it."""
        saves = [f"{program}-{kind}-save" for kind in KINDS for program in golden.PROGRAMS]
        commands = [[save] for save in saves]
        commands += [["nft", "list", "ruleset"], ["ipset", "save"], ["ip", "-brief", "addr"]]
        texts = [self.namespace.run(command).stdout for command in commands]
        lines = (line for text in texts for line in text.splitlines() if not line.startswith("#"))
        return [_COUNTERS.sub("", line) for line in lines]


@pytest.fixture
def node() -> Iterator[Node]:
    with TemporaryDirectory(prefix="kpctl-test-") as name:  # unlike tmp_path, for all users
        directory = Path(name)
        directory.chmod(0o777)
        with kpctl_node(directory) as made:
            yield Node(made)


def test_all_modes_go_and_what_others_have_stays_to_the_byte(node: Node) -> None:
    before = node.content()
    node.fill()
    assert len(node.content()) > len(before) + 500
    done = node.made.run("--cleanup")
    assert done.returncode == 0, done.stderr
    assert node.content() == before
    for what in (
        "nftables table kube-proxy (IPv6)",
        "14 jumps of table filter (IPv4, iptables-nft)",
        "device kube-ipvs0",
        "34 ipsets",
    ):
        assert f'what="{what}"' in done.stderr, done.stderr
    again = node.made.run("--cleanup")
    assert (again.returncode, node.content()) == (0, before)
    assert "There is nothing to clean up" in again.stderr
    assert "Removed" not in again.stderr


def test_what_a_rule_of_others_leads_to_is_named_and_all_else_goes(node: Node) -> None:
    node.fill()
    node.hosts[1].restore("iptables", "*nat\n-A CNI-HOSTPORT-MASQ -j KUBE-MARK-MASQ\nCOMMIT\n")
    done = node.made.run("--cleanup")
    assert done.returncode == 1
    [error] = [line for line in done.stderr.splitlines() if line.startswith("E")]
    assert "nat KUBE-MARK-MASQ is emptied but stays" in error
    assert "a rule of chain CNI-HOSTPORT-MASQ leads to it (IPv4, iptables-legacy)" in error
    left = [line for line in node.content() if "KUBE-MARK-MASQ" in line]
    assert left == [":KUBE-MARK-MASQ - ", "-A CNI-HOSTPORT-MASQ -j KUBE-MARK-MASQ"]
    assert not [line for line in node.content() if "KUBE-SVC-" in line and "cali" not in line]


def test_without_rights_there_is_one_error_and_all_stays(node: Node) -> None:
    node.fill()
    full = node.content()
    done = node.made.run("--cleanup", before=NOBODY)
    assert done.returncode == 4
    [line] = done.stderr.splitlines()
    assert "CAP_NET_ADMIN" in line
    assert node.content() == full


def test_a_clean_node_stays_as_it_is(node: Node) -> None:
    before = node.content()
    done = node.made.run("--cleanup")
    assert (done.returncode, node.content()) == (0, before)
    [line] = done.stderr.splitlines()
    assert "There is nothing to clean up" in line
