"""Rules of the proxy's chains that differ from the compiled ones, seen or not by packets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

from diagnostics.drift.rule_keys import rule_key
from diagnostics.fate.difference import Difference, Kind
from diagnostics.iptables.model import Chain, Ruleset
from proxy.backends.iptables import names
from proxy.config.types import IPVS
from proxy.engine.cleanup.owned import (
    BUILT_IN_CHAINS,
    IPTABLES,
    Leftovers,
    ProxyRules,
    rule_words,
    target_of,
)
from proxy.engine.cleanup.owned import IPVS as IPVS_RULES

_MOST_SHOWN = 3
_SERVICE = re.compile(r'--comment "?(?:[a-z ]*for )?([a-z0-9.-]+/[a-z0-9.-]+(?::[A-Za-z0-9.-]+)?)')


def owned_rules(mode: str) -> ProxyRules:
    """Return which chains and jumps belong to a mode."""
    return IPVS_RULES if mode == IPVS else IPTABLES


def edited(actual: Ruleset, intended: Ruleset, mode: str, family: str) -> Iterator[Difference]:
    """Yield a difference for each chain of the proxy, and each jump to one, that is not right."""
    owned = owned_rules(mode)
    for name, table in intended.tables.items():
        found = actual.tables.get(name)
        chains = found.chains if found else {}
        for chain in table.chains.values():
            if chain.name in BUILT_IN_CHAINS:
                yield from _jumps(name, chain, chains.get(chain.name), family)
            elif owned.owns(name, chain.name) and chain.name != names.CANARY:
                yield from _chain(name, chain, chains.get(chain.name), family)


def is_served(actual: Ruleset) -> bool:
    """Return whether a proxy has written rules of this family, be it without any Service."""
    found = actual.chain("nat", names.MARK_MASQ)
    return bool(found and found.raw)


def stale_chains(actual: Ruleset, intended: Ruleset) -> tuple[int, list[str]]:
    """Return how many chains of Services are not intended, and those that something leads to."""
    table = actual.tables.get("nat")
    wanted = intended.tables.get("nat")
    if table is None or wanted is None:
        return 0, []
    stale = [
        chain
        for chain in table.chains
        if names.is_service_chain(chain) and chain not in wanted.chains
    ]
    if not stale:
        return 0, []
    led_to = {
        target_of(rule_words(raw))
        for chain in table.chains.values()
        if chain.name not in stale
        for raw in chain.raw
    }
    return len(stale), [chain for chain in stale if chain in led_to]


def leftovers(actual: Ruleset, mode: str, family: str) -> Iterator[Difference]:
    """Yield what another mode left in the iptables tables; "" and nftables own nothing there."""
    running = owned_rules(mode) if mode in ("iptables", IPVS) else None
    left = Leftovers(running or ProxyRules(frozenset(), (), ()))
    found = [
        f"{name} {chain.name} ({len(chain.raw)} rules)"
        for name, table in actual.tables.items()
        for chain in table.chains.values()
        if left.has_chain(name, chain.name) and chain.name != names.CANARY
    ]
    if found:
        more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        yield Difference(
            Kind.LEFTOVER,
            "",
            family,
            tuple(found[:_MOST_SHOWN]),
            f"no chains of another mode than {mode}",
            ", ".join(found[:_MOST_SHOWN]) + more,
        )


def _jumps(table: str, wanted: Chain, found: Chain | None, family: str) -> Iterator[Difference]:
    missing, _ = _compared(wanted.raw, wanted, found)
    for text in missing:
        target = target_of(rule_words(text))
        if not target.startswith("KUBE-"):
            continue
        yield Difference(
            Kind.JUMP,
            "",
            family,
            (f"{table} {wanted.name}",),
            f"a rule that leads to {target}",
            "no such rule" if found is not None else "no such chain",
            evidence=(f"missing: -A {wanted.name} {text}",),
        )


def _chain(table: str, wanted: Chain, found: Chain | None, family: str) -> Iterator[Difference]:
    if found is not None and list(found.raw) == list(wanted.raw):
        return
    missing, extra = _compared(wanted.raw, wanted, found)
    if not missing and not extra and found is not None:
        return
    evidence = [f"missing: -A {wanted.name} {text}" for text in missing[:_MOST_SHOWN]]
    evidence += [f"extra: -A {wanted.name} {text}" for text in extra[:_MOST_SHOWN]]
    for service in _services(missing, extra, wanted):
        yield Difference(
            _kind(missing, extra),
            service,
            family,
            (f"{table} {wanted.name}",),
            f"{len(wanted.raw)} rules",
            "no such chain" if found is None else _said(missing, extra),
            evidence=tuple(evidence),
        )


def _kind(missing: Sequence[str], extra: Sequence[str]) -> Kind:
    """Return AFFINITY when rules that remember clients are all that differs."""
    differing = [*missing, *extra]
    only_affinity = differing and all("-m recent" in text for text in differing)
    return Kind.AFFINITY if only_affinity else Kind.EDITED


def _said(missing: Sequence[str], extra: Sequence[str]) -> str:
    parts = [(len(missing), "missing"), (len(extra), "extra")]
    return ", ".join(f"{count} {word}" for count, word in parts if count)


def _services(missing: Sequence[str], extra: Sequence[str], wanted: Chain) -> list[str]:
    """Return the service ports that the differing rules name; of a service chain its own."""
    if names.is_service_chain(wanted.name):
        texts: Sequence[str] = wanted.raw
    else:
        texts = [*missing, *extra]
    found = dict.fromkeys(match[1] if (match := _SERVICE.search(text)) else "" for text in texts)
    if names.is_service_chain(wanted.name):
        return [next(filter(None, found), "")]
    return list(found) or [""]


def _compared(
    texts: Sequence[str], wanted: Chain, found: Chain | None
) -> tuple[list[str], list[str]]:
    """Return rules that are missing and rules that are too many, whatever their order."""
    if found is None:
        return list(texts), []
    same = Counter(texts) & Counter(found.raw)
    missing = _left(wanted, same)
    extra = _left(found, same)
    for key in missing.keys() & extra.keys():
        count = min(len(missing[key]), len(extra[key]))
        del missing[key][:count], extra[key][:count]
    return _texts(missing), _uncounted(_texts(extra))


def _uncounted(texts: list[str]) -> list[str]:
    """
    Leave out rules that are there for a packet counter alone.

    kube-proxy doubles NodePort rules for loopback addresses where the kernel has nfacct.
    """
    return [text for text in texts if "--nfacct-name" not in text]


def _left(chain: Chain, same: Counter[str]) -> dict[Hashable, list[str]]:
    left, rules = Counter(same), chain.rules
    keyed: dict[Hashable, list[str]] = {}
    for index, raw in enumerate(chain.raw):
        if left[raw] > 0:
            left[raw] -= 1
        else:
            keyed.setdefault(rule_key(rules[index]), []).append(raw)
    return keyed


def _texts(keyed: dict[Hashable, list[str]]) -> list[str]:
    return [text for texts in keyed.values() for text in texts]
