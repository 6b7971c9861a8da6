"""Real packets, the kernel's trace of them, and nothing left behind."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from diagnostics.trace.question import Question
from kpctl.lab.netns import Namespace, create_all, delete_all
from kpctl.live_trace.answer import landing
from kpctl.live_trace.guard import Limits, objections
from kpctl.live_trace.kernel_rules import table_owner
from kpctl.live_trace.origins import named_namespace, namespace_of
from kpctl.live_trace.own_table import TABLE, OwnTable, require_support, rules
from kpctl.live_trace.packets import TracedPacket
from kpctl.live_trace.probe import Answer, Probe, Probed, send_probe
from kpctl.live_trace.question import LiveTraceError, PacketFilter
from kpctl.live_trace.rule_book import KernelRuleBook
from kpctl.live_trace.run import device_name
from kpctl.live_trace.translate import Outcome, PacketStory, Translator
from kpctl.live_trace.watch import TraceSocket, Watch, WatchOptions, follow
from proxy.kernel.command import PIPE, Process
from proxy.model.addresses import IPFamily
from proxy.netfilter.tracing import TRACE, at_most, at_most_per_second
from tests.packets.client_and_pod import CLIENT, IPTABLES_RULES, NFT_RULES, NODE, POD, VIP, Net
from tests.packets.flows.site import PREFIX
from tests.support.nft_listing import load_text

pytestmark = [pytest.mark.packets, pytest.mark.usefixtures("namespaces")]

_serial = itertools.count(1)
# How busy the machine is that runs the tests is not their subject.
_LIMITS = Limits(load_per_cpu=1e9, available_bytes=0)
_TCP, _UDP = 6, 17


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net(f"{PREFIX}{os.getpid()}-lt{next(_serial)}")
    try:
        made.up()
        yield made
    finally:
        made.down()


def story(packet: TracedPacket, book: KernelRuleBook | None = None) -> PacketStory:
    found = Translator(book or KernelRuleBook(), device_name).story(packet)
    assert found is not None
    return found


def probe(net: Net, address: str, port: int, *, source: str = "", protocol: int = _TCP) -> Probed:
    with net.node.enter():
        origin = namespace_of(ip_address(source)) if source else None
        wanted = Probe(protocol, ip_address(address), port, origin=origin, timeout_s=0.5)
        return send_probe(wanted, _LIMITS)


def first_story(net: Net, probed: Probed) -> PacketStory:
    with net.node.enter():
        return story(probed.packets[0])


def watched(net: Net, packets: PacketFilter, count: int = 2) -> list[PacketStory]:
    with net.node.enter():
        found: list[PacketStory] = []
        Watch(packets, WatchOptions(10, count), _LIMITS).run(lambda one: found.append(story(one)))
        return found


def tables(net: Net) -> str:
    return net.node.run(["nft", "list", "tables"]).stdout


def calls_of_the_service() -> PacketFilter:
    return PacketFilter.to(_TCP, ip_address(VIP), 80)


def test_a_probe_from_the_node_lands_where_the_rules_send_it(net: Net) -> None:
    load_text(net.node, NFT_RULES)
    probed = probe(net, VIP, 80)
    assert probed.answer is Answer.CONNECTED
    assert probed.entry is not None
    assert (probed.entry.reply.source, probed.entry.reply.source_port) == (POD, 8080)
    found = first_story(net, probed)
    assert (found.outcome, found.device_out, found.service) == (
        Outcome.SENT,
        "pod",
        "shop/web:http",
    )
    lb = next(step for step in found.steps if step.chain == "lb")
    assert lb.hook == "output"
    assert 'dnat to 10.0.1.2:8080 comment "shop/web:http"' in lb.text
    assert TABLE not in tables(net)


def test_a_probe_can_come_from_another_namespace_of_the_node(net: Net) -> None:
    load_text(net.node, NFT_RULES)
    probed = probe(net, VIP, 80, source=CLIENT)
    assert (probed.answer, probed.sent.source) == (Answer.CONNECTED, CLIENT)
    assert probed.entry is not None
    assert probed.entry.source_rewritten
    assert probed.entry.reply.destination == "10.0.1.1"
    found = first_story(net, probed)
    assert found.device_in == "eth0"
    assert list(dict.fromkeys(step.hook for step in found.steps)) == ["prerouting", "postrouting"]


@pytest.mark.parametrize(
    ("port", "answer", "outcome"),
    [(81, Answer.SILENT, Outcome.DROPPED), (82, Answer.REFUSED, Outcome.REJECTED)],
)
def test_a_probe_that_a_rule_ends_names_the_rule(
    net: Net, port: int, answer: Answer, outcome: Outcome
) -> None:
    load_text(net.node, NFT_RULES)
    probed = probe(net, POD, port, source=CLIENT)
    assert (probed.answer, probed.entry) == (answer, None)
    found = first_story(net, probed)
    assert (found.outcome, found.last_hook) == (outcome, "forward")
    assert found.steps[-1].table == "inet firewall"
    assert found.steps[-1].text.startswith(f"tcp dport {port}")


def test_a_refusal_by_the_pod_itself_is_told_by_the_trace(net: Net) -> None:
    """The kernel forgets a connection that is refused by a reset at once."""
    load_text(net.node, NFT_RULES)  # which make the node track connections
    probed = probe(net, POD, 9, source=CLIENT)
    assert (probed.answer, probed.entry) == (Answer.REFUSED, None)
    found = first_story(net, probed)
    assert (found.outcome, landing(probed, [found])) == (Outcome.SENT, (POD, 9))


@pytest.mark.parametrize(("port", "answer"), [(9000, Answer.ANSWERED), (9001, Answer.REFUSED)])
def test_a_datagram_is_answered_or_refused(net: Net, port: int, answer: Answer) -> None:
    assert probe(net, POD, port, source=CLIENT, protocol=_UDP).answer is answer


def test_a_probe_without_a_route_is_unreachable(net: Net) -> None:
    probed = probe(net, "203.0.113.7", 80)
    assert (probed.answer, probed.entry, probed.packets) == (Answer.UNREACHABLE, None, ())


def test_a_probe_of_the_node_itself_is_followed_over_loopback(net: Net) -> None:
    probed = probe(net, NODE, 9)
    assert probed.answer is Answer.REFUSED
    (packet,) = probed.packets
    with net.node.enter():
        assert story(packet).outcome is Outcome.DELIVERED


def test_a_watch_follows_packets_that_pass_by(net: Net) -> None:
    load_text(net.node, NFT_RULES)
    with net.calling():
        found = watched(net, calls_of_the_service())
    assert len(found) == 2
    for one in found:
        assert (one.outcome, one.called.source, one.device_in) == (Outcome.SENT, CLIENT, "eth0")
        assert (one.final.destination, one.final.destination_port) == (POD, 8080)
        assert (one.final.source, one.destination_rewritten) == ("10.0.1.1", True)
    assert TABLE not in tables(net)


def test_rules_of_iptables_are_cited_as_iptables_lists_them(net: Net) -> None:
    if shutil.which("iptables-nft-restore") is None:
        pytest.skip("iptables-nft is not installed")
    net.node.run(["iptables-nft-restore"], stdin=IPTABLES_RULES)
    with net.calling():
        (found,) = watched(net, calls_of_the_service(), 1)
    step = found.steps[0]
    assert (step.table, step.chain, step.place) == ("nat", "PREROUTING", "rule 1")
    assert step.text.startswith("-A PREROUTING -d 10.96.0.10/32 -p tcp")
    assert (found.service, found.final.destination) == ("shop/web:http", POD)


def test_under_iptables_legacy_it_is_still_seen_where_a_packet_got_to(net: Net) -> None:
    if shutil.which("iptables-legacy-restore") is None:
        pytest.skip("iptables-legacy is not installed")
    net.node.run(["iptables-legacy-restore"], stdin=IPTABLES_RULES)
    with net.calling():
        (sent,) = watched(net, calls_of_the_service(), 1)
    assert (sent.outcome, sent.final.destination) == (Outcome.SENT, POD)
    with net.calling(POD, 81):
        (lost,) = watched(net, PacketFilter.to(_TCP, ip_address(POD), 81), 1)
    assert (lost.outcome, lost.last_hook) == (Outcome.VANISHED, "prerouting")


def test_the_kernel_counts_and_stops_tracing_after_the_count(net: Net) -> None:
    packets = PacketFilter(IPFamily.IPV4, _TCP, ip_address(POD), 8080)
    with net.node.enter(), closing(OwnTable(IPFamily.IPV4)) as table, TraceSocket() as traces:
        table.count(packets)
        for _ in range(4):
            net.call(POD, 8080)
        assert table.counted() == 4
        table.trace(packets, 2, 20)
        for _ in range(4):
            net.call(POD, 8080)
        assert len(list(follow(traces, 1.0, 100))) == 2


def test_what_is_written_is_what_the_text_says(net: Net) -> None:
    """nft reads the rules' text as the rules that the kernel was given."""
    packets = PacketFilter(IPFamily.IPV4, _TCP, ip_address(VIP), 80, ip_address(CLIENT), 4000, None)
    with net.node.enter(), closing(OwnTable(IPFamily.IPV4)) as table:
        table.trace(packets, 7, 3)
        written = net.node.run(["nft", "list", "table", "ip", TABLE]).stdout
    then = (at_most_per_second(3), at_most(7), TRACE)
    texts = {chain.name: rule.text for chain, rule in rules(packets, then)}
    for name, text in texts.items():
        load_text(
            net.node, f"add table ip copy; add chain ip copy {name}; add rule ip copy {name} {text}"
        )
    copied = net.node.run(["nft", "list", "table", "ip", "copy"]).stdout
    for name in texts:
        assert rules_in(copied, name) == rules_in(written, name)


