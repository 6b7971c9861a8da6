"""Words for steps: rules without what every rule has, and what chains and hooks are for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from diagnostics.trace.packet import Packet, place_text
from diagnostics.trace.report import Trace
from diagnostics.trace.walk import End, Step, Verdict

# "-A CHAIN", comments, the module that -p loads, and masks that cover everything say nothing new.
_NOISE = re.compile(
    r'^-A \S+ ?|-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?|-m (?:tcp|udp|sctp) '
    r"|--mask (?:255\.255\.255\.255|(?:f{4}:){7}f{4}) "
)
_COMMENT = re.compile(r'--comment (?:"((?:[^"\\]|\\.)*)"|(\S+))')
_COUNTER = re.compile(r"counter(?: packets \d+ bytes \d+)? ?")
_OUTSIDE = re.compile(r"! -s (\S+)|saddr != ([0-9a-f.:/]+)")
MARK_CHAIN = "KUBE-MARK-MASQ"
_TARGET = re.compile(r"^(.*?) ?-([jg]) (\S+)(?: (.*))?$")
_HASHED = re.compile(r"^(KUBE-[A-Z]+|service|external|firewall|endpoint)-[A-Z0-9]{8,16}\b.*$")

HOOKS = {
    "prerouting": "the packet came in; where it is sent to may be changed before it is routed",
    "input": "the packet is for this node",
    "forward": "the packet passes through this node",
    "output": "the packet was made on this node, or by IPVS",
    "postrouting": "the packet leaves; who it seems to come from may be changed",
    "routing": "the kernel looks up the way to the destination",
}


def short(step: Step) -> str:
    """Return a rule's text without what says nothing new; its target behind an arrow."""
    if step.table == "ipvs":
        return re.sub(r"^(?:virtual server|->) \S+ ", "", step.text)
    if step.place == "policy" or not step.text.startswith("-A "):
        return _COUNTER.sub("", step.text).strip()
    text = _NOISE.sub("", step.text).strip()
    found = _TARGET.match(text)
    if found is None:
        return text
    matches, jump, target, options = found.groups()
    arrow = "⇒" if jump == "g" else "→"
    return " ".join(part for part in (matches, arrow, target, options) if part)


def cited(step: Step) -> str:
    """Return where a rule is: ``nat KUBE-SERVICES rule 7``, ``ipvs real server 10.0.0.1:80``."""
    if step.table == "ipvs":
        kind = "real server" if step.text.startswith("->") else "virtual server"
        return f"ipvs {kind} {step.place}"
    return " ".join(part for part in (step.table, step.chain, step.place) if part)


def comment(step: Step) -> str:
    """Return the comment of an iptables rule, "" for none."""
    found = _COMMENT.search(step.text)
    return (found[1] or found[2] or "") if found else ""


def notes(step: Step, trace: Trace, meanings: Mapping[str, str]) -> list[str]:
    """Return why a rule matched, and what stands behind the chains that it leads to."""
    found = [step.why] if step.why else []
    if outside := _OUTSIDE.search(step.text):
        found.append(f"{trace.packet.src} is not in {outside[1] or outside[2]}")
    if step.chain == MARK_CHAIN:
        found.append("marked: its source address will be rewritten when it leaves")
    own = step.text.removeprefix(f"-A {step.chain}")
    words = dict.fromkeys(re.findall(r"KUBE-[A-Z0-9-]+", own))
    return found + [f"{chain} = {meanings[chain]}" for chain in words if chain in meanings]


def who(place: str, meanings: Mapping[str, str]) -> str:
    """Return ``10.0.0.1:80, pod shop/web-1 on node-2`` for a place, as far as that is known."""
    address = place.rpartition(":")[0].removeprefix("[").removesuffix("]")
    owner = meanings.get(address, "")
    return f"{place}, {owner}" if owner else place


def place(packet: Packet) -> str:
    """Return where a packet arrives."""
    return place_text(packet.dst, packet.dport)


def called(trace: Trace) -> str:
    """Return the address and port that were called."""
    return place_text(trace.packet.dst, trace.packet.dport)


def ending(end: End) -> str:
    """Return how a way ends in a few words."""
    packet = end.branch.packet
    if end.verdict is Verdict.DROP:
        return "dropped"
    if end.verdict is Verdict.REJECT:
        return f"rejected with {end.how}"
    if not packet.is_translated:
        return f"goes on to {place(packet)}, not translated"
    return f"arrives at {place(packet)}, which {source(packet)}"


def source(packet: Packet) -> str:
    """Return what the endpoint sees as the source."""
    if packet.source_rewritten:
        return "sees this node as the source"
    return f"sees {packet.src} as the source"


def kind_of_chain(chain: str) -> str:
    """Return what chains of one kind are called: ``KUBE-SEP`` of ``KUBE-SEP-2F5…``."""
    return _HASHED.sub(r"\1", chain)
