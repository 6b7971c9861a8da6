"""
What ``iptables-save`` prints, taken apart and compared where order means something.

Left out of a comparison: comment lines, counters, the order of tables and of chains, and the order
in which *different* service ports stand in the chains that all share, which kube-proxy shuffles
with every synchronisation. All else must be equal, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import unified_diff
from itertools import groupby
from typing import NamedTuple

# Those with rules of several service ports; a rule's comment begins with the name of its own.
_SHARED = {
    ("filter", "KUBE-EXTERNAL-SERVICES"),
    ("filter", "KUBE-NODEPORTS"),
    ("filter", "KUBE-PROXY-FIREWALL"),
    ("filter", "KUBE-SERVICES"),
    ("nat", "KUBE-NODEPORTS"),
    ("nat", "KUBE-SERVICES"),
}
_CHAIN = re.compile(r":(\S+) (\S+)(?: \[\d+:\d+\])?")
_RULE = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+) (.+)")
_SERVICE_PORT = re.compile(r'--comment "([^ "/]+/[^ "]+)[ "]')


class Chain(NamedTuple):
    """``policy`` is "-" for a chain that is not built in; ``rules`` is what follows ``-A NAME``."""

    policy: str
    rules: tuple[str, ...]


Ruleset = Mapping[str, Mapping[str, Chain]]
"""Tables, their chains, in both by name."""


def parse(text: str) -> Ruleset:
    """Take the output of ``iptables-save`` apart, with or without ``-c``."""
    policies: dict[str, dict[str, str]] = {}
    rules: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in text.splitlines():
        if not line or line.startswith("#") or line == "COMMIT":
            continue
        if line.startswith("*"):
            table = line[1:]
            assert table not in policies, f"table {table} is there twice"
            policies[table] = {}
        elif match := _CHAIN.fullmatch(line):
            policies[table][match[1]] = match[2]
            rules[table, match[1]] = []
        else:
            match = _RULE.fullmatch(line)
            assert match is not None, f"not a line of iptables-save: {line}"
            rules[table, match[1]].append(match[2])
    return {
        table: {name: Chain(policy, tuple(rules[table, name])) for name, policy in chains.items()}
        for table, chains in policies.items()
    }


def render(ruleset: Ruleset) -> str:
    """Return the text that ``iptables-restore`` takes; tables and chains by name."""
    lines = []
    for table, chains in sorted(ruleset.items()):
        lines.append(f"*{table}")
        lines += [f":{name} {chain.policy} [0:0]" for name, chain in sorted(chains.items())]
        lines += [
            f"-A {name} {rule}" for name, chain in sorted(chains.items()) for rule in chain[1]
        ]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def canonical(ruleset: Ruleset) -> str:
    """Return a text that is the same for two rule sets exactly if they may be called equal."""
    return render(
        {
            table: {
                name: Chain(chain.policy, _byservice_port(chain.rules))
                if (table, name) in _SHARED
                else chain
                for name, chain in chains.items()
            }
            for table, chains in ruleset.items()
        }
    )


def differences(recorded: Ruleset, found: Ruleset) -> str:
    """Return what must be removed (-) from and added (+) to *recorded* to get *found*, or ""."""
    texts = (canonical(recorded).splitlines(), canonical(found).splitlines())
    lines = unified_diff(*texts, "recorded", "found", n=1, lineterm="")
    return "\n".join(lines)


def _byservice_port(rules: Iterable[str]) -> tuple[str, ...]:
    """
    Sort the rules by service port; those of one port keep their order.

    A rule of no service port stays where it is, with the same ports before and after it: the
    jumps to KUBE-NODEPORTS must be last.
    """
    ordered: list[str] = []
    for _, run in groupby(rules, key=lambda rule: bool(service_port(rule))):
        ordered += sorted(run, key=service_port)  # stable: nothing moves in a run without ports
    return tuple(ordered)


def service_port(rule: str) -> str:
    """Return the name of the service port that a rule's comment begins with, or ""."""
    match = _SERVICE_PORT.search(rule)
    return match[1] if match else ""
