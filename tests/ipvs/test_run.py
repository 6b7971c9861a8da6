"""``kpctl run`` in IPVS mode: killed at bad moments, endpoints that go and come, node settings."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.kernel.ipvs import NetlinkIpvs
from proxy.model.addresses import IPFamily
from tests.packets.cluster import (
    NODE,
    NODE_IP,
    OUTSIDER,
    POD,
    POD_NETWORKS,
    SERVICE_CIDR,
    Cluster,
    backend,
    cluster,
    node,
    service,
    slice_of,
    vip,
)
from tests.packets.flows.daemon import KpctlRun
from tests.packets.flows.scenario import Change, Endpoint, Manifest, NodeSpec, Scenario, Stage
from tests.packets.flows.site import Site, site_for
from tests.packets.flows.sockets import close_at_once
from tests.packets.traffic import Call, Conversation, Echo, connect, traffic
from tests.support.ipvs_programs import read_state
from tests.support.kpctl_process import KpctlNode, kpctl_node
from tests.support.waiting import eventually

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

MODE = "ipvs"
METRICS_PORT = 10249
SERVED = "Services are served"
PATIENCE_S = 60.0  # an emulated processor
PLAIN, STICKY = vip(1), vip(2)
TO_PLAIN, TO_STICKY = Call(POD, Endpoint(PLAIN, 80)), Call(OUTSIDER, Endpoint(STICKY, 80))
TO_NODE = Call(OUTSIDER, Endpoint(NODE_IP, 30080))
CALLS = (TO_PLAIN, TO_STICKY, TO_NODE)


def services(*numbers: int) -> tuple[Manifest, ...]:
    """Two Services with these backends."""
    return (
        service("plain", PLAIN, node_port=30080),
        slice_of("plain", *map(backend, numbers)),
        service("sticky", STICKY, affinity_s=600),
        slice_of("sticky", *map(backend, numbers)),
    )


def many(count: int, shift: int = 0) -> Manifest:
    """Further Services, whose endpoints all change with *shift*."""
    items = [
        each
        for n in range(count)
        for each in (
            service(f"many-{n}", f"172.30.{2 + n // 250}.{n % 250}", port=443),
            slice_of(f"many-{n}", *(f"10.181.{m + shift}.{n % 250}" for m in range(3))),
        )
    ]
    return {"apiVersion": "v1", "kind": "List", "metadata": {"name": "many"}, "items": items}


def reals(made: Site, ip: str, port: int = 80) -> dict[str, int]:
    """Weights of the real servers of a virtual server."""
    servers = read_state(made.node).servers
    [found] = [each for name, each in servers.items() if name.startswith(f"-t {ip}:{port} ")]
    return {real.split(":")[0]: int(real.split()[-1]) for real in found}


def backends(*numbers: int) -> set[str]:
    return {backend(number) for number in numbers}


# -- kills -----------------------------------------------------------------------------------

MANY = 150


class KilledRun(KpctlRun):
    """``kpctl run`` that is killed while it writes."""

    def break_off(self, *changes: Manifest, when: Callable[[], object]) -> None:
        """Start a process, or go on with the one that runs; write, and kill it when it is time."""
        for each in changes:
            self._write("many.json", each)
        if self._process is None:
            self._spawn()
        deadline = time.monotonic() + PATIENCE_S
        while not when():
            assert time.monotonic() < deadline, self.evidence()
        self.stop()


@contextmanager
def killed_node(directory: Path) -> Iterator[tuple[Site, KilledRun]]:
    spec = NodeSpec(
        name=NODE,
        ip_family=4,
        ips=(NODE_IP,),
        interfaces={"eth0": (f"{NODE_IP}/24",)},
        labels={},
        cluster_cidr=POD_NETWORKS,
        masquerade_all=False,
        node_port_addresses=(),
        localhost_node_ports=False,
        service_cidrs=(SERVICE_CIDR,),
    )
    scenario = Scenario("killed", "", MODE, spec, ())
    with site_for(scenario) as site:
        run = KilledRun(scenario, site, directory)
        try:
            yield site, run
            assert "Traceback" not in run.log(), run.log()
        finally:
            run.stop()


def is_there(site: Site, program: list[str], pattern: str) -> Callable[[], bool]:
    """Whether a program's output has something that matches."""
    return lambda: bool(re.search(pattern, site.node.run(program, check=False).stdout))


def stage(name: str, *objects: Manifest) -> Stage:
    return Stage(name, tuple(Change("update", each) for each in objects), objects, ())


def holds_exactly(site: Site, shift: int, *numbers: int) -> None:
    """Assert that the kernel holds these backends, and nothing of before."""
    state = read_state(site.node)
    tcp = {name: found for name, found in state.servers.items() if name.startswith("-t ")}
    # The two Services, their NodePort at each address of the node, and the many.
    other = [found for name, found in tcp.items() if ":443 " in name]
    own = [found for name, found in tcp.items() if ":443 " not in name]
    assert len(other) == MANY
    assert {real.split(":")[0].split(".")[2] for found in other for real in found} == {
        str(m + shift) for m in range(3)
    }
    assert len(own) == 4
    for found in own:
        assert {real.split(":")[0] for real in found} == backends(*numbers)
        assert all(real.endswith(" -w 1") for real in found)
    # And the one whose packets tell the end of a stage.
    assert len(state.addresses) == MANY + 3
    assert len(state.sets["KUBE-IPVS-IPS"].members) == MANY + 3


