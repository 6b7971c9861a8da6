"""Conntrack dumps in their three forms."""

import pytest

from diagnostics.readers.conntrack import read_flows

TUPLES = (
    "src=10.0.0.2 dst=172.30.0.41 sport=4000 dport=80 packets=3 bytes=180 "
    "src=10.180.0.1 dst=10.0.0.2 sport=80 dport=4000 packets=2 bytes=120"
)


@pytest.mark.parametrize(
    "line",
    [
        f"tcp      6 431999 ESTABLISHED {TUPLES} [ASSURED] mark=16384 use=1 zone=3",
        f"ipv4     2 tcp      6 431999 ESTABLISHED {TUPLES} [ASSURED] mark=0x4000 zone=3 use=2",
        f" [NEW] tcp      6 431999 ESTABLISHED {TUPLES} [ASSURED] mark=16384 zone=3",
    ],
)
def test_every_form_gives_the_same_flow(line):
    (flow,) = read_flows([f"{line}\n"])
    assert (flow.protocol, flow.state, flow.timeout_s) == (6, "ESTABLISHED", 431999)
    assert (flow.original.destination, flow.original.destination_port) == ("172.30.0.41", 80)
    assert (flow.reply.source, flow.reply.packets, flow.reply.bytes) == ("10.180.0.1", 2, 120)
    assert (flow.flags, flow.mark, flow.zone) == (frozenset({"ASSURED"}), 0x4000, 3)
    assert (flow.is_dnat, flow.is_snat) == (True, False)


def test_flows_without_ports_states_replies_or_timeouts_are_read():
    lines = [
        "udp 17 29 src=10.0.0.2 dst=8.8.8.8 sport=5 dport=53 [UNREPLIED] src=8.8.8.8 dst=10.0.0.2 "
        "sport=53 dport=5 mark=0 use=1",
        "icmp 1 29 src=10.0.0.2 dst=8.8.8.8 type=8 code=0 id=77 src=8.8.8.8 dst=10.0.0.2 type=0 "
        "code=0 id=77 mark=0 use=1 id=123",
        "ipv6     10 tcp      6 src=fd00::1 dst=fd00::2 sport=1 dport=2 src=fd00::2 dst=fd00::1 "
        "sport=2 dport=1 [HW_OFFLOAD] mark=0 use=2",
    ]
    udp, icmp, offloaded = read_flows(lines)
    assert (udp.state, udp.flags, udp.is_dnat) == ("", frozenset({"UNREPLIED"}), False)
    assert (icmp.identity, icmp.original.source_port) == (123, 0)
    assert (offloaded.timeout_s, offloaded.flags) == (None, frozenset({"HW_OFFLOAD"}))


def test_bad_lines_are_named_but_not_all_of_them():
    problems = []
    lines = ["conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown.", ""]
    lines += ["tcp 6 x src=1 dst=2"] * 1000
    assert list(read_flows(lines, problems)) == []
    assert len(problems) == 100
    assert problems[0].line == 3
    assert "more" in problems[-1].what


def test_a_dump_is_read_as_it_comes():
    def lines():
        yield f"tcp 6 1 ESTABLISHED {TUPLES}"
        raise AssertionError("read too far")

    assert next(read_flows(lines())).protocol == 6
