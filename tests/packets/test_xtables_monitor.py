"""Who changes our iptables rules: others' edits of ours are told, everything else is not."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kpctl.lab.netns import Namespace, create_all, delete_all
from proxy.kernel.iptables import ProgramIptables, RecentPids
from proxy.kernel.nft_monitor import ForeignEdit
from proxy.kernel.xtables_backend import Backend
from proxy.kernel.xtables_monitor import LegacyXtablesMonitor, NftXtablesMonitor
from proxy.model.addresses import IPFamily
from tests.packets.flows.site import PREFIX
from tests.support.monitoring import Collected
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
PROGRAMS = {V4: "iptables", V6: "ip6tables"}
OURS = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-MARK-DROP - [0:0]
-A KUBE-SERVICES -m comment --comment ns/a -j KUBE-SVC-A
-A PREROUTING -m comment --comment portals -j KUBE-SERVICES
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
COMMIT
"""
PERIOD_S = 0.02
_serial = itertools.count(1)


class Node:
    """A namespace with our rules of both families, and what writes them."""

    def __init__(self, namespace: Namespace, kind: str) -> None:
        self.namespace = namespace
        self.kind = kind
        self.pids = RecentPids()
        backend = Backend(kind, "", variant=f"-{kind}", version=(1, 8, 9))
        self.ports = {f: ProgramIptables(f, backend, pids=self.pids) for f in IPFamily}
        for family in IPFamily:
            self.write(OURS, family)

    def write(self, text: str, family: IPFamily = V4) -> None:
        """Write as the proxy does."""
        with self.namespace.enter():
            self.ports[family].restore(text)

    def edit(self, arguments: str, family: IPFamily = V4) -> None:
        """Change something, as somebody else does."""
        self.namespace.run([f"{PROGRAMS[family]}-{self.kind}", "-w", "5", *arguments.split()])

    @contextmanager
    def told(self) -> Iterator[Callable[[], list[ForeignEdit]]]:
        """Listen; the value waits until a last edit of ours is told and returns those before."""
        with self.namespace.enter():
            monitor = NftXtablesMonitor(self.pids)
        with Collected(monitor) as seen:

            def before_marker() -> list[ForeignEdit]:
                self.edit("-t mangle -N KUBE-MARKER", V6)
                eventually(lambda: any(e.places == ("mangle/KUBE-MARKER",) for e in seen))
                *edits, marker = seen
                assert marker.places == ("mangle/KUBE-MARKER",)
                return edits

            yield before_marker


@pytest.fixture(autouse=True)
def _own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


@pytest.fixture
def make_node() -> Iterator[Callable[[str], Node]]:
    made: list[Namespace] = []

    def make(kind: str) -> Node:
        made.append(Namespace(f"{PREFIX}{os.getpid()}-xtm{next(_serial)}"))
        create_all(made[-1:])
        return Node(made[-1], kind)

    yield make
    delete_all(made)


@pytest.fixture
def nft(make_node: Callable[[str], Node]) -> Node:
    return make_node("nft")


@pytest.fixture
def legacy(make_node: Callable[[str], Node]) -> Node:
    return make_node("legacy")


# -- nft: notifications ----------------------------------------------------------------------


@pytest.mark.parametrize("family", IPFamily, ids=lambda family: family.value)
@pytest.mark.parametrize(
    ("arguments", "reason", "changes", "places"),
    [
        ("-t nat -F KUBE-SERVICES", "rule", ("rule deleted: 1",), ("nat/KUBE-SERVICES",)),
        ("-t nat -A KUBE-SVC-A -j RETURN", "rule", ("rule added: 1",), ("nat/KUBE-SVC-A",)),
        ("-t nat -I KUBE-SERVICES -j RETURN", "rule", ("rule added: 1",), ("nat/KUBE-SERVICES",)),
        ("-t nat -D PREROUTING 1", "rule", ("rule deleted: 1",), ("nat/PREROUTING",)),
        (
            "-t nat -F",
            "rule",
            ("rule deleted: 2",),
            ("nat/KUBE-SERVICES", "nat/PREROUTING"),
        ),
        ("-t filter -N KUBE-NEW", "chain", ("chain added: 1",), ("filter/KUBE-NEW",)),
        ("-t mangle -N KUBE-NEW", "chain", ("chain added: 1",), ("mangle/KUBE-NEW",)),
    ],
)
def test_an_edit_of_ours_is_told_with_place_process_and_sender(
    nft: Node,
    arguments: str,
    reason: str,
    changes: tuple[str, ...],
    places: tuple[str, ...],
    family: IPFamily,
) -> None:
    with nft.told() as told:
        nft.edit(arguments, family)
        (edit,) = told()
    assert (edit.family, edit.reason, edit.changes) == (family, reason, changes)
    assert sorted(edit.places) == sorted(places)
    name, _, number = edit.process.rstrip("]").partition("[")
    assert name in ("iptables-nft", "ip6tables-nft")
    assert int(number) > 0
    assert edit.sender > 0
    assert edit.sender not in nft.pids()


