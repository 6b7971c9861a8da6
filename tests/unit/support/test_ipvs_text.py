"""The comparison of virtual servers, ipsets and addresses sees what matters, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.golden import load
from tests.support.ipvs_text import NodeState, SetState, differences, parse_servers, parse_sets

STATE = load("every-service-kind.iptables", "ipvs").steps[0].state
SERVER = "-t 172.30.0.44:80 -s rr"
SET = "KUBE-CLUSTER-IP"
KIND = STATE.sets[SET].kind


def test_nothing_is_told_of_equal_nodes() -> None:
    assert len(STATE.servers) == 31
    assert len(STATE.sets) == 34
    assert differences(STATE, STATE) == ""


def _with_reals(*reals: str) -> NodeState:
    return replace(STATE, servers=STATE.servers | {SERVER: frozenset(reals)})


def _with_set(state: SetState, name: str = SET) -> NodeState:
    return replace(STATE, sets={**STATE.sets, name: state})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            _with_reals("10.180.0.4:80 -m -w 1"),
            f"- -A {SERVER} -r 10.180.0.5:80 -m -w 1",
        ),
        (
            _with_reals("10.180.0.4:80 -m -w 1", "10.180.0.5:80 -m -w 0"),
            f"- -A {SERVER} -r 10.180.0.5:80 -m -w 1\n+ -A {SERVER} -r 10.180.0.5:80 -m -w 0",
        ),
        (
            replace(STATE, servers=STATE.servers | {"-t 192.0.2.1:1 -s rr": frozenset()}),
            "+ -A -t 192.0.2.1:1 -s rr",
        ),
        (replace(STATE, addresses=STATE.addresses - {"5.6.7.8/32"}), "- address 5.6.7.8/32"),
        (
            _with_set(SetState(KIND, STATE.sets[SET].members - {"172.16.0.1,tcp:443"})),
            f"- add {SET} 172.16.0.1,tcp:443",
        ),
        (
            _with_set(SetState("hash:ip family inet", STATE.sets[SET].members)),
            f"- create {SET} hash:ip,port family inet\n+ create {SET} hash:ip family inet",
        ),
        (_with_set(SetState("hash:ip family inet", frozenset()), "FOREIGN"),
         "+ create FOREIGN hash:ip family inet"),
    ],
)  # fmt: skip
def test_a_difference_is_told(changed: NodeState, told: str) -> None:
    assert differences(STATE, changed) == told


def test_sets_of_a_family_that_was_not_recorded_are_not_compared() -> None:
    recorded = load("ipvs-lb-local", "ipvs").steps[0].state
    assert {name.startswith("KUBE-6-") for name in recorded.sets} == {True, False}
    partial = replace(
        recorded,
        sets={name: state for name, state in recorded.sets.items() if "KUBE-6-" not in name},
    )
    assert differences(partial, recorded) == ""
    assert differences(recorded, partial) != ""


def test_listings_are_read_whatever_their_order() -> None:
    real = "-a -t 192.0.2.1:80 -r 10.0.0.{}:80 -m -w 1\n"
    servers = f"-A -t 192.0.2.1:80 -s rr\n{real}{real}"
    assert parse_servers(servers.format(1, 2)) == parse_servers(servers.format(2, 1))
    assert parse_servers(servers.format(1, 2)) == {
        "-t 192.0.2.1:80 -s rr": {"10.0.0.1:80 -m -w 1", "10.0.0.2:80 -m -w 1"}
    }
    sets = (
        "create S hash:ip family inet hashsize {} maxelem 65536 bucketsize 12 initval 0x13c7d49b\n"
        "add S {}\nadd S {}\n"
    )
    assert parse_sets(sets.format(64, "192.0.2.1", "192.0.2.2")) == {
        "S": SetState("hash:ip family inet", frozenset({"192.0.2.1", "192.0.2.2"}))
    }
    assert parse_sets(sets.format(64, "a", "b")) == parse_sets(sets.format(1024, "b", "a"))


def test_a_real_server_of_another_virtual_server_is_refused() -> None:
    with pytest.raises(AssertionError, match="follows"):
        parse_servers("-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.2:80 -r 10.0.0.1:80 -m -w 1\n")
