"""Chains of iptables are listed one by one, of both backends, and never taken for absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from diagnostics.live.errors import ReadError
from diagnostics.live.kernel import KernelTable
from diagnostics.live.snapshot import SelectiveSnapshot
from diagnostics.live.xtables import Programs
from diagnostics.snapshot.parts import Gap, Part, gap
from diagnostics.snapshot.source import Content
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.walk import Tri
from proxy.kernel.command import CommandError
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily
from tests.support.recorded_nft import RecordedNft

V4 = IPFamily.IPV4
NAT = KernelTable("ip", "nat")
SERVICE = "KUBE-SVC-AAAAAAAAAAAAAAAA"
CHAINS = {
    "PREROUTING": ["-P PREROUTING ACCEPT", "-A PREROUTING -j KUBE-SERVICES"],
    "INPUT": ["-P INPUT ACCEPT"],
    "OUTPUT": ["-P OUTPUT ACCEPT"],
    "POSTROUTING": ["-P POSTROUTING ACCEPT", "-A POSTROUTING -j KUBE-POSTROUTING"],
    "KUBE-POSTROUTING": ["-N KUBE-POSTROUTING"],
    "KUBE-SERVICES": [
        "-N KUBE-SERVICES",
        '-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "shop/web cluster IP"'
        f" -m tcp --dport 80 -j {SERVICE}",
        "-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-OTHER",
    ],
    SERVICE: [f"-N {SERVICE}", f"-A {SERVICE} -j KUBE-SEP-A"],
    "KUBE-SEP-A": [
        "-N KUBE-SEP-A",
        "-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.0.0.5:8080",
    ],
}
LEGACY = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"""
INCOMPATIBLE = "iptables v1.8.9 (nf_tables): chain `{}' in table `nat' is incompatible, use 'nft'"


class Node(RecordedNft):
    """A node with an iptables-nft that knows *chains* of its nat table."""

    def __init__(self, chains: Mapping[str, Sequence[str]], *tables: KernelTable) -> None:
        super().__init__("other-tables")
        self.chains = chains
        self.known = tables
        self.existing: set[str] = set()

    def tables(self) -> list[KernelTable]:
        return list(self.known)

    def rules(self, table: KernelTable, chain: str) -> list[bytes]:
        return super().rules(table, chain) if table not in self.known else []

    def has_chain(self, table: KernelTable, chain: str) -> bool:
        return chain in self.existing

    def run(self, argv: Sequence[str]) -> str:
        if argv[0] == "nft":
            return super().run(argv)
        self.ran.append(" ".join(argv))
        if argv[0].endswith("-legacy-save"):
            return LEGACY
        if argv[0].endswith("-save"):
            lines = [f":{name} - [0:0]" for name in self.chains]
            rules = [line for lines in self.chains.values() for line in lines if line[1] == "A"]
            return "\n".join(["*nat", *lines, *rules, "COMMIT", ""])
        name = argv[-1]
        if name not in self.chains:
            raise CommandError(argv, "exit status 1", stderr=INCOMPATIBLE.format(name))
        return "\n".join(self.chains[name])


class Surroundings:
    """What is known beside the rules: addresses and routes."""

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        known = {
            Part.ADDRESSES: b'[{"ifname": "eth0", "addr_info": [{"family": "inet", '
            b'"local": "192.0.2.1", "prefixlen": 24, "scope": "global"}]}]',
            Part.ROUTES: b'[{"dst": "default", "gateway": "192.0.2.254", "dev": "eth0"}]',
        }
        return (Content(part.value, known[part]),) if part in known else gap(part, "not needed")


def snapshot(
    node: Node, root: Path, programs: str = "iptables-nft iptables-legacy-save"
) -> SelectiveSnapshot:
    return SelectiveSnapshot(
        Surroundings(),
        "node-1",
        kernel=node,
        programs=Programs(node.run, lambda name: name in programs.split()),
        root=root,
    )


def legacy(root: Path, names: str) -> None:
    (root / "proc/self/net").mkdir(parents=True)
    (root / "proc/self/net/ip_tables_names").write_text(names)


def test_a_trace_lists_the_chains_it_walks_through_and_no_other(tmp_path: Path) -> None:
    node = Node(CHAINS, NAT)
    fields = {"src": "10.0.0.9", "dst": "10.96.0.10", "port": 80}
    found = Tracer(snapshot(node, tmp_path)).ask(Question.read(fields))
    assert [str(one.address) for one in found.destinations] == ["10.0.0.5"]
    assert sorted(line.rpartition(" ")[2] for line in node.ran) == sorted(CHAINS)
    assert {line.rpartition(" ")[0] for line in node.ran} == {"iptables-nft -t nat -S"}