def test_a_start_that_was_killed_at_any_moment_is_completed_by_the_next(tmp_path: Path) -> None:
    with killed_node(tmp_path) as (site, run):
        moments = (
            is_there(site, ["iptables-save", "-t", "nat"], ":KUBE-SERVICES"),
            is_there(site, ["ipvsadm", "-Sn"], "-a "),
            is_there(site, ["ip", "addr", "show", "dev", "kube-ipvs0"], "inet "),
        )
        first = services(1, 2, 3)
        for moment in moments:
            run.break_off(many(MANY), when=moment)
            assert SERVED not in run.log(), "too late"
        run.start(stage("complete", node(), *first))
        holds_exactly(site, 0, 1, 2, 3)
        with traffic(site, CALLS, CALLS) as (talkers, caller, _):
            some = re.escape("10.181.10.")
            run.break_off(many(MANY, 10), when=is_there(site, ["ipvsadm", "-Sn"], some))
            run.follow(Stage("again", (), services(2, 3, 4), (), restart=True))
            for each in (talkers, caller):
                each.go_on()
                assert each.failures == [], run.evidence()
            caller.reached = set()
            caller.go_on(4)
            assert caller.reached <= backends(2, 3, 4)
            # Whoever lasts has kept the backend that went, which gets no new ones.
            weights = reals(site, PLAIN)
            assert {ip for ip, weight in weights.items() if weight} == backends(2, 3, 4)
            assert talkers.conversations[0].backend in weights


# -- endpoints that go and come --------------------------------------------------------------


def test_a_connection_outlives_its_endpoint_and_then_the_real_server_goes(tmp_path: Path) -> None:
    objects = services(1, 2, 3)
    with cluster(tmp_path, *objects, mode=MODE) as made, Echo(made.site.world):
        conversation = Conversation(made.site, TO_PLAIN)
        conversation.talk()
        gone = conversation.backend
        left = sorted(backends(1, 2, 3) - {gone})
        made.apply(slice_of("plain", *left), slice_of("sticky", *left))
        assert reals(made.site, PLAIN) == dict.fromkeys(left, 1) | {gone: 0}
        conversation.talk()
        assert {_answering(made) for _ in range(6)} == set(left)
        # Back and gone again, several times: the connection never notices.
        for _ in range(3):
            made.apply(slice_of("plain", *left, gone))
            assert reals(made.site, PLAIN) == dict.fromkeys((*left, gone), 1)
            conversation.talk()
            made.apply(slice_of("plain", *left))
            conversation.talk()
        assert reals(made.site, PLAIN)[gone] == 0
        # IPVS forgets a connection 10 s after it was reset, and that is looked at every 10 s.
        close_at_once(conversation.socket)
        eventually(lambda: gone not in reals(made.site, PLAIN), PATIENCE_S)
        assert "Removed a drained real server" in made.log()
        assert f"{gone}:8080" in made.log()


def _answering(made: Cluster) -> str:
    """The backend that a new connection reaches."""
    connection, found = connect(made.site, TO_PLAIN)
    close_at_once(connection)
    return found


def test_clients_stick_to_their_endpoint_until_it_goes(tmp_path: Path) -> None:
    clients = [f"203.0.113.{number}" for number in range(20, 32)]
    with cluster(tmp_path, *services(1, 2, 3), mode=MODE) as made:
        first = made.landings(clients, STICKY)
        assert len(set(first)) > 1
        for _ in range(3):
            assert made.landings(clients, STICKY) == first
        gone = first[0]
        left = sorted(backends(1, 2, 3) - {gone})
        made.apply(slice_of("sticky", *left))
        later = made.landings(clients, STICKY)
        assert gone not in later
        assert made.landings(clients, STICKY) == later
        # The others need not move.
        assert [b for b, a in zip(later, first, strict=True) if a != gone] == [
            a for a in first if a != gone
        ]


def test_node_ports_answer_on_an_address_that_the_node_gets_later(tmp_path: Path) -> None:
    later = "192.0.2.77"
    with cluster(tmp_path, *services(1), mode=MODE) as made:
        assert made.landing(OUTSIDER, NODE_IP, 30080) == backend(1)
        strict_arp = [f"net.ipv4.conf.all.arp_{each}" for each in ("ignore", "announce")]
        assert [made.site.node.sysctl(name) for name in strict_arp] == ["0", "0"]
        made.site.node.ip([f"addr add {later}/32 dev eth0"])
        eventually(lambda: f"-t {later}:30080 " in _servers(made), PATIENCE_S)
        eventually(lambda: "-r" in _servers(made).partition(f"-t {later}:30080 -r")[1], PATIENCE_S)
        assert made.landing(OUTSIDER, later, 30080) == backend(1)
        made.site.node.ip([f"addr del {later}/32 dev eth0"])
        eventually(lambda: later not in _servers(made), PATIENCE_S)
        assert made.landing(OUTSIDER, NODE_IP, 30080) == backend(1)


