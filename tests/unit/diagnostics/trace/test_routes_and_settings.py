"""What the kernel decides beside the rules: settings, odd addresses, routes that refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diagnostics.snapshot.open import open_snapshot
from diagnostics.trace.question import Question, Tracer
from diagnostics.trace.report import ACCEPT, CERTAIN, DROP, MAYBE, NONE, REJECT, Trace
from diagnostics.trace.summary import client_sees
from diagnostics.trace.walk import Tri

OUTSIDER, POD, OWN, FAR, LOOP = "203.0.113.9", "10.0.0.5", "192.0.2.1", "198.51.100.7", "127.0.0.1"
EMPTY = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
ADDRESSES = [
    {"ifname": "lo", "flags": ["UP", "LOOPBACK"],
     "addr_info": [{"family": "inet", "local": LOOP, "prefixlen": 8, "scope": "host"}]},
    {"ifname": "eth0", "flags": ["UP"],
     "addr_info": [{"family": "inet", "local": OWN, "prefixlen": 24}]},
    {"ifname": "cni.0", "flags": ["UP"],
     "addr_info": [{"family": "inet", "local": "10.0.0.1", "prefixlen": 24}]},
]  # fmt: skip
ROUTES = [
    {"dst": "default", "gateway": "192.0.2.254", "dev": "eth0", "flags": []},
    {"dst": "10.0.0.0/24", "dev": "cni.0", "flags": []},
]
RULES = [
    {"priority": 0, "src": "all", "table": "local"},
    {"priority": 100, "src": "all", "fwmark": "0x7", "table": "77"},
    {"priority": 32766, "src": "all", "table": "main"},
]
ALL = "net.ipv4.conf.all."


class Node:
    """A node whose dumps a test writes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.write("ip-addr.json", json.dumps(ADDRESSES))
        self.routes()
        self.write("iptables-save.txt", EMPTY)

    def write(self, name: str, text: str) -> None:
        (self._directory / name).write_text(text)

    def routes(self, *more: dict[str, Any]) -> None:
        """Add routes to those of the node."""
        self.write("ip-route.json", json.dumps([*ROUTES, *more]))

    def settings(self, **values: int) -> None:
        """Set what is known of net.ipv4; double underscores are dots, a triple one is a slash."""
        lines = (
            f"net.ipv4.{name.replace('___', '/').replace('__', '.')} = {value}\n"
            for name, value in values.items()
        )
        self.write("sysctl.txt", "".join(lines))

    def ask(self, src: str, dst: str, protocol: str = "TCP", **more: Any) -> Trace:
        """Follow a packet."""
        fields = {"src": src, "dst": dst, "port": 80, "protocol": protocol} | more
        return Tracer(open_snapshot(self._directory).node()).ask(Question.read(fields))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def ends(found: Trace) -> set[tuple[str, str]]:
    return {(end.verdict.value, end.how) for end in found.ends}


def last(found: Trace) -> str:
    """What the last step says, and why."""
    step = found.steps[-1]
    return f"{step.text}: {step.why}"


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({}, NONE),
        ({"ip_forward": 1}, NONE),
        ({"ip_forward": 0}, DROP),
        ({"conf__all__forwarding": 0}, DROP),
        ({"ip_forward": 1, "conf__eth0__forwarding": 0}, DROP),
        ({"ip_forward": 0, "conf__eth0__forwarding": 1}, NONE),
    ],
)
def test_a_node_that_does_not_forward_drops_what_is_for_others(
    node: Node, settings: dict[str, int], verdict: str
) -> None:
    node.settings(**settings)
    found = node.ask(OUTSIDER, POD)
    assert (found.verdict, found.certainty) == (verdict, CERTAIN)
    assert verdict != DROP or "passes nothing on" in last(found)
    assert node.ask(OUTSIDER, OWN).verdict == NONE
    assert node.ask(OWN, POD).verdict == NONE


def test_a_dot_in_the_name_of_a_device_is_a_slash_in_that_of_a_setting(node: Node) -> None:
    node.settings(ip_forward=1, conf__cni___0__forwarding=0)
    assert node.ask(POD, FAR).verdict == DROP


