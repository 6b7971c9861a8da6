"""Listings of IPVS connections, as the kernel and as ipvsadm write them."""

from __future__ import annotations

from diagnostics.readers.ipvs import place_text
from diagnostics.readers.ipvs_connections import is_connection_listing, read_ipvs_connections

KERNEL = """\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C0A80101 9C40 0A600001 01BB 0A000002 192B FIN_WAIT        114
UDP C0A80101 0035 0A60000A 0035 0A000003 14E9 UDP             299 sip abc
TCP fd00:0000:0000:0000:0000:0000:0000:0001 9C40 fd00:0000:0000:0000:0000:0000:0000:0002 0050 \
 fd00:0000:0000:0000:0000:0000:0000:0003 1F90 ESTABLISHED     899
"""
PRINTED = """\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 01:54  FIN_WAIT    192.168.1.1:40000  10.96.0.1:443      10.0.0.2:6443
UDP 04:59  UDP         192.168.1.1:53     10.96.0.10:53      10.0.0.3:5353
TCP 14:59  ESTABLISHED [fd00::1]:40000    [fd00::2]:80       [fd00::3]:8080
"""


def test_both_listings_say_the_same() -> None:
    kernel, printed = read_ipvs_connections(KERNEL), read_ipvs_connections(PRINTED)
    assert not kernel.problems
    assert not printed.problems
    found = [
        (one.protocol, one.client, one.virtual, one.real, one.state, one.expires_s)
        for one in kernel.connections
    ]
    assert found == [
        (one.protocol, one.client, one.virtual, one.real, one.state, one.expires_s)
        for one in printed.connections
    ]
    first = kernel.connections[0]
    assert place_text(first.virtual) == "10.96.0.1:443"
    assert (first.protocol, first.state, first.expires_s) == (6, "FIN_WAIT", 114)
    assert kernel.connections[1].extra == "sip abc"


def test_damaged_lines_are_told_and_the_others_are_read() -> None:
    text = PRINTED + "TCP 01:54 FIN_WAIT 192.168.1.1\nTCP XX 9C40 0A600001 01BB 0A000002 192B S 1\n"
    found = read_ipvs_connections(text)
    assert len(found.connections) == 3
    assert [problem.line for problem in found.problems] == [6, 7]


def test_a_listing_is_known_by_its_heading() -> None:
    assert is_connection_listing(KERNEL)
    assert is_connection_listing(PRINTED)
    assert not is_connection_listing("-A -t 10.96.0.1:443 -s rr\n")