def rules_in(listing: str, chain: str) -> list[str]:
    body = listing.split(f"chain {chain} {{", 1)[1].split("}", 1)[0]
    return [line.strip() for line in body.splitlines() if line.strip() and "hook" not in line]


def test_a_second_trace_is_refused_while_one_runs(net: Net) -> None:
    with net.node.enter(), closing(OwnTable(IPFamily.IPV4)):
        with pytest.raises(LiveTraceError, match="another kpctl traces packets here"):
            OwnTable(IPFamily.IPV4)
        found = [str(one) for one in objections(calls_of_the_service(), _LIMITS)]
        assert len(found) == 1
        assert found[0].startswith("another kpctl")
        require_support(IPFamily.IPV6)


def test_a_table_out_of_a_file_is_named_for_removal(net: Net) -> None:
    load_text(net.node, f"add table ip {TABLE}")
    with net.node.enter(), pytest.raises(LiveTraceError, match="belongs to no process") as caught:
        OwnTable(IPFamily.IPV4)
    assert caught.value.hint == f"remove it: nft delete table ip {TABLE}"


def test_looking_whether_it_is_possible_changes_nothing(net: Net) -> None:
    generation = net.node.run(["nft", "list", "ruleset"]).stdout
    with net.node.enter():
        assert list(objections(calls_of_the_service(), _LIMITS)) == []
        assert table_owner(IPFamily.IPV4, TABLE) is None
    assert net.node.run(["nft", "list", "ruleset"]).stdout == generation


