"""
What the two data planes that write iptables rules share: jumps, sections and rule texts.

Rule texts are the arguments of iptables(8) after ``-A CHAIN``, in the order in which
``iptables-save`` prints them, so that what is written can be compared with what is listed.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

from proxy.model.addresses import IPFamily

FILTER, NAT, MANGLE = "filter", "nat", "mangle"
KUBE_PREFIX = "KUBE-"
LOOPBACK = {IPFamily.IPV4: "127.0.0.0/8", IPFamily.IPV6: "::1/128"}
REJECT_WITH = {IPFamily.IPV4: "icmp-port-unreachable", IPFamily.IPV6: "icmp6-port-unreachable"}


class Jump(NamedTuple):
    """A rule in a built-in chain that leads to one of ours; ``rule`` ends in ``-j TARGET``."""

    table: str
    chain: str
    rule: str

    @property
    def target(self) -> str:
        """The chain it leads to."""
        return self.rule.rpartition(" ")[2]

    @property
    def arguments(self) -> list[str]:
        """The rule as iptables(8) takes it: table, then what follows the chain's name."""
        return shlex.split(self.rule)


def comment(text: str) -> str:
    """Return the match that carries *text*; quoted as iptables-save quotes it."""
    quoted = "".join(f"\\{c}" if c in "\"'\\" else c for c in text)
    return f'-m comment --comment "{quoted}"'


def jump(table: str, chain: str, match: str, text: str, target: str) -> Jump:
    """Return a jump with an optional match before its comment; "" for none of either."""
    parts = [match, comment(text) if text else "", f"-j {target}"]
    return Jump(table, chain, " ".join(part for part in parts if part))
