"""What decides beside the rules: settings, refusing routes, rules of nft in iptables, answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

from diagnostics.live.snapshot import selective_snapshot
from diagnostics.snapshot.live import LiveSource, live_snapshot
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.question import Tracer
from diagnostics.trace.replies import Surroundings, replies
from diagnostics.trace.report import CERTAIN, MAYBE, Trace
from diagnostics.trace.walk import Tri
from proxy.model.addresses import IPFamily
from tests.packets.cluster import NODE_IP, OUTSIDER, POD
from tests.packets.flows.judge import Observation
from tests.packets.flows.scenario import Endpoint, Flow
from tests.packets.flows.site import Site
from tests.packets.flows.traced import traced
from tests.packets.rules_nft import ONE, TWO, VIP
from tests.packets.rules_xtables import xtables
from tests.packets.test_tracer_asks_the_kernel import ELSEWHERE, _flow, _site, sent, unlike

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

CALLED = Endpoint(VIP, 80)
NAT = (
    f"-d {VIP} -p tcp -j DNAT --to-destination {ONE}",
    f"-d {VIP} -p udp -j DNAT --to-destination {TWO}",
)
FROM_EVERYWHERE = tuple(
    _flow(source, CALLED, protocol)
    for source in (POD, OUTSIDER, NODE_IP)
    for protocol in ("TCP", "UDP")
)
FROM_NODE = tuple(_flow(NODE_IP, ELSEWHERE, protocol) for protocol in ("TCP", "UDP"))
TO_PROXY = "-p tcp -j TPROXY --on-port 9 --tproxy-mark 0x1"


class Case(NamedTuple):
    """Rules of iptables, commands that change the node, and how sure all traces are."""

    rules: str
    commands: Sequence[str]
    flows: Sequence[Flow]
    certainty: str = CERTAIN


NFT_IN_IPTABLES = (
    f"nft add set ip filter bad {{ type ipv4_addr; elements = {{ {POD} }}; }}",
    "nft add rule ip filter FORWARD ip saddr @bad meta l4proto udp drop",
    f"nft add rule ip filter FORWARD ip saddr {{ {OUTSIDER}, 192.0.2.9 }} tcp dport 8080 drop",
    "nft add rule ip filter FORWARD ip daddr 10.180.0.9-10.180.0.77 drop",
)
CASES = {
    "a node that forwards nothing": Case(
        xtables(*NAT), ["sysctl -qw net.ipv4.ip_forward=0"], FROM_EVERYWHERE
    ),
    "a device that forwards nothing": Case(
        xtables(*NAT), ["sysctl -qw net.ipv4.conf.eth0.forwarding=0"], FROM_EVERYWHERE
    ),
    **{
        f"a route of type {kind}": Case(
            xtables(), [f"ip route add {kind} {ELSEWHERE.ip}"], FROM_NODE
        )
        for kind in ("prohibit", "unreachable")
    },
    "a blackhole for what is forwarded": Case(
        xtables(*NAT), [f"ip route add blackhole {ONE.ip}"], FROM_EVERYWHERE[:4]
    ),
    "a mark chooses a route that refuses": Case(
        xtables(mangle=("-m addrtype --src-type LOCAL -j MARK --set-mark 7",)),
        ["ip rule add fwmark 7 lookup 77", "ip route add prohibit default table 77"],
        FROM_NODE[:1],
    ),
    "rules of nft in chains of iptables": Case(xtables(*NAT), NFT_IN_IPTABLES, FROM_EVERYWHERE),
    "a transparent proxy that does not listen": Case(
        xtables(*NAT, mangle=(f"-A PREROUTING {TO_PROXY}",)), (), FROM_EVERYWHERE[:1], MAYBE
    ),
    "a strict filter of the way back": Case(
        xtables(*NAT, raw=("-A PREROUTING -m rpfilter --validmark --invert -j DROP",)),
        ["sysctl -qw net.ipv4.conf.all.rp_filter=1"],
        FROM_EVERYWHERE,
    ),
}


@pytest.fixture
def site() -> Iterator[Site]:
    """A node of its own for each test."""
    with _site() as made:
        yield made


def prepare(site: Site, rules: str, commands: Sequence[str] = ()) -> None:
    """Set the node's rules, and change it."""
    site.node.run(["iptables-nft-restore"], stdin=rules)
    for command in commands:
        if command.startswith("nft "):
            site.node.run(["nft", "-f", "-"], stdin=command.removeprefix("nft "))
        else:
            site.node.run(command.split())


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_and_the_trace_agree_on(name: str, site: Site) -> None:
    case = CASES[name]
    prepare(site, case.rules, case.commands)
    with site.node.enter():
        traces = {
            kind: {flow: traced(Tracer(snapshot), flow) for flow in case.flows}
            for kind, snapshot in (("whole", live_snapshot()), ("selective", selective_snapshot()))
        }
    seen = {flow: _told(one) for flow, one in sent(site, traces["whole"]).items()}
    wrong = [
        f"{kind}: {flow.source} -> {flow.target}/{flow.protocol}: seen {seen[flow]}, {text}"
        for kind, found in traces.items()
        for flow, one in found.items()
        if (text := unlike(one, flow, seen[flow], hashed=False))
        or (text := "" if one.certainty == case.certainty else f"said {one.certainty}")
    ]
    assert not wrong, "\n".join(wrong)


