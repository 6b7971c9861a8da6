"""With rules of other programs in the way, a trace tells what really becomes of a packet."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from diagnostics.snapshot.live import live_snapshot
from diagnostics.trace.packet import place_text
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.report import CERTAIN, MAYBE, Trace
from diagnostics.trace.walk import End, Verdict
from proxy.kernel.command import CommandError
from tests.packets.cluster import (
    BACKEND_PORT,
    NODE_IP,
    NODE_IP6,
    OUTSIDER,
    POD,
    Cluster,
    backend,
    cluster,
    pod,
    service,
    slice_of,
    vip,
)
from tests.packets.flows.attempts import Outcome, Probe
from tests.packets.flows.daemon import START_PATIENCE_S
from tests.packets.flows.probes import exchange
from tests.packets.flows.scenario import Endpoint

RULES = Path(__file__).parents[1] / "data" / "third-party-rules"
OUTSIDER6, BANNED, STRANGE_HOST = "2001:db8:9::9", "203.0.113.66", "203.0.113.5"
WEB, WEB6, DNS, EMPTY = vip(1), vip(1, 6), vip(2), vip(4)
NODE_PORT, FREE_PORT, CLOSED_PORT = 30080, 30081, 30082
OTHER_POD = backend(3)
# A packet that vanishes is waited for this long; every other one is answered at once.
_PATIENCE_S = 0.6
_OBJECTS = (
    service("web", WEB, WEB6, node_port=NODE_PORT),
    slice_of("web", pod(backend(1), here=True)),
    slice_of("web", pod(backend(1, 6), here=True), family=6),
    service("dns", DNS, protocol="UDP", port=53),
    slice_of("dns", pod(backend(2), here=True), protocol="UDP"),
    service("none", EMPTY),
)
# Where connections may land that are neither called nor backends: REDIRECT leads to these.
_LANDINGS = tuple(
    Endpoint(ip, port)
    for ip in (backend(1), backend(2), OTHER_POD, backend(1, 6), NODE_IP, "127.0.0.1")
    for port in (BACKEND_PORT, 15006)
)

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]


class Call(NamedTuple):
    """A new connection, and how sure a trace of it can be."""

    source: str
    ip: str
    port: int = 80
    protocol: str = "TCP"
    certainty: str = CERTAIN


FROM_ANYWHERE = (Call(OUTSIDER, WEB), Call(POD, WEB), Call(NODE_IP, WEB))
EVERYTHING = (
    *FROM_ANYWHERE,
    Call(OUTSIDER, NODE_IP, NODE_PORT),
    Call(OUTSIDER, DNS, 53, "UDP"),
    Call(OUTSIDER6, WEB6),
    Call(NODE_IP6, WEB6),
)
CASES: dict[str, tuple[str, tuple[Call, ...]]] = {
    "docker": ("iptables", (*FROM_ANYWHERE, Call(OUTSIDER, NODE_IP, 9000))),
    "docker-user-original-address": ("iptables", FROM_ANYWHERE),
    "firewalld": (
        "nftables",
        (
            *EVERYTHING,
            Call(OUTSIDER, NODE_IP, 9000),
            Call(OUTSIDER, NODE_IP, 9001),
            Call(OUTSIDER, NODE_IP, FREE_PORT),
            Call(OUTSIDER, NODE_IP, CLOSED_PORT),
            Call(POD, OTHER_POD, BACKEND_PORT),
            Call(NODE_IP, OTHER_POD, BACKEND_PORT),
            Call(NODE_IP, NODE_IP, CLOSED_PORT),
            Call(BANNED, NODE_IP, NODE_PORT),
        ),
    ),
    "ufw": (
        "iptables",
        (
            *FROM_ANYWHERE,
            Call(OUTSIDER, NODE_IP, FREE_PORT),
            Call(NODE_IP, NODE_IP, CLOSED_PORT),
            Call(OUTSIDER, NODE_IP, 22),
        ),
    ),
    "ufw-outgoing": (
        "nftables",
        (
            Call(NODE_IP, NODE_IP, FREE_PORT),
            Call(NODE_IP, WEB),
            Call(NODE_IP, OTHER_POD, BACKEND_PORT),
            Call(NODE_IP, STRANGE_HOST, BACKEND_PORT),
        ),
    ),
    "calico": (
        "iptables",
        (
            Call(OUTSIDER, WEB),
            Call(NODE_IP, WEB),
            Call(OUTSIDER, DNS, 53, "UDP"),
            Call(OUTSIDER, OTHER_POD, BACKEND_PORT),
        ),
    ),
    "kube-router": ("nftables", FROM_ANYWHERE),
    "node-local-dns": ("iptables", (Call(OUTSIDER, WEB), Call(NODE_IP, DNS, 53, "UDP"))),
    "cilium": ("iptables", FROM_ANYWHERE),
    "flannel": (
        "iptables",
        (
            *FROM_ANYWHERE,
            Call(POD, STRANGE_HOST, BACKEND_PORT),
            Call(OUTSIDER, OTHER_POD, BACKEND_PORT),
        ),
    ),
    "aws-vpc-cni": ("nftables", (*FROM_ANYWHERE, Call(POD, STRANGE_HOST, BACKEND_PORT))),
    "istio": ("iptables", (*FROM_ANYWHERE, Call(NODE_IP, OTHER_POD, 9999))),
    "portmap": ("nftables", (Call(OUTSIDER, WEB), Call(OUTSIDER, NODE_IP, 8088))),
    "redirect-of-a-vip": ("iptables", (Call(OUTSIDER, WEB), Call(NODE_IP, WEB))),
    "earlier-translation": ("nftables", FROM_ANYWHERE),
    "translation-of-equal-priority": (
        "nftables",
        (Call(OUTSIDER, WEB, certainty=MAYBE), Call(POD, WEB, certainty=MAYBE), Call(NODE_IP, WEB)),
    ),
    "netdev-ingress": ("nftables", (Call(OUTSIDER, WEB, certainty=MAYBE), Call(NODE_IP, WEB))),
    "dormant": ("iptables", (Call(OUTSIDER, WEB, certainty=MAYBE), Call(OUTSIDER, NODE_IP, 81))),
    "own-chain-in-table-filter": ("iptables", FROM_ANYWHERE),
    "policy-drop": (
        "nftables",
        (
            *EVERYTHING,
            Call(NODE_IP, NODE_IP, CLOSED_PORT),
            Call(NODE_IP, STRANGE_HOST, BACKEND_PORT),
            Call("198.51.100.77", WEB),
        ),
    ),
    "marks": ("nftables", FROM_ANYWHERE),
    "fail2ban": (
        "nftables",
        (
            *FROM_ANYWHERE,
            Call(OUTSIDER, NODE_IP, FREE_PORT),
            Call(OUTSIDER, NODE_IP, 22),
            Call(OUTSIDER, NODE_IP, 23),
        ),
    ),
    "limit": ("nftables", FROM_ANYWHERE),
    "rate-limits": (
        "nftables",
        (Call(POD, WEB, certainty=MAYBE), Call(OUTSIDER, WEB, certainty=MAYBE)),
    ),
    "source-translation": ("iptables", FROM_ANYWHERE),
}
_RESTORE = {"ipset": ("ipset", "restore", "-exist"), "nft": ("nft", "-f", "-")}


class Node:
    """A node whose proxy has done its work and is gone, so that nobody repairs its rules."""

    def __init__(self, made: Cluster) -> None:
        self._site = made.site
        self._tables = self._present()
        self._own = {} if made.mode == "nftables" else self._dumps()

    def _present(self) -> set[str]:
        return set(self._site.node.run(["nft", "list", "tables"]).stdout.splitlines())

    def _dumps(self) -> dict[str, str]:
        return {
            program: self._site.node.run([f"{program}-save"]).stdout
            for program in ("iptables", "ip6tables")
        }

    @contextmanager
    def with_rules(self, name: str) -> Iterator[None]:
        """Add the rules of a third party; only the proxy's own are left at the end."""
        restore = dict(_RESTORE, iptables=("iptables-restore", "-n"))
        try:
            for suffix, argv in restore.items():
                path = RULES / f"{name}.{suffix}"
                if path.exists():
                    self._site.node.run(argv, stdin=path.read_text())
            yield
        finally:
            for table in self._present() - self._tables:
                self._site.node.run(["nft", "delete", *table.split()])
            for program, dump in self._own.items():
                self._site.node.run([f"{program}-restore"], stdin=dump)
            if (RULES / f"{name}.ipset").exists():
                self._site.node.run(["ipset", "destroy"])

    def trace(self, call: Call) -> Trace:
        """What ``kpctl trace packet`` finds on the node."""
        fields = {"src": call.source, "dst": call.ip, "port": call.port, "protocol": call.protocol}
        with self._site.node.enter():
            return Tracer(live_snapshot()).ask(Question.read(fields))

    def send(self, call: Call) -> Outcome:
        """What really becomes of a connection."""
        probes = [Probe(call.source, Endpoint(call.ip, call.port), call.protocol)]
        with exchange(self._site, probes, _LANDINGS) as made:
            return made.send(probes, _PATIENCE_S)[0]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Node]]:
    """A node for each mode."""
    for tool in ("iptables-restore", "ipset"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("third-party")
    with (
        cluster(folder / "nft", *_OBJECTS) as nft,
        cluster(folder / "xt", *_OBJECTS, mode="iptables") as xt,
    ):
        for made in (nft, xt):
            _await_ipv6(made)
            made.stop()
        yield {"nftables": Node(nft), "iptables": Node(xt)}


def _await_ipv6(made: Cluster) -> None:
    """Wait for the second family: that a cluster has started says nothing of it."""
    deadline = time.monotonic() + START_PATIENCE_S
    while made.landing(OUTSIDER6, WEB6) != backend(1, 6):
        assert time.monotonic() < deadline, made.evidence()


def told(end: End, source: str) -> str:
    """An end of a trace in the words of :func:`seen`."""
    packet = end.branch.packet
    if end.verdict is not Verdict.ACCEPT:
        return {Verdict.DROP: "silent", Verdict.REJECT: "refused"}[end.verdict]
    caller = "another source" if packet.source_rewritten else source
    return f"{place_text(packet.dst, packet.dport)} from {caller}"


def seen(outcome: Outcome, source: str) -> str:
    """Where a connection landed, and the address it seemed to come from."""
    if outcome.fate == "unreachable":
        return "refused"
    if outcome.fate != "landed" or outcome.at is None:
        return outcome.fate
    place = f"[{outcome.at.ip}]" if ":" in outcome.at.ip else outcome.at.ip
    caller = source if outcome.source == source else "another source"
    return f"{place}:{outcome.at.port} from {caller}"


@pytest.mark.parametrize("name", CASES)
def test_a_trace_agrees_with_packets_among_rules_of(name: str, nodes: dict[str, Node]) -> None:
    mode, calls = CASES[name]
    node, wrong = nodes[mode], []
    try:
        with node.with_rules(name):
            for call in calls:
                found = node.trace(call)
                ends = {told(end, call.source) for end in found.ends}
                real = seen(node.send(call), call.source)
                fits = real in ends and (call.certainty == MAYBE or len(ends) == 1)
                if not fits or found.certainty != call.certainty:
                    wrong.append(f"{call}: said {found.certainty} {sorted(ends)}, saw {real}")
    except CommandError as error:
        pytest.fail(f"the rules of {name} were refused: {error}")
    assert not wrong, "\n".join(wrong)