def test_a_deleted_chain_is_told(nft: Node) -> None:
    with nft.told() as told:
        nft.edit("-t nat -F KUBE-SERVICES")
        nft.edit("-t nat -X KUBE-SVC-A")
        _, edit = told()
    assert (edit.changes, edit.places) == (("chain deleted: 1",), ("nat/KUBE-SVC-A",))


@pytest.mark.parametrize(
    ("script", "families"), [("flush ruleset", set(IPFamily)), ("delete table ip nat", {V4})]
)
def test_a_deleted_table_is_told(nft: Node, script: str, families: set[IPFamily]) -> None:
    with nft.told() as told:
        nft.namespace.run(["nft", "-f", "-"], stdin=script)
        edits = told()
    assert {edit.family for edit in edits} == families
    for edit in edits:
        assert edit.reason == "table"
        assert any(change.startswith("table deleted: ") for change in edit.changes)


@pytest.mark.parametrize(
    "arguments",
    [
        # The kubelet's chains, and the jump to one of them.
        "-t nat -A KUBE-MARK-DROP -j RETURN",
        "-t nat -X KUBE-MARK-DROP",
        "-t mangle -N KUBE-KUBELET-CANARY",
        "-t mangle -N KUBE-IPTABLES-HINT",
        "-t filter -D INPUT -j KUBE-FIREWALL",
        # A CNI plugin's.
        "-t nat -N CNI-HOSTPORT-DNAT",
        "-t nat -I PREROUTING -j RETURN",
        "-t nat -A POSTROUTING -m comment --comment KUBE-SERVICES -j RETURN",
        # Tables that no proxy uses.
        "-t raw -N KUBE-SERVICES",
    ],
)
def test_what_is_not_ours_is_not_told(nft: Node, arguments: str) -> None:
    with nft.told() as told:
        nft.edit(arguments)
        assert told() == []


def test_a_lost_rule_that_only_speaks_of_us_is_not_told(nft: Node) -> None:
    rule = "-t nat {} POSTROUTING -m comment --comment KUBE-SERVICES -j RETURN"
    nft.edit(rule.format("-A"))
    with nft.told() as told:
        nft.edit(rule.format("-D"))
        nft.namespace.run(["nft", "-f", "-"], stdin="add table inet nat; add chain inet nat KUBE-X")
        assert told() == []


def test_our_own_restores_are_not_told_whatever_their_size(nft: Node) -> None:
    names = [f"KUBE-SEP-{number}" for number in range(2000)]
    rules = [f"-A {name} -m comment --comment {'x' * 200} -j RETURN" for name in names]
    with nft.told() as told:
        for family in IPFamily:
            nft.write(OURS, family)
            text = "\n".join(("*nat", *(f":{name} - [0:0]" for name in names), *rules, "COMMIT"))
            nft.write(f"{text}\n", family)
        assert told() == []
        eventually(lambda: nft.pids())


def test_a_restore_of_ours_that_is_not_known_as_ours_tells_its_sender(nft: Node) -> None:
    with nft.namespace.enter():
        monitor = NftXtablesMonitor(frozenset)
    with Collected(monitor) as seen:
        before = nft.pids()
        nft.write(OURS)
        eventually(lambda: len(seen))
    (edit,) = seen
    assert {edit.sender} == nft.pids() - before


