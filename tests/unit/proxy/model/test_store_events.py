"""What the store makes of source events, malformed objects included."""

from typing import Any

import pytest

from proxy.model.addresses import IPFamily
from proxy.model.events import Removed, Replaced, Resource, Unreadable, Upserted
from proxy.model.services import ServiceName
from proxy.model.store import ClusterStore, Delta, Problem
from tests.support.cluster_objects import a_service, a_slice, service_cidr, slice_from

IPV4, IPV6 = IPFamily.IPV4, IPFamily.IPV6
SLICE = Resource.ENDPOINT_SLICE
A, B = ServiceName("ns", "a"), ServiceName("ns", "b")


@pytest.fixture
def cluster() -> ClusterStore:
    return ClusterStore(IPFamily, "here")


def apply(cluster: ClusterStore, *objects: Any) -> Delta:
    for obj in objects:
        cluster.apply(Upserted(obj))
    return cluster.commit()


def targets(cluster: ClusterStore, name: ServiceName, family: IPFamily = IPV4) -> list[str]:
    return [str(e) for found in cluster.endpoints(name, family).values() for e in found]


def test_a_change_of_metadata_only_is_no_change(cluster: ClusterStore) -> None:
    """Judged by what matters; kube-proxy compares whole slices, resourceVersion included."""
    apply(cluster, a_service("a"), a_slice("a-1", "a", "10.0.0.1"))
    touched = a_slice("a-1", "a", "10.0.0.1", triggered="2026-01-01T00:00:00Z")
    assert not apply(cluster, a_service("a", selector={"x": "y"}), touched)


def test_the_same_slice_again_is_no_change(cluster: ClusterStore) -> None:
    assert apply(cluster, a_slice("a-1", "a", "10.0.0.1")).touched == {A}
    assert not apply(cluster, a_slice("a-1", "a", "10.0.0.1"))


def test_removing_what_was_never_there_is_no_change(cluster: ClusterStore) -> None:
    for resource in Resource:
        cluster.apply(Removed(resource, "ns", "a"))
    assert not cluster.commit()


def test_a_slice_moved_to_another_service_leaves_the_first(cluster: ClusterStore) -> None:
    apply(cluster, a_slice("x", "a", "10.0.0.1"), a_slice("a-2", "a", "10.0.0.2"))
    delta = apply(cluster, a_slice("x", "b", "10.0.0.1"))
    assert delta.touched == {A, B}
    assert targets(cluster, A) == ["10.0.0.2:8080"]
    assert targets(cluster, B) == ["10.0.0.1:8080"]
    cluster.apply(Removed(Resource.ENDPOINT_SLICE, "ns", "x"))
    assert cluster.commit().touched == {B}
    assert targets(cluster, B) == []


@pytest.mark.parametrize("labels", [None, {}, {"kubernetes.io/service-name": ""}, {"app": "a"}])
def test_a_slice_without_service_label_belongs_to_nobody(
    cluster: ClusterStore, labels: dict[str, str] | None
) -> None:
    manifest = {
        "metadata": {"name": "x", "namespace": "ns", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"name": "http", "port": 80}],
    }
    assert not apply(cluster, slice_from(manifest))
    apply(cluster, a_slice("x", "a", "10.0.0.1"))
    assert apply(cluster, slice_from(manifest)).touched == {A}  # it lost its label
    assert targets(cluster, A) == []


def test_an_fqdn_slice_is_reported_and_not_used(cluster: ClusterStore) -> None:
    apply(cluster, a_slice("x", "a", "10.0.0.1"))
    delta = apply(cluster, a_slice("x", "a", "a.example", family="FQDN"))
    assert delta.touched == {A}
    assert targets(cluster, A) == []
    text = "addressType: 'FQDN' is neither IPv4 nor IPv6"
    assert delta.problems == [Problem(Resource.ENDPOINT_SLICE, "ns", "x", text)]


