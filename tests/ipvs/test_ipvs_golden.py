"""``kpctl run`` makes of a kernel with IPVS what kube-proxy made of it on the same nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.backends.ipvs.names import DEVICE
from tests.support import golden, ipvs_text
from tests.support.golden import PROGRAMS, Case, Step, golden_node, sysctl_differences
from tests.support.iptables_text import Ruleset, differences
from tests.support.ipvs_text import NodeState
from tests.support.kpctl_process import KpctlNode
from tests.support.xtables_programs import as_printed_here, printed, restore, saved

pytestmark = [pytest.mark.kernel]

BACKEND = "legacy"  # the kernel with IPVS has no other
PATIENCE_S = 60.0  # an emulated processor


@pytest.mark.parametrize("name", golden.names("ipvs"))
def test_kpctl_makes_what_kube_proxy_made(name: str, tmp_path: Path) -> None:
    case = golden.load(name, "ipvs")
    with golden_node(case, tmp_path) as node:
        golden.assert_becomes_equal(case, node, _comparison(case, node), PATIENCE_S)


def test_recorded_rules_are_printed_as_they_were_recorded() -> None:
    (step,) = golden.load("every-service-kind.iptables", "ipvs").steps
    for program in PROGRAMS:
        recorded = step.rulesets[program]
        expected = as_printed_here(recorded, program, BACKEND, _empty_sets())
        assert differences(expected, printed(recorded, program, BACKEND, _empty_sets())) == ""


@pytest.mark.parametrize("name", ["every-service-kind.iptables", "ipvs-external-ips-local"])
def test_what_is_too_much_in_the_kernel_is_seen(name: str, tmp_path: Path) -> None:
    case = golden.load(name, "ipvs")
    (step,) = case.steps
    with golden_node(case, tmp_path) as node:
        _write(node, step)
        compare = _comparison(case, node)
        assert compare(step) == ""
        node.namespace.run(["ipset", "create", "FOREIGN", "hash:ip"])
        node.namespace.run(["ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "rr"])
        node.namespace.ip([f"addr add 192.0.2.1/32 dev {DEVICE}"])
        assert compare(step).splitlines() == [
            "+ -A -t 192.0.2.1:80 -s rr",
            "+ create FOREIGN hash:ip family inet",
            "+ address 192.0.2.1/32",
        ]


def test_no_recorded_node_is_forgotten() -> None:
    assert len(golden.names("ipvs")) == 15


def _write(node: KpctlNode, step: Step) -> None:
    """Make of the node's kernel what was recorded."""
    namespace, state = node.namespace, step.state
    members = [f"add {name} {item}" for name, found in state.sets.items() for item in found.members]
    namespace.run(["ipset", "restore"], stdin=_empty_sets() + "\n".join([*members, ""]))
    for program, rules in step.rulesets.items():
        restore(namespace, program, BACKEND, rules)
    namespace.ip([f"link add {DEVICE} type dummy"])
    namespace.ip(f"addr add {address} dev {DEVICE}" for address in state.addresses)
    for server, reals in state.servers.items():
        namespace.run(["ipvsadm", "-A", *server.split()])
        for real in reals:
            namespace.run(["ipvsadm", "-a", *server.split()[:2], "-r", *real.split()])
    namespace.set_sysctls(step.sysctls)


def _comparison(case: Case, node: KpctlNode) -> Callable[[Step], str]:
    expected = [_as_printed_here(step.rulesets) for step in case.steps]

    def compare(step: Step) -> str:
        parts = [
            differences(rules, saved(node.namespace, program, BACKEND))
            for program, rules in expected[case.steps.index(step)].items()
        ]
        parts.append(ipvs_text.differences(step.state, _state(node)))
        return "\n".join(filter(None, [*parts, sysctl_differences(node, step)]))

    return compare


def _as_printed_here(rulesets: dict[str, Ruleset]) -> dict[str, Ruleset]:
    sets = _empty_sets()
    return {
        program: as_printed_here(rules, program, BACKEND, sets)
        for program, rules in rulesets.items()
    }


def _empty_sets() -> str:
    common = golden.common_content("ipvs")
    kinds = {**common["sets4"], **common["sets6"]}
    return "".join(f"create {name} {kind}\n" for name, kind in kinds.items())


def _state(node: KpctlNode) -> NodeState:
    namespace = node.namespace
    listed = namespace.run(["ip", "-json", "addr", "show", "dev", DEVICE], check=False).stdout
    return NodeState(
        ipvs_text.parse_servers(namespace.run(["ipvsadm", "-Sn"]).stdout),
        frozenset(
            f"{address['local']}/{address['prefixlen']}"
            for device in json.loads(listed or "[]")
            for address in device["addr_info"]
        ),
        ipvs_text.parse_sets(namespace.run(["ipset", "save"]).stdout),
    )
