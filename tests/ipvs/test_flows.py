"""Every flow of every scenario that lists IPVS, with real packets against the real kernel code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packets.flows.daemon import kpctl_run
from tests.packets.flows.play import play, report
from tests.packets.flows.scenario import load, names
from tests.packets.flows.site import site_for

MODE = "ipvs"

pytestmark = [pytest.mark.packets, pytest.mark.kernel]


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("name", names(MODE))
def test_every_flow_goes_where_the_scenario_says(name: str, tmp_path: Path) -> None:
    scenario = load(name, MODE)
    with site_for(scenario) as site, kpctl_run(scenario, site, tmp_path) as proxy:
        failures = play(scenario, site, proxy)
        assert not failures, report(failures, proxy)
        assert "Traceback" not in proxy.log(), proxy.evidence()


@pytest.mark.usefixtures("namespaces")
def test_the_tracer_is_right_where_ipvs_differs_from_other_modes(tmp_path: Path) -> None:
    scenario = load("every-service-kind.iptables", MODE)
    with site_for(scenario) as site, kpctl_run(scenario, site, tmp_path) as proxy:
        failures = play(scenario, site, proxy)
        assert [failure for failure in failures if not failure.trace], "nothing differs"
        wrong = [failure for failure in failures if failure.trace]
        assert not wrong, report(wrong, proxy)