def test_a_chain_is_listed_once(tmp_path: Path) -> None:
    node = Node(CHAINS, NAT)
    found = snapshot(node, tmp_path)
    for _ in range(2):
        rules = found.iptables(V4)
        assert not isinstance(rules, Gap)
        assert rules.chain("nat", SERVICE)
        assert rules.chain("nat", "KUBE-NOWHERE") is None
    assert len(node.ran) == len(set(node.ran))


def test_going_through_all_chains_reads_the_table_at_once(tmp_path: Path) -> None:
    node = Node(CHAINS, NAT)
    rules = snapshot(node, tmp_path).iptables(V4)
    assert not isinstance(rules, Gap)
    assert sorted(rules.tables["nat"].chains) == sorted(CHAINS)
    assert node.ran[-1] == "iptables-nft-save -t nat"


def test_a_chain_that_iptables_cannot_show_is_an_error_and_not_absent(tmp_path: Path) -> None:
    node = Node(CHAINS, NAT)
    rules = snapshot(node, tmp_path).iptables(V4)
    assert not isinstance(rules, Gap)
    node.existing = {"custom"}
    with pytest.raises(ReadError, match=r"iptables-nft -t nat -S custom: .* made with nft"):
        rules.chain("nat", "custom")


def test_a_table_whose_built_in_chains_were_made_with_nft_is_left_to_nft(tmp_path: Path) -> None:
    node = Node({}, NAT)
    node.existing = {"PREROUTING"}
    found = snapshot(node, tmp_path)
    rules, tables = found.rulesets(V4), found.nft()
    assert rules == ()
    assert not isinstance(tables, Gap)
    assert list(tables.tables) == [("ip", "nat")]


def test_other_base_chains_beside_iptables_own_are_not_forgotten(tmp_path: Path) -> None:
    notice = "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them."
    chains = {**CHAINS, "OUTPUT": [notice, "-P OUTPUT ACCEPT"]}
    found = snapshot(Node(chains, NAT), tmp_path)
    tables = found.nft()
    assert not isinstance(tables, Gap)
    assert list(tables.tables) == [("ip", "nat")]
    rules = found.iptables(V4)
    assert not isinstance(rules, Gap)
    assert list(rules.tables) == ["nat"]


def test_rules_of_both_backends_are_walked(tmp_path: Path) -> None:
    legacy(tmp_path, "filter\n")
    node = Node(CHAINS, NAT)
    found = snapshot(node, tmp_path)
    backends = found.rulesets(V4)
    assert not isinstance(backends, Gap)
    assert [(rules.backend, list(rules.tables)) for rules in backends] == [
        ("legacy", ["filter"]),
        ("nf_tables", ["nat"]),
    ]
    fields = {"src": "10.0.0.9", "dst": "10.96.0.10", "port": 80}
    steps = Tracer(found).ask(Question.read(fields)).steps
    # nft's nat table translates; then legacy's filter table drops by its policy.
    assert ("filter", "FORWARD", Tri.YES) in {(one.table, one.chain, one.result) for one in steps}
    assert ("nat", "KUBE-SEP-A", Tri.YES) in {(one.table, one.chain, one.result) for one in steps}


def test_no_legacy_program_runs_where_there_is_no_legacy_table(tmp_path: Path) -> None:
    legacy(tmp_path, "")
    node = Node({})
    assert snapshot(node, tmp_path).rulesets(V4) == ()
    assert node.ran == []


def test_rules_of_a_backend_without_its_program_are_a_gap(tmp_path: Path) -> None:
    legacy(tmp_path, "nat\n")
    found = snapshot(Node(CHAINS), tmp_path, programs="").rulesets(V4)
    assert isinstance(found, Gap)
    assert "rules of the legacy backend" in found.why
    assert found.how == "install the package iptables"


def test_what_the_kernel_refuses_is_a_gap(tmp_path: Path) -> None:
    class Refusing(Node):
        def tables(self) -> list[KernelTable]:
            raise NetlinkError(1, "Operation not permitted")

    found = snapshot(Refusing(CHAINS), tmp_path)
    for part in (found.rulesets(V4), found.iptables(V4), found.nft()):
        assert isinstance(part, Gap)
        assert "not permitted" in part.why


def test_the_mode_is_told_without_reading_everything(tmp_path: Path) -> None:
    node = Node(CHAINS, NAT)
    assert snapshot(node, tmp_path).mode().mode == "iptables"
    assert [line for line in node.ran if "-save" in line] == []
    tables = KernelTable("ip", "kube-proxy")
    assert snapshot(Node({}, tables), tmp_path).mode().mode == "nftables"
