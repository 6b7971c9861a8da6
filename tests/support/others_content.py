"""What others have on a node where proxies come and go, and whether it is all there."""

from __future__ import annotations

import re

from kpctl.lab.netns import Namespace
from proxy.kernel.xtables_backend import Kind
from tests.support import golden
from tests.support.left_behind import BUILT_IN, FOREIGN, Host

_JUMP = re.compile(r"-[jg] (KUBE-[^ \"]+)$")
Rules = dict[tuple[str, str, str], tuple[str, ...]]


class Others:
    """What others have on the node in one backend and in nf_tables, and whether it is all there."""

    def __init__(self, kind: Kind, *, rules: str = FOREIGN, tables: str = "") -> None:
        self.kind = kind
        self.rules = rules
        self.tables = tables

    def add(self, namespace: Namespace) -> None:
        """Put it there."""
        self.host = Host(namespace, self.kind)
        for program in golden.PROGRAMS:
            self.host.restore(program, self.rules)
        if self.tables:
            namespace.run(["nft", "-f", "-"], stdin=self.tables)
        self.before = self._content()

    def are_alone(self) -> None:
        """Assert that there is nothing else in iptables, and all in the order of before."""
        assert self._content() == self.before
        self._tables_are_untouched()

    def are_untouched(self) -> None:
        """Assert that all is as it was, but for jumps of a proxy to its chains."""
        there = self._content()
        chains = {chain for _, _, chain in self.before}
        kept = {
            key: tuple(rule for rule in there.get(key, ()) if not _is_proxys(rule, chains))
            for key in self.before
        }
        assert kept == self.before
        self._tables_are_untouched()

    def _tables_are_untouched(self) -> None:
        if not self.tables:
            return
        listing = self.host.namespace.run(["nft", "list", "ruleset"]).stdout
        for table in self.tables.strip().split("\ntable "):
            assert table in listing

    def _content(self) -> Rules:
        return {
            (program, table, name): chain.rules
            for program, ruleset in self.host.everything().items()
            for table, chains in ruleset.items()
            for name, chain in chains.items()
            if chain.rules or name not in BUILT_IN
        }


def _is_proxys(rule: str, others: set[str]) -> bool:
    jump = _JUMP.search(rule)
    return jump is not None and jump[1] not in others
