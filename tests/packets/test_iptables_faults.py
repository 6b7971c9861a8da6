"""``kpctl run`` in iptables mode when others change its rules, hold the lock, or refuse a line."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.kernel.command import find_tool
from tests.packets.cluster import MODES, NODE_IP, OUTSIDER, backend, cluster, slice_of, vip
from tests.packets.cluster import service as node_port_service
from tests.packets.flows.site import OUTSIDE, Site
from tests.support.iptables_text import Ruleset, differences
from tests.support.kpctl_process import (
    KpctlNode,
    Running,
    endpoint_slice,
    kpctl_node,
    service,
    web,
)
from tests.support.waiting import eventually
from tests.support.xtables_programs import BACKENDS, saved

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

METRICS_PORT = 10249
SERVED = "Services are served"
CHANGED = "Another program changed the proxy's iptables rules"


class IptablesNode:
    """A node in iptables mode whose kubelet uses one of the backends."""

    def __init__(self, node: KpctlNode, kind: str) -> None:
        self.node = node
        self.kind = kind
        node.config.write_text(node.config.read_text().replace("nftables", "iptables"))
        self.iptables("-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        node.write("web.json", *web(), *web("api", "10.96.0.2"))

    def iptables(self, *arguments: str, family: str = "", check: bool = True) -> int:
        """Change rules, as another program does; return the exit code."""
        argv = [f"ip{family}tables-{self.kind}", "-w", *arguments]
        return self.node.namespace.run(argv, check=check).returncode

    def restore(self, text: str) -> None:
        self.node.namespace.run([f"iptables-{self.kind}-restore", "--noflush"], stdin=text)

    def saved(self) -> tuple[Ruleset, Ruleset]:
        first, second = (
            saved(self.node.namespace, p, self.kind) for p in ("iptables", "ip6tables")
        )
        return first, second

    def chain(self, prefix: str) -> str:
        """A chain of the nat table that begins so."""
        return next(name for name in sorted(self.saved()[0]["nat"]) if name.startswith(prefix))

    def serves(self, ip: str) -> bool:
        rules = self.saved()[0].get("nat", {}).get("KUBE-SERVICES", ((), ()))[1]
        return any(rule.startswith(f"-d {ip}/32 ") for rule in rules)

    def metric(self, line: str) -> float:
        """The sum of the values whose name and labels match."""
        _, text = self.node.get("/metrics", METRICS_PORT)
        return sum(float(value) for value in re.findall(rf"^{line} (\S+)$", text, re.MULTILINE))


@pytest.fixture(params=BACKENDS)
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[IptablesNode]:
    """A node of each backend."""
    with kpctl_node(tmp_path) as made:
        yield IptablesNode(made, request.param)


def running_with(proxy: Running, *ips: str, node: IptablesNode) -> None:
    proxy.wait_until(lambda: all(map(node.serves, ips)), f"{ips} are not served")


# -- somebody else changes the rules ---------------------------------------------------------


def flush_nat(node: IptablesNode) -> None:
    node.iptables("-t", "nat", "-F")


def flush_filter(node: IptablesNode) -> None:
    node.iptables("-t", "filter", "-F")


def flush_ipv6(node: IptablesNode) -> None:
    node.iptables("-t", "nat", "-F", family="6")


def flush_and_delete_all_chains(node: IptablesNode) -> None:
    node.iptables("-t", "nat", "-F")
    node.iptables("-t", "nat", "-X", check=False)  # the proxy may have been quicker


def delete_a_jump(node: IptablesNode) -> None:
    node.iptables("-t", "nat", "-D", "PREROUTING", "1")


def delete_a_service(node: IptablesNode) -> None:
    chain = node.chain("KUBE-SVC-")
    rules = node.saved()[0]["nat"]["KUBE-SERVICES"].rules
    [jump] = [rule for rule in rules if rule.endswith(f"-j {chain}")]
    node.restore(f"*nat\n:{chain} - [0:0]\n-D KUBE-SERVICES {jump}\n-X {chain}\nCOMMIT\n")


def insert_a_rule(node: IptablesNode) -> None:
    node.iptables("-t", "nat", "-I", "KUBE-SERVICES", "-j", "ACCEPT")


def insert_a_rule_for_an_endpoint(node: IptablesNode) -> None:
    node.iptables("-t", "nat", "-I", node.chain("KUBE-SEP-"), "-j", "ACCEPT")


def add_a_chain(node: IptablesNode) -> None:
    node.iptables("-t", "nat", "-N", "KUBE-SVC-FOREIGN")


EDITS = (
    flush_nat,
    flush_filter,
    flush_ipv6,
    flush_and_delete_all_chains,
    delete_a_jump,
    delete_a_service,
    insert_a_rule,
    insert_a_rule_for_an_endpoint,
    add_a_chain,
)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_what_somebody_did_is_undone_told_and_counted(node: IptablesNode, edit) -> None:
    with node.node.running() as proxy:
        proxy.wait_for_log(SERVED)
        before = node.saved()
        edit(node)
        proxy.wait_for_log(CHANGED)
        proxy.wait_until(
            lambda: not any(map(differences, before, node.saved())), "the rules are not as before"
        )
        assert node.metric(r"kpctl_self_repair_total\{.*\}") >= 1
        if node.kind == "nft":
            assert re.search(r'by="(ip6?tables(-restore|-nft\S*)?|xtables\S*)\[\d+\]', proxy.log())
        assert "Traceback" not in proxy.log()


def test_a_deleted_table_is_made_again(tmp_path: Path) -> None:
    with kpctl_node(tmp_path) as made:
        node = IptablesNode(made, "nft")
        with made.running() as proxy:
            proxy.wait_for_log(SERVED)
            before = node.saved()
            made.nft_script("delete table ip nat")
            proxy.wait_until(lambda: not any(map(differences, before, node.saved())), "no table")
            assert node.metric(r'kpctl_self_repair_total\{.*reason="table".*\}') >= 1


def test_chains_in_use_cannot_be_deleted_and_nothing_is_repaired(node: IptablesNode) -> None:
    with node.node.running() as proxy:
        proxy.wait_for_log(SERVED)
        before = node.saved()
        node.iptables("-t", "nat", "-X", "KUBE-SERVICES", check=False)
        node.iptables("-t", "nat", "-N", "OTHERS")
        node.iptables("-t", "nat", "-A", "OTHERS", "-s", "192.0.2.1", "-j", "ACCEPT")
        node.iptables("-t", "nat", "-F", "OTHERS")
        node.iptables("-t", "nat", "-X", "OTHERS")
        node.node.write("last.json", *web("last", "10.96.0.9"))
        running_with(proxy, "10.96.0.9", node=node)
        assert differences(before[1], node.saved()[1]) == ""
        insert_a_rule(node)
        proxy.wait_for_log(CHANGED)
        assert node.metric(r"kpctl_self_repair_total\{.*\}") == 1


def test_what_happens_while_no_proxy_runs_is_put_right_at_the_start(node: IptablesNode) -> None:
    with node.node.running() as proxy:
        proxy.wait_for_log(SERVED)
        before = node.saved()
    for edit in (delete_a_jump, insert_a_rule, insert_a_rule_for_an_endpoint, add_a_chain):
        edit(node)
    with node.node.running("--v=2") as proxy:
        proxy.wait_for_log(SERVED)
        assert [*map(differences, before, node.saved())] == ["", ""]
        node.node.write("last.json", *web("last", "10.96.0.9"))
        running_with(proxy, "10.96.0.9", node=node)
        assert proxy.log().count('ipFamily="IPv4" fullSync=true') == 1


# -- the lock --------------------------------------------------------------------------------


def test_a_lock_that_is_held_delays_changes_and_loses_none(tmp_path: Path, monkeypatch) -> None:
    """The legacy programs give up after five seconds; the proxy does not."""
    lock = tmp_path / "lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    with kpctl_node(tmp_path) as made:
        node = IptablesNode(made, "legacy")
        with made.running() as proxy:
            proxy.wait_for_log(SERVED)
            with lock.open("w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                made.write("more.json", *web("more", "10.96.0.3"))
                (made.manifests / "web.json").unlink()
                proxy.wait_for_log("holding the xtables lock")
                assert node.serves("10.96.0.1")
            running_with(proxy, "10.96.0.3", node=node)
            proxy.wait_until(lambda: not node.serves("10.96.0.1"), "a deleted Service is served")
            assert node.metric(r"kpctl_failed_service_ports\{.*\}") == 0
            assert proxy.log().count("Sync failed") == 1


# -- a refused line --------------------------------------------------------------------------

# What the kernel refuses: a match on a counter that does not exist.
REFUSING = """#!/bin/bash
exec {program} "$@" < <(sed -E '/^-[AI] .*"ns\\/bad[ "]/s/-j /-m nfacct --nfacct-name none -j /')
"""


@pytest.fixture
def refusing(node: IptablesNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory at the head of PATH with an iptables-restore whose Service bad is refused."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("iptables", "ip6tables"):
        name = f"{name}-{node.kind}-restore"
        program = find_tool(name)
        assert program
        (directory / name).write_text(REFUSING.format(program=program))
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def refused(node: IptablesNode) -> float:
    return node.metric(r"kpctl_failed_service_ports\{.*\}")


@pytest.mark.parametrize("moment", ["start", "change"])
def test_a_line_that_the_kernel_refuses_names_its_service(
    node: IptablesNode, refusing: Path, moment: str
) -> None:
    bad = service("bad", "10.96.0.66"), endpoint_slice("bad", "10.180.0.66", "10.180.0.67")
    if moment == "start":
        node.node.write("bad.json", *bad)
    with node.node.running() as proxy:
        proxy.wait_for_log(SERVED)
        if moment == "change":
            node.node.write("bad.json", *bad, *web("good", "10.96.0.77"))
            running_with(proxy, "10.96.0.77", node=node)
        proxy.wait_for_log('servicePort="ns/bad"')
        assert node.serves("10.96.0.1")
        assert not node.serves("10.96.0.66")
        assert refused(node) == 1
        line = next(line for line in proxy.log().splitlines() if 'servicePort="ns/bad"' in line)
        assert "failed" in line
        for program in refusing.iterdir():
            program.unlink()
        running_with(proxy, "10.96.0.66", node=node)
        proxy.wait_until(lambda: refused(node) == 0, "it is still counted")
        assert "Sync failed" not in proxy.log()
        assert "Traceback" not in proxy.log()


# -- NodePorts on localhost ------------------------------------------------------------------

SECRET_PORT = 9999  # of something that listens on loopback because that is private


@pytest.mark.packets
@pytest.mark.parametrize("mode", MODES[1:])
def test_node_ports_answer_on_localhost_and_localhost_stays_private(
    tmp_path: Path, mode: str
) -> None:
    objects = (
        node_port_service("web", vip(1), node_port=30080),
        slice_of("web", backend(1)),
    )
    with cluster(tmp_path, *objects, localhost_node_ports=True, mode=mode) as made:
        assert made.site.node.sysctl("net.ipv4.conf.all.route_localnet") == "1"
        [outcome] = made.send(NODE_IP, "127.0.0.1", 30080)
        assert outcome.fate == "landed"
        with listening(made.site) as listener:
            knock(made.site)
            assert heard(listener, 0.3) == b""
            made.iptables("-t", "filter", "-F", "KUBE-FIREWALL")  # not ours alone
            eventually(lambda: (knock(made.site), heard(listener, 0.05))[1] == b"knock")


def listening(site: Site) -> socket.socket:
    """A UDP socket on the node's loopback."""
    with site.node.enter():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", SECRET_PORT))
    return made


def heard(listener: socket.socket, within_s: float) -> bytes:
    listener.settimeout(within_s)
    try:
        return listener.recv(64)
    except TimeoutError:
        return b""


def knock(site: Site) -> None:
    """Send a packet for 127.0.0.1 over the wire, as only a malicious neighbour does."""
    payload = b"knock"
    source, target = (socket.inet_aton(ip) for ip in (OUTSIDER, "127.0.0.1"))
    udp = struct.pack("!4H", 40000, SECRET_PORT, 8 + len(payload), 0) + payload
    head = struct.pack("!2B3H2BH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0)
    words = struct.unpack("!10H", head + source + target)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack("!H", checksum)
    macs = (bytes.fromhex(OUTSIDE.mac(end).replace(":", "")) for end in (1, 2))
    frame = b"".join((*macs, b"\x08\x00", head, source, target, udp))
    with site.world.enter():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind((OUTSIDE.device, 0))
        raw.send(frame)
