"""The way back: who undoes what, and whether an answer comes by this node at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.trace.replies import replies
from diagnostics.trace.summary import client_sees
from diagnostics.trace.walk import Tri
from kpctl.trace_output.way_back import grouped
from tests.support.traces import (
    CLUSTER_CLIENT,
    ENDPOINT_OF_SVC4,
    NODE,
    OUTSIDER,
    recorded,
    traced,
    write_many_endpoints,
)


def test_a_masqueraded_packet_is_answered_through_this_node() -> None:
    for reply in replies(*recorded("iptables", OUTSIDER, "172.30.0.44")):
        assert reply.passes is Tri.YES
        first, second = reply.rewrites
        assert (first.hook, first.by, first.field) == ("prerouting", "conntrack", "destination")
        assert first.after == OUTSIDER
        assert (second.hook, second.by, second.field) == ("postrouting", "conntrack", "source")
        assert second.before == f"{reply.destination.address}:80"
        assert second.after == "172.30.0.44:80"


def test_an_endpoint_here_answers_by_this_node_one_elsewhere_perhaps() -> None:
    here, elsewhere = replies(*recorded("nftables", CLUSTER_CLIENT, "172.30.0.42"))
    assert (here.passes, here.why) == (Tri.YES, "the endpoint is on this node")
    assert elsewhere.passes is Tri.MAYBE
    assert elsewhere.why.startswith("the endpoint is on node2")
    assert [rewrite.field for rewrite in elsewhere.rewrites] == ["source"]


@pytest.mark.parametrize(("client", "hook"), [(OUTSIDER, "forward"), (NODE, "input")])
def test_ipvs_undoes_what_it_did(client: str, hook: str) -> None:
    reply = replies(*recorded("ipvs", client, "172.30.20.1"))[0]
    (rewrite,) = reply.rewrites
    assert (rewrite.hook, rewrite.by, rewrite.after) == (hook, "ipvs", "172.30.20.1:80")


def test_the_node_itself_gets_every_answer() -> None:
    found = replies(*recorded("ipvs", NODE, "172.30.20.1"))
    assert {(reply.passes, reply.why) for reply in found} == {
        (Tri.YES, "the client is on this node")
    }


def test_a_client_sent_to_itself_is_masqueraded_and_recognised() -> None:
    itself, other = replies(*recorded("iptables", ENDPOINT_OF_SVC4, "172.30.0.44"))
    assert itself.destination.masquerade
    assert [rewrite.field for rewrite in itself.rewrites] == ["destination", "source"]
    assert not other.destination.masquerade


def test_a_client_sent_to_itself_without_masquerade_never_gets_its_answer(tmp_path: Path) -> None:
    write_many_endpoints(tmp_path, 2)
    itself, other = replies(*traced(tmp_path, "10.244.0.1", "10.96.0.10"))
    assert (itself.passes, itself.rewrites) == (Tri.NO, ())
    assert "answers itself" in itself.why
    assert other.passes is Tri.MAYBE


def test_nobody_answers_what_is_rejected() -> None:
    assert replies(*recorded("iptables", CLUSTER_CLIENT, "172.30.0.46")) == ()


DUMP = """*raw
:PREROUTING ACCEPT [0:0]
{raw}
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 10.96.0.10/32 -p tcp -j DNAT --to-destination 10.244.0.1:8080
{nat}
COMMIT
*filter
:FORWARD ACCEPT [0:0]
{filter}
COMMIT
"""
MASQUERADE = "-A POSTROUTING -j MASQUERADE"
FORWARD = "-A FORWARD -m conntrack --ctstate"


@pytest.mark.parametrize(
    ("rules", "delivered"),
    [
        ({}, Tri.YES),
        ({"raw": "-A PREROUTING -s 10.244.0.1/32 -j DROP"}, Tri.NO),
        ({"raw": "-A PREROUTING -d 192.0.2.1/32 -j DROP"}, Tri.YES),
        ({"nat": MASQUERADE, "raw": "-A PREROUTING -d 192.0.2.1/32 -j DROP"}, Tri.NO),
        ({"nat": MASQUERADE, "filter": "-A FORWARD -d 192.0.2.1/32 -j DROP"}, Tri.YES),
        ({"filter": f"{FORWARD} ESTABLISHED -j DROP"}, Tri.NO),
        ({"filter": f"{FORWARD} NEW -s 10.244.0.1/32 -j DROP"}, Tri.YES),
        ({"filter": "-A FORWARD -p tcp -m tcp --sport 8080 --dport 1024: -j DROP"}, Tri.NO),
        ({"filter": "-A FORWARD -s 10.244.0.1/32 -m string --string x --algo bm -j DROP"},
         Tri.MAYBE),
    ],
)  # fmt: skip
def test_rules_may_drop_the_answer(tmp_path: Path, rules: dict[str, str], delivered: Tri) -> None:
    dump = DUMP.format(**{"raw": "", "nat": "", "filter": ""} | rules)
    (tmp_path / "iptables-save.txt").write_text(dump)
    (tmp_path / "ip-addr.json").write_text(
        '[{"ifname": "eth0", "flags": ["UP"], "addr_info": [{"family": "inet", "local": '
        '"192.0.2.1", "prefixlen": 24, "scope": "global"}]}]'
    )
    (tmp_path / "ip-route.json").write_text(
        '[{"dst": "default", "gateway": "192.0.2.254", "dev": "eth0", "flags": []}]'
    )
    found, around = traced(tmp_path, "203.0.113.9", "10.96.0.10")
    (answer,) = replies(found, around)
    assert answer.delivered is delivered
    noticed = client_sees(found, (answer,))
    assert {Tri.YES: "", Tri.NO: "are dropped", Tri.MAYBE: "may be dropped"}[delivered] in noticed
    assert bool(noticed) is (delivered is not Tri.YES)
    (group,) = grouped((answer,))
    lost = [line for line in group.lines if "drop the answer" in line or "drops the answer" in line]
    assert len(lost) == (delivered is not Tri.YES)
