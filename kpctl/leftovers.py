"""Removes what other modes, or kube-proxy, left in the kernel: at the start, and for --cleanup."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from kpctl.exit_codes import FINDINGS, OK
from proxy.config.types import IPVS
from proxy.engine.cleanup.node import clean_ipvs, clean_tables
from proxy.engine.cleanup.outcome import Outcome
from proxy.engine.cleanup.running import Running
from proxy.model.addresses import IPFamily, Network
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

_LOOK_S = 5.0
_SERVED_LOOK_S = 0.5


def clean_up(exclude: Sequence[Network]) -> int:
    """Remove everything of any mode; return the exit code."""
    outcome = clean_tables(Running())
    outcome.add(clean_ipvs(exclude))
    _report(outcome)
    if not outcome.removed and not outcome.errors:
        log.info("There is nothing to clean up")
    return FINDINGS if outcome.errors else OK


class LeftoverRemoval:
    """
    Removes what *running* does not need; to be run in a thread of its own.

    Virtual servers with connections stay until these have ended, at most *limit_s* seconds (0: as
    long as it takes), because deleting a virtual server cuts its connections.
    """

    def __init__(
        self,
        running: Running,
        exclude: Sequence[Network],
        limit_s: float,
        stopping: threading.Event,
    ) -> None:
        self._running = running
        self._exclude = exclude
        self._limit_s = limit_s or float("inf")
        self._stopping = stopping

    def run(self, waiting: Callable[[], Collection[IPFamily]] = frozenset) -> None:
        """
        Work until nothing is left, or *stopping* is set.

        Args:
            waiting: returns the families that the running mode does not serve yet. What was left
                of them serves meanwhile, and stays.

        """
        if self._clean_tables(waiting) and self._running.mode != IPVS:
            self._clean_ipvs()

    def _clean_tables(self, waiting: Callable[[], Collection[IPFamily]]) -> bool:
        """Clean each family's tables once it is served; return whether all are."""
        left = list(IPFamily)
        while left:
            unserved = waiting()
            if served := [family for family in left if family not in unserved]:
                _report(clean_tables(self._running, served))
                left = [family for family in left if family not in served]
            if left and self._stopping.wait(_SERVED_LOOK_S):
                return False
        return True

    def _clean_ipvs(self) -> None:
        deadline = time.monotonic() + self._limit_s
        outcome = clean_ipvs(self._exclude, busy_stay=True)
        _report(outcome)
        if outcome.remaining:
            log.info("Virtual servers stay until their connections end", servers=outcome.remaining)
        while outcome.remaining and not self._stopping.wait(_LOOK_S):
            outcome = clean_ipvs(self._exclude, busy_stay=time.monotonic() < deadline)
            _report(outcome)


def _report(outcome: Outcome) -> None:
    for sentence in outcome.removed:
        log.info("Removed what a node proxy left", what=sentence)
    for sentence in outcome.errors:
        log.error("Cannot remove what a node proxy left", what=sentence)