def test_ipv6_is_forwarded_by_the_setting_for_all_devices(tmp_path: Path) -> None:
    (tmp_path / "ip6tables-save.txt").write_text(EMPTY)
    (tmp_path / "ip-addr.json").write_text("[]")
    (tmp_path / "sysctl.txt").write_text("net.ipv6.conf.all.forwarding = 0\n")
    fields = {"src": "2001:db8::1", "dst": "2001:db8::2", "port": 80}
    asked = Tracer(open_snapshot(tmp_path).node())
    assert asked.ask(Question.read(fields)).verdict == DROP
    never = asked.ask(Question.read(fields | {"src": "::1", "iface": "eth0"}))
    assert "never comes from a network" in last(never)


@pytest.mark.parametrize(
    ("source", "settings", "answer"),
    [
        (OWN, {"conf__all__accept_local": 0, "conf__eth0__accept_local": 0}, (DROP, CERTAIN)),
        (OWN, {"conf__all__accept_local": 0, "conf__eth0__accept_local": 1}, (NONE, CERTAIN)),
        (OWN, {"conf__all__accept_local": 1}, (NONE, CERTAIN)),
        (OWN, {}, (DROP, MAYBE)),
        (LOOP, {"conf__all__route_localnet": 0, "conf__eth0__route_localnet": 0}, (DROP, CERTAIN)),
        (LOOP, {"conf__all__route_localnet": 1, "conf__all__accept_local": 1}, (NONE, CERTAIN)),
        (
            LOOP,
            {"conf__all__route_localnet": 1, "conf__all__accept_local": 0,
             "conf__eth0__accept_local": 0},
            (DROP, CERTAIN),
        ),
    ],
)  # fmt: skip
def test_the_nodes_own_addresses_do_not_come_from_outside(
    node: Node, source: str, settings: dict[str, int], answer: tuple[str, str]
) -> None:
    node.settings(**settings)
    found = node.ask(source, POD, iface="eth0")
    assert (found.verdict, found.certainty) == answer


@pytest.mark.parametrize(
    ("everywhere", "here", "verdict"), [(1, 0, DROP), (0, 1, DROP), (0, 0, NONE), (1, 2, NONE)]
)
def test_a_strict_filter_drops_what_comes_by_the_wrong_device(
    node: Node, everywhere: int, here: int, verdict: str
) -> None:
    node.settings(conf__all__rp_filter=everywhere, conf__eth0__rp_filter=here)
    assert node.ask(POD, FAR, iface="eth0").verdict == verdict
    assert node.ask(OUTSIDER, POD, iface="eth0").verdict == NONE
    assert node.ask(POD, FAR, iface="cni.0").verdict == NONE  # its setting is not known


def test_own_addresses_that_may_come_from_outside_come_by_their_own_device(node: Node) -> None:
    strict = {"conf__all__rp_filter": 1, "conf__eth0__rp_filter": 0}
    node.settings(conf__all__accept_local=1, **strict)
    assert node.ask(OWN, POD, iface="eth0").verdict == NONE
    assert node.ask("10.0.0.1", POD, iface="eth0").verdict == DROP


def test_a_filter_whose_settings_are_not_known_drops_nothing(node: Node) -> None:
    assert node.ask(POD, FAR, iface="eth0").verdict == NONE


@pytest.mark.parametrize(
    ("kind", "forwarded", "error"),
    [
        ("prohibit", ("reject", "admin-prohibited"), "EACCES"),
        ("unreachable", ("reject", "host-unreachable"), "EHOSTUNREACH"),
        ("blackhole", ("drop", ""), "EINVAL"),
    ],
)
def test_routes_that_refuse_answer_others_and_tell_the_nodes_own_programs(
    node: Node, kind: str, forwarded: tuple[str, str], error: str
) -> None:
    node.routes({"type": kind, "dst": FAR, "flags": []})
    assert ends(node.ask(OUTSIDER, FAR)) == {forwarded}
    own = node.ask(OWN, FAR)
    assert ends(own) == {("reject", error)}
    assert "told at once by its own kernel" in client_sees(own)
    assert f"({error})" in client_sees(own)


MANGLE = (
    "*mangle\n:OUTPUT ACCEPT [0:0]\n:PREROUTING ACCEPT [0:0]\n{}\nCOMMIT\n"
    "*filter\n:OUTPUT ACCEPT [0:0]\n{}\nCOMMIT\n"
)


