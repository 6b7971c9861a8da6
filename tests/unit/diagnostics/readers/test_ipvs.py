"""``ipvsadm -Sn`` and ``-Ln``."""

from pathlib import Path

from diagnostics.readers.ipvs import Counters, place, place_text, read_ipvsadm_save
from diagnostics.readers.ipvs_list import read_ipvsadm_list
from proxy.model.addresses import pack_address
from proxy.netfilter.ipvs import (
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FLAG_SCHED_MH_FALLBACK,
    FLAG_SCHED_MH_PORT,
    RealKey,
)

DATA = Path(__file__).parents[3] / "data/snapshots/ipvs"
SAVED = """\
-A -t 10.0.0.1:80 -s rr -p 10800
-a -t 10.0.0.1:80 -r 10.1.0.1:8080 -m -w 1
-a -t 10.0.0.1:80 -r 10.1.0.2:8080 -g -w 0
-A -u [fd00::1]:53 -s mh -o -b flag-1,flag-2
-a -u [fd00::1]:53 -r [fd01::1]:53 -i -w 3
-A -f 7 -s wrr -6
-a -f 7 -6 -r [fd01::2]:0 -m -w 1
-A --sctp-service 10.0.0.2:9 -s sh
"""


def shape(table):
    return {
        (one.server.key, one.server.scheduler, frozenset(real.server.key for real in one.reals))
        for one in table.servers
    }


def test_save_and_list_of_one_node_say_the_same():
    saved = read_ipvsadm_save((DATA / "ipvsadm-save.txt").read_text())
    listed = read_ipvsadm_list((DATA / "ipvsadm-list.txt").read_text())
    assert (saved.problems, listed.problems) == ((), ())
    assert shape(saved) == shape(listed)
    assert len(saved.servers) == 6


def test_options_of_virtual_and_real_servers_are_understood():
    table = read_ipvsadm_save(SAVED)
    assert table.problems == ()
    web, dns, marked, sctp = table.servers
    assert (web.server.flags, web.server.timeout_s) == (FLAG_PERSISTENT, 10800)
    assert [(real.server.forward, real.server.weight) for real in web.reals] == [(0, 1), (3, 0)]
    assert dns.server.flags == FLAG_ONE_PACKET | FLAG_SCHED_MH_FALLBACK | FLAG_SCHED_MH_PORT
    assert dns.reals[0].server.forward == 2
    assert (marked.fwmark, len(marked.server.key.address), len(marked.reals)) == (7, 16, 1)
    assert sctp.server.key.protocol == 132


def test_a_virtual_server_is_found_by_what_the_packet_calls():
    table = read_ipvsadm_save(f"{SAVED}-A -t 10.0.0.9:0 -s rr -p\n-A -t 10.0.0.8:0 -s rr\n")
    assert table.find(pack_address("10.0.0.1"), 80, 6) is table.servers[0]
    assert table.find(pack_address("10.0.0.1"), 80, 17) is None
    assert table.find(pack_address("10.0.0.9"), 443, 6).server.timeout_s == 300
    assert table.find(pack_address("10.0.0.8"), 443, 6) is None
    assert table.by_mark(7, 128).server.scheduler == "wrr"
    assert table.by_mark(7, 32) is None


def test_bad_lines_cost_only_themselves_and_are_named():
    table = read_ipvsadm_save(
        "nonsense\n-A -t 1.2.3.4:99999 -s rr\n-a -t 1.1.1.1:1 -r x -m\n" + SAVED
    )
    assert [problem.line for problem in table.problems] == [1, 2, 3]
    assert len(table.servers) == 4


def test_statistics_are_counters_and_their_suffixes_numbers():
    table = read_ipvsadm_list(
        "IP Virtual Server version 1.2.1 (size=4096)\n"
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n"
        "  -> RemoteAddress:Port\n"
        "TCP  10.0.0.1:80                        12       90       81    5000K       3M\n"
        "  -> 10.1.0.1:8080                       1        2        3        4        5\n"
    )
    assert table.statistics == "stats"
    assert table.servers[0].counters == Counters(12, 90, 81, 5_000_000, 3_000_000)
    assert table.servers[0].reals[0].counters == Counters(1, 2, 3, 4, 5)
    assert table.problems == ()


def test_flags_in_a_listing_are_understood():
    table = read_ipvsadm_list(
        "TCP  10.0.0.1:80 mh persistent 600 mask 255.255.255.0 ops (mh-fallback,mh-port)\n"
        "  -> 10.1.0.1:8080                Masq    5      7          9\n"
        "FWM  3 IPv6 rr\n"
    )
    web, marked = table.servers
    assert (web.server.timeout_s, web.netmask) == (600, "255.255.255.0")
    assert web.server.flags == 0x1 | 0x4 | 0x8 | 0x10
    assert (web.reals[0].server.active, web.reals[0].server.inactive) == (7, 9)
    assert (marked.fwmark, len(marked.server.key.address)) == (3, 16)


def test_places_are_read_and_written_alike():
    for text in ("10.0.0.1:80", "[fd00::1]:53"):
        assert place_text(place(text)) == text
    assert place("fd00::1") == RealKey(pack_address("fd00::1"), 0)
    assert place("10.0.0.1:http") is None
