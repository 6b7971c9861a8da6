"""Rules in the proxy's nftables tables that no proxy writes, and tables that are not there."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator

from diagnostics.fate.difference import Difference, Kind
from diagnostics.nftables.elements import Element
from diagnostics.nftables.model import Chain, NamedSet, NftRuleset, Rule, Table
from proxy.backends.nftables.layout import AFFINITY, TABLE, TABLE_COMMENT
from proxy.model.addresses import IPFamily

_MOST_SHOWN = 4
_FAMILIES = {IPFamily.IPV4: "ip", IPFamily.IPV6: "ip6"}
# Chains that kube-proxy makes for service ports; names of other tables' chains do not matter.
_OF_A_SERVICE = re.compile(
    r"(?:service|local|external|endpoint|firewall)-[A-Z0-9]{8}-([^/]+/[^/]+)/"
)
# The ends of rules with which kube-proxy decides something itself (1.31 to 1.36): it refuses
# unused ClusterIPs and clients outside of source ranges, and translates.
_DECIDING = re.compile(
    r"(?:^|.* )(?:vmap @[\w-]+|vmap \{.*\}|(?:jump|goto) \S+|dnat (?:ip6? )?to .*|masquerade\b.*"
    r"|meta mark set meta mark [|^] 0x[0-9a-f]+(?: masquerade\b.*)?|update @\S+ \{.*\}"
    r"|ip6? daddr @cluster-ips reject|ip6? daddr (?:\{.*\}|[0-9a-f.:/]+) drop"
    r"|ip6? saddr != (?:\{.*\}|[0-9a-f.:/]+) drop|return)$"
)
_REFUSING = frozenset({"reject-chain"})
_COMMENT = re.compile(r' comment ".*"$')


def missing_table(actual: NftRuleset, family: IPFamily) -> Difference | None:
    """Return the difference that everything else follows from: there is no table of the proxy."""
    table = table_of(actual, family)
    if table is not None and "dormant" not in table.flags:
        return None
    name = f"{_FAMILIES[family]} {TABLE}"
    found = "no such table" if table is None else "it is dormant: no packet comes to it"
    return Difference(Kind.JUMP, "", family.value, (f"table {name}",), "a table in force", found)


def table_of(ruleset: NftRuleset, family: IPFamily) -> Table | None:
    """Return the proxy's table of a family."""
    return ruleset.tables.get((_FAMILIES[family], TABLE))


def edited(actual: NftRuleset, intended: NftRuleset, family: IPFamily) -> Iterator[Difference]:
    """Yield the rules of the proxy's table that it did not write, and those that it lacks."""
    table, wanted = table_of(actual, family), table_of(intended, family)
    if table is None:
        return
    if wanted is not None and is_ours(table):
        yield from _against(table, wanted, family)
        return
    for chain in table.chains.values():
        for rule in chain.rules:
            if not _is_known(chain, rule):
                yield _extra(table, chain, rule, family)


def leftover_tables(actual: NftRuleset, mode: str) -> Iterator[Difference]:
    """Yield the tables of the nftables mode on a node in another mode."""
    for key in actual.tables:
        if key[1] == TABLE and key[0] in _FAMILIES.values():
            name = " ".join(key)
            expected = f"no table of another mode than {mode}"
            yield Difference(Kind.LEFTOVER, "", "", (f"table {name}",), expected, "it is there")


def is_ours(table: Table) -> bool:
    """Return whether a table has our layout rather than kube-proxy's."""
    return (
        TABLE_COMMENT in table.comment or "lb-1" in table.chains or "affinity-learn" in table.chains
    )


def _is_known(chain: Chain, rule: Rule) -> bool:
    text = _COMMENT.sub("", rule.text)
    if chain.name in _REFUSING:
        return text.startswith("reject")
    return _DECIDING.match(text) is not None


def _extra(table: Table, chain: Chain, rule: Rule, family: IPFamily) -> Difference:
    named = _OF_A_SERVICE.match(chain.name)
    place = f"handle {rule.handle}" if rule.handle else f"rule {rule.number}"
    return Difference(
        Kind.EDITED,
        named[1] if named else "",
        family.value,
        (f"{table.family} {table.name} {chain.name}",),
        "only rules that a proxy writes",
        "a rule of somebody else",
        evidence=(f"{table.family} {table.name} {chain.name} {place}: {rule.text}",),
    )


def _against(table: Table, wanted: Table, family: IPFamily) -> Iterator[Difference]:
    """Compare chains of our own layout; which ``lb-N`` there are depends on the past."""
    for name, chain in wanted.chains.items():
        found = table.chains.get(name)
        texts = [_plain(rule.text) for rule in chain.rules]
        have = [_plain(rule.text) for rule in found.rules] if found else []
        missing = [text for text in texts if text not in have]
        extra = [text for text in have if text not in texts]
        if found is not None and not missing and not extra and len(have) == len(texts):
            continue
        evidence = [f"missing: {text}" for text in missing] + [f"extra: {text}" for text in extra]
        yield Difference(
            Kind.EDITED,
            "",
            family.value,
            (f"{table.family} {table.name} {name}",),
            f"{len(texts)} rules",
            "no such chain" if found is None else f"{len(missing)} missing, {len(extra)} extra",
            evidence=tuple(evidence[:_MOST_SHOWN]),
        )
    for name, one in wanted.sets.items():
        if one.kind != "map":  # where endpoints stand in their maps depends on the past
            yield from _elements(table.sets.get(name), one, table, family)


# nft leaves out a match on the protocol that something later in the rule implies.
_IMPLIED = re.compile(r"^meta l4proto (?:\{ [^}]* \}|tcp|udp|sctp) (?!\.)")
_HEX = re.compile(r"\b0x[0-9a-f]+\b")
_TIMEOUT = re.compile(r"\btimeout ((?:\d+[dhms])+)")
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def _plain(text: str) -> str:
    """Return a rule in a form that is the same as written and as listed by nft."""
    text = _HEX.sub(lambda found: str(int(found[0], 16)), _IMPLIED.sub("", text))
    return _TIMEOUT.sub(lambda found: f"timeout {_seconds(found[1])}s", text)


def _seconds(text: str) -> int:
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))


def _elements(
    found: NamedSet | None, wanted: NamedSet, table: Table, family: IPFamily
) -> Iterator[Difference]:
    expected, have = _by_key(wanted), _by_key(found) if found else {}
    missing = [expected[key] for key in expected.keys() - have.keys()]
    extra = [have[key] for key in have.keys() - expected.keys()]
    evidence = [f"missing: {one.text}" for one in missing] + [f"extra: {one.text}" for one in extra]
    for service in sorted({one.comment for one in (*missing, *extra)}):
        yield Difference(
            Kind.AFFINITY if wanted.name.startswith(AFFINITY) else Kind.EDITED,
            service,
            family.value,
            (f"{table.family} {table.name} {wanted.name}",),
            f"{len(expected)} elements",
            f"{len(missing)} missing, {len(extra)} extra",
            evidence=tuple(text for text in evidence if service in text)[:_MOST_SHOWN],
        )


def _by_key(one: NamedSet) -> dict[Hashable, Element]:
    return {(element.spans, str(element.data)): element for element in one.elements}