def test_too_much_traffic_is_refused_before_it_is_traced(net: Net) -> None:
    limits = Limits(load_per_cpu=1e9, available_bytes=0, packets_per_s=1)
    watch = Watch(calls_of_the_service(), WatchOptions(5, 5), limits)
    with net.calling(), net.node.enter(), pytest.raises(LiveTraceError, match="a second match"):
        watch.run(lambda _: pytest.fail("nothing may be traced"))
    assert TABLE not in tables(net)


def start_watch(net: Net) -> Process:
    program = f"""
        from ipaddress import ip_address
        from kpctl.live_trace.guard import Limits
        from kpctl.live_trace.question import PacketFilter
        from kpctl.live_trace.run import run_watch
        from kpctl.live_trace.watch import WatchOptions
        packets = PacketFilter.to({_TCP}, ip_address("{VIP}"), 80)
        limits = Limits(load_per_cpu=1e9, available_bytes=0)
        raise SystemExit(run_watch(packets, WatchOptions(60, 1000), as_json=True, limits=limits))
    """
    argv = [sys.executable, "-c", textwrap.dedent(program)]
    return net.node.spawn(argv, stdout=PIPE, stderr=PIPE)


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_nothing_is_left_however_a_watch_ends(net: Net, signal_name: str) -> None:
    import signal

    load_text(net.node, NFT_RULES)
    before = net.node.run(["nft", "list", "ruleset"]).stdout
    with net.calling(), start_watch(net) as process:
        assert process.stdout is not None
        first = process.stdout.readline().decode()  # so it traces
        assert '"kind":"TracedPacket"' in first
        assert TABLE in tables(net)
        process.send_signal(signal.Signals[signal_name])
        process.communicate(timeout=10)
        assert TABLE not in tables(net)
    assert net.node.run(["nft", "list", "ruleset"]).stdout == before
    expected = {"SIGKILL": -9, "SIGTERM": -15, "SIGINT": 0}[signal_name]
    assert process.returncode == expected


def test_a_question_is_sent_from_its_source(net: Net) -> None:
    question = Question(ip_address(CLIENT), ip_address(POD), 8080, _TCP)
    with net.node.enter():
        own = Probe.of(question)
        assert (own.source, own.origin and own.origin.path) == (question.src, net.client.path)
        assert Probe.of(question, any_source=True).origin is None
        named = Probe.of(question, netns=net.pod.name)
        assert (named.source, named.origin and named.origin.path) == (None, net.pod.path)


def test_a_namespace_is_found_by_an_address_or_by_name(net: Net) -> None:
    with net.node.enter():
        assert namespace_of(ip_address(NODE)) is None
        found = namespace_of(ip_address(POD))
        assert found is not None
        assert found.path == net.pod.path
        with pytest.raises(LiveTraceError, match=r"203.0.113.5 is no address of this node"):
            namespace_of(ip_address("203.0.113.5"))
    assert named_namespace(net.pod.name).path == net.pod.path
    assert named_namespace(str(os.getpid())).exists()
    with pytest.raises(LiveTraceError, match="there is no network namespace"):
        named_namespace("kpctl-no-such-namespace")


def test_a_neighbour_is_preferred_to_a_stranger_with_the_same_address(net: Net) -> None:
    stranger = Namespace(f"{net.node.name}-stranger")
    create_all([stranger])
    try:
        stranger.ip([f"addr add {POD}/32 dev lo"])
        with net.node.enter():
            found = namespace_of(ip_address(POD))
            assert found is not None
            assert found.path == net.pod.path
        with net.client.enter(), pytest.raises(LiveTraceError, match="have the address"):
            namespace_of(ip_address(POD))
    finally:
        delete_all([stranger])
