"""Service ports that are planned alike stand for each other, and for no others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path

import pytest

from diagnostics.cluster.plans import Cluster, load_cluster
from diagnostics.drift.calls import FamilyCalls, family_calls
from diagnostics.fate.alike import Alike
from diagnostics.fate.compare import changes
from diagnostics.fate.probes import Call, Oracle, Outcome, Target
from diagnostics.intended.compile import compile_cluster
from diagnostics.intended.node import IntendedNode
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.open import open_snapshot
from diagnostics.trace.question import Tracer
from proxy.model.addresses import IPFamily
from proxy.model.services import ServiceName
from tests.support.drift_faults import DATA

NODES = ("drift/nftables", "drift/ipvs", "snapshots/iptables", "snapshots/nftables")


def loaded(name: str | Path) -> tuple[NodeSnapshot, Cluster, FamilyCalls, Alike]:
    node = open_snapshot(DATA / name).node()
    cluster = load_cluster(node)
    asked = family_calls(node, cluster, IPFamily.IPV4)
    plans = cluster.planners[IPFamily.IPV4].all_effective()
    return node, cluster, asked, Alike(plans, asked.clients)


def each(asked: FamilyCalls) -> Iterator[Call]:
    return (call for _, call in asked.each(lambda done: None))


def doubled(text: str) -> str:
    """Return the items of a list, and a copy of each with other names and addresses."""
    body = json.loads(text)
    for one in list(body["items"]):
        if one["metadata"]["namespace"] == "default":
            continue
        copy = re.sub(r"\b(172\.30\.0|192\.168\.99)\.(\d+)\b", r"\1.1\2", json.dumps(one))
        copy = re.sub(r"\b10\.180\.0\.", "10.180.1.", copy)
        copy = re.sub(r"\b(5\.6\.7|1\.2\.3)\.", r"\g<1>1.", copy)
        copy = re.sub(r"\b(ns\d)\b", r"\1b", copy)
        copy = re.sub(r'("nodePort": )3[01]', r"\g<1>32", copy)
        body["items"].append(json.loads(copy))
    return json.dumps(body)


@pytest.mark.parametrize("name", NODES)
def test_siblings_intend_what_the_own_rules_intend(name: str, tmp_path: Path) -> None:
    directory = shutil.copytree(DATA / name, tmp_path / "node")
    for file in ("services.json", "endpointslices.json"):
        text = doubled((directory / file).read_text())
        (directory / file).unlink()
        (directory / file).write_text(text)
    node, cluster, asked, alike = loaded(directory)
    oracle = Oracle(Tracer(IntendedNode(node, compile_cluster(cluster))))
    guessed = 0
    for call in each(asked):
        if call.frontend in asked.planned:
            intended = oracle.outcome(call)
            agrees = alike.agrees(call, intended)
            assert agrees in (True, None), call
            guessed += agrees is True
            alike.learn(call, intended)
    assert guessed >= 10


def first_call(asked: FamilyCalls) -> Call:
    return next(call for call in each(asked) if call.client.kind == "external")


def test_what_was_not_learnt_agrees_with_nothing() -> None:
    _, _, asked, alike = loaded("drift/nftables")
    assert not alike.agrees(first_call(asked), Outcome("drop", "certain"))


def test_another_end_share_endpoint_or_masquerading_does_not_agree() -> None:
    node, cluster, asked, alike = loaded("drift/nftables")
    oracle = Oracle(Tracer(IntendedNode(node, compile_cluster(cluster))))
    call = next(one for one in each(asked) if len(oracle.outcome(one).shares) == 2)
    intended = oracle.outcome(call)
    alike.learn(call, intended)
    assert alike.agrees(call, intended)
    (first, share), (second, _) = intended.shares
    stranger = Target(ip_address("10.180.0.99"), 80, first.masquerade)
    others = [
        replace(intended, verdict="drop"),
        replace(intended, certainty="maybe"),
        replace(intended, known=False),
        replace(intended, shares=((first, Fraction(1)),)),
        replace(intended, shares=((first, Fraction(1, 3)), (second, Fraction(2, 3)))),
        replace(intended, shares=((first, share), (stranger, share))),
        replace(intended, shares=((replace(first, port=81), share), (second, share))),
        replace(
            intended,
            shares=((replace(first, masquerade=not first.masquerade), share), (second, share)),
        ),
    ]
    assert not any(alike.agrees(call, other) for other in others)


def test_a_frontend_without_a_plan_is_like_no_other() -> None:
    _, _, asked, alike = loaded("drift/nftables")
    call = first_call(asked)
    unknown = replace(call, frontend=call.frontend._replace(port=4321))
    outcome = Outcome("drop", "certain")
    alike.learn(unknown, outcome)
    assert not alike.agrees(unknown, outcome)


@pytest.mark.parametrize("name", NODES)
def test_differences_are_the_same_with_and_without_siblings(name: str) -> None:
    """Asked about a node whose kernel lacks everything of one Service."""
    node, cluster, asked, alike = loaded(name)
    planner = cluster.planners[IPFamily.IPV4]
    intended = Oracle(Tracer(IntendedNode(node, compile_cluster(cluster))))
    calls = [(call.frontend.text, call) for call in each(asked)]
    gone = next(plan.name for plan in planner.all_effective() if plan.reachable)
    planner.update(ServiceName(gone.namespace, gone.name), (), {})
    broken = Oracle(Tracer(IntendedNode(node, compile_cluster(cluster))))
    plain = [(one.call, one.before, one.after) for one in changes(calls, intended, broken)]
    assert plain
    quick = changes(calls, intended, broken, alike=alike)
    assert [(one.call, one.before, one.after) for one in quick] == plain
