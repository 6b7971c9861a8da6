"""Each mode counts and names what is its own, and nothing of the others."""

from __future__ import annotations

import io
import re

import pytest

from proxy.backends.iptables import names
from proxy.backends.iptables.settings import INVALID_COUNTER, LOCALHOST_COUNTER
from proxy.config.types import IPVS
from proxy.engine import publisher
from proxy.engine.nftables.plane import NftablesPlane
from proxy.runtime.logs import LogSettings, setup_logging
from tests.support.engine_rig import V4, Rig, endpoint_slice, many_services, service
from tests.support.fake_iptables import FakeIptables
from tests.support.fake_nft import FakeNft
from tests.support.iptables_rig import IptablesRig

PACKETS = {INVALID_COUNTER: 11, LOCALHOST_COUNTER: 12, "somebody's": 13}


@pytest.fixture(autouse=True)
def log(monkeypatch):
    monkeypatch.setattr(publisher, "read_counters", lambda: PACKETS)
    made = io.StringIO()
    setup_logging(LogSettings(verbosity=2), made)
    yield made
    setup_logging(LogSettings())


class IpvsLikePlane(NftablesPlane):
    """Says it is mode ipvs; what it writes does not matter here."""

    mode = IPVS


def exposed(rig: Rig) -> set[str]:
    """The names of metrics that belong to modes, without what they have in common."""
    text = rig.metrics.render().decode()
    found = re.findall(r"^# TYPE kubeproxy_(?:sync_proxy_rules_)?(\w+)", text, re.MULTILINE)
    return {n for n in found if re.match(r"iptables|nftables|sync_(full|partial)", n)}


def rule_counts(kernel: FakeIptables) -> dict[tuple[str, str], int]:
    """What ``iptables-save | grep -c '^-A KUBE-'`` says of each table."""
    return {
        (table, "IPv4"): sum(
            len(rules) for chain, rules in kernel.tables[table].items() if chain.startswith("KUBE-")
        )
        for table in ("nat", "filter")
    }


SYNCS = {"sync_full_proxy_rules_duration_seconds", "sync_partial_proxy_rules_duration_seconds"}
COUNTS = {"iptables_total", "iptables_last"}
PACKET_COUNTS = {
    "iptables_ct_state_invalid_dropped_packets_total",
    "iptables_localhost_nodeports_accepted_packets_total",
}
FAILURES = {"iptables_restore_failures_total", "iptables_partial_restore_failures_total"}


def test_iptables_mode_shows_its_metrics_only(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    rig.start(*many_services(2))
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert exposed(rig) == SYNCS | COUNTS | PACKET_COUNTS
    rig.kernel.fail()
    rig.turn(endpoint_slice("svc-0", ["10.200.0.2"]))
    assert exposed(rig) == SYNCS | COUNTS | PACKET_COUNTS | FAILURES


def test_nftables_mode_shows_its_metrics_only(monkeypatch) -> None:
    rig = Rig(monkeypatch)
    rig.start(*many_services(2))
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert exposed(rig) == SYNCS
    rig.nft.fail(12)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.2"]))
    assert exposed(rig) == SYNCS | {"nftables_sync_failures_total"}


def test_ipvs_mode_has_no_full_syncs_and_counts_failures_as_kube_proxy(monkeypatch, log) -> None:
    nft = FakeNft()
    rig = Rig(monkeypatch, plane=lambda clock: IpvsLikePlane({V4: nft}, monotonic=clock))
    rig.start(*many_services(2))
    rig.turn(endpoint_slice("svc-0", ["10.200.0.1"]))
    assert exposed(rig) == set()
    assert "Synced virtual servers, ipsets and iptables rules" in log.getvalue()
    nft.fail(12)
    rig.turn(endpoint_slice("svc-0", ["10.200.0.2"]))
    assert exposed(rig) == {"iptables_restore_failures_total"}


def test_rules_are_counted_as_iptables_save_shows_them(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    rig.start(*many_services(5), service("none", "10.96.0.99"))
    totals, last = rig.metrics.iptables_rules.values, rig.metrics.iptables_rules_written.values
    assert totals == rule_counts(rig.kernel)
    assert all(last[place] >= total for place, total in totals.items())
    before = dict(totals)
    rig.turn(endpoint_slice("svc-0", [f"10.200.0.{n}" for n in range(1, 6)]))
    assert totals == rule_counts(rig.kernel)
    assert totals["filter", "IPv4"] == before["filter", "IPv4"]
    assert totals["nat", "IPv4"] > before["nat", "IPv4"]
    assert 0 < last["nat", "IPv4"] < totals["nat", "IPv4"]
    assert last["filter", "IPv4"] == 0


def test_a_refused_service_is_a_failed_restore(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    rig.start(*many_services(2))
    rig.kernel.refuse(r"\"ns/bad")
    rig.turn(service("bad", "10.96.0.66"), endpoint_slice("bad", ["10.180.0.66"]))
    assert rig.metrics.iptables_restore_failures.values == {("IPv4",): 1}
    assert rig.metrics.iptables_partial_restore_failures.values == {("IPv4",): 1}
    assert rig.metrics.iptables_rules.values == rule_counts(rig.kernel)


def test_a_failed_full_sync_is_no_partial_failure(monkeypatch) -> None:
    rig = IptablesRig(monkeypatch)
    rig.kernel.fail()
    rig.start(*many_services(2))
    assert rig.metrics.iptables_restore_failures.values == {("IPv4",): 1}
    assert rig.metrics.iptables_partial_restore_failures.values == {}


def test_chains_that_cannot_be_deleted_are_no_failure_of_nftables(monkeypatch, log) -> None:
    kernel = FakeIptables()
    kernel.tables["nat"] |= {names.SERVICES: [], "KUBE-SVC-OLD": [], "foreign": []}
    kernel.tables["nat"]["foreign"].append("-j KUBE-SVC-OLD")
    rig = IptablesRig(monkeypatch, kernel=kernel)
    rig.start(*many_services(1))
    assert "Unable to delete unused chains" in log.getvalue()
    assert rig.metrics.nftables_cleanup_failures.values == {}


@pytest.mark.parametrize(("made", "says"), [(Rig, "nftables"), (IptablesRig, "iptables")])
def test_the_log_names_the_mode(monkeypatch, log, made, says) -> None:
    rig = made(monkeypatch)
    rig.start(*many_services(1))
    assert f"Synced {says} rules" in log.getvalue()
