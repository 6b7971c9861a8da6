"""
Who else changes iptables rules of ours: by notification on the nft backend, by looking on legacy.

The tables are shared with the kubelet, CNI plugins and others, whose edits are none of our
business unless they touch one of our chains or a jump into one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

from proxy.kernel.legacy_tables import LegacyTables, TableInfo
from proxy.kernel.nft_monitor import ForeignEdit, TransactionMonitor, name_in, object_name
from proxy.model.addresses import IPFamily
from proxy.netfilter.wire import Msg, attributes, iterate_attributes

TABLES = ("nat", "filter", "mangle")
_PREFIX = "KUBE-"
_KUBELET = frozenset(
    {"KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-FIREWALL", "KUBE-MARK-DROP"}
)
_BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_CHAIN_AND_RULE = frozenset({Msg.NEWCHAIN, Msg.DELCHAIN, Msg.NEWRULE, Msg.DELRULE})
_RULE_EXPRESSIONS = 4


class NftXtablesMonitor(TransactionMonitor):
    """
    Notifications about a proxy's chains in the iptables tables of nf_tables, both families.

    What a sender among *own_pids* did is skipped unread; it is asked for each datagram. An edit's
    places are ``table/CHAIN``, or the table's name when a whole table was deleted.
    """

    def __init__(self, own_pids: Callable[[], Collection[int]]) -> None:
        super().__init__()
        self._own_pids = own_pids

    def _is_own(self, sender: int) -> bool:
        return sender in self._own_pids()

    def _place(self, kind: Msg, found: Mapping[int, memoryview]) -> str | None:
        table = name_in(found, 1)
        if table not in TABLES:
            return None
        if kind is Msg.DELTABLE:
            return table
        if kind not in _CHAIN_AND_RULE:
            return None
        chain = object_name(kind, found)
        lost_jump = kind is Msg.DELRULE and chain in _BUILT_IN and _leads_to_us(found)
        return f"{table}/{chain}" if lost_jump or _is_ours(chain) else None


def _is_ours(chain: str) -> bool:
    return chain.startswith(_PREFIX) and chain not in _KUBELET


def _leads_to_us(rule: Mapping[int, memoryview]) -> bool:
    """Whether a rule jumps or goes to a chain of ours (an ``immediate`` verdict names it)."""
    expressions = rule.get(_RULE_EXPRESSIONS, memoryview(b""))
    for _, element in iterate_attributes(expressions):
        expression = attributes(element)
        if name_in(expression, 1) != "immediate":
            continue
        value = attributes(attributes(expression.get(2, b"")).get(2, b""))
        if _is_ours(name_in(attributes(value.get(2, b"")), 2)):
            return True
    return False


class LegacyXtablesMonitor:
    """
    Looks every *period_s* seconds at the extent of the legacy tables, in constant time.

    It tells that a table has grown, shrunk or vanished, not who did it; an edit that keeps the
    number and the size of the rules is not seen. Each difference is told once. Bound to the network
    namespace of the thread that makes it.
    """

    def __init__(self, period_s: float = 2.0) -> None:
        self._period_s = period_s
        self._tables = {family: LegacyTables(family) for family in IPFamily}
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._pending: deque[ForeignEdit] = deque()
        self._baseline = self._read()

    def edits(self) -> Iterator[ForeignEdit]:
        """Yield each difference that is not of our making, for ever; ends after ``close``."""
        while not self._closed.wait(self._period_s):
            with self._lock:
                if self._closed.is_set():
                    return
                self._compare()
                edits, self._pending = self._pending, deque()
            yield from edits

    def rebase(self) -> None:
        """Take the tables as they are for ours."""
        with self._lock, suppress(OSError):
            if not self._closed.is_set():
                self._baseline = self._read()

    @contextmanager
    def own_change(self) -> Iterator[None]:
        """
        Change tables without being told of it, whether the change succeeds or not.

        What others did before is still told; nobody looks meanwhile.
        """
        with self._lock:
            if not self._closed.is_set():
                self._compare()
            try:
                yield
            finally:
                self.rebase()

    def close(self) -> None:
        """Stop looking; ``edits`` ends."""
        self._closed.set()
        with self._lock:
            for tables in self._tables.values():
                tables.close()

    def _read(self) -> dict[tuple[IPFamily, str], TableInfo]:
        found = {}
        for family, tables in self._tables.items():
            for table in TABLES:
                if (info := tables.info(table)) is not None:
                    found[family, table] = info
        return found

    def _compare(self) -> None:
        with suppress(OSError):  # such as want of memory: the next look will tell
            found = self._read()
            for key, before in self._baseline.items():
                if (edit := _difference(*key, before, found.get(key))) is not None:
                    self._pending.append(edit)
            self._baseline = found


def _difference(
    family: IPFamily, table: str, before: TableInfo, after: TableInfo | None
) -> ForeignEdit | None:
    if after == before:
        return None
    if after is None:
        return ForeignEdit(family, (f"table {table} vanished",), (table,), "table", "")
    change = f"{table}: {before.entries} entries became {after.entries}"
    return ForeignEdit(family, (change,), (table,), "rule", "")
