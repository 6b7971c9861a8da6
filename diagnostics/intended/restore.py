"""What the input of iptables-restore leaves behind in empty tables."""

from __future__ import annotations

from collections.abc import Iterable

from diagnostics.iptables.model import Chain, Ruleset, Table

# Built-in chains exist before anybody writes to them.
_BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})


def restored(lines: Iterable[str]) -> Ruleset:
    """
    Return the rules after ``iptables-restore --noflush``.

    Knows what our data planes write for the first time: declared chains, which are emptied, and
    rules that are appended or put first (-A, -I without a number).

    Raises:
        ValueError: There is another kind of line.
    """
    ruleset = Ruleset()
    table = Table("")
    for line in lines:
        kind, rest = line[:1], line[1:]
        if kind == "*":
            table = ruleset.tables.setdefault(rest, Table(rest, complete=True))
        elif kind == ":":
            name = rest.partition(" ")[0]
            table.chains[name] = Chain(name, None)
        elif line.startswith(("-A ", "-I ")):
            name, _, text = line[3:].partition(" ")
            raw = _chain(table, name).rules.raw
            raw.insert(len(raw) if kind == "-" and line[1] == "A" else 0, text)
        elif line and line != "COMMIT" and kind != "#":
            raise ValueError(f"not expected in the first input of iptables-restore: {line}")
    return ruleset


def _chain(table: Table, name: str) -> Chain:
    if name not in table.chains:
        table.chains[name] = Chain(name, "ACCEPT" if name in _BUILT_IN else None)
    return table.chains[name]
