"""
Writing iptables rules: one iptables-restore per change, and what it says when it refuses.

    OSError
    └── RestoreRejected   the kernel's tables are as before, or as of the input's last good COMMIT
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Protocol

from proxy.kernel.command import Completed, Denied, failure, run
from proxy.kernel.legacy_entries import TableContent
from proxy.kernel.legacy_tables import LegacyTables
from proxy.kernel.nftables import NetlinkNft
from proxy.kernel.restore_refusal import Refusal, parse_refusal
from proxy.kernel.xtables_backend import Backend
from proxy.model.addresses import IPFamily

_LOCK_WAIT_S = 5
_RESTORE_LIMIT_S = 300.0
_COMMAND_LIMIT_S = 60.0
_PIDS_KEPT = 64
_PIDS_KEPT_S = 120.0
# Each program's way to say that a chain, table or rule is not there.
_ABSENT = ("No chain/target/match by that name", "is incompatible, use 'nft' tool")
_NO_RULE = ("does a matching rule exist", "does not exist", "Couldn't load target", *_ABSENT)


class RestoreRejected(OSError):
    """
    iptables-restore did not do what it was told.

    Attributes:
        line: 1-based line of the input that was refused, None when the program did not say.
        at_commit: the line is a COMMIT: the table as a whole was refused, one cannot tell why.
        message: the program's words.
        transient: the same input may be accepted soon: a lock or memory was not to be had.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(errno.EAGAIN if refusal.transient else errno.EINVAL, refusal.message)
        self.line = refusal.line
        self.at_commit = refusal.at_commit
        self.message = refusal.message
        self.transient = refusal.transient


class IptablesPort(Protocol):
    """
    One family's iptables.

    Beside what is named, every method raises CommandError: ToolMissing, Denied or TimedOut.
    """

    def restore(self, text: str, /) -> float:
        """
        Feed iptables-restore, keeping what the text does not name; return the seconds it took.

        Each table of the text is changed at once or not at all; RestoreRejected when one was not.
        """

    def chains(self, table: str, /) -> frozenset[str]:
        """Return the names of a table's chains; empty when there is no such table. OSError."""

    def rules(self, table: str, chain: str, /) -> list[str]:
        """Return a chain's rules as ``iptables -S`` words them, from the first match on."""

    def has_rule(self, table: str, chain: str, arguments: Sequence[str], /) -> bool:
        """Whether a chain has a rule of these arguments; False where there is no such chain."""


