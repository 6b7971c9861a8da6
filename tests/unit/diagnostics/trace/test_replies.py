"""The way back: who undoes what, and whether an answer comes by this node at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.trace.replies import replies
from diagnostics.trace.walk import Tri
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
