"""
Two iptables exist, nft and legacy, with rules that the other does not see: which one to write with.

Rules are obeyed in both, so a node where the kubelet and the CNI plugin use one and the proxy the
other has two rule sets. The choice is that of kubernetes-sigs/iptables-wrappers: the one where the
kubelet left its marks, else the one with more rules. Nothing is created by looking.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.kernel.command import PACKAGES, ToolMissing, find_tool, run
from proxy.kernel.legacy_tables import LegacyTables
from proxy.kernel.netlink import NETLINK_NETFILTER, DumpInterrupted, NetlinkError, NetlinkSocket
from proxy.kernel.nftables import FAMILY_NUMBERS, NetlinkNft, TransactionRejected
from proxy.kernel.trials import TrialRequest
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import (
    NFGENMSG,
    NFNL_SUBSYS_NFTABLES,
    NLM_F_CREATE,
    Msg,
    attributes,
    string,
)

Kind = Literal["nft", "legacy"]

KUBELET_CHAINS = frozenset({"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"})
TABLES = ("raw", "mangle", "nat", "filter", "security")
_SERVICES = "KUBE-SERVICES"
_PROGRAMS = {IPFamily.IPV4: "iptables", IPFamily.IPV6: "ip6tables"}
_VERSION = re.compile(r"v(\d+(?:\.\d+)+)")
_WAIT_SINCE, _RESTORE_WAIT_SINCE, _RANDOM_FULLY_SINCE = (1, 4, 22), (1, 6, 2), (1, 6, 2)
_MODERN = (1, 8)
_READ_ATTEMPTS = 5
# What a kernel without nf_tables, or without a family, answers.
_NO_NF_TABLES = frozenset(
    {errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT, errno.EAFNOSUPPORT}
)


# Makes a table and deletes one that does not exist: the kernel tries the first and keeps nothing.
_ABORTED = (
    TrialRequest(Msg.NEWTABLE, NLM_F_CREATE, string(1, "kpctl-trial")),
    TrialRequest(Msg.DELTABLE, 0, string(1, "kpctl-trial-absent")),
)


@dataclass(frozen=True, slots=True)
class Backend:
    """
    The programs to use.

    Attributes:
        kind: whose rules they write.
        why: a sentence for the log, with what is amiss, if anything.
        variant: what follows "iptables" in the programs' names: "", "-nft" or "-legacy".
        version: of the programs.
    """

    kind: Kind
    why: str
    variant: str = ""
    version: tuple[int, ...] = _MODERN

    def program(self, family: IPFamily, action: str = "") -> str:
        """Return a program's name; *action* is "", "restore" or "save"."""
        name = _PROGRAMS[family] + self.variant
        return f"{name}-{action}" if action else name

    @property
    def random_fully(self) -> bool:
        """Whether MASQUERADE takes ``--random-fully``."""
        return self.version >= _RANDOM_FULLY_SINCE

    def wait(self, wait_s: int) -> tuple[str, ...]:
        """Return the arguments that make iptables wait for the lock at most *wait_s* seconds."""
        return ("-w", str(wait_s)) if self.version >= _WAIT_SINCE else ()

    def restore_wait(self, wait_s: int) -> tuple[str, ...]:
        """Return the same for iptables-restore, which learnt it later."""
        return ("-w", str(wait_s)) if self.version >= _RESTORE_WAIT_SINCE else ()


class TableReader(Protocol):
    """What the choice needs to know; nothing is created by asking."""

    def has_nft(self) -> bool:
        """Whether the kernel has nf_tables."""

    def chains(self, kind: Kind, family: IPFamily, table: str, /) -> frozenset[str]:
        """Return the names of a table's chains; empty when there is no such table."""

    def rule_count(self, kind: Kind, family: IPFamily, at_most: int, /) -> int:
        """Return how many rules the tables of iptables have; it may stop counting at *at_most*."""


class KernelTables:
    """The tables of the calling thread's network namespace; OSError without CAP_NET_ADMIN."""

    def has_nft(self) -> bool:
        """Whether the kernel has nf_tables; see TableReader."""
        with closing(NetlinkNft(IPFamily.IPV4)) as nft:
            try:
                nft.apply(_ABORTED)
            except TransactionRejected as rejected:
                # A kernel may have nf_tables without the IPv4 family: only making a table tells.
                return all(refusal.index != 0 for refusal in rejected.refusals)
            except NetlinkError as error:
                if error.errno in _NO_NF_TABLES:
                    return False
                raise
        return True

    def chains(self, kind: Kind, family: IPFamily, table: str) -> frozenset[str]:
        """Return the names of a table's chains; see TableReader."""
        if kind == "legacy":
            with LegacyTables(family) as tables:
                return tables.chains(table)
        with closing(NetlinkNft(family)) as nft, _none_without_nf_tables():
            return nft.chains(table)
        return frozenset()

    def rule_count(self, kind: Kind, family: IPFamily, at_most: int) -> int:
        """Return how many rules there are; see TableReader."""
        if kind == "legacy":
            with LegacyTables(family) as tables:
                return sum(tables.rule_count(name) for name in tables.names())
        with _none_without_nf_tables():
            return _nft_rule_count(family, at_most)
        return 0


