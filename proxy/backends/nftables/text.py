"""The table as nft text: what ``--dry-run`` prints; ``nft -f`` accepts it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from proxy.backends.nftables import layout
from proxy.backends.nftables.elements import ElementValue, port_elements, shared_elements
from proxy.backends.nftables.table import NftablesTable
from proxy.model.addresses import IPFamily, unpack_address
from proxy.netfilter.fields import render_key
from proxy.netfilter.objects import Chain, NamedSet
from proxy.netfilter.statements import Verdict

Line = tuple[bytes, str]


def render_table(table: NftablesTable) -> str:
    """Return a script that replaces the table by exactly the remembered content."""
    family = "ip" if table.settings.family is IPFamily.IPV4 else "ip6"
    head = f"{family} {layout.TABLE}"
    lines = [f"table {head}", f"delete table {head}", f"table {head} {{"]
    lines.append(f'\tcomment "{layout.TABLE_COMMENT}"')
    elements, chains = _collect(table)
    for item in table.sets.values():
        lines += _render_set(item, elements[item.name])
    for chain in chains:
        lines += _render_chain(chain)
    lines.append("}")
    return "\n".join(lines) + "\n"


def _collect(table: NftablesTable) -> tuple[dict[str, list[Line]], Iterable[Chain]]:
    elements: dict[str, dict[bytes, str]] = defaultdict(dict)
    chains: dict[str, Chain] = {c.name: c for c in layout.fixed_chains(table.settings)}
    for address in table.settings.node_port_addresses or ():
        elements[layout.NODEPORT_IPS][address] = unpack_address(address)
    for name, placed in table.placed.items():
        found, needed = port_elements(placed, table.settings)
        chains |= {chain.name: chain for chain in needed}
        comment = str(name) if table.settings.comments else ""
        for (set_name, key), value in found.items():
            item = table.sets[set_name]
            elements[set_name][key] = _render_element(item, key, value, comment)
        for set_name, key in shared_elements(placed.plan):
            elements[set_name][key] = render_key(table.sets[set_name].key, key)
    chains |= {chain.name: chain for chain in layout.base_chains()}
    ordered = defaultdict(list, {n: sorted(found.items()) for n, found in elements.items()})
    return ordered, chains.values()


def _render_element(item: NamedSet, key: bytes, value: ElementValue, comment: str) -> str:
    text = render_key(item.key, key)
    if isinstance(value, Verdict):
        note = f' comment "{comment}"' if comment else ""
        return f"{text}{note} : {value.text}"
    if item.interval:
        last = render_key(item.key, value).rpartition(" . ")[2]
        return f"{text}-{last}" if not text.endswith(f" . {last}") else text
    return f"{text} : {render_key(item.data, value)}" if item.data else text


def _render_set(item: NamedSet, elements: list[Line]) -> Iterator[str]:
    yield f"\t{'map' if item.is_map else 'set'} {item.name} {{"
    for line in item.declaration().split("; "):
        yield f"\t\t{line}"
    if elements:
        yield "\t\telements = {"
        yield ",\n".join(f"\t\t\t{text}" for _, text in elements)
        yield "\t\t}"
    yield "\t}"


def _render_chain(chain: Chain) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.hook:
        hook = chain.hook
        yield f"\t\ttype {hook.kind} hook {hook.name} priority {hook.priority};"
    for rule in chain.rules:
        yield f"\t\t{rule.text}"
    yield "\t}"