def test_lost_notifications_are_told_as_unknown(nft: Node) -> None:
    with nft.namespace.enter():
        monitor = NftXtablesMonitor(nft.pids)
    monitor._socket.set_buffer_sizes(receive=4096)
    # Nobody reads meanwhile, so the kernel runs out of room and drops.
    for number in range(20):
        nft.edit(f"-t nat -N KUBE-NEW-{number}")
    with Collected(monitor) as seen:
        eventually(lambda: {e.family for e in seen if e.reason == "unknown"} == set(IPFamily))


# -- legacy: looking -------------------------------------------------------------------------


@contextmanager
def _looking(node: Node) -> Iterator[tuple[LegacyXtablesMonitor, Collected]]:
    with node.namespace.enter():
        monitor = LegacyXtablesMonitor(PERIOD_S)
    with Collected(monitor) as seen:
        yield monitor, seen


def _edits_before_marker(node: Node, seen: Collected) -> list[ForeignEdit]:
    """Return what was told before a last edit that must be; one more look has then been had."""
    known = len(seen)
    node.edit("-t filter -A OUTPUT -j RETURN", V6)
    marker = (V6, ("filter",))
    eventually(lambda: any((e.family, e.places) == marker for e in list(seen)[known:]))
    *edits, last = seen
    assert (last.family, last.places) == marker
    return edits


@pytest.mark.parametrize("family", IPFamily, ids=lambda family: family.value)
@pytest.mark.parametrize(
    ("arguments", "table"),
    [
        ("-t nat -F", "nat"),
        ("-t nat -D PREROUTING 1", "nat"),
        ("-t nat -A KUBE-SVC-A -j RETURN", "nat"),
        ("-t filter -F", "filter"),
    ],
)
def test_a_changed_table_is_told_once(
    legacy: Node, arguments: str, table: str, family: IPFamily
) -> None:
    with _looking(legacy) as (_, seen):
        legacy.edit(arguments, family)
        eventually(lambda: len(seen))
        (edit,) = _edits_before_marker(legacy, seen)
    assert (edit.family, edit.places, edit.reason) == (family, (table,), "rule")
    assert "entries became" in edit.changes[0]


def test_our_own_change_is_not_told_and_what_others_did_before_is(legacy: Node) -> None:
    with legacy.namespace.enter():
        monitor = LegacyXtablesMonitor(PERIOD_S)
    legacy.edit("-t filter -F")
    with monitor.own_change():
        legacy.write(OURS.replace("ns/a", "a-longer-comment-of-this-service"))
    with Collected(monitor) as seen:
        eventually(lambda: len(seen))
        with monitor.own_change():
            legacy.write(OURS)
        (edit,) = _edits_before_marker(legacy, seen)
    assert edit.places == ("filter",)


def test_after_rebase_only_later_changes_are_told(legacy: Node) -> None:
    with legacy.namespace.enter():
        monitor = LegacyXtablesMonitor(PERIOD_S)
    legacy.edit("-t nat -F")
    monitor.rebase()
    with Collected(monitor) as seen:
        assert _edits_before_marker(legacy, seen) == []


def test_a_table_that_is_gone_is_told(legacy: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table goes with its kernel module; here the kernel's list of tables loses it."""
    with _looking(legacy) as (monitor, seen):
        monkeypatch.setattr(monitor._tables[V4], "names", lambda: frozenset({"filter"}))
        eventually(lambda: len(seen))
    (edit,) = seen
    assert (edit.family, edit.reason, edit.changes) == (V4, "table", ("table nat vanished",))


def test_looking_creates_no_table(legacy: Node) -> None:
    with _looking(legacy) as (monitor, seen):
        assert _edits_before_marker(legacy, seen) == []
        assert {family: monitor._tables[family].names() for family in IPFamily} == {
            family: {"nat", "filter"} for family in IPFamily
        }


def test_a_table_that_somebody_makes_for_himself_is_not_told(legacy: Node) -> None:
    with _looking(legacy) as (_, seen):
        legacy.edit("-t mangle -N OTHER")
        assert _edits_before_marker(legacy, seen) == []


def test_closing_ends_the_looking(legacy: Node) -> None:
    with legacy.namespace.enter():
        monitor = LegacyXtablesMonitor(3600)
    collected = Collected(monitor)
    with collected:
        assert not collected.ended
    assert collected.ended
    monitor.rebase()
    with monitor.own_change():
        pass
