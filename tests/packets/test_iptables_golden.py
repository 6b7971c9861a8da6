"""``kpctl run`` writes the iptables rules that kube-proxy wrote on the same nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.backends.iptables.names import MANGLE
from tests.support import golden
from tests.support.golden import PROGRAMS, Case, Step, golden_node, sysctl_differences
from tests.support.golden_thousand import thousand_services
from tests.support.iptables_text import Ruleset, differences
from tests.support.kpctl_process import KpctlNode
from tests.support.xtables_programs import (
    RECORDED_WITH,
    as_printed_here,
    printed,
    restore,
    saved,
    with_chain,
)

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespaces")]

# kubelet's, by which programs know which backend the node uses.
HINT = "KUBE-IPTABLES-HINT"
ON_LEGACY = ("every-service-kind.iptables", "internal-policy-local-two", "nodeport-v6-one-network")
MANY_PATIENCE_S = 60.0


@pytest.mark.parametrize("name", golden.names("iptables"))
def test_kpctl_writes_what_kube_proxy_wrote(name: str, tmp_path: Path) -> None:
    _assert_written(golden.load(name, "iptables"), tmp_path)


def test_kpctl_writes_what_kube_proxy_wrote_for_a_thousand_services(tmp_path: Path) -> None:
    _assert_written(thousand_services(), tmp_path, patience_s=MANY_PATIENCE_S)


@pytest.mark.parametrize("name", ON_LEGACY)
def test_kpctl_writes_what_kube_proxy_wrote_with_the_legacy_backend(
    name: str, tmp_path: Path
) -> None:
    _assert_written(golden.load(name, "iptables"), tmp_path, "legacy")


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("name", ON_LEGACY)
def test_recorded_rules_are_printed_as_they_were_recorded(name: str, backend: str) -> None:
    for step in golden.load(name, "iptables").steps:
        for program, recorded in step.rulesets.items():
            expected = as_printed_here(recorded, program, backend)
            assert differences(expected, printed(recorded, program, backend)) == "", RECORDED_WITH


def test_a_rule_too_many_in_the_kernel_is_seen(tmp_path: Path) -> None:
    case = golden.load("internal-policy-cluster", "iptables")
    with golden_node(case, tmp_path) as node:
        for program, rules in case.steps[0].rulesets.items():
            restore(node.namespace, program, "nft", rules)
        node.namespace.set_sysctls(case.steps[0].sysctls)
        compare = _comparison(case, node, "nft")
        assert compare(case.steps[0]) == ""
        node.namespace.run(["iptables-nft", "-A", "KUBE-FORWARD", "-j", "ACCEPT"])
        assert "+-A KUBE-FORWARD -j ACCEPT" in compare(case.steps[0])


def test_no_recorded_node_is_forgotten() -> None:
    assert len(golden.names("iptables")) == 48


def _assert_written(
    case: Case, directory: Path, backend: str = "nft", patience_s: float = golden.PATIENCE_S
) -> None:
    with golden_node(case, directory) as node:
        if backend == "legacy":
            for program in PROGRAMS:
                node.namespace.run([f"{program}-legacy", "-t", MANGLE, "-N", HINT])
        compare = _comparison(case, node, backend)
        golden.assert_becomes_equal(case, node, compare, patience_s)
        if backend == "legacy":
            assert {program: saved(node.namespace, program, "nft") for program in PROGRAMS} == {
                program: {} for program in PROGRAMS
            }


def _comparison(case: Case, node: KpctlNode, backend: str) -> Callable[[Step], str]:
    expected = [
        {program: _expected(rules, program, backend) for program, rules in step.rulesets.items()}
        for step in case.steps
    ]

    def compare(step: Step) -> str:
        parts = [
            differences(rules, saved(node.namespace, program, backend))
            for program, rules in expected[case.steps.index(step)].items()
        ]
        return "\n".join(filter(None, [*parts, sysctl_differences(node, step)]))

    return compare


def _expected(rules: Ruleset, program: str, backend: str) -> Ruleset:
    here = as_printed_here(rules, program, backend)
    return with_chain(here, MANGLE, HINT) if backend == "legacy" else here
