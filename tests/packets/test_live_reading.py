"""
A trace on a running node reads the chains and map elements it meets, and nothing else.

Whole listings take seconds on a node with 10,000 Services: what counts is how many commands there
are and what they ask for, with Services beside the one that is called.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

import pytest

from diagnostics.live.kernel import KernelNft, KernelTable
from diagnostics.live.nftables import live_ruleset
from diagnostics.live.snapshot import SelectiveSnapshot
from diagnostics.live.xtables import Programs
from diagnostics.nftables.json_reader import read_json
from diagnostics.snapshot.live import LiveSource
from diagnostics.snapshot.parts import Gap
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.report import Trace
from kpctl.lab.netns import Namespace
from proxy.kernel.command import run
from proxy.model.addresses import IPFamily

SERVICES = 30
CALLED = 7

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace that forwards, with an address and a default route."""
    made = Namespace(f"kpctl-t-live-{abs(hash(request.node.nodeid)) % 100000}")
    made.create()
    try:
        for command in (
            "link add eth0 type veth peer name peer0",
            "link set peer0 up",
            "link set eth0 up",
            "addr add 192.0.2.1/24 dev eth0",
            "route add default via 192.0.2.254",
        ):
            made.run(["ip", *command.split()])
        made.set_sysctls({"net.ipv4.ip_forward": "1"})
        yield made
    finally:
        made.delete()