def test_a_mark_of_mangle_chooses_the_route_and_one_of_filter_does_not(node: Node) -> None:
    node.write("ip-rule.json", json.dumps(RULES))
    node.routes({"type": "prohibit", "dst": "default", "table": "77", "flags": []})
    mark = "-A OUTPUT -j MARK --set-xmark 0x7/0xffffffff"
    node.write("iptables-save.txt", MANGLE.format(mark, ""))
    # TCP was sent already: it sends its SYN again, and hears nothing.
    assert ends(node.ask(OWN, FAR, "TCP")) == {("drop", "")}
    assert ends(node.ask(OWN, FAR, "UDP")) == {("reject", "EACCES")}
    node.write("iptables-save.txt", MANGLE.format("", mark))
    assert ends(node.ask(OWN, FAR)) == {("accept", "")}
    assert ends(node.ask(OWN, FAR, mark=7)) == {("reject", "EACCES")}


def test_a_mark_may_lead_to_a_route_of_type_local(node: Node) -> None:
    node.write("ip-rule.json", json.dumps(RULES))
    node.routes({"type": "local", "dst": "default", "dev": "lo", "table": "77", "flags": []})
    mark = "-A PREROUTING -j MARK --set-xmark 0x7/0xffffffff"
    drop = "-A OUTPUT -j DROP\n:INPUT DROP [0:0]"
    node.write("iptables-save.txt", MANGLE.format(mark, drop.partition("\n")[0]))
    found = node.ask(OUTSIDER, FAR)
    assert "this node, by a route of type local" in last(found)


def test_a_transparent_proxy_takes_the_packet_or_nobody_gets_it(node: Node) -> None:
    node.write("ip-rule.json", json.dumps(RULES))
    node.routes({"type": "local", "dst": "default", "dev": "lo", "table": "77", "flags": []})
    tproxy = "-A PREROUTING -p tcp -j TPROXY --on-port 15001 --on-ip 0.0.0.0 --tproxy-mark 0x7/0x7"
    node.write("iptables-save.txt", MANGLE.format(tproxy, ""))
    found = node.ask(OUTSIDER, FAR)
    assert found.certainty == MAYBE
    assert ends(found) == {("accept", ""), ("drop", "")}
    assert any("transparent proxy" in step.why for step in found.steps)
    taken = next(end for end in found.ends if end.verdict.value == "accept")
    assert any("route of type local" in step.text for step in taken.branch.steps())


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"conf__all__route_localnet": 0, "conf__eth0__route_localnet": 0}, (REJECT, CERTAIN)),
        ({"conf__all__route_localnet": 1}, (NONE, CERTAIN)),
        ({"conf__all__route_localnet": 0}, (REJECT, MAYBE)),
        ({}, (NONE, CERTAIN)),
    ],
)
def test_no_route_takes_the_loopback_address_out_as_a_source(
    node: Node, settings: dict[str, int], answer: tuple[str, str]
) -> None:
    node.settings(**settings)
    found = node.ask(LOOP, FAR)
    assert (found.verdict, found.certainty) == answer
    assert answer != (REJECT, CERTAIN) or ends(found) == {("reject", "EINVAL")}
    assert node.ask(LOOP, OWN).verdict == NONE


RAW = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m rpfilter {}-j DROP\nCOMMIT\n"


@pytest.mark.parametrize(
    ("options", "device", "verdict"),
    [
        ("--validmark --invert ", "eth0", DROP),
        ("--validmark --invert ", "cni.0", NONE),
        ("--invert ", "eth0", DROP),
        ("--loose --invert ", "eth0", NONE),
        ("", "cni.0", DROP),
        ("", "eth0", NONE),
    ],
)
def test_rpfilter_is_decided_by_the_routes(
    node: Node, options: str, device: str, verdict: str
) -> None:
    node.write("iptables-save.txt", RAW.format(options))
    found = node.ask(POD, FAR, iface=device)
    assert (found.verdict, found.certainty) == (verdict, CERTAIN)


def test_rpfilter_without_routes_stays_open(tmp_path: Path) -> None:
    (tmp_path / "iptables-save.txt").write_text(RAW.format("--invert "))
    fields = {"src": POD, "dst": FAR, "port": 80, "iface": "eth0"}
    found = Tracer(open_snapshot(tmp_path).node()).ask(Question.read(fields))
    assert found.certainty == MAYBE
    assert Tri.MAYBE in {step.result for end in found.ends for step in end.branch.steps()}


def test_a_rule_that_lets_a_packet_in_is_no_answer_where_it_never_came(node: Node) -> None:
    node.write("iptables-save.txt", EMPTY.replace("COMMIT", "-A FORWARD -j ACCEPT\nCOMMIT"))
    assert node.ask(OUTSIDER, POD).verdict == ACCEPT
    node.settings(ip_forward=0)
    assert node.ask(OUTSIDER, POD).verdict == DROP
