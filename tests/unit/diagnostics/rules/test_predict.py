"""Predicted numbers of rules, against compiling that many; costs, against what was measured."""

from __future__ import annotations

import pytest

from diagnostics.cluster.plans import load_cluster
from diagnostics.intended.compile import compile_cluster
from diagnostics.rules.costs import CURVES, costs
from diagnostics.rules.predict import Size, predict_size, rule_of_thumb
from diagnostics.rules.synthetic import synthetic_objects
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.source import MemorySource


def counts(services: int, endpoints: int) -> dict[str, dict[str, int]]:
    (now,) = predict_size(services, endpoints, 0.0, 0)
    return {mode.mode: mode.counts for mode in now.modes if mode.program == "kpctl"}


@pytest.mark.parametrize("endpoints", [1, 3, 120])
def test_the_prediction_is_what_compiling_that_many_services_gives(endpoints: int) -> None:
    services = 37
    objects = synthetic_objects(services, endpoints)
    cluster = load_cluster(NodeSnapshot(MemorySource({}, "a test"), "node"), objects)
    predicted = counts(services, endpoints)
    rules = compile_cluster(cluster, "iptables").iptables.values()
    chains = [
        chain for one in rules for table in one.tables.values() for chain in table.chains.values()
    ]
    assert predicted["iptables"]["rules"] == sum(len(chain.rules) for chain in chains)
    assert predicted["iptables"]["chains"] == len(chains)
    tables = compile_cluster(cluster, "nftables").nft.tables.values()
    elements = sum(len(found.elements) for table in tables for found in table.sets.values())
    assert predicted["nftables"]["elements"] == elements
    servers = compile_cluster(cluster, "ipvs").ipvs.servers
    assert predicted["ipvs"]["virtualServers"] == len(servers) == services
    assert predicted["ipvs"]["realServers"] == services * endpoints


def test_the_rule_of_thumb_gives_13000_rules_for_1000_services_of_3_endpoints() -> None:
    assert rule_of_thumb(Size(1000, 3000)) == 13000
    assert rule_of_thumb(Size(1, 1, 1)) == 9


def test_growth_is_compounded_by_month() -> None:
    months = predict_size(1000, 3, 0.1, 12)
    assert [one.size.services for one in months[:3]] == [1000, 1100, 1210]
    assert months[12].size.services == 3138
    assert months[12].size.endpoints == 9415


def test_costs_at_a_measured_size_are_those_that_were_measured() -> None:
    for curve in CURVES:
        for point in curve.points:
            found = costs(point.services, 3 * point.services)
            (cost,) = [c for c in found if (c.program, c.mode) == (curve.program, curve.mode)]
            assert (cost.start_s, cost.change_ms) == pytest.approx((point.start_s, point.change_ms))
            assert cost.basis == "measured"


def test_costs_elsewhere_say_how_far_they_can_be_trusted() -> None:
    bases = {services: costs(services, 3 * services)[0].basis for services in (10, 3000, 90000)}
    assert bases == {10: "at most", 3000: "interpolated", 90000: "extrapolated"}
    middle = costs(3000, 9000)[0]
    assert 0.47 < middle.start_s < 0.94
    assert "1,000 and 10,000" in middle.source
    assert costs(10, 30)[0].start_s == pytest.approx(0.47)
