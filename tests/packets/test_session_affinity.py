"""Session affinity as clients see it: who returns meets the same endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.packets.cluster import NODE_IP, POD, Cluster, backend, cluster, service, slice_of, vip
from tests.support.waiting import eventually

pytestmark = [pytest.mark.packets, pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

B1, B2, B3 = (backend(number) for number in (1, 2, 3))
VIP = vip(1)
# With 3 endpoints the chance that this many clients choose the same again is 3⁻¹⁴ < 1e-6.
CLIENTS = tuple(f"10.1.0.{number}" for number in range(20, 34))
OUTSIDERS = tuple(f"203.0.113.{number}" for number in range(20, 34))


def _choices(
    made: Cluster, clients: Iterable[str] = CLIENTS, ip: str = VIP, port: int = 80
) -> dict[str, str]:
    clients = list(clients)
    return dict(zip(clients, made.landings(clients, ip, port), strict=True))


def test_a_client_returns_to_its_endpoint_and_clients_are_spread(tmp_path: Path) -> None:
    objects = service("web", VIP, affinity_s=600), slice_of("web", B1, B2, B3)
    with cluster(tmp_path, *objects) as made:
        assert len(set(made.landings([POD] * 60, VIP))) == 1
        first = _choices(made)
        assert len(set(first.values())) > 1
        for _ in range(4):
            assert _choices(made) == first
        assert made.remembered().items() >= first.items()


def test_affinity_of_one_service_says_nothing_about_another(tmp_path: Path) -> None:
    objects = (
        service("web", VIP, affinity_s=600),
        slice_of("web", B1, B2, B3),
        service("other", vip(2), affinity_s=600),
        slice_of("other", B1, B2, B3),
        service("without", vip(3)),
        slice_of("without", B1, B2, B3),
    )
    with cluster(tmp_path, *objects) as made:
        assert _choices(made) != _choices(made, ip=vip(2))
        assert set(made.landings([POD] * 40, vip(3))) == {B1, B2, B3}


def test_node_ports_have_affinity_too(tmp_path: Path) -> None:
    objects = (
        service("web", VIP, node_port=30080, affinity_s=600),
        slice_of("web", B1, B2, B3),
    )
    with cluster(tmp_path, *objects) as made:
        first = _choices(made, OUTSIDERS, NODE_IP, 30080)
        assert len(set(first.values())) > 1
        for _ in range(3):
            assert _choices(made, OUTSIDERS, NODE_IP, 30080) == first


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_other_protocols_have_affinity_too(tmp_path: Path, protocol: str) -> None:
    objects = (
        service("web", VIP, affinity_s=600, protocol=protocol),
        slice_of("web", B1, B2, B3, protocol=protocol),
    )
    with cluster(tmp_path, *objects) as made:
        first = made.landings(CLIENTS, VIP, protocol=protocol)
        assert len(set(first)) > 1
        assert made.landings(CLIENTS, VIP, protocol=protocol) == first


def test_affinity_ends_after_its_time_and_each_connection_renews_it(tmp_path: Path) -> None:
    objects = service("web", VIP, affinity_s=2), slice_of("web", B1, B2, B3)
    with cluster(tmp_path, *objects) as made:
        first = _choices(made)
        started = time.monotonic()
        while time.monotonic() < started + 3:  # longer than the time itself
            assert _choices(made) == first
            time.sleep(0.2)
        last = time.monotonic()
        eventually(lambda: not made.remembered(), within_s=10)
        assert time.monotonic() - last > 1.5
        assert _choices(made) != first


def test_clients_of_an_endpoint_that_left_move_once_and_others_stay(tmp_path: Path) -> None:
    objects = service("web", VIP, affinity_s=600), slice_of("web", B1, B2, B3)
    with cluster(tmp_path, *objects) as made:
        first = _choices(made)
        gone = first[CLIENTS[0]]
        made.apply(slice_of("web", *({B1, B2, B3} - {gone})))
        eventually(lambda: gone not in made.remembered().values())
        second = _choices(made)
        assert gone not in second.values()
        stayed = {client for client, place in first.items() if place != gone}
        assert {c: second[c] for c in stayed} == {c: first[c] for c in stayed}
        made.apply(slice_of("web", B1, B2, B3))
        for _ in range(3):  # who moved stays, also when the first endpoint is back
            assert _choices(made) == second


def test_without_affinity_nobody_is_remembered_any_more(tmp_path: Path) -> None:
    objects = service("web", VIP, affinity_s=600), slice_of("web", B1, B2, B3)
    with cluster(tmp_path, *objects) as made:
        _choices(made)
        assert made.remembered()
        made.apply(service("web", VIP))
        eventually(lambda: not made.remembered())
        assert set(made.landings([POD] * 40, VIP)) == {B1, B2, B3}


def test_affinity_outlives_the_process(tmp_path: Path) -> None:
    objects = service("web", VIP, affinity_s=600), slice_of("web", B1, B2, B3)
    with cluster(tmp_path, *objects) as made:
        first = _choices(made)
        made.restart()
        assert made.remembered().items() >= first.items()
        assert _choices(made) == first


def test_affinity_outlives_a_restatement_of_the_table(tmp_path: Path) -> None:
    objects = service("web", VIP, affinity_s=600), slice_of("web", B1, B2, B3)
    with cluster(tmp_path, *objects) as made:
        first = _choices(made)
        made.edit("add rule ip kube-proxy services ip daddr 192.0.2.99 accept")
        eventually(lambda: "192.0.2.99" not in made.rules())
        assert _choices(made) == first
