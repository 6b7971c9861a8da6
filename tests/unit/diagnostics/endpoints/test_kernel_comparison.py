"""Whether each endpoint of the plan is in the kernel: healthy and faulty nodes of all modes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diagnostics.cluster.plans import Cluster, load_cluster
from diagnostics.endpoints.kernel import Kernel, KernelReport, compare_kernel
from diagnostics.intended.compile import compile_cluster
from diagnostics.intended.node import IntendedNode
from diagnostics.intended.readable import readable_families
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Part
from proxy.model.addresses import IPFamily
from proxy.model.services import ServiceName
from tests.support.cluster_objects import a_service, a_slice
from tests.support.planned_cluster import HERE, Parts, cluster_objects

WEB = ServiceName("ns", "web")
MODES = ("iptables", "nftables", "ipvs")
ENDPOINTS = (f"10.0.0.1 on={HERE}", "10.0.1.1 on=n2", "10.0.1.2 !ready on=n2")


EMPTY = {part: "*nat\nCOMMIT\n*filter\nCOMMIT\n" for part in (Part.IPTABLES, Part.IP6TABLES)}


def snapshot(mode: str, rules: dict[Part, str] = EMPTY) -> NodeSnapshot:
    address = {"family": "inet", "local": "192.168.0.2", "prefixlen": 24, "scope": "global"}
    links = [{"ifindex": 2, "ifname": "eth0", "addr_info": [address], "flags": ["UP"]}]
    route = [{"dst": "default", "gateway": "192.168.0.1", "dev": "eth0", "flags": []}]
    config = (
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        f"mode: {mode}\nclusterCIDR: 10.0.0.0/8\nhostnameOverride: {HERE}\n"
    )
    texts = {
        Part.ADDRESSES: json.dumps(links),
        Part.ROUTES: json.dumps(route),
        Part.CONFIG: config,
        **rules,
    }
    return NodeSnapshot(Parts(texts), HERE)


def a_plan(mode: str, *endpoints: str, **changes: Any) -> tuple[NodeSnapshot, Cluster]:
    """A node without rules, and its plans of Service web."""
    node = snapshot(mode)
    web = a_service("web", **changes)
    return node, load_cluster(node, cluster_objects(web, a_slice("web-1", "web", *endpoints)))


def compared(
    mode: str, kernel: tuple[str, ...], plan: tuple[str, ...], **changes: Any
) -> KernelReport:
    """Compare a kernel that was written for the endpoints *kernel* with the plan of others."""
    node, written = a_plan(mode, *kernel, **changes)
    actual = IntendedNode(node, compile_cluster(written))
    return compare_kernel(actual, a_plan(mode, *plan, **changes)[1], WEB)


def of(report: KernelReport, target: str, *, planned: bool = True) -> Kernel:
    return report.of(target, "ns/web:http", "TCP", planned=planned)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_a_kernel_as_planned_agrees(mode: str, policy: str) -> None:
    report = compared(
        mode,
        ENDPOINTS,
        ENDPOINTS,
        type="NodePort",
        ports=[{"name": "http", "port": 80, "nodePort": 30080}],
        externalTrafficPolicy=policy,
    )
    assert (report.differences, report.unknown) == ((), frozenset())
    assert of(report, "10.0.0.1:8080") is of(report, "10.0.1.1:8080") is Kernel.AGREES
    assert of(report, "10.0.1.2:8080", planned=False) is Kernel.AGREES


@pytest.mark.parametrize("mode", MODES)
def test_a_missing_and_a_stale_endpoint_are_told(mode: str) -> None:
    stale = (ENDPOINTS[0], "10.0.1.9 on=n2")
    report = compared(mode, stale, ENDPOINTS)
    assert of(report, "10.0.0.1:8080") is Kernel.AGREES
    assert of(report, "10.0.1.1:8080") is Kernel.MISSING
    assert report.by_target["10.0.1.9:8080", "ns/web:http", "TCP"] is Kernel.EXTRA
    assert {one.frontend for one in report.differences} == {"172.30.0.1:80/TCP"}


@pytest.mark.parametrize("mode", MODES)
def test_a_service_that_the_kernel_rejects_though_it_has_endpoints_differs(mode: str) -> None:
    report = compared(mode, (), ENDPOINTS)
    assert of(report, "10.0.0.1:8080") is Kernel.MISSING
    assert report.differences[0].actual == "is rejected"


@pytest.mark.parametrize("mode", MODES)
def test_without_the_rules_of_the_mode_nothing_is_said_to_agree(mode: str) -> None:
    """Rules of another mode that are known do not help."""
    cluster = a_plan(mode, *ENDPOINTS)[1]
    node = snapshot(mode, {} if mode == "iptables" else EMPTY)
    report = compare_kernel(node, cluster, WEB)
    assert report.unknown == {IPFamily.IPV4}
    assert of(report, "10.0.0.1:8080") is Kernel.UNKNOWN
    assert report.gaps


def test_one_family_may_be_known_without_the_other() -> None:
    node = NodeSnapshot(Parts({Part.IPTABLES: "*nat\nCOMMIT\n"}), HERE)
    known, gaps = readable_families(node, "iptables")
    assert known == (IPFamily.IPV4,)
    assert len(gaps) == 1


def test_a_service_without_ports_here_asks_the_kernel_nothing() -> None:
    node, cluster = a_plan("nftables", *ENDPOINTS, clusterIP="None", clusterIPs=["None"])
    assert compare_kernel(node, cluster, WEB) == KernelReport({})


def test_another_services_claim_is_taken_into_account() -> None:
    """Of an address that an older Service holds, the newer one's endpoints are not expected."""
    node = snapshot("nftables")
    objects = cluster_objects(
        a_service("web", created="2026-02-01T00:00:00Z", externalIPs=["192.0.2.9"]),
        a_slice("web-1", "web", "10.0.0.1"),
        a_service("old", "172.30.0.2", created="2026-01-01T00:00:00Z", externalIPs=["192.0.2.9"]),
        a_slice("old-1", "old", "10.0.0.2"),
    )
    cluster = load_cluster(node, objects)
    actual = IntendedNode(node, compile_cluster(cluster))
    for name in (WEB, ServiceName("ns", "old")):
        assert compare_kernel(actual, cluster, name).differences == ()
