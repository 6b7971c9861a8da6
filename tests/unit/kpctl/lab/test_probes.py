"""Tests of kpctl.lab.probes: what counts as expected."""

import pytest

from kpctl.lab.probes import Observation, Outcome, Probe, SourceRule, Tally, objection


def probe(**changes):
    fields = {"pods": frozenset({"web-1", "web-2"})} | changes
    return Probe("shop/web", "10.96.0.10", 80, "web-1", **fields)


def landed(pod="web-1", *, masqueraded=False):
    return Observation(Outcome.LANDED, pod, "10.0.0.9", "10.0.0.1" if masqueraded else "10.0.0.9")


KEPT, MASQ = {"source": SourceRule.KEPT}, {"source": SourceRule.MASQUERADED}
HAIRPIN = {"source": SourceRule.HAIRPIN}


@pytest.mark.parametrize(
    ("rule", "seen", "why"),
    [
        ({}, landed(), ""),
        ({}, landed(masqueraded=True), ""),
        ({}, landed("dns-1"), "landed on dns-1 instead of web-1 or web-2"),
        ({}, Observation(Outcome.DROPPED), "dropped instead of landed"),
        (
            {},
            Observation(Outcome.FAILED, detail="No route to host"),
            "failed (No route to host) instead of landed",
        ),
        (KEPT, landed(), ""),
        (KEPT, landed(masqueraded=True), "web-1 saw 10.0.0.1, masqueraded"),
        (MASQ, landed(masqueraded=True), ""),
        (MASQ, landed(), "web-1 saw 10.0.0.9, not masqueraded"),
        (HAIRPIN, landed("web-1", masqueraded=True), ""),
        (HAIRPIN, landed("web-2"), ""),
        (HAIRPIN, landed("web-1"), "web-1 saw 10.0.0.9, not masqueraded"),
        (HAIRPIN, landed("web-2", masqueraded=True), "web-2 saw 10.0.0.1, masqueraded"),
        ({"outcome": Outcome.REFUSED}, Observation(Outcome.REFUSED), ""),
        ({"outcome": Outcome.DROPPED}, Observation(Outcome.DROPPED), ""),
        ({"outcome": Outcome.DROPPED}, landed(), "landed instead of dropped"),
    ],
)
def test_an_observation_is_judged_by_the_probe(rule, seen, why):
    assert objection(probe(**rule), seen) == why


def test_a_tally_counts_outcomes_pods_and_the_unexpected():
    tally = Tally(probe())
    for seen in (landed("web-1"), landed("web-2"), landed("web-2"), landed("dns-1")):
        tally.add(seen)
    tally.add(Observation(Outcome.DROPPED))
    assert tally.sent == 5
    assert tally.outcomes == {Outcome.LANDED: 4, Outcome.DROPPED: 1}
    assert tally.pods == {"web-1": 1, "web-2": 2, "dns-1": 1}
    assert tally.unexpected == 2
    assert tally.first_problem == "landed on dns-1 instead of web-1 or web-2"
    assert tally.problem == "dropped instead of landed"


def test_a_problem_passes_when_traffic_is_as_expected_again():
    tally = Tally(probe())
    tally.add(Observation(Outcome.DROPPED))
    tally.add(landed())
    assert tally.problem == ""
    assert tally.unexpected == 1


def test_affinity_is_broken_by_another_pod():
    tally = Tally(probe(sticky=True))
    tally.add(landed("web-1"))
    tally.add(landed("web-1"))
    assert tally.unexpected == 0
    tally.add(landed("web-2"))
    assert tally.problem == "moved from web-1 to web-2 despite session affinity"


def test_a_series_must_reach_every_pod():
    tally = Tally(probe())
    assert tally.shortfall() == "nothing was sent"
    tally.add(landed("web-1"))
    assert tally.shortfall() == "never reached web-2"
    tally.add(landed("web-2"))
    assert tally.shortfall() == ""


def test_with_affinity_one_pod_is_enough():
    tally = Tally(probe(sticky=True))
    tally.add(landed("web-1"))
    assert tally.shortfall() == ""


def test_frontends_are_written_as_urls_write_them():
    assert probe().frontend == "10.96.0.10:80"
    assert Probe("a/b", "fd03::10", 80, "client").frontend == "[fd03::10]:80"
    assert Probe("a/b", "10.96.0.2", 53, "client", "udp").frontend == "10.96.0.2:53/udp"


def test_a_probe_describes_its_way():
    assert probe(alias="stranger").way == "shop/web on 10.96.0.10:80 from stranger"
    assert probe().way == "shop/web on 10.96.0.10:80 from web-1"
