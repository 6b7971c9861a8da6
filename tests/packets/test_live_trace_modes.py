"""What a watch says of packets is where the proxy's Services really take them, in each mode."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from kpctl.live_trace.guard import Limits
from kpctl.live_trace.question import PacketFilter
from kpctl.live_trace.rule_book import KernelRuleBook
from kpctl.live_trace.run import device_name
from kpctl.live_trace.translate import Outcome, PacketStory, Translator
from kpctl.live_trace.watch import Watch, WatchOptions
from tests.packets.cluster import (
    MODES,
    NODE_IP,
    OUTSIDER,
    POD,
    Cluster,
    backend,
    cluster,
    service,
    slice_of,
    vip,
)

pytestmark = [pytest.mark.packets, pytest.mark.usefixtures("namespaces")]

VIP, EMPTY_VIP = vip(1), vip(2)
BACKENDS = [backend(number) for number in (1, 2, 3)]
_OBJECTS = (
    service("web", VIP, node_port=30080),
    slice_of("web", *BACKENDS),
    service("empty", EMPTY_VIP),
)
# How busy the machine is that runs the tests is not their subject.
_LIMITS = Limits(load_per_cpu=1e9, available_bytes=0)
_COUNT = 12


def watched(
    made: Cluster, packets: PacketFilter, send: Callable[[], object], count: int = _COUNT
) -> list[PacketStory]:
    """What a watch tells while somebody sends; it sends once the watch has begun to count."""
    translator = Translator(KernelRuleBook(), device_name)
    found: list[PacketStory] = []

    def take(packet: object) -> None:
        told = translator.story(packet)  # type: ignore[arg-type]
        assert told is not None
        found.append(told)

    # Tracing follows a second of counting; what is sent in that second is not seen.
    sender = threading.Timer(1.5, send)
    with made.site.node.enter():
        sender.start()
        try:
            Watch(packets, WatchOptions(20, count), _LIMITS).run(take)
        finally:
            sender.join()
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("source", "ip", "port"), [(POD, VIP, 80), (OUTSIDER, NODE_IP, 30080)])
def test_each_packet_is_told_to_go_where_it_lands(
    tmp_path: Path, mode: str, source: str, ip: str, port: int
) -> None:
    with cluster(tmp_path, *_OBJECTS, mode=mode) as made:
        landings: list[str] = []

        def send() -> None:
            landings.extend(made.landings([source] * _COUNT, ip, port))

        found = watched(made, PacketFilter.to(6, ip_address(ip), port), send)
    assert Counter(one.final.destination for one in found) == Counter(landings)
    assert {one.outcome for one in found} == {Outcome.SENT}
    assert {one.called.source for one in found} == {source}
    masqueraded = source == OUTSIDER
    assert {one.source_rewritten for one in found} == {masqueraded}
    # Rules of iptables-legacy are in no trace.
    rules = [step for one in found for step in one.steps if step.chain]
    assert bool(rules) is (mode != "iptables-legacy")
    if mode == "iptables":
        assert {one.service for one in found} == {"ns/web:p"}
        assert any(step.chain.startswith("KUBE-SEP-") for step in rules)


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_a_service_without_endpoints_is_told_to_reject(tmp_path: Path, mode: str) -> None:
    with cluster(tmp_path, *_OBJECTS, mode=mode) as made:
        packets = PacketFilter.to(6, ip_address(EMPTY_VIP), 80)
        (found,) = watched(made, packets, lambda: made.send(POD, EMPTY_VIP), 1)
    assert found.outcome is Outcome.REJECTED
    assert "reject" in found.steps[-1].text.lower()
