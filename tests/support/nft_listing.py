"""Listings of ``nft`` taken apart, for comparing what two kernels hold."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kpctl.lab.netns import Namespace
from proxy.backends.nftables.layout import TABLE
from proxy.kernel.nftables import NetlinkNft
from proxy.model.addresses import IPFamily

FAMILY_WORDS = {IPFamily.IPV4: "ip", IPFamily.IPV6: "ip6"}
# nft's grammar wants a proof that there is a port; the kernel does not.
_PROOF = "meta l4proto { tcp, udp, sctp } "

Blocks = dict[str, list[str]]
Contents = dict[str, list[tuple[bytes, bytes]]]


def listed(namespace: Namespace, family: IPFamily) -> str:
    """What people see of the table."""
    done = namespace.run(["nft", "-s", "list", "table", FAMILY_WORDS[family], TABLE])
    return done.stdout


def load_text(namespace: Namespace, text: str) -> None:
    """Feed a script to ``nft``."""
    namespace.run(["nft", "-f", "-"], stdin=text)


def blocks(listing: str) -> Blocks:
    """Chains, sets and maps by their head; elements sorted, each on its own."""
    found: Blocks = {}
    for head, body in re.findall(r"^\t(\S[^\n]*) \{\n(.*?)^\t\}", listing, re.M | re.S):
        body, elements = _without_elements(body)
        lines = [line.strip().replace(_PROOF, "") for line in body.splitlines() if line.strip()]
        found[head] = [*lines, *sorted(elements)]
    return found


def _without_elements(body: str) -> tuple[str, list[str]]:
    match = re.search(r"elements = \{(.*)\}", body, re.S)
    if match is None:
        return body, []
    elements = re.split(r",\s+", match[1].strip())
    return body[: match.start()] + body[match.end() :], [" ".join(e.split()) for e in elements]


def contents(nft: NetlinkNft, names: Iterable[str]) -> Contents:
    """The elements of sets by netlink, sorted."""
    return {name: sorted(nft.elements(TABLE, name)) for name in names}
