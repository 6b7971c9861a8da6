"""Input for iptables-restore, and whose line a number means."""

from __future__ import annotations

from proxy.backends.iptables.restore import COMMIT, Section, place_of, render
from proxy.model.services import ServicePortName

WEB, API = (ServicePortName("ns", name, "", "TCP") for name in ("web", "api"))


def sections() -> list[Section]:
    first, second = Section("filter"), Section("nat")
    first.append("KUBE-SERVICES", "-j DROP", WEB)
    second.declare("KUBE-SVC-X", API)
    second.insert("KUBE-SERVICES", "-j KUBE-SVC-X", API)
    second.delete("KUBE-SERVICES", "-j KUBE-SVC-Y")
    second.remove("KUBE-SVC-Y")
    return [first, second]


def test_sections_are_written_one_after_the_other() -> None:
    assert render(sections()) == (
        "*filter\n-A KUBE-SERVICES -j DROP\nCOMMIT\n"
        "*nat\n:KUBE-SVC-X - [0:0]\n-I KUBE-SERVICES -j KUBE-SVC-X\n"
        "-D KUBE-SERVICES -j KUBE-SVC-Y\n-X KUBE-SVC-Y\nCOMMIT\n"
    )


def test_every_line_is_found_by_its_number() -> None:
    made = sections()
    lines = render(made).splitlines()
    for number, text in enumerate(lines, 1):
        place = place_of(made, number)
        if text.startswith("*"):
            assert place is None
        else:
            assert place is not None
            assert place.line.text == text
            assert place.section == (number > 3)
    assert place_of(made, 2).line.origin == WEB  # type: ignore[union-attr]
    assert place_of(made, 6).line.origin == API  # type: ignore[union-attr]
    assert place_of(made, 7).line.origin is None  # type: ignore[union-attr]
    assert place_of(made, 9).line is COMMIT  # type: ignore[union-attr]
    assert place_of(made, 10) is None


def test_rules_are_counted_in_chains_of_ours_only() -> None:
    made = Section("nat")
    made.insert("PREROUTING", "-j KUBE-SERVICES")
    made.declare("KUBE-SERVICES")
    made.append("KUBE-SERVICES", "-j KUBE-SVC-X")
    made.insert("KUBE-SERVICES", "-j KUBE-SVC-Y")
    made.delete("KUBE-SERVICES", "-j KUBE-SVC-Z")
    assert made.rule_count == 2
    assert made
    assert not Section("nat")