class RecentPids:
    """
    Pids of the children that changed rules lately: what they sent is known to be ours.

    In notifications of nf_tables the sender is the child's pid, or a number above 2³¹ where another
    process of that pid, in another pid namespace, has a socket at that moment. Pids are forgotten
    after a while, so that a foreign process that comes to have one is not taken for us for long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pids: dict[int, float] = {}
        self._known: frozenset[int] = frozenset()
        self._until = 0.0

    def add(self, pid: int) -> None:
        """Remember *pid* for two minutes, unless 64 others follow."""
        with self._lock:
            self._pids.pop(pid, None)
            self._pids[pid] = self._clock() + _PIDS_KEPT_S
            while len(self._pids) > _PIDS_KEPT:
                del self._pids[next(iter(self._pids))]
            self._renew()

    def __call__(self) -> frozenset[int]:
        """Return the pids; cheap enough to be asked for each datagram."""
        if self._known and self._clock() > self._until:
            with self._lock:
                self._renew()
        return self._known

    def _renew(self) -> None:
        now = self._clock()
        self._pids = {pid: until for pid, until in self._pids.items() if until >= now}
        self._known = frozenset(self._pids)
        self._until = min(self._pids.values(), default=0.0)


class ProgramIptables:
    """
    IptablesPort through the programs of one backend, in the calling thread's network namespace.

    Both families' ports may share one *pids*, so that one question answers for both.
    """

    def __init__(
        self,
        family: IPFamily,
        backend: Backend,
        *,
        pids: RecentPids | None = None,
        lock_wait_s: int = _LOCK_WAIT_S,
    ) -> None:
        self._family = family
        self._backend = backend
        self._command = backend.program(family)
        self._wait = backend.wait(lock_wait_s)
        wait = backend.restore_wait(lock_wait_s)
        self._restore = [backend.program(family, "restore"), *wait, "--noflush"]
        self._pids = RecentPids() if pids is None else pids

    def own_pids(self) -> frozenset[int]:
        """Return the pids of the children started lately; see RecentPids."""
        return self._pids()

    def restore(self, text: str) -> float:
        """Feed iptables-restore; see IptablesPort."""
        started = time.perf_counter()
        self._feed([*self._restore, "--counters"], text)
        return time.perf_counter() - started

    def why_unusable(self) -> str:
        """
        Return why this family's NAT rules cannot be written here, "" when they can.

        Changes no rule; the legacy backend makes an empty nat table if there is none.
        """
        try:
            self._feed([*self._restore, "--test"], "*nat\nCOMMIT\n")
        except RestoreRejected as error:
            return "" if error.transient else error.message
        return ""

    def chains(self, table: str) -> frozenset[str]:
        """Return the names of a table's chains, by no program; see IptablesPort."""
        if self._backend.kind == "legacy":
            with LegacyTables(self._family) as tables:
                return tables.chains(table)
        with closing(NetlinkNft(self._family)) as nft:
            return nft.chains(table)

    def content(self, table: str) -> TableContent | None:
        """
        Return the number of rules of each chain and the jumps, by no program.

        None when there is no such table, and on the nft backend. Raises OSError.
        """
        if self._backend.kind == "nft":
            return None
        with LegacyTables(self._family) as tables:
            return tables.content(table)

    def rules(self, table: str, chain: str) -> list[str]:
        """Return a chain's rules; see IptablesPort."""
        if not self._has_table(table):
            return []
        argv = [self._command, *self._wait, "-t", table, "-S", chain]
        done = self._run(argv, None, _COMMAND_LIMIT_S)
        if done.returncode != 0:
            if _says(done, _ABSENT) and chain not in self.chains(table):
                return []
            raise failure(argv, done)
        lead = f"-A {chain} "
        lines = done.stdout.splitlines()
        return [line.removeprefix(lead) for line in lines if line.startswith(lead)]

    def has_rule(self, table: str, chain: str, arguments: Sequence[str]) -> bool:
        """Whether a chain has a rule of these arguments; see IptablesPort."""
        if not self._has_table(table):
            return False
        argv = [self._command, *self._wait, "-t", table, "-C", chain, *arguments]
        done = self._run(argv, None, _COMMAND_LIMIT_S)
        if done.returncode != 0 and not _says(done, _NO_RULE):
            raise failure(argv, done)
        return done.returncode == 0

    def _has_table(self, table: str) -> bool:
        """Whether asking about a table does not create it, as the legacy kernel would."""
        if self._backend.kind == "nft":
            return True
        with LegacyTables(self._family) as tables:
            return table in tables.names()

    def _feed(self, argv: list[str], text: str) -> None:
        done = self._run(argv, text, _RESTORE_LIMIT_S)
        if done.returncode == 0:
            return
        refusal = parse_refusal(f"{done.stderr}\n{done.stdout}", text)
        error = failure(argv, done)
        if refusal.line is None and (isinstance(error, Denied) or not refusal.message):
            raise error
        raise RestoreRejected(refusal)

    def _run(self, argv: list[str], text: str | None, limit_s: float) -> Completed:
        """Run a child whose pid is known before it can have changed anything."""
        return run(argv, stdin=text, timeout_s=limit_s, check=False, started=self._pids.add)


def _says(done: Completed, phrases: Sequence[str]) -> bool:
    return any(phrase in done.stderr for phrase in phrases)
