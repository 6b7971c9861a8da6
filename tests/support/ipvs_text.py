"""What ``ipvsadm -Sn``, ``ipset save`` and kube-ipvs0 tell of a node; their order means nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

VirtualServers = dict[str, frozenset[str]]
"""Real servers (``ADDRESS:PORT -m -w 1``) by virtual server (``-t ADDRESS:PORT -s rr …``)."""

# Given by the kernel, some at random; and how much a set may hold is nobody's contract.
_KERNELS_OWN = re.compile(r" (hashsize|maxelem|bucketsize|initval) \S+")
_IPV6_SETS = "KUBE-6-"


class SetState(NamedTuple):
    """An ipset; ``kind`` is its type with the options that matter."""

    kind: str
    members: frozenset[str]


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the IPVS mode keeps beside its iptables rules; ``addresses`` are kube-ipvs0's."""

    servers: VirtualServers = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()
    sets: Mapping[str, SetState] = field(default_factory=dict)


def parse_servers(text: str) -> VirtualServers:
    """Take the output of ``ipvsadm -Sn`` apart."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"-A (.+)", line):
            server = match[1].strip()
            found[server] = set()
        else:
            match = re.fullmatch(r"-a (\S+ \S+) -r (.+)", line)
            assert match is not None, f"not a line of ipvsadm: {line}"
            assert server.startswith(f"{match[1]} "), f"{line} follows {server}"
            found[server].add(match[2].strip())
    return {server: frozenset(reals) for server, reals in found.items()}


def parse_sets(text: str) -> dict[str, SetState]:
    """Take the output of ``ipset save`` apart."""
    kinds: dict[str, str] = {}
    members: dict[str, set[str]] = {}
    for line in text.splitlines():
        verb, name, rest = line.split(" ", 2)
        if verb == "create":
            kinds[name] = _KERNELS_OWN.sub("", rest)
            members[name] = set()
        else:
            assert verb == "add", f"not a line of ipset: {line}"
            members[name].add(rest)
    return {name: SetState(kind, frozenset(members[name])) for name, kind in kinds.items()}


def set_states(kinds: Mapping[str, str], members: Mapping[str, list[str]]) -> dict[str, SetState]:
    """Put the types of sets together with the members of those that are not empty."""
    return {name: SetState(kind, frozenset(members.get(name, ()))) for name, kind in kinds.items()}


def differences(recorded: NodeState, found: NodeState) -> str:
    """
    Return what is there in one only, a line each (- recorded, + found), or "".

    Sets of a family of which nothing was recorded are not compared.
    """
    families = {name.startswith(_IPV6_SETS) for name in recorded.sets}
    sets = {
        name: state for name, state in found.sets.items() if name.startswith(_IPV6_SETS) in families
    }
    lines = [
        *_one_sided(_server_facts(recorded.servers), _server_facts(found.servers)),
        *_one_sided(_set_facts(recorded.sets), _set_facts(sets)),
        *_one_sided(
            {f"address {address}" for address in recorded.addresses},
            {f"address {address}" for address in found.addresses},
        ),
    ]
    return "\n".join(lines)


def _server_facts(servers: VirtualServers) -> set[str]:
    facts = {f"-A {server}" for server in servers}
    return facts | {f"-A {server} -r {real}" for server in servers for real in servers[server]}


def _set_facts(sets: Mapping[str, SetState]) -> set[str]:
    facts = {f"create {name} {state.kind}" for name, state in sets.items()}
    return facts | {f"add {name} {member}" for name in sets for member in sets[name].members}


def _one_sided(recorded: set[str], found: set[str]) -> list[str]:
    missing = [f"- {fact}" for fact in sorted(recorded - found)]
    return [*missing, *(f"+ {fact}" for fact in sorted(found - recorded))]
