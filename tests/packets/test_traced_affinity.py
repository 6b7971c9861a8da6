"""The tracer knows where session affinity sends a client that has called before."""

from __future__ import annotations

from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path

import pytest

from diagnostics.snapshot.live import LiveSource
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.packet import TCP
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.report import CERTAIN, Trace
from tests.packets.cluster import OUTSIDER, POD, Cluster, backend, cluster, service, slice_of, vip

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

BACKENDS = tuple(backend(number) for number in (1, 2, 3))


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_a_client_that_called_is_traced_to_its_endpoint(mode: str, tmp_path: Path) -> None:
    web = service("web", vip(1), affinity_s=600)
    with cluster(tmp_path / mode, web, slice_of("web", *BACKENDS), mode=mode) as made:
        reached = made.landing(POD, vip(1))
        known, stranger = asked(made, POD), asked(made, OUTSIDER)
        assert [(str(one.address), one.probability) for one in known.destinations] == [(reached, 1)]
        assert [str(one.address) for one in stranger.destinations] == list(BACKENDS)
        assert {one.probability for one in stranger.destinations} == {Fraction(1, 3)}
        assert known.certainty == stranger.certainty == CERTAIN


def asked(made: Cluster, source: str) -> Trace:
    """The trace of a connection to the Service on the node as it is now."""
    with made.site.node.enter():
        tracer = Tracer(NodeSnapshot(LiveSource()))
        return tracer.ask(Question(ip_address(source), ip_address(vip(1)), 80, TCP))