class Recorder:
    """Runs programs and asks the kernel, and remembers what."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, argv: Sequence[str]) -> str:
        self.ran.append(" ".join(argv))
        return run(argv).stdout

    def snapshot(self) -> SelectiveSnapshot:
        programs = Programs(self.run, lambda name: shutil.which(name) is not None)
        return SelectiveSnapshot(LiveSource(), "node-1", kernel=self.kernel, programs=programs)

    @property
    def kernel(self) -> KernelNft:
        recorder = self

        class Recording(KernelNft):
            def rules(self, table: KernelTable, chain: str) -> list[bytes]:
                recorder.ran.append(f"rules {table.name} {chain}")
                return super().rules(table, chain)

            def elements(self, table: KernelTable, name: str) -> list[bytes]:
                recorder.ran.append(f"elements {name}")
                return super().elements(table, name)

            def element(self, table: KernelTable, name: str, key: bytes) -> bytes | None:
                recorder.ran.append(f"element {name}")
                return super().element(table, name, key)

        return Recording()


def ask(snapshot: SelectiveSnapshot) -> Trace:
    fields = {"src": "192.0.2.9", "dst": f"10.96.0.{CALLED}", "port": 80}
    return Tracer(snapshot).ask(Question.read(fields))


def endpoints(found: Trace) -> list[str]:
    return [f"{one.address}:{one.port}" for one in found.destinations]


def iptables_rules() -> str:
    """Rules as kube-proxy writes them."""
    numbers = range(1, SERVICES + 1)
    chains = [f":KUBE-{kind}-{n} - [0:0]" for n in numbers for kind in ("SVC", "SEP")]
    rules = [
        line
        for n in numbers
        for line in (
            f"-A KUBE-SERVICES -d 10.96.0.{n}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{n}",
            f"-A KUBE-SVC-{n} -j KUBE-SEP-{n}",
            f"-A KUBE-SEP-{n} -p tcp -m tcp -j DNAT --to-destination 10.0.0.{n}:8080",
        )
    ]
    head = ["*nat", ":PREROUTING ACCEPT [0:0]", ":KUBE-SERVICES - [0:0]", *chains]
    return "\n".join([*head, "-A PREROUTING -j KUBE-SERVICES", *rules, "COMMIT", ""])


def nftables_rules() -> str:
    """Chains, verdict maps and anonymous maps as kube-proxy writes them."""
    numbers = range(1, SERVICES + 1)
    elements = ",".join(f"10.96.0.{n} . tcp . 80 : goto service-{n}" for n in numbers)
    chains = [
        f"chain service-{n} {{ meta l4proto tcp dnat ip to numgen random mod 2"
        f" map {{ 0 : 10.0.0.{n} . 8080, 1 : 10.0.1.{n} . 8080 }}; }}"
        for n in numbers
    ]
    return "\n".join(
        (
            "table ip kube-proxy {",
            *chains,
            "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict;",
            f"elements = {{ {elements} }}; }}",
            "chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }",
            "chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }",
            "}",
        )
    )


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_iptables_chains_are_read_one_by_one_or_by_the_table(node: Namespace, kind: str) -> None:
    if shutil.which(f"iptables-{kind}") is None:
        pytest.skip(f"iptables-{kind} is not installed")
    node.run([f"iptables-{kind}-restore"], stdin=iptables_rules())
    recorder = Recorder()
    with node.enter():
        found = ask(recorder.snapshot())
    assert endpoints(found) == [f"10.0.0.{CALLED}:8080"]
    if kind == "legacy":
        assert recorder.ran == ["iptables-legacy-save -t nat"]
        return
    built_in = {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
    chains = {"KUBE-SERVICES", f"KUBE-SVC-{CALLED}", f"KUBE-SEP-{CALLED}"}
    # The kernel's own view of a chain tells whether a rule in it is none of iptables'.
    looked = {name for name in recorder.ran if name.startswith("rules nat ")}
    assert looked <= {f"rules nat {name}" for name in built_in | chains}
    assert sorted(name for name in recorder.ran if name not in looked) == sorted(
        f"iptables-nft -t nat -S {name}" for name in built_in | chains
    )


def test_of_nftables_one_element_and_the_chains_behind_it_are_read(node: Namespace) -> None:
    node.run(["nft", "-f", "-"], stdin=nftables_rules())
    recorder = Recorder()
    with node.enter():
        found = ask(recorder.snapshot())
    assert endpoints(found) == [f"10.0.0.{CALLED}:8080", f"10.0.1.{CALLED}:8080"]
    assert recorder.ran[0] == "nft -j list chains"
    anonymous = recorder.ran.pop()
    assert anonymous.startswith("elements __map")
    assert recorder.ran[1:] == [
        "rules kube-proxy nat-prerouting",
        "rules kube-proxy services",
        "element service-ips",
        f"rules kube-proxy service-{CALLED}",
    ]


def test_rules_of_both_backends_are_walked(node: Namespace) -> None:
    for kind in ("nft", "legacy"):
        if shutil.which(f"iptables-{kind}") is None:
            pytest.skip(f"iptables-{kind} is not installed")
    node.run(["iptables-nft-restore"], stdin=iptables_rules())
    node.run(["iptables-legacy", "-t", "filter", "-P", "FORWARD", "DROP"])
    recorder = Recorder()
    with node.enter():
        snapshot = recorder.snapshot()
        found, backends = ask(snapshot), snapshot.rulesets(IPFamily.IPV4)
    assert not isinstance(backends, Gap)
    assert [rules.backend for rules in backends] == ["legacy", "nf_tables"]
    assert found.verdict == "drop"
    steps = {(step.table, step.chain) for step in found.steps}
    assert {("nat", f"KUBE-SEP-{CALLED}"), ("filter", "FORWARD")} <= steps


def test_reading_makes_no_table(node: Namespace) -> None:
    recorder = Recorder()
    with node.enter():
        found = ask(recorder.snapshot())
        assert run(("nft", "list", "tables")).stdout == ""
        assert run(("cat", "/proc/thread-self/net/ip_tables_names")).stdout == ""
    assert found.destinations == ()
    assert recorder.ran == []


def test_pieces_from_this_kernel_are_what_nft_lists(node: Namespace) -> None:
    node.run(["nft", "-f", "-"], stdin=nftables_rules())
    with node.enter():
        kernel = KernelNft()
        pieces = live_ruleset(kernel.tables(), kernel, lambda argv: run(argv).stdout)
        whole = read_json(run(("nft", "-j", "list", "ruleset")).stdout)
        for key, table in whole.tables.items():
            for chain in table.chains.values():
                rules = pieces.tables[key].chains[chain.name].rules
                assert [(rule.handle, rule.expressions) for rule in rules] == [
                    (rule.handle, rule.expressions) for rule in chain.rules
                ]
            for element in table.sets["service-ips"].elements:
                key_values = [low for low, _ in element.spans or ()]
                found = pieces.tables[key].sets["service-ips"].lookup(key_values)
                assert found is not None
                assert found.text == element.text
