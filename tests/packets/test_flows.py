"""Every flow of every scenario, with real packets against the real proxy and kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packets.flows.daemon import kpctl_run
from tests.packets.flows.play import play, report
from tests.packets.flows.scenario import DATA, Scenario, load, names
from tests.packets.flows.site import site_for

MODES = ("nftables", "iptables")
OWN_DATA = DATA.parent / "harness"
_CASES = [pytest.param(name, mode, id=f"{name}-{mode}") for mode in MODES for name in names(mode)]
_SCTP_SYSCTL = Path("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established")

pytestmark = [pytest.mark.packets, pytest.mark.kernel]


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(("name", "mode"), _CASES)
def test_every_flow_goes_where_the_scenario_says(name: str, mode: str, tmp_path: Path) -> None:
    _assert_holds(load(name, mode), tmp_path)


@pytest.mark.usefixtures("namespaces")
def test_a_new_process_takes_over_what_the_last_one_left_in_the_kernel(tmp_path: Path) -> None:
    _assert_holds(load("replaced-process", "nftables", OWN_DATA), tmp_path)


def test_no_scenario_is_forgotten() -> None:
    assert {mode: len(names(mode)) for mode in ("iptables", "nftables", "ipvs")} == {
        "iptables": 48,
        "nftables": 45,
        "ipvs": 13,
    }


def _assert_holds(scenario: Scenario, directory: Path) -> None:
    with site_for(scenario) as site, kpctl_run(scenario, site, directory) as proxy:
        failures = play(scenario, site, proxy)
        sctp = [failure for failure in failures if failure.flow.protocol == "SCTP"]
        if failures and failures == sctp and not _SCTP_SYSCTL.exists():
            pytest.skip("SCTP flows: the kernel lacks CONFIG_NF_CT_PROTO_SCTP; all others hold")
        assert not failures, report(failures, proxy)
        assert "Traceback" not in proxy.log(), proxy.evidence()