def _servers(made: Cluster) -> str:
    return made.site.node.run(["ipvsadm", "-Sn"]).stdout


# -- configuration ---------------------------------------------------------------------------


@contextmanager
def configured(directory: Path, **ipvs: Any) -> Iterator[KpctlNode]:
    """A node whose configuration has an ipvs section, with one Service."""
    with kpctl_node(directory) as made:
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": MODE,
            "hostnameOverride": NODE,
            "conntrack": {"maxPerCore": 0},
            "ipvs": ipvs,
        }
        made.config.write_text(json.dumps(config))
        made.write("web.json", service("web", PLAIN), slice_of("web", NODE_IP))
        yield made


def test_sysctls_timeouts_scheduler_and_limit_are_as_configured(tmp_path: Path) -> None:
    timeouts = {"tcpTimeout": "600s", "tcpFinTimeout": "30s", "udpTimeout": "0s"}
    with configured(tmp_path, strictARP=True, scheduler="sh", **timeouts) as made:
        names = ("vs.conntrack", "vs.expire_nodest_conn", "vs.expire_quiescent_template")
        wanted = {f"net.ipv4.{name}": "1" for name in names} | {
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.all.arp_ignore": "1",
            "net.ipv4.conf.all.arp_announce": "2",
        }
        made.namespace.set_sysctls(dict.fromkeys(wanted, "0"))
        made.namespace.ip(["link set lo up", f"addr add {NODE_IP}/32 dev lo"])
        with made.running("--ipvs-graceful-termination-timeout=1s") as proxy:
            proxy.wait_for_log(SERVED)
            assert {name: made.namespace.sysctl(name) for name in wanted} == wanted
            with made.namespace.enter():
                port = NetlinkIpvs()
            assert port.timeouts() == (600, 30, 300)
            assert {s.scheduler for s in port.servers(IPFamily.IPV4).values()} == {"sh"}
            port.close()
            _is_cut_after_the_limit(made)
            assert "deprecated" in proxy.log()
            assert proxy.terminate() == 0


def _is_cut_after_the_limit(made: KpctlNode) -> None:
    """A connection that lasts is not waited for: the limit is a second."""
    server = f"-t {PLAIN}:80 -s sh"
    with made.namespace.socket() as listener, made.namespace.socket() as client:
        listener.bind((NODE_IP, 8080))
        listener.listen()
        client.settimeout(PATIENCE_S)
        client.connect((PLAIN, 80))
        accepted, _ = listener.accept()
        with accepted:
            other = backend(9)
            made.write("web.json", service("web", PLAIN), slice_of("web", other))
            wanted = {f"{NODE_IP}:8080 -m -w 0", f"{other}:8080 -m -w 1"}
            eventually(lambda: read_state(made.namespace).servers[server] == wanted, PATIENCE_S)
            wanted = {f"{other}:8080 -m -w 1"}
            eventually(lambda: read_state(made.namespace).servers[server] == wanted, PATIENCE_S)


def test_what_others_flush_is_filled_again_told_and_counted(tmp_path: Path) -> None:
    with configured(tmp_path) as made, made.running() as proxy:
        made.namespace.ip(["link set lo up"])
        proxy.wait_for_log(SERVED)
        before, rules = read_state(made.namespace), _our_rules(made)
        made.namespace.run(["ipvsadm", "-C"])
        made.namespace.run(["iptables", "-w", "-t", "nat", "-F"])
        assert _our_rules(made) != rules
        eventually(lambda: _our_rules(made) == rules, PATIENCE_S)
        eventually(lambda: read_state(made.namespace) == before, PATIENCE_S)
        _, metrics = made.get("/metrics", METRICS_PORT)
        assert re.search(r'^kpctl_self_repair_total\{.*ip_family="IPv4".*\} 1', metrics, re.M)
        assert "Another program changed" in proxy.log()


def _our_rules(made: KpctlNode) -> list[str]:
    lines = made.namespace.run(["iptables-save"]).stdout.splitlines()
    return [line for line in lines if line.startswith("-A")]


def test_an_unknown_scheduler_is_one_clear_error(tmp_path: Path) -> None:
    with configured(tmp_path, scheduler="nosuch") as made:
        ended = made.run("--config", str(made.config), "--manifests", str(made.manifests))
        assert ended.returncode == 1
        [line] = [each for each in ended.stderr.splitlines() if each.startswith("E")]
        assert "ipvs.scheduler: the kernel has no scheduler 'nosuch'" in line
        assert "modprobe ip_vs_nosuch" in line
        assert "Traceback" not in ended.stderr
        assert read_state(made.namespace).servers == {}
