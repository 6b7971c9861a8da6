"""Whatever happened on the way, the store ends up as if only the last state had been listed."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.model.addresses import IPFamily
from proxy.model.events import Removed, Replaced, Resource, SourceEvent, Upserted
from proxy.model.services import ServiceName
from proxy.model.store import ClusterStore
from tests.support.cluster_objects import a_service, a_slice

NAMES = [ServiceName("ns", name) for name in "abcd"]
Objects = dict[tuple[Resource, str], Any]


class History:
    """Random events, and what exists after them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.existing: Objects = {}

    def events(self, count: int) -> Iterator[SourceEvent]:
        for _ in range(count):
            resource = self._random.choice([Resource.SERVICE, Resource.ENDPOINT_SLICE])
            name = self._random.choice("abcd")
            key = (resource, name)
            what = self._random.random()
            if what < 0.2:
                self.existing.pop(key, None)
                yield Removed(resource, "ns", name)
            elif what < 0.27:
                yield self._relisted(resource)
            else:
                self.existing[key] = self._object(resource, name)
                yield Upserted(self.existing[key])

    def _relisted(self, resource: Resource) -> Replaced:
        for key in [k for k in self.existing if k[0] is resource and self._random.random() < 0.3]:
            del self.existing[key]
        return listing(self.existing, resource)

    def _object(self, resource: Resource, name: str) -> Any:
        draw = self._random
        if resource is Resource.SERVICE:
            address = draw.choice(["172.30.0.1", "172.30.0.2", "fd00::1", "None", "wrong"])
            return a_service(
                name,
                address,
                type=draw.choice(["ClusterIP", "NodePort", "ExternalName"]),
                ports=[{"name": "http", "port": draw.choice([80, 81, 0])}],
            )
        family, prefix = draw.choice([("IPv4", "10.0.0."), ("IPv6", "fd00::"), ("FQDN", "x")])
        endpoints = [
            f"{prefix}{draw.randrange(1, 6)} {draw.choice(['ready', '!ready', 'terminating'])}"
            for _ in range(draw.randrange(4))
        ]
        return a_slice(name, draw.choice("abcd"), *endpoints, family=family)


def listing(existing: Objects, resource: Resource) -> Replaced:
    return Replaced(resource, tuple(o for (kind, _), o in existing.items() if kind is resource))


def contents(cluster: ClusterStore) -> dict[ServiceName, Any]:
    return {
        name: (
            [cluster.ports(name, family) for family in IPFamily],
            [cluster.endpoints(name, family) for family in IPFamily],
            cluster.slices(name),
        )
        for name in NAMES
    }


def fresh(existing: Objects) -> ClusterStore:
    cluster = ClusterStore(IPFamily, "here")
    for resource in (Resource.SERVICE, Resource.ENDPOINT_SLICE):
        cluster.apply(listing(existing, resource))
    return cluster


@pytest.mark.parametrize("seed", range(40))
def test_any_history_ends_as_a_fresh_listing_of_its_last_state(seed: int) -> None:
    history, cluster = History(seed), ClusterStore(IPFamily, "here")
    for event in history.events(150):
        cluster.apply(event)
    anew = fresh(history.existing)
    assert contents(cluster) == contents(anew)
    assert set(cluster.service_names()) == set(anew.service_names())


@pytest.mark.parametrize("seed", range(40))
def test_whatever_differs_between_two_commits_is_in_the_delta(seed: int) -> None:
    history, cluster = History(seed), ClusterStore(IPFamily, "here")
    shuffle = random.Random(seed)
    before = contents(cluster)
    for event in history.events(150):
        cluster.apply(event)
        if shuffle.random() < 0.5:
            continue
        delta, after = cluster.commit(), contents(cluster)
        assert {name for name in NAMES if before[name] != after[name]} <= delta.touched
        assert {n for n in NAMES if before[n][0] != after[n][0]} == delta.services
        before = after


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_a_listing_does_not_matter(seed: int) -> None:
    history = History(seed)
    list(history.events(100))
    items = list(history.existing.items())
    random.Random(seed).shuffle(items)
    assert contents(fresh(dict(items))) == contents(fresh(history.existing))
