"""What ``kpctl rules -o json`` prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from diagnostics.rules.model import ChainCount, Finding, Inventory
from diagnostics.rules.predict import Prediction

API_VERSION = "kpctl.io/v1"
_HASHED = re.compile(r"(KUBE-[A-Z]{2,3}-)[A-Z0-9]{16}|((?:[a-z]+)-)[A-Z0-9]{8}-\S+/\S+|(lb-)\d+")


class ChainGroup(NamedTuple):
    """Chains of one kind: one by its name, or all that differ in a hash (``KUBE-SVC-*``)."""

    backend: str
    family: str
    table: str
    name: str
    chains: int
    rules: int


def chain_groups(chains: Iterable[ChainCount]) -> list[ChainGroup]:
    """Return the chains, those of Services as one, in the order in which they were met."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    rules: Counter[tuple[str, str, str, str]] = Counter()
    for one in chains:
        found = _HASHED.match(one.chain)
        name = f"{next(filter(None, found.groups()))}*" if found else one.chain
        key = (one.backend, one.family, one.table, name)
        counts[key] += 1
        rules[key] += one.rules
    return [ChainGroup(*key, count, rules[key]) for key, count in counts.items()]


def rules_report(inventory: Inventory, gaps: Sequence[str]) -> dict[str, Any]:
    """Return the object for counts and findings."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RulesReport",
        "totals": inventory.totals(),
        "chainGroups": [one._asdict() for one in chain_groups(inventory.chains)],
        "chains": [asdict(one) for one in inventory.chains],
        "sets": [asdict(one) for one in inventory.sets],
        "services": [
            {"service": name, **counts} for name, counts in sorted(inventory.services.items())
        ],
        "withoutService": dict(inventory.unnamed),
        "findings": [_finding(one) for one in inventory.findings],
        "gaps": list(gaps),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "level": finding.level,
        "place": finding.place,
        "why": finding.why,
        "text": finding.text or None,
        "service": finding.service or None,
    }


def prediction_report(predictions: Sequence[Prediction], gaps: Sequence[str]) -> dict[str, Any]:
    """Return the object for predictions, one for each month."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RulesPrediction",
        "months": [_month(one) for one in predictions],
        "gaps": list(gaps),
    }


def _month(one: Prediction) -> dict[str, Any]:
    return {
        "month": one.month,
        "services": one.size.services,
        "endpoints": one.size.endpoints,
        "nodePorts": one.size.node_ports,
        "ruleOfThumb": {"mode": "iptables", "rules": one.rule_of_thumb},
        "exact": [asdict(mode) for mode in one.modes],
        "costs": [
            {
                "program": cost.program,
                "mode": cost.mode,
                "startSeconds": _rounded(cost.start_s),
                "changeMilliseconds": _rounded(cost.change_ms),
                "memoryMegabytes": _rounded(cost.memory_mb),
                "basis": cost.basis,
                "source": cost.source,
            }
            for cost in one.costs
        ],
    }


def _rounded(value: float) -> float:
    """Return three significant digits: the figures are no better."""
    return float(f"{value:.3g}")
