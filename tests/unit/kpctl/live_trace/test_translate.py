"""Recorded traces become steps in Service terms, and say where the packet got to."""

from __future__ import annotations

import json

import pytest

from diagnostics.cluster.names import Names
from diagnostics.readers.objects import read_objects
from kpctl.live_trace.own_table import TABLE
from kpctl.live_trace.packets import TracedPacket
from kpctl.live_trace.translate import Outcome, PacketStory, Translator, headers_text
from proxy.netfilter.trace_messages import Headers, TraceKind, TraceMessage
from tests.support.nft_traces import recorded, told
from tests.support.rule_books import FakeRuleBook

_SENT = Headers("10.0.0.1", "10.0.0.9", 6, 1000, 80)
_BEGIN = told(f"ip {TABLE} from-network", headers=_SENT, devices=(3, 0))


def names() -> Names:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        },
    }
    objects = read_objects([("services.json", json.dumps(service).encode())])
    pods = {f"10.244.1.{n}": f"shop/web-{n - 10}" for n in (11, 12, 13)}
    return Names(objects, pods | {"10.244.2.13": "shop/web-3"})


def story(
    messages: list[TraceMessage], texts: dict[tuple[str, int], str] | None = None
) -> PacketStory:
    translator = Translator(FakeRuleBook(texts), "eth{}".format, names())
    found = translator.story(TracedPacket(5.0, tuple(messages)))
    assert found is not None
    return found


def test_a_pods_call_of_a_cluster_ip_is_told_hop_by_hop() -> None:
    texts = {("services", 48): "ip daddr . meta l4proto . th dport vmap @service-ips"}
    found = story(recorded("nftables-pod-cluster-ip"), texts)
    assert headers_text(found.called).endswith("-> 10.96.0.10:80/TCP")
    assert (found.service, found.outcome) == ("shop/web:http", Outcome.SENT)
    assert (found.destination_rewritten, found.source_rewritten) == (True, False)
    assert list(dict.fromkeys(step.hook for step in found.steps)) == [
        "prerouting",
        "forward",
        "postrouting",
    ]
    (lookup,) = (step for step in found.steps if step.chain == "services")
    assert lookup.why == "goto cluster-ip-lb-3; 10.96.0.10:80 is shop/web:http"
    (rewrite,) = (step for step in found.steps if not step.chain)
    assert rewrite.hook == "prerouting"
    assert rewrite.text.startswith("destination rewritten: 10.96.0.10:80 becomes 10.244.2.13:8080")
    assert rewrite.why == "pod shop/web-3"


def test_our_own_table_is_not_among_the_steps() -> None:
    found = story(recorded("nftables-pod-cluster-ip"))
    assert all(TABLE not in step.table for step in found.steps)


def test_masquerading_is_told_where_it_happened() -> None:
    found = story(recorded("iptables-cluster-ip"))
    assert found.source_rewritten
    last = found.steps[-1]
    assert last.hook == "postrouting"
    assert last.text.startswith("source rewritten: 192.0.2.11:")


def test_a_packet_to_the_node_itself_is_delivered() -> None:
    found = story(recorded("nftables-loopback"))
    assert (found.outcome, found.device_in, found.last_hook) == (Outcome.DELIVERED, "", "input")


@pytest.mark.parametrize(
    ("text", "outcome"), [("reject", Outcome.REJECTED), ("drop", Outcome.DROPPED)]
)
def test_a_drop_by_a_rule_that_rejects_is_a_reject(text: str, outcome: Outcome) -> None:
    found = story(recorded("nftables-reject"), {("reject-chain", 34): text})
    assert (found.outcome, found.last_hook) == (outcome, "forward")
    assert found.steps[-1].text == text


def test_a_policy_that_drops_is_a_step() -> None:
    policy = told("ip filter FORWARD", "drop", kind=TraceKind.POLICY, headers=_SENT)
    found = story([_BEGIN, policy])
    assert found.outcome is Outcome.DROPPED
    assert (found.steps[-1].place, found.steps[-1].text) == ("policy", "policy drop")


def test_a_policy_that_accepts_is_none() -> None:
    policy = told("ip filter FORWARD", "accept", kind=TraceKind.POLICY, headers=_SENT)
    assert story([_BEGIN, policy]).steps == ()


def test_a_packet_that_is_not_seen_any_more_has_vanished() -> None:
    found = story([_BEGIN])
    assert (found.outcome, found.last_hook) == (Outcome.VANISHED, "prerouting")


def test_without_headers_there_is_no_story() -> None:
    translator = Translator(FakeRuleBook(), str)
    assert translator.story(TracedPacket(0.0, (told("ip t c"),))) is None


def test_without_names_comments_of_rules_tell_the_service() -> None:
    text = '-A KUBE-SERVICES -m comment --comment "shop/web:http cluster IP" -j KUBE-SVC-X'
    rule = told("ip nat KUBE-SERVICES", "jump KUBE-SVC-X", handle=4)
    translator = Translator(FakeRuleBook({("KUBE-SERVICES", 4): text}), str)
    found = translator.story(TracedPacket(0.0, (_BEGIN, rule)))
    assert found is not None
    assert found.service == "shop/web:http"
    assert found.steps[-1].why == ""
    assert translator.owner("10.244.1.11") == ""
