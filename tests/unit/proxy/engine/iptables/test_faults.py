"""iptables mode when a line is refused, the lock is lost, or somebody else changes the tables."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest

from proxy.backends.iptables import names
from proxy.kernel.command import TimedOut, ToolMissing
from proxy.model.events import Resource
from proxy.runtime.logs import LogSettings, setup_logging
from tests.support.engine_rig import (
    endpoint_slice,
    many_services,
    removed,
    service,
)
from tests.support.fake_iptables import FakeIptables
from tests.support.iptables_rig import CHILD, IptablesRig, foreign_rule
from tests.support.iptables_text import differences

BAD = r"\"ns/bad"
BAD_IP, GOOD_IP = "10.96.0.66", "10.96.0.77"
HOUR_S = 3600
BACKENDS = pytest.mark.parametrize("rig", [False, True], indirect=True, ids=["nft", "legacy"])


@pytest.fixture
def rig(monkeypatch, request) -> IptablesRig:
    """Three Services that are served; the backend is nft unless asked for legacy."""
    made = IptablesRig(monkeypatch, kernel=FakeIptables(legacy=getattr(request, "param", False)))
    made.start(*many_services(3))
    made.kernel.inputs.clear()
    return made


def refused(rig: IptablesRig) -> dict[str, str]:
    return rig.engine.last_result["IPv4"]["refused"]  # type: ignore[return-value]


def last_error(rig: IptablesRig) -> object:
    return rig.engine.last_result["IPv4"]["error"]


def bad(name: str = "bad", ip: str = BAD_IP, **spec: object) -> tuple[object, object]:
    return service(name, ip, **spec), endpoint_slice(name, ["10.180.0.66"])


# -- a refused line --------------------------------------------------------------------------


@BACKENDS
def test_a_refused_line_names_its_service_and_the_others_are_served(rig) -> None:
    rig.kernel.refuse(BAD)
    rig.turn(*bad(), *bad("good", GOOD_IP))
    assert list(refused(rig)) == ["ns/bad"]
    assert rig.serves(GOOD_IP)
    assert not rig.serves(BAD_IP)
    assert not any("ns/bad" in str(chain) for chain in rig.kernel.tables["nat"].values())
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 1}
    [event] = rig.told.events
    assert (event.regarding.namespace, event.regarding.name) == ("ns", "bad")
    assert "ns/bad" in event.note
    assert "failed" in event.note


def test_the_log_names_the_service_port_and_the_programs_words(rig) -> None:
    stream = io.StringIO()
    setup_logging(LogSettings(), stream)
    rig.kernel.refuse(BAD)
    rig.turn(*bad())
    setup_logging(LogSettings())
    assert 'servicePort="ns/bad"' in stream.getvalue()
    assert "RULE_APPEND failed (Invalid argument)" in stream.getvalue()


@BACKENDS
def test_a_refused_change_leaves_the_service_as_it_was(rig) -> None:
    before = rig.kernel.ruleset()
    rig.kernel.refuse("10.200.0.1")
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert list(refused(rig)) == ["ns/svc-0"]
    assert differences(before, rig.kernel.ruleset()) == ""


@BACKENDS
def test_refusals_that_were_written_for_a_refused_service_are_taken_back(rig) -> None:
    """A load balancer with source ranges needs a filter rule, which is written first."""
    before = rig.kernel.ruleset()
    rig.kernel.refuse(r"ns/bad.*-j KUBE-EXT-")
    rig.turn(
        *bad(type="LoadBalancer", ingress=["5.6.7.8"], loadBalancerSourceRanges=["203.0.113.0/24"]),
        *bad("good", GOOD_IP),
    )
    assert list(refused(rig)) == ["ns/bad"]
    rig.turn(removed(Resource.SERVICE, "good"))
    assert differences(before, rig.kernel.ruleset()) == ""


@BACKENDS
def test_a_refused_service_is_tried_again_with_growing_pauses_until_it_succeeds(rig) -> None:
    rig.kernel.refuse(BAD)
    rig.turn(*bad())
    pauses = []
    for _ in range(10):
        pauses.append(rig.until_due())
        rig.after(rig.until_due())
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300])
    rig.kernel.allow(BAD)
    rig.after(rig.until_due())
    assert rig.serves(BAD_IP)
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 0}
    assert rig.until_due() > 300


@BACKENDS
def test_many_refused_services_are_all_named(rig) -> None:
    rig.kernel.refuse(BAD)
    made = [obj for n in range(100) for obj in bad(f"bad-{n}", f"10.99.0.{n}")]
    rig.turn(*made, *bad("good", GOOD_IP))
    assert sorted(refused(rig)) == sorted(f"ns/bad-{n}" for n in range(100))
    assert rig.serves(GOOD_IP)
    assert rig.until_due() >= 1


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("count", [1, 100])
def test_services_refused_at_the_start_do_not_keep_the_others_waiting(
    monkeypatch, legacy, count
) -> None:
    kernel = FakeIptables(legacy=legacy)
    kernel.refuse(BAD)
    rig = IptablesRig(monkeypatch, kernel=kernel)
    made = [obj for n in range(count) for obj in bad(f"bad-{n}", f"10.99.0.{n}")]
    rig.start(*many_services(200), *made)
    assert last_error(rig) == ""
    assert sorted(refused(rig)) == sorted(f"ns/bad-{n}" for n in range(count))
    assert all(rig.serves(f"10.96.0.{n}") for n in range(1, 201))
    dispatched = [text for text in kernel.inputs if ":KUBE-NODEPORTS - [0:0]\n-A" in text]
    assert len(dispatched) == 1
    kernel.allow(BAD)
    rig.after(rig.until_due())
    assert all(rig.serves(f"10.99.0.{n}") for n in range(count))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("count", [1, 100])
def test_services_whose_shared_rules_are_refused_at_the_start_are_put_aside(
    monkeypatch, legacy, count
) -> None:
    kernel = FakeIptables(legacy=legacy)
    kernel.refuse(r"ns/bad\S* has no endpoints")
    rig = IptablesRig(monkeypatch, kernel=kernel)
    bad_ones = (service(f"bad-{n}", f"10.99.0.{n}") for n in range(count))
    rig.start(*many_services(50), *bad_ones, service("empty", "10.98.0.1"))
    assert last_error(rig) == ""
    assert sorted(refused(rig)) == sorted(f"ns/bad-{n}" for n in range(count))
    assert all(rig.serves(f"10.96.0.{n}") for n in range(1, 51))
    assert rig.refuses("10.98.0.1")
    assert kernel.rules("nat", names.CANARY) == kernel.rules("filter", names.CANARY) == []


@BACKENDS
def test_a_service_refused_in_a_restatement_goes_on_with_what_it_had(rig) -> None:
    rig.kernel.refuse("10.200.0.1")
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    rig.after(0.5, foreign_rule())
    assert list(refused(rig)) == ["ns/svc-0"]
    assert len(rig.endpoints_of("10.96.0.1")) == 3
    assert rig.endpoints_of("10.96.0.2")
    rig.kernel.allow("10.200.0.1")
    rig.after(rig.until_due())
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}


def test_a_refused_service_whose_chains_are_gone_does_not_keep_the_others_waiting(rig) -> None:
    rig.kernel.refuse("10.200.0.1")
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    rig.kernel.tables["nat"] = FakeIptables().tables["nat"]
    rig.after(0.5, foreign_rule())
    assert last_error(rig) == ""
    assert [rig.serves(f"10.96.0.{n}") for n in (1, 2, 3)] == [False, True, True]
    rig.kernel.allow("10.200.0.1")
    rig.after(rig.until_due())
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}


# -- the program fails -----------------------------------------------------------------------


def test_a_lost_lock_forgets_nothing_and_everything_is_stated_again(rig) -> None:
    rig.kernel.fail(times=1)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert rig.engine.last_result["IPv4"]["full"] is True
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}
    assert not refused(rig)
    assert rig.metrics.failed_service_ports.values == {("IPv4",): 0}


FAILURES = {
    "lock": "Another app is currently holding the xtables lock.",
    "memory": "iptables-restore: line 2 failed: Cannot allocate memory.",
    "missing": ToolMissing(["iptables-restore"], "is not installed"),
    "hanging": TimedOut(["iptables-restore"], "did not end within 300 s"),
    "descriptors": OSError(24, "Too many open files"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_program_that_fails_is_started_again_with_growing_pauses(rig, failure) -> None:
    rig.kernel.fail(FAILURES[failure], times=5)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    pauses = []
    while not rig.reconciler.in_sync:
        assert last_error(rig)
        assert len(rig.endpoints_of("10.96.0.1")) == 3
        pauses.append(rig.until_due())
        rig.after(rig.until_due())
    assert pauses == pytest.approx([1, 2, 4, 8])
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}


def test_changes_while_the_lock_is_lost_are_not_forgotten(rig) -> None:
    rig.kernel.fail(times=4)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    rig.turn(endpoint_slice("svc-1", ["10.200.0.2"]), removed(Resource.SERVICE, "svc-2"))
    rig.after(10)
    rig.after(10)
    assert rig.endpoints_of("10.96.0.1") == {"10.200.0.1"}
    assert rig.endpoints_of("10.96.0.2") == {"10.200.0.2"}
    assert not rig.serves("10.96.0.3")


def test_tables_that_cannot_be_read_are_read_again_after_a_pause(rig) -> None:
    rig.kernel.unreadable = OSError(105, "No buffer space available")
    rig.turn(foreign_rule())
    assert not rig.reconciler.in_sync
    assert rig.until_due() > 0
    rig.kernel.flush("nat")
    rig.kernel.unreadable = None
    rig.after(rig.until_due())
    assert rig.serves("10.96.0.1")


# -- the kernel holds something else than remembered -----------------------------------------


def test_a_missing_rule_of_ours_leads_to_a_restatement(rig) -> None:
    rig.kernel.tables["nat"][names.SERVICES].pop(0)
    rig.turn(*(removed(Resource.SERVICE, f"svc-{n}") for n in range(3)), *bad("new", GOOD_IP))
    assert rig.engine.last_result["IPv4"]["full"] is True
    assert rig.serves(GOOD_IP)
    assert not rig.serves("10.96.0.1")
    assert rig.until_due() > 300


def test_a_foreign_rule_that_leads_to_a_chain_of_ours_does_not_hold_up_changes(rig) -> None:
    chain = next(c for c in rig.kernel.tables["nat"] if c.startswith(names.ENDPOINT))
    rig.kernel.tables["nat"]["PREROUTING"].append(f"-s 192.0.2.1/32 -j {chain}")
    for n in range(3):
        rig.turn(endpoint_slice(f"svc-{n}", [f"10.200.0.{n}"]))
        rig.after(60)
        assert rig.endpoints_of(f"10.96.0.{n + 1}") == {f"10.200.0.{n}"}
    assert rig.reconciler.in_sync
    assert chain in rig.kernel.tables["nat"]


@dataclass(frozen=True)
class Edit:
    """What somebody does to a table."""

    kernel: FakeIptables

    def flush_nat(self) -> None:
        self.kernel.flush("nat")

    def flush_filter(self) -> None:
        self.kernel.flush("filter")

    def delete_nat(self) -> None:
        self.kernel.tables["nat"] = FakeIptables().tables["nat"]

    def delete_a_jump(self) -> None:
        self.kernel.tables["nat"]["PREROUTING"].clear()

    def insert_a_rule(self) -> None:
        self.kernel.tables["nat"][names.SERVICES].insert(0, "-j ACCEPT")

    def insert_a_rule_for_an_endpoint(self) -> None:
        chain = next(c for c in self.kernel.tables["nat"] if c.startswith(names.ENDPOINT))
        self.kernel.tables["nat"][chain].insert(0, "-j ACCEPT")

    def insert_a_rule_for_postrouting(self) -> None:
        self.kernel.tables["nat"][names.POSTROUTING].insert(0, "-j ACCEPT")

    def add_a_chain(self) -> None:
        self.kernel.tables["nat"]["KUBE-SVC-FOREIGN"] = ["-j ACCEPT"]

    def delete_the_canary(self) -> None:
        del self.kernel.tables["mangle"][names.CANARY]

    def delete_a_service(self) -> None:
        nat = self.kernel.tables["nat"]
        chain = next(c for c in nat if c.startswith(names.SERVICE))
        nat[names.SERVICES] = [r for r in nat[names.SERVICES] if not r.endswith(chain)]
        del nat[chain]


EDITS = [name for name in vars(Edit) if not name.startswith("_") and name != "kernel"]


@BACKENDS
@pytest.mark.parametrize("edit", EDITS)
def test_what_somebody_did_is_undone_and_counted(rig, edit) -> None:
    before = rig.kernel.ruleset()
    getattr(Edit(rig.kernel), edit)()
    assert differences(before, rig.kernel.ruleset())
    rig.turn(foreign_rule())
    assert differences(before, rig.kernel.ruleset()) == ""
    assert rig.metrics.self_repairs.values == {("IPv4", "rule"): 1}
    assert rig.until_due() > 300


@pytest.mark.parametrize("rig", [True], indirect=True, ids=["legacy"])
def test_what_somebody_does_during_a_restatement_is_undone_too(rig) -> None:
    """Who looks at the extent of tables cannot tell it from what the proxy itself did."""
    before = rig.kernel.ruleset()
    commits = 0

    def insert() -> None:
        nonlocal commits
        commits += 1
        if commits == 4:  # behind the fixed chains
            rig.kernel.tables["nat"][names.POSTROUTING].insert(0, "-j ACCEPT")

    rig.kernel.flush("nat")
    rig.kernel.watch = insert
    rig.turn(foreign_rule())
    assert commits > 4
    assert differences(before, rig.kernel.ruleset())
    rig.after(rig.until_due())
    assert differences(before, rig.kernel.ruleset()) == ""
    assert rig.until_due() > 300


def test_what_our_own_programs_did_is_no_foreign_edit(rig) -> None:
    rig.turn(foreign_rule(sender=CHILD))
    assert rig.kernel.inputs == []
    assert rig.metrics.self_repairs.values == {}
