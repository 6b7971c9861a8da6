"""What is asked for, and the same selection for manifests."""

import pytest

from proxy.model.events import Resource
from proxy.model.objects import EndpointSlice, Node, ObjectMeta, Service, ServiceSpec
from proxy.sources.resources import followed_resources, is_followed


def test_the_selectors_are_those_of_kube_proxy():
    asked = {spec.plural: (spec.path, spec.selectors) for spec in followed_resources("n1")}

    assert asked == {
        "services": (
            "/api/v1/services",
            {
                "labelSelector": "!service.kubernetes.io/service-proxy-name",
                "fieldSelector": "spec.clusterIP!=None",
            },
        ),
        "endpointslices": (
            "/apis/discovery.k8s.io/v1/endpointslices",
            {"labelSelector": "!service.kubernetes.io/headless"},
        ),
        "nodes": ("/api/v1/nodes", {"fieldSelector": "metadata.name=n1"}),
        "servicecidrs": ("/apis/networking.k8s.io/v1/servicecidrs", {}),
    }


def labelled(label):
    return ObjectMeta(name="x", labels={label: "any"})


@pytest.mark.parametrize(
    ("resource", "obj", "followed"),
    [
        (Resource.SERVICE, Service(ObjectMeta(name="x")), True),
        (Resource.SERVICE, Service(labelled("service.kubernetes.io/service-proxy-name")), False),
        (Resource.SERVICE, Service(ObjectMeta(name="x"), ServiceSpec(cluster_ip="None")), False),
        (Resource.ENDPOINT_SLICE, EndpointSlice(ObjectMeta(name="x"), "IPv4"), True),
        (
            Resource.ENDPOINT_SLICE,
            EndpointSlice(labelled("service.kubernetes.io/headless"), "IPv4"),
            False,
        ),
        (
            Resource.ENDPOINT_SLICE,
            EndpointSlice(labelled("service.kubernetes.io/service-proxy-name"), "IPv4"),
            True,
        ),
        (Resource.NODE, Node(ObjectMeta(name="n1")), True),
        (Resource.NODE, Node(ObjectMeta(name="n2")), False),
    ],
)
def test_the_same_selection_is_made_in_process(resource, obj, followed):
    assert is_followed(resource, obj, "n1") is followed
