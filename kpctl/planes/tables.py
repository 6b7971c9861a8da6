"""The iptables of this node, as modes iptables and ipvs use them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from kpctl.planes.build import Watch
from proxy.engine.cleanup.running import Running
from proxy.kernel.iptables import ProgramIptables, RecentPids
from proxy.kernel.nft_monitor import unseen_edit
from proxy.kernel.nftables import NetlinkNft
from proxy.kernel.xtables_backend import Backend, choose_backend, double_rule_sets
from proxy.kernel.xtables_monitor import LegacyXtablesMonitor, NftXtablesMonitor
from proxy.model.addresses import IPFamily
from proxy.runtime.logs import get_logger

log = get_logger(__name__)


class Tables:
    """The iptables of this node: programs, ports and the monitor that belongs to them."""

    def __init__(self, families: Sequence[IPFamily]) -> None:
        self.backend: Backend = choose_backend()
        log.info("Using iptables backend", backend=self.backend.kind, why=self.backend.why)
        for sentence in double_rule_sets(self.backend.kind):
            log.warning("There are two rule sets on this node", what=sentence)
        self.pids = RecentPids()
        self._observer: LegacyXtablesMonitor | _Generations = (
            LegacyXtablesMonitor() if self.backend.kind == "legacy" else _Generations()
        )
        own_change = self._observer.own_change
        self.ports = {
            family: QuietIptables(family, self.backend, self.pids, own_change)
            for family in families
        }

    def explain(self, family: IPFamily) -> str:
        """Return why a family's rules cannot be written, "" when they can."""
        return self.ports[family].why_unusable()

    def watch(self) -> Watch:
        """Start to watch."""
        if isinstance(self._observer, LegacyXtablesMonitor):
            return Watch(self._observer)
        monitor = NftXtablesMonitor(self.pids)
        missed = self._observer.has_foreign()
        return Watch(monitor, tuple(map(unseen_edit, self.ports)) if missed else ())

    def running(self, mode: str) -> Running:
        """Return what stays when leftovers are removed."""
        return Running(mode, self.backend.kind, self.pids)


class QuietIptables(ProgramIptables):
    """An iptables port that tells an observer which changes are its own."""

    def __init__(
        self,
        family: IPFamily,
        backend: Backend,
        pids: RecentPids,
        own_change: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(family, backend, pids=pids)
        self._own_change = own_change

    def restore(self, text: str) -> float:
        """Feed iptables-restore; see IptablesPort."""
        with self._own_change():
            return super().restore(text)


class _Generations:
    """Tells whether others changed nf_tables since our last change, by the kernel's count."""

    def __init__(self) -> None:
        self._netlink = NetlinkNft(IPFamily.IPV4)
        self._last = self._netlink.generation()

    @contextlib.contextmanager
    def own_change(self) -> Iterator[None]:
        """Make a change that is ours."""
        try:
            yield
        finally:
            self._last = self._netlink.generation()

    def has_foreign(self) -> bool:
        """Return whether there was another change since the last one of ours."""
        return self._netlink.generation() != self._last