def _told(seen: Observation) -> Observation:
    """An observation in the words of traces: an error of any kind is a rejection."""
    words = {"unreachable": "reject"}
    return replace(seen, verdicts=frozenset(words.get(one, one) for one in seen.verdicts))


def test_both_backends_are_read_where_both_have_rules(site: Site) -> None:
    prepare(site, xtables(*NAT))
    legacy = "*filter\n:FORWARD ACCEPT\n-A FORWARD -p udp -j DROP\nCOMMIT\n"
    site.node.run(["iptables-legacy-restore"], stdin=legacy)
    with site.node.enter():
        node = NodeSnapshot(LiveSource())
        traces = {flow: traced(Tracer(node), flow) for flow in FROM_EVERYWHERE[:4]}
        backends = [one.backend for one in node.rulesets(IPFamily.IPV4)]
    assert sorted(backends) == ["legacy", "nf_tables"]
    seen = sent(site, traces)
    assert {flow: unlike(one, flow, seen[flow], hashed=False) for flow, one in traces.items()} == (
        dict.fromkeys(traces, "")
    )
    assert {one.verdict for one in traces.values()} == {"dnat", "drop"}


LOST = "-p tcp --sport 8080 -j DROP"
# Where rules drop answers, by the client that misses them.
ANSWERS: dict[str, tuple[str, str, str, Tri]] = {
    "raw": (POD, "raw", f"-A PREROUTING {LOST}", Tri.NO),
    "forward": (POD, "filter", f"-A FORWARD {LOST}", Tri.NO),
    "input": (NODE_IP, "filter", f"-A INPUT {LOST}", Tri.NO),
    "a state": (POD, "filter", "-A FORWARD -m conntrack --ctstate ESTABLISHED -j DROP", Tri.NO),
    "a direction": (POD, "filter", "-A FORWARD -m conntrack --ctdir REPLY -j DROP", Tri.NO),
    "a flag": (POD, "filter", "-A FORWARD -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP", Tri.NO),
    "a status": (POD, "filter", "-A FORWARD -m conntrack --ctstatus SEEN_REPLY -j DROP", Tri.NO),
    "translated back too early": (
        POD, "filter", f"-A FORWARD -s {VIP} -p tcp --sport 80 -j DROP", Tri.YES
    ),
    "a new connection": (
        POD, "filter", "-A FORWARD -m conntrack --ctstate NEW -p tcp --sport 8080 -j DROP", Tri.YES
    ),
    "a rule of the client's way": (POD, "nat", f"-A PREROUTING {LOST}", Tri.YES),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_that_rules_drop_are_told_of(name: str, site: Site) -> None:
    client, table, rule, delivered = ANSWERS[name]
    prepare(site, xtables(*NAT))
    if table != "nat":  # which takes no drops; answers do not meet it
        site.node.run(["iptables-nft", "-t", table, *rule.split()])
    with site.node.enter():
        node = live_snapshot()
        flow = _flow(client, CALLED, "TCP")
        found: Trace = traced(Tracer(node), flow)
        (answer,) = replies(found, Surroundings.of(node))
    assert answer.delivered is delivered
    # Without its answer a connection does not come to stand.
    expected = "dnat" if delivered is Tri.YES else "drop"
    assert sent(site, {flow: found})[flow].verdicts == {expected}