def test_slices_of_a_family_that_is_not_served_are_not_kept() -> None:
    cluster = ClusterStore([IPV4], "here")
    assert not apply(cluster, a_slice("x", "a", "fd00::1", family="IPv6"))
    assert cluster.slices(A) == {}


def test_two_families_of_a_service_live_side_by_side(cluster: ClusterStore) -> None:
    both = {"clusterIPs": ["172.30.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}
    apply(
        cluster,
        a_service("a", **both),
        a_slice("a-4", "a", "10.0.0.1"),
        a_slice("a-6", "a", "fd00::2", family="IPv6"),
    )
    assert targets(cluster, A, IPV4) == ["10.0.0.1:8080"]
    assert targets(cluster, A, IPV6) == ["[fd00::2]:8080"]
    assert {len(cluster.ports(A, f)[0].traits.cluster_ip) for f in IPFamily} == {4, 16}
    assert apply(cluster, a_service("a")).services == {A}  # it loses its IPv6 address
    assert cluster.ports(A, IPV6) == ()
    assert cluster.ports(A, IPV4)


def test_what_is_wrong_is_reported_once_for_both_families(cluster: ClusterStore) -> None:
    both = {"clusterIPs": ["172.30.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}
    delta = apply(cluster, a_service("a", externalIPs=["x"], **both))
    text = "spec.externalIPs[0]: 'x' is not an IP address"
    assert delta.problems == [Problem(Resource.SERVICE, "ns", "a", text)]
    assert delta.services == {A}


def test_a_service_that_became_unusable_is_gone(cluster: ClusterStore) -> None:
    apply(cluster, a_service("a"))
    delta = apply(cluster, a_service("a", ports=[{"port": 99999}]))
    assert delta.services == {A}
    assert len(delta.problems) == 1
    assert list(cluster.service_names()) == []


def test_a_change_and_its_reverse_before_the_commit_are_no_change(cluster: ClusterStore) -> None:
    apply(cluster, a_service("a"))
    assert not apply(cluster, a_service("a", "172.30.0.2"), a_service("a"))
    cluster.apply(Removed(Resource.SERVICE, "ns", "a"))
    assert cluster.pending_services == 1
    assert not apply(cluster, a_service("a"))


def test_a_service_made_anew_is_a_change(cluster: ClusterStore) -> None:
    """Its age decides who keeps an address that two claim."""
    apply(cluster, a_service("a"))
    assert apply(cluster, a_service("a", created="2026-02-02T00:00:00Z")).services == {A}


def test_a_listing_removes_what_it_does_not_name(cluster: ClusterStore) -> None:
    apply(cluster, a_service("a"), a_service("b", "172.30.0.2"))
    apply(cluster, a_slice("a-1", "a", "10.0.0.1"), a_slice("b-1", "b", "10.0.0.2"))
    cluster.apply(Replaced(Resource.SERVICE, (a_service("b", "172.30.0.2"),)))
    cluster.apply(Replaced(Resource.ENDPOINT_SLICE, (a_slice("b-1", "b", "10.0.0.2"),)))
    delta = cluster.commit()
    assert delta.services == {A}
    assert set(delta.endpoints) == {A}
    assert list(cluster.service_names()) == [B]
    assert targets(cluster, A) == []
    assert targets(cluster, B) == ["10.0.0.2:8080"]


def test_a_listing_of_the_same_objects_is_no_change(cluster: ClusterStore) -> None:
    apply(cluster, a_service("a"), a_slice("a-1", "a", "10.0.0.1"), service_cidr("k", "10.0.0.0/8"))
    cluster.apply(Replaced(Resource.SERVICE, (a_service("a"),)))
    cluster.apply(Replaced(Resource.ENDPOINT_SLICE, (a_slice("a-1", "a", "10.0.0.1"),)))
    cluster.apply(Replaced(Resource.SERVICE_CIDR, (service_cidr("k", "10.0.0.0/8"),)))
    assert not cluster.commit()
    assert cluster.synced == {Resource.SERVICE, Resource.ENDPOINT_SLICE, Resource.SERVICE_CIDR}


def test_what_a_listing_could_not_read_stays_as_it_was(cluster: ClusterStore) -> None:
    apply(cluster, a_service("a"), a_slice("a-1", "a", "10.0.0.1"))
    broken = Unreadable(Resource.SERVICE, "ns", "a", "spec.ports: not a list")
    cluster.apply(Replaced(Resource.SERVICE, (broken,)))
    cluster.apply(Replaced(Resource.ENDPOINT_SLICE, (Unreadable(SLICE, "ns", "a-1", "x"),)))
    delta = cluster.commit()
    assert not delta.touched
    assert delta.problems == [
        Problem(Resource.SERVICE, "ns", "a", "spec.ports: not a list"),
        Problem(SLICE, "ns", "a-1", "x"),
    ]
    assert list(cluster.service_names()) == [A]
    assert targets(cluster, A) == ["10.0.0.1:8080"]


def test_an_unreadable_version_leaves_the_previous_one_in_force(cluster: ClusterStore) -> None:
    apply(cluster, a_service("a"))
    cluster.apply(Unreadable(Resource.SERVICE, "ns", "a", "spec: not an object"))
    delta = cluster.commit()
    assert delta
    assert not delta.touched
    assert list(cluster.service_names()) == [A]


def test_a_listing_may_be_decoded_while_it_is_read(cluster: ClusterStore) -> None:
    apply(cluster, a_service("a"), a_service("b", "172.30.0.2"))
    cluster.apply(Replaced(Resource.SERVICE, (obj for obj in [a_service("b", "172.30.0.3")])))
    assert cluster.commit().services == {A, B}
    assert list(cluster.service_names()) == [B]


def test_a_listing_of_nothing_empties_the_store(cluster: ClusterStore) -> None:
    apply(cluster, a_service("a"), a_slice("a-1", "a", "10.0.0.1"), service_cidr("k", "10.0.0.0/8"))
    for resource in Resource:
        cluster.apply(Replaced(resource, ()))
    delta = cluster.commit()
    assert delta.touched == {A}
    assert delta.service_cidrs_changed
    assert (list(cluster.service_names()), cluster.slices(A), cluster.service_cidrs) == ([], {}, ())


def test_service_cidrs_are_those_of_all_objects(cluster: ClusterStore) -> None:
    one, two = service_cidr("one", "10.0.0.0/8", "fd00::/64"), service_cidr("two", "10.0.0.0/8")
    assert apply(cluster, one).service_cidrs_changed
    assert not apply(cluster, two)  # nothing that was not there
    cluster.apply(Removed(Resource.SERVICE_CIDR, "", "one"))
    assert cluster.commit().service_cidrs_changed
    assert cluster.service_cidrs == ("10.0.0.0/8",)


def test_endpoints_of_a_service_that_does_not_exist_yet_wait_for_it(cluster: ClusterStore) -> None:
    apply(cluster, a_slice("a-1", "a", "10.0.0.1"))
    assert apply(cluster, a_service("a")).touched == {A}
    assert targets(cluster, A) == ["10.0.0.1:8080"]
    cluster.apply(Removed(Resource.SERVICE, "ns", "a"))
    assert cluster.commit().touched == {A}
    assert targets(cluster, A) == ["10.0.0.1:8080"]  # for when it comes back


def test_equal_names_in_two_namespaces_are_two(cluster: ClusterStore) -> None:
    apply(cluster, a_slice("x", "a", "10.0.0.1"))
    other = a_slice("x", "a", "10.0.0.2", slice="other/x")
    assert apply(cluster, other).touched == {ServiceName("other", "a")}
    assert targets(cluster, A) == ["10.0.0.1:8080"]