def choose_backend(reader: TableReader | None = None) -> Backend:
    """
    Choose as Kubernetes' wrapper does, of what is installed.

    Raises:
        ToolMissing: No iptables is installed.
        OSError: The tables could not be read, for want of CAP_NET_ADMIN.

    """
    kind, why = wanted_backend(KernelTables() if reader is None else reader)
    return _installed(kind, why)


def wanted_backend(reader: TableReader) -> tuple[Kind, str]:
    """Return whose rules this node uses, and how that is known."""
    if not reader.has_nft():
        return "legacy", "the kernel has no nf_tables"
    kinds: tuple[Kind, ...] = ("nft", "legacy")
    for kind in kinds:
        for family in IPFamily:
            marks = sorted(reader.chains(kind, family, "mangle") & KUBELET_CHAINS)
            if marks:
                return kind, f"the kubelet's chain {marks[0]} is in {kind}'s mangle table"
    # A large nft table takes seconds to count, and most nodes have no legacy rules to beat.
    legacy = sum(reader.rule_count("legacy", family, sys.maxsize) for family in IPFamily)
    nft = 0
    for family in IPFamily:
        if nft < legacy:
            nft += reader.rule_count("nft", family, legacy - nft)
    kind = "legacy" if legacy > nft else "nft"
    counted = f"at least {nft}" if kind == "nft" else str(nft)
    return kind, f"no chain of the kubelet's found; rules: legacy {legacy}, nft {counted}"


def double_rule_sets(kind: Kind, reader: TableReader | None = None) -> tuple[str, ...]:
    """
    Return one sentence per family and table where the backend not chosen has a proxy's rules.

    Empty when there are none. Raises OSError as choose_backend does.
    """
    reader = KernelTables() if reader is None else reader
    other: Kind = "legacy" if kind == "nft" else "nft"
    return tuple(
        f"chain {_SERVICES} is also in {other}'s {table} table of {family.value}, so packets pass "
        f"two proxies' rules; look at them with {_PROGRAMS[family]}-{other}-save -t {table}"
        for family in IPFamily
        for table in ("nat", "filter")
        if _SERVICES in reader.chains(other, family, table)
    )


def _installed(kind: Kind, why: str) -> Backend:
    """Return the programs for *kind*; those there are, when there are none for it."""
    for variant in (f"-{kind}", "", "-legacy" if kind == "nft" else "-nft"):
        if any(find_tool(f"iptables{variant}{action}") is None for action in ("", "-restore")):
            continue
        version, found = _version(f"iptables{variant}")
        if found != kind:
            why += f"; but only iptables of the {found} kind is installed"
        return Backend(found, why, variant, version)
    raise ToolMissing(
        ["iptables"],
        "neither iptables and iptables-restore nor their nft or legacy variants are installed",
        hint=f"install the package {PACKAGES['iptables']}",
    )


def _version(program: str) -> tuple[tuple[int, ...], Kind]:
    """Ask a program for its version and kind; before 1.8 there was legacy only."""
    said = run([program, "--version"]).stdout
    match = _VERSION.search(said)
    version = tuple(int(part) for part in match[1].split(".")) if match else _MODERN
    return version, "nft" if "nf_tables" in said else "legacy"


@contextlib.contextmanager
def _none_without_nf_tables() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.errno not in _NO_NF_TABLES:
            raise


def _nft_rule_count(family: IPFamily, at_most: int) -> int:
    for attempt in range(_READ_ATTEMPTS):
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            try:
                return sum(1 for _ in itertools.islice(_nft_rules(netlink, family), at_most))
            except DumpInterrupted:
                if attempt == _READ_ATTEMPTS - 1:
                    raise
    return 0


def _nft_rules(netlink: NetlinkSocket, family: IPFamily) -> Iterator[None]:
    """Yield once for each rule in the tables of iptables."""
    request = NFGENMSG.pack(FAMILY_NUMBERS[family], 0, 0)
    names = {name.encode() + b"\0" for name in TABLES}
    for reply in netlink.dump(NFNL_SUBSYS_NFTABLES << 8 | Msg.GETRULE, request):
        found = attributes(reply.payload[NFGENMSG.size :])
        if bytes(found.get(1, b"")) in names:
            yield None
