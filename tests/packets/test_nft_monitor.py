"""Who changes our tables: foreign transactions are told, our own are not."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from kpctl.lab.netns import Namespace, create_all, delete_all
from proxy.backends.nftables import layout, requests
from proxy.backends.nftables.requests import Change
from proxy.backends.nftables.table import NftablesTable
from proxy.backends.settings import Settings
from proxy.kernel.nft_monitor import NftMonitor
from proxy.kernel.nftables import NetlinkNft
from proxy.model.addresses import IPFamily
from tests.packets.flows.site import PREFIX
from tests.support.monitoring import Collected
from tests.support.nft_listing import load_text
from tests.support.plans import address, simple
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

_serial = itertools.count(1)


class Node:
    """A namespace with our tables of both families, and a monitor of them."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        with namespace.enter():
            self.nft = {family: NetlinkNft(family) for family in IPFamily}
            own = frozenset(port.portid for port in self.nft.values())
            self.monitor = NftMonitor(layout.TABLE, own)
        for family in IPFamily:
            self.state(family)

    def state(self, family: IPFamily) -> None:
        """Write the table, by the socket whose messages are ours."""
        batch = NftablesTable(Settings(family)).restate(
            [simple(1, 1, 2, family=family)], replace=False
        )
        self.nft[family].apply(batch.requests)

    def edit(self, script: str) -> None:
        """Change something, as any other program does."""
        load_text(self.namespace, script)


@pytest.fixture
def node() -> Iterator[Node]:
    namespace = Namespace(f"{PREFIX}{os.getpid()}-mon{next(_serial)}")
    create_all([namespace])
    made = Node(namespace)
    yield made
    for nft in made.nft.values():
        nft.close()
    delete_all([namespace])


@pytest.mark.parametrize(
    ("script", "reason", "change", "place"),
    [
        ("flush chain ip kube-proxy services", "rule", "rule deleted: 2", "services"),
        ("add rule ip kube-proxy services accept", "rule", "rule added: 1", "services"),
        ("add chain ip kube-proxy mine", "chain", "chain added: 1", "mine"),
        (
            "flush map ip kube-proxy service-ips",
            "element",
            "element deleted: 1",
            "service-ips",
        ),
        (
            "add element ip kube-proxy cluster-ips { 192.0.2.1 }",
            "element",
            "element added: 1",
            "cluster-ips",
        ),
        (
            "add set ip kube-proxy mine { type ipv4_addr; }",
            "set",
            "set added: 1",
            "mine",
        ),
    ],
)
def test_a_foreign_edit_is_told_with_process_and_place(
    node: Node, script: str, reason: str, change: str, place: str
) -> None:
    with Collected(node.monitor) as seen:
        node.edit(script)
        eventually(lambda: len(seen))
    (edit,) = seen
    assert edit.family is IPFamily.IPV4
    assert edit.reason == reason
    assert edit.changes == (change,)
    assert edit.places == (place,)
    assert edit.process.startswith("nft[")
    assert edit.process.removeprefix("nft[").removesuffix("]").isdigit()


def test_our_own_transactions_are_not_told(node: Node) -> None:
    with Collected(node.monitor) as seen:
        for family in IPFamily:
            node.state(family)
            change = Change(address("cluster", 77, family), b"", None)
            item = layout.sets(family)[layout.CLUSTER_IPS]
            node.nft[family].apply(list(requests.add_elements(item, [change], False)))
        node.edit("add chain ip6 kube-proxy marker")  # told after all that came before
        eventually(lambda: len(seen))
    (edit,) = seen
    assert (edit.family, edit.places) == (IPFamily.IPV6, ("marker",))


def test_edits_of_other_tables_are_not_told(node: Node) -> None:
    with Collected(node.monitor) as seen:
        node.edit("add table ip other; add chain ip other kube-proxy; delete table ip other")
        node.edit("add table inet kube-proxy; add chain inet kube-proxy services")
        node.edit("add chain ip kube-proxy marker")
        eventually(lambda: len(seen))
    (edit,) = seen
    assert edit.places == ("marker",)


def test_a_flushed_ruleset_is_told_for_both_families(node: Node) -> None:
    with Collected(node.monitor) as seen:
        node.edit("flush ruleset")
        eventually(lambda: len(seen) == 2)
    assert {edit.family for edit in seen} == set(IPFamily)
    assert {edit.reason for edit in seen} == {"table"}
    assert all("table deleted: 1" in edit.changes for edit in seen)
    assert all(edit.process.startswith("nft[") for edit in seen)


def test_one_transaction_is_one_edit_whatever_its_size(node: Node) -> None:
    addresses = ", ".join(f"10.{n >> 8}.{n & 255}.1" for n in range(3000))
    with Collected(node.monitor) as seen:
        node.edit(f"add element ip kube-proxy cluster-ips {{ {addresses} }}")
        node.edit("add chain ip kube-proxy marker")
        eventually(lambda: any(edit.places == ("marker",) for edit in seen))
    first, _ = seen
    assert first.changes == ("element added: 3000",)


def test_lost_notifications_are_told_as_unknown_for_both_families(node: Node) -> None:
    node.monitor._socket.set_buffer_sizes(receive=4096)
    addresses = ", ".join(f"10.{n >> 8}.{n & 255}.1" for n in range(3000))
    # Nobody reads meanwhile, so the kernel runs out of room and drops.
    node.edit(f"add element ip kube-proxy cluster-ips {{ {addresses} }}")
    with Collected(node.monitor) as seen:
        eventually(lambda: len([e for e in seen if e.reason == "unknown"]) >= 2)
        node.edit("add chain ip kube-proxy marker")
        eventually(lambda: any("marker" in edit.places for edit in seen))
    unknown = [edit for edit in seen if edit.reason == "unknown"]
    assert {edit.family for edit in unknown} == set(IPFamily)


def test_closing_ends_the_iteration(node: Node) -> None:
    collected = Collected(node.monitor)
    with collected:
        node.edit("add chain ip kube-proxy marker")
        eventually(lambda: len(collected))
        assert not collected.ended
    assert collected.ended
