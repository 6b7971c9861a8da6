"""Session affinity in the proxy's nftables tables, which packets of a new client do not show."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diagnostics.fate.difference import Difference, Kind
from diagnostics.nftables.model import Table
from proxy.model.addresses import IPFamily
from proxy.plan.planner import Planner
from proxy.plan.service_plan import ServicePortPlan

# kube-proxy: "affinity-GTK6MW7G-ns5/svc5/tcp/p80__10.180.0.3/80", one set for each endpoint.
_SET = re.compile(r"affinity-[A-Z0-9]{8}-(?P<name>[^/]+/[^/]+/\w+/[^_]*)__.*")

_USE = re.compile(r"(update|saddr) @(affinity-\S+)")


def edited(table: Table, planner: Planner, family: IPFamily) -> Iterator[Difference]:
    """Yield the service ports whose clients are remembered for another time than they should."""
    found = _timeouts(table)
    for plan in planner.all_effective():
        wanted = {plan.affinity_timeout_s} if plan.affinity_timeout_s else set()
        have = found.get(_name(plan), set())
        if have == wanted or not plan.reachable:
            continue
        yield Difference(
            Kind.AFFINITY,
            str(plan.name),
            family.value,
            ("sets of clients",),
            _said(wanted),
            _said(have),
        )


def _timeouts(table: Table) -> dict[str, set[int]]:
    """Return how long clients are remembered, in seconds, by service port."""
    found: dict[str, set[int]] = {}
    asked = _used(table)
    for name, one in table.sets.items():
        named = _SET.fullmatch(name)
        if named is not None and {("update", name), ("saddr", name)} <= asked:
            found.setdefault(named["name"], set()).add(one.timeout or 0)
    return found


def _used(table: Table) -> set[tuple[str, str]]:
    """Return which sets of clients are written, and which are asked."""
    texts = (rule.text for chain in table.chains.values() for rule in chain.rules)
    return {(found[1], found[2]) for text in texts if (found := _USE.search(text))}


def _name(plan: ServicePortPlan) -> str:
    name = plan.name
    return f"{name.namespace}/{name.name}/{name.protocol.lower()}/{name.port}"


def _said(timeouts: set[int]) -> str:
    if not timeouts:
        return "clients are not remembered"
    return "clients are remembered for " + ", ".join(f"{one} s" for one in sorted(timeouts))
