"""
The kernel as judge of the tracer: small rule sets, real packets, and the same answer from both.

Where the tracer says maybe, what the packet did must be one of its ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import pytest

from diagnostics.snapshot.live import LiveSource
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap, Part, gap
from diagnostics.snapshot.source import Content
from diagnostics.trace.question import Tracer
from diagnostics.trace.report import CERTAIN, Trace
from diagnostics.trace.walk import End, Verdict
from proxy.kernel.command import run
from tests.packets.cluster import NODE, NODE_IP, OTHER_NODE_IP, OUTSIDER, POD, SERVICE_CIDR
from tests.packets.flows.attempts import Probe
from tests.packets.flows.judge import Observation, observe
from tests.packets.flows.probes import PATIENCE_S, exchange
from tests.packets.flows.scenario import Endpoint, Expectation, Flow, NodeSpec, Scenario
from tests.packets.flows.site import Site, site_for
from tests.packets.flows.traced import disagreement, traced
from tests.packets.rules_nft import NFT, ONE, THREE, TWO, VIP
from tests.packets.rules_xtables import XTABLES

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

ELSEWHERE = Endpoint("10.9.0.9", 9999)
LANDINGS = (ONE, TWO, THREE, ELSEWHERE, Endpoint(VIP, 80), Endpoint(NODE_IP, 8082))
# With as many, one of three endpoints is missed less than once in a million times.
_MANY = 40
_FEW = 2
_QUIET_S = 0.15  # how long packets that may be dropped are waited for
# A hash of the packet chooses: one client gets one of them.
_HASHED = {"a hash of the client"}
# nft's JSON tells only since 1.0.7 that a table is dormant.
_TEXT_ONLY = {"a dormant table"}


def _flow(source: str, target: Endpoint, protocol: str) -> Flow:
    return Flow("", source, target, protocol, Expectation("", frozenset(), None))


FLOWS = (
    *(
        _flow(source, Endpoint(VIP, 80), protocol)
        for source in (POD, OUTSIDER, NODE_IP)
        for protocol in ("TCP", "UDP")
    ),
    _flow(OUTSIDER, Endpoint(NODE_IP, 8081), "TCP"),
    _flow(POD, ELSEWHERE, "TCP"),
)


class _Without(LiveSource):
    """The running node without one part."""

    def __init__(self, missing: Part) -> None:
        super().__init__()
        self._missing = missing

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        return gap(part, "left out") if part is self._missing else super().read(part)


class _Legacy(LiveSource):
    """The running node with the rules that only iptables-legacy shows."""

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        if part is not Part.IPTABLES:
            return super().read(part)
        return (Content(part.value, run(["iptables-legacy-save"]).stdout.encode()),)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A node with clients on either side of it."""
    with _site() as made:
        yield made


def _site() -> AbstractContextManager[Site]:
    addresses = {"eth0": (f"{NODE_IP}/24", f"{OTHER_NODE_IP}/24")}
    spec = NodeSpec(
        name=NODE,
        ip_family=4,
        ips=(NODE_IP,),
        interfaces=addresses,
        labels={},
        cluster_cidr=None,
        masquerade_all=False,
        node_port_addresses=(),
        localhost_node_ports=False,
        service_cidrs=(SERVICE_CIDR,),
    )
    return site_for(Scenario("kernel", "", "nftables", spec, ()))


@pytest.mark.parametrize("name", NFT)
def test_nftables_rules_are_understood_as_the_kernel_does(site: Site, name: str) -> None:
    site.node.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{NFT[name]}")
    from_text = _traces(site, _Without(Part.NFT_JSON))
    from_json = _traces(site, _Without(Part.NFT_TEXT))
    if name not in _TEXT_ONLY:
        assert list(map(_summary, from_json.values())) == list(map(_summary, from_text.values()))
    assert_agree(site, from_text, hashed=name in _HASHED)


@pytest.mark.parametrize("name", XTABLES)
def test_iptables_rules_are_understood_as_the_kernel_does(site: Site, name: str) -> None:
    site.node.run(["nft", "-f", "-"], stdin="flush ruleset\n")
    site.node.run(["iptables-nft-restore"], stdin=XTABLES[name])
    assert_agree(site, _traces(site, LiveSource()))


def test_legacy_rules_are_understood_as_the_kernel_does() -> None:
    with _site() as site:
        for name in ("states", "nth", "recent", "notrack", "marks", "goto", "netmap", "redirect"):
            site.node.run(["iptables-legacy-restore"], stdin=XTABLES[name])
            assert_agree(site, _traces(site, _Legacy()))


def test_a_wrong_answer_is_told(site: Site) -> None:
    site.node.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{NFT['the interface']}")
    right = _traces(site, LiveSource())
    site.node.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{NFT['refused']}")
    with pytest.raises(AssertionError, match=rf"{POD} -> {VIP}:80/TCP: seen reject, the trace"):
        assert_agree(site, right)


def assert_agree(site: Site, traces: Mapping[Flow, Trace], *, hashed: bool = False) -> None:
    """Send all flows; fail with each that did not do what its trace says."""
    seen = sent(site, traces)
    wrong = [
        f"{flow.source} -> {flow.target}/{flow.protocol}: seen {seen[flow]}, {text}"
        for flow, found in traces.items()
        if (text := unlike(found, flow, seen[flow], hashed=hashed))
    ]
    assert not wrong, "\n".join(wrong)


def unlike(found: Trace, flow: Flow, seen: Observation, *, hashed: bool) -> str:
    """Say how the packets differ from the trace, "" if they do not."""
    if found.certainty == CERTAIN and len(seen.verdicts) == 1 and not hashed:
        return disagreement(found, flow, seen)
    if sum(end.branch.probability for end in found.ends) != 1:
        return "the probabilities of all ends of the trace do not sum to 1"
    ends = {_fate(end) for end in found.ends}
    places = {Endpoint(str(one.address), one.port) for one in found.destinations}
    return "" if seen.verdicts <= ends and seen.endpoints <= places else f"the trace has {ends}"


def sent(site: Site, traces: Mapping[Flow, Trace]) -> dict[Flow, Observation]:
    """What becomes of the flows now; those that vanish cost little where that is foreseen."""
    probes = {flow: Probe(flow.source, flow.target, flow.protocol) for flow in traces}
    with exchange(site, list(probes.values()), LANDINGS) as made:
        found: dict[Flow, Observation] = {}
        for flow, trace in traces.items():
            probe, fates = probes[flow], {_fate(end) for end in trace.ends}
            volley = [probe] * (_MANY if len(trace.destinations) > 1 else _FEW)
            patience_s = _QUIET_S if "drop" in fates else PATIENCE_S
            outcomes = made.send(volley, patience_s)
            found[flow] = observe(probe, outcomes)
    return found


def _traces(site: Site, source: LiveSource) -> dict[Flow, Trace]:
    with site.node.enter():
        tracer = Tracer(NodeSnapshot(source))
        return {flow: traced(tracer, flow) for flow in FLOWS}


def _summary(found: Trace) -> Sequence[object]:
    return found.verdict, found.certainty, found.destinations


def _fate(end: End) -> str:
    if end.verdict is not Verdict.ACCEPT:
        return end.verdict.value
    return "dnat" if end.branch.packet.is_translated else "none"
