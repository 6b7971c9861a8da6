"""How counts, findings and predictions of rules look on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from diagnostics.rules.costs import Cost
from diagnostics.rules.model import Finding, Inventory
from diagnostics.rules.predict import ModeCount, Prediction
from diagnostics.rules.report import chain_groups
from kpctl.columns import columns

_PER_SERVICE = ("chains", "rules", "elements", "virtualServers", "realServers")
_MOST_SERVICES, _MOST_FINDINGS = 20, 50


def inventory_lines(inventory: Inventory) -> Iterator[str]:
    """Yield chains, sets, the largest Services, findings and the totals."""
    yield from _chains(inventory)
    yield from _sets(inventory)
    yield from _services(inventory.services)
    yield from _findings(inventory.findings)
    totals = {name: count for name, count in inventory.totals().items() if count}
    yield "total: " + (", ".join(f"{count:,} {_words(name)}" for name, count in totals.items()))


def _words(name: str) -> str:
    return {"virtualServers": "virtual servers", "realServers": "real servers"}.get(name, name)


def _chains(inventory: Inventory) -> Iterator[str]:
    head = ("BACKEND", "FAMILY", "TABLE", "CHAIN", "CHAINS", "RULES")
    rows = [
        (*one[:4], f"{one.chains:,}", f"{one.rules:,}")
        for one in chain_groups(inventory.chains)
        if one.rules
    ]
    if rows:
        yield from columns([head, *rows], frozenset({4, 5}))
        yield ""


def _sets(inventory: Inventory) -> Iterator[str]:
    head = ("SETS OF", "FAMILY", "TABLE", "NAME", "ELEMENTS")
    rows = [
        (one.backend, one.family, one.table, one.name, f"{one.elements:,}")
        for one in inventory.sets
        if one.elements
    ]
    if rows:
        yield from columns([head, *rows], frozenset({4}))
        yield ""


def _services(services: dict[str, Counter[str]]) -> Iterator[str]:
    shown = [what for what in _PER_SERVICE if any(what in one for one in services.values())]
    ranked = sorted(services.items(), key=lambda item: (-item[1].total(), item[0]))
    rows = [
        (name, *(f"{counts[what]:,}" for what in shown)) for name, counts in ranked[:_MOST_SERVICES]
    ]
    if rows:
        head = ("SERVICE", *(_words(what).upper() for what in shown))
        yield from columns([head, *rows], frozenset(range(1, len(head))))
        if len(ranked) > len(rows):
            yield f"and {len(ranked) - len(rows):,} more Services; -o json has all"
        yield ""


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    for one in sorted(findings, key=lambda each: each.level)[:_MOST_FINDINGS]:
        service = f" ({one.service})" if one.service else ""
        yield f"{one.level}: {one.kind}: {one.place}{service}: {one.why}"
        if one.text:
            yield f"    {one.text}"
    if len(findings) > _MOST_FINDINGS:
        yield f"and {len(findings) - _MOST_FINDINGS:,} more findings; -o json has all"
    if findings:
        yield ""


def prediction_lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Yield the counts and costs by month, and where the numbers come from."""
    head = (
        *("MONTH", "SERVICES", "ENDPOINTS", "PROGRAM", "MODE"),
        *("RULES", "CHAINS", "ELEMENTS", "VIRTUAL", "REAL"),
    )
    rows = [row for one in predictions for row in _counts(one)]
    yield from columns([head, *rows], frozenset({0, 1, 2, 5, 6, 7, 8, 9}))
    yield ""
    costs_head = ("MONTH", "PROGRAM", "MODE", "START", "ONE CHANGE", "MEMORY", "BASIS")
    costs = [_cost(one.month, cost) for one in predictions for cost in one.costs]
    yield from columns([costs_head, *costs], frozenset({0, 3, 4, 5}))
    yield ""
    yield "rule of thumb: 4 rules a Service, 3 an endpoint, 2 a NodePort"
    sources = [_source(mode) for one in predictions for mode in one.modes]
    sources += [f"{cost.program} {cost.mode}: {cost.source}" for cost in predictions[0].costs]
    yield from dict.fromkeys(sources)


def _source(mode: ModeCount) -> str:
    said = f"no count: {mode.problem}" if mode.problem else mode.source
    return f"{mode.program} {mode.mode}: {said}"


def _counts(one: Prediction) -> Iterator[tuple[str, ...]]:
    size = (str(one.month), f"{one.size.services:,}", f"{one.size.endpoints:,}")
    yield (*size, "rule of thumb", "iptables", f"{one.rule_of_thumb:,}", "", "", "", "")
    for mode in one.modes:
        names = ("rules", "chains", "elements", "virtualServers", "realServers")
        numbers = (f"{mode.counts[n]:,}" if n in mode.counts else "" for n in names)
        yield (*size, mode.program, mode.mode, *numbers)


def _cost(month: int, cost: Cost) -> tuple[str, ...]:
    start, change = f"{cost.start_s:,.2f} s", f"{cost.change_ms:,.1f} ms"
    memory = f"{cost.memory_mb:,.0f} MB"
    return (str(month), cost.program, cost.mode, start, change, memory, cost.basis)
