"""The reconciler on the kernel's own IPVS, ipsets and devices, and the fakes beside them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest

from kpctl.lab.netns import Namespace
from proxy.backends.ipvs import names
from proxy.backends.ipvs.names import DEVICE
from proxy.backends.ipvs.settings import IpvsSettings
from proxy.engine.ipvs.ports import IpvsPorts
from proxy.engine.ipvs.reconciler import VERIFY_S, IpvsReconciler, set_header
from proxy.kernel.ipset import NetlinkIpset
from proxy.kernel.iptables import ProgramIptables
from proxy.kernel.ipvs import NetlinkIpvs
from proxy.kernel.links import NetlinkLinks
from proxy.kernel.xtables_backend import choose_backend
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipset import SetEntry
from proxy.netfilter.ipvs import (
    Action,
    Operation,
    RealKey,
    RealServer,
    ServerKey,
    VirtualServer,
)
from tests.support.engine_rig import FakeTime
from tests.support.fake_iptables import FakeIptables
from tests.support.fake_ipvs import FakeNode
from tests.support.ipvs_namespace import entered_namespace
from tests.support.ipvs_rig import Node, Rounds, by_name
from tests.support.plans import address, endpoint, plan, service_port, simple

pytestmark = [pytest.mark.kernel]

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
SCHEDULERS = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf"]
both_families = pytest.mark.parametrize("family", [V4, V6], ids=["IPv4", "IPv6"])


class KernelNode:
    """A reconciler on a namespace of the kernel."""

    def __init__(self, namespace: Namespace, ports: dict[IPFamily, IpvsPorts]) -> None:
        self.namespace = namespace
        self.ports = ports
        self.time = FakeTime()

    def reconciler(self, settings: IpvsSettings) -> IpvsReconciler:
        ports = self.ports[settings.family]
        return IpvsReconciler(settings, ports, drain_limit_s=0, monotonic=self.time.monotonic)

    def content(self, family: IPFamily) -> dict[str, Any]:
        """What FakeNode.content tells, rules aside."""
        ports = self.ports[family]
        servers = ports.servers.servers(family)
        return {
            "servers": {
                key: (
                    server,
                    {real.key: real.weight for real in ports.servers.real_servers(server)},
                )
                for key, server in servers.items()
            },
            "sets": {k.name(family): ports.sets.entries(k.name(family)) for k in names.SETS},
            "addresses": ports.links.addresses_of(DEVICE, family),
        }

    def rules(self, family: IPFamily) -> list[str]:
        """Our rules, as the program that saves them prints them."""
        program = "iptables-save" if family is V4 else "ip6tables-save"
        lines = self.namespace.run([program]).stdout.splitlines()
        return [line for line in lines if line.startswith("-A")]


@pytest.fixture
def kernel() -> Iterator[KernelNode]:
    with ExitStack() as stack:
        namespace = stack.enter_context(entered_namespace())
        servers, sets, links = (
            stack.enter_context(closing(port()))  # type: ignore[abstract]
            for port in (NetlinkIpvs, NetlinkIpset, NetlinkLinks)
        )
        backend = choose_backend()
        ports = {f: IpvsPorts(servers, sets, links, ProgramIptables(f, backend)) for f in IPFamily}
        yield KernelNode(namespace, ports)


def settings_of(family: IPFamily, **changed: Any) -> IpvsSettings:
    own = frozenset({address("external", 999, family)})
    made = IpvsSettings(family, node_addresses=own, node_port_servers=own)
    return replace(made, **changed)


def without_rules(content: dict[str, Any]) -> dict[str, Any]:
    return {name: found for name, found in content.items() if name != "rules"}


@both_families
def test_a_history_leaves_in_the_kernel_what_it_leaves_in_memory(kernel, family) -> None:
    lived, imagined = kernel.reconciler(settings_of(family)), Node(settings_of(family))
    plans: dict[Any, Any] = {}
    assert lived.restate([]).error == ""
    imagined.state()
    for wanted, changes in Rounds(family, seed=3, rounds=8):
        result = lived.change(changes)
        assert (result.error, result.refused) == ("", {})
        imagined.change(changes)
        assert kernel.content(family) == without_rules(imagined.content())
        assert lived.is_intact()
        plans = wanted
    rules = kernel.rules(family)
    again = kernel.reconciler(settings_of(family))
    assert again.restate(list(plans.values())).error == ""
    assert kernel.content(family) == without_rules(imagined.content())
    assert kernel.rules(family) == rules


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_serves_and_raises_no_false_alarm(kernel, scheduler) -> None:
    assert kernel.ports[V4].servers.has_scheduler(scheduler)
    for family in IPFamily:
        # The rules are the same for all of them.
        kernel.ports[family] = replace(kernel.ports[family], rules=FakeIptables())
        node = kernel.reconciler(settings_of(family, scheduler=scheduler))
        plans = [
            plan(
                service_port(n, family, protocol=protocol, affinity_timeout_s=affinity),
                endpoint(1, family),
            )
            for n, (protocol, affinity) in enumerate(
                (p, a) for p in ("TCP", "UDP", "SCTP") for a in (0, 60)
            )
        ]
        result = node.restate(plans)
        assert (result.error, result.refused) == ("", {})
        kernel.time.now += VERIFY_S
        assert node.upkeep() == ""
        assert {s.scheduler for s in kernel.ports[family].servers.servers(family).values()} == {
            scheduler
        }


def test_a_scheduler_that_is_nowhere_is_not_there(kernel) -> None:
    assert not kernel.ports[V4].servers.has_scheduler("nosuch")
    assert kernel.ports[V4].servers.servers(V4) == {}


# -- damage ----------------------------------------------------------------------------------


def _clear_servers(node: Namespace) -> None:
    node.run(["ipvsadm", "-C"])


def _change_scheduler(node: Namespace) -> None:
    node.run(["ipvsadm", "-E", "-t", "172.30.0.1:80", "-s", "wlc"])


def _delete_address(node: Namespace) -> None:
    node.ip([f"addr del 172.30.0.1/32 dev {DEVICE}"])


def _delete_device(node: Namespace) -> None:
    node.ip([f"link del {DEVICE}"])


def _flush_set(node: Namespace) -> None:
    node.run(["ipset", "flush", "KUBE-CLUSTER-IP"])


def _delete_real_server(node: Namespace) -> None:
    node.run(["ipvsadm", "-d", "-t", "172.30.0.1:80", "-r", "10.180.0.1:8080"])


def _flush_chain(node: Namespace) -> None:
    node.run(["iptables", "-w", "-t", "nat", "-F", "KUBE-SERVICES"])


def _delete_jump(node: Namespace) -> None:
    node.run(["iptables", "-w", "-t", "nat", "-D", "PREROUTING", "1"])


@pytest.mark.parametrize(
    "edit",
    [
        _clear_servers,
        _change_scheduler,
        _delete_address,
        _delete_device,
        _flush_set,
        _delete_real_server,
        _flush_chain,
        _delete_jump,
    ],
    ids=lambda edit: edit.__name__.strip("_"),
)
def test_what_others_did_is_seen_and_undone(kernel, edit) -> None:
    node = kernel.reconciler(settings_of(V4))
    plans = [simple(1, 1, 2), plan(service_port(2, node_port=30080), endpoint(3, local=True))]
    node.restate(plans)
    before, rules = kernel.content(V4), kernel.rules(V4)
    assert node.is_intact()
    edit(kernel.namespace)
    assert not node.is_intact()
    assert node.restate(plans).error == ""
    assert node.is_intact()
    assert (kernel.content(V4), kernel.rules(V4)) == (before, rules)


# -- the fakes -------------------------------------------------------------------------------

KEYS = [ServerKey(address("cluster", n), 80, 6) for n in (1, 2)]
REALS = [RealKey(address("pod", n), 8080) for n in (1, 2)]
ONE, OTHER = VirtualServer(KEYS[0], "rr"), VirtualServer(KEYS[1], "rr")
SCRIPT = [
    Operation(Action.SET_SERVER, ONE),
    Operation(Action.NEW_REAL, ONE, REALS[0]),
    Operation(Action.SET_REAL, ONE, REALS[0]),
    Operation(Action.DELETE_REAL, ONE, REALS[0]),
    Operation(Action.DELETE_SERVER, ONE),
    Operation(Action.NEW_SERVER, VirtualServer(KEYS[1], "nosuch")),
    Operation(Action.NEW_SERVER, ONE),
    Operation(Action.NEW_SERVER, ONE),
    Operation(Action.NEW_SERVER, OTHER),
    Operation(Action.SET_SERVER, VirtualServer(KEYS[0], "wlc", 1, 60)),
    Operation(Action.SET_SERVER, VirtualServer(KEYS[0], "nosuch")),
    Operation(Action.NEW_REAL, ONE, REALS[0]),
    Operation(Action.NEW_REAL, ONE, REALS[0]),
    Operation(Action.NEW_REAL, ONE, REALS[1], 0),
    Operation(Action.SET_REAL, ONE, REALS[1], 1),
    Operation(Action.SET_REAL, OTHER, REALS[1], 1),
    Operation(Action.DELETE_REAL, OTHER, REALS[1]),
    Operation(Action.DELETE_REAL, ONE, REALS[0]),
    Operation(Action.DELETE_SERVER, OTHER),
    Operation(Action.DELETE_SERVER, OTHER),
]


def _played(ports: IpvsPorts) -> list[Any]:
    """One script on all ports, with every answer."""

    def codes(refusals: list[Any]) -> list[int]:
        return [refusal.errno if refusal else 0 for refusal in refusals]

    answers: list[Any] = [codes(ports.servers.apply([each])) for each in SCRIPT]
    servers = ports.servers.servers(V4)
    answers += [servers, [ports.servers.real_servers(s) for s in (*servers.values(), OTHER)]]
    header = set_header(names.CLUSTER_IP, settings_of(V4))
    entry = SetEntry(KEYS[0].address, 6, 80)
    for act in (ports.sets.add, ports.sets.delete):
        answers.append(codes(act(header, [entry])))
    ports.sets.create(header)
    ports.sets.create(header)
    for act in (ports.sets.add, ports.sets.add, ports.sets.delete, ports.sets.delete):
        answers += [codes(act(header, [entry])), ports.sets.entries(header.name)]
    for act in (
        lambda: ports.sets.create(header._replace(type="hash:ip,port,ip")),
        lambda: ports.sets.entries("KUBE-NONE"),
        lambda: ports.links.add_addresses(DEVICE, [KEYS[0].address]),
    ):
        with pytest.raises(OSError) as refusal:  # noqa: PT011
            act()
        answers.append(refusal.value.errno)
    ports.links.add_dummy(DEVICE)
    ports.links.add_dummy(DEVICE)
    for act in (ports.links.add_addresses, ports.links.delete_addresses):
        for _ in range(2):
            answers.append(codes(act(DEVICE, [KEYS[0].address])))
            answers.append(ports.links.addresses_of(DEVICE, V4))
    return answers


def test_the_fakes_answer_like_the_kernel(kernel) -> None:
    real, fake = _played(kernel.ports[V4]), _played(FakeNode().ports(V4))
    assert fake == real
    assert errno.ESRCH in real[0]


def test_a_full_set_is_refused_alike(kernel) -> None:
    header = set_header(names.CLUSTER_IP, settings_of(V4))
    fake = FakeNode()
    fake.ipset.room = 64
    answers = []
    for sets in (kernel.ports[V4].sets, fake.ports(V4).sets):
        sets.create(header, 64)
        entries = [SetEntry(bytes((10, 0, n // 250, n % 250)), 6, 80) for n in range(1000)]
        refusals = sets.add(header, entries)
        [refusal] = {(r.errno, r.strerror) for r in refusals if r}
        answers.append(refusal)
    assert answers[0] == answers[1]


def test_a_foreign_real_server_is_reached_as_ours_are(kernel) -> None:
    """Direct routing to a pod reaches nothing."""
    node = kernel.reconciler(settings_of(V4))
    kernel.namespace.run(["ipvsadm", "-A", "-t", "172.30.0.1:80", "-s", "wlc"])
    kernel.namespace.run(
        ["ipvsadm", "-a", "-t", "172.30.0.1:80", "-r", "10.180.0.1:8080", "-i", "-w", "9"]
    )
    assert node.restate(list(by_name(simple(1, 1)).values())).error == ""
    [(server, _)] = kernel.content(V4)["servers"].values()
    assert server.scheduler == "rr"
    assert kernel.ports[V4].servers.real_servers(server) == [RealServer(REALS[0], 1)]
