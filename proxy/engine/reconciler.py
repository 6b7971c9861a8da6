"""
What the reconcilers of all data planes have in common.

What the kernel refuses is put aside service port by service port: the rest is served, the refused
one keeps what it had, and is tried again with growing pauses. When it is not known what the kernel
holds, everything is stated anew, but paced.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.backends.settings import Settings
from proxy.engine.repairs import RepairPacing
from proxy.model.services import ServicePortName
from proxy.plan.planner import Changes
from proxy.plan.service_plan import ServicePortPlan

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 300.0


@dataclass(slots=True)
class Failure:
    """A service port the kernel refused; ``plan`` None means its removal was refused."""

    plan: ServicePortPlan | None
    reason: str
    delay_s: float
    due: float


@dataclass(slots=True)
class SyncResult:
    """
    What one synchronisation did.

    Attributes:
        full: everything was stated anew.
        kernel_s: seconds the kernel, or the program that writes to it, spent on our changes.
        requests: netlink requests or lines of iptables-restore input.
        rules: iptables rules that were written, by table.
        error: "" or why the data plane as a whole could not be written.
        refused: service ports put aside in this synchronisation, and why.
    """

    full: bool = False
    kernel_s: float = 0.0
    requests: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    error: str = ""
    refused: dict[ServicePortName, str] = field(default_factory=dict)

    def add(self, other: SyncResult) -> None:
        """Take over what a further transaction of the same synchronisation did."""
        self.kernel_s += other.kernel_s
        self.requests += other.requests
        self.rules += other.rules
        self.error = self.error or other.error
        self.refused |= other.refused


class Reconciler(ABC):
    """
    Keeps one family's part of the kernel equal to the plans; used by the engine's thread only.

    Attributes:
        in_sync: the kernel holds what is remembered; if not, everything must be stated anew.
        failures: service ports the kernel refused.
        found_something: the first restatement met what somebody had left under our names.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.in_sync = False
        self.found_something = False
        self.failures: dict[ServicePortName, Failure] = {}
        self._monotonic = monotonic
        self._retry_s = _FIRST_RETRY_S
        self._restate_due = 0.0
        self._losses = RepairPacing()

    @property
    def restates_hourly(self) -> bool:
        """Whether everything is stated anew once an hour, in case something went unnoticed."""
        return True

    # -- what is held ------------------------------------------------------------------------

    @property
    @abstractmethod
    def settings(self) -> Any:
        """The settings in force, a Settings; set them only when a restatement follows."""

    @settings.setter
    @abstractmethod
    def settings(self, settings: Any) -> None: ...

    @abstractmethod
    def plan_of(self, name: ServicePortName) -> ServicePortPlan | None:
        """Return the plan the kernel holds for a service port."""

    @abstractmethod
    def held(self) -> Sequence[ServicePortName]:
        """Return the service ports the kernel holds."""

    def rule_totals(self) -> Mapping[str, int]:
        """Return how many iptables rules the kernel holds, by table; nothing in other modes."""
        return {}

    def is_intact(self) -> bool:
        """
        Look whether the kernel still holds what is remembered, after somebody changed something.

        False when that cannot be told cheaply: then it is put right. Raises OSError.
        """
        return False

    # -- writing -----------------------------------------------------------------------------

    @abstractmethod
    def change(self, changes: Mapping[ServicePortName, ServicePortPlan | None]) -> SyncResult:
        """Write changed service ports; needs to be in sync."""

    @abstractmethod
    def restate(self, plans: Sequence[ServicePortPlan]) -> SyncResult:
        """State everything anew without an interruption of what is served."""

    @abstractmethod
    def can_resettle(self, settings: Settings) -> bool:
        """Return whether these settings can be written without stating everything anew."""

    @abstractmethod
    def resettle(self, settings: Any) -> SyncResult:
        """Write changed settings."""

    def prune(self) -> str:
        """Delete what nothing of ours uses; return "" or why that was refused."""
        return ""

    def upkeep_due(self) -> float:
        """Return the monotonic time at which ``upkeep`` wants to be called; infinity for never."""
        return float("inf")

    def upkeep(self) -> str:
        """Do what becomes due by itself; return "" or what others have changed meanwhile."""
        return ""

    # -- what is due -------------------------------------------------------------------------

    def next_due(self) -> float:
        """Return the monotonic time of the next retry or upkeep; infinity when nothing waits."""
        times = [failure.due for failure in self.failures.values()]
        times.append(self.upkeep_due() if self.in_sync else self._restate_due)
        return min(times)

    def due_retries(self) -> Changes:
        """Return the refused plans whose pause is over."""
        now = self._monotonic()
        return {name: f.plan for name, f in self.failures.items() if f.due <= now}

    @property
    def restate_is_due(self) -> bool:
        """Whether a failed restatement should be tried again now."""
        return not self.in_sync and self._monotonic() >= self._restate_due

    def restate_failed(self, error: Exception, result: SyncResult) -> SyncResult:
        """Note that everything could not be stated anew; it is tried again after a pause."""
        result.error = str(error)
        self.in_sync = False
        self._restate_due = self._monotonic() + self._retry_s
        self._retry_s = min(self._retry_s * 2, _LONGEST_RETRY_S)
        return result

    # -- for the data planes -----------------------------------------------------------------

    def _begin_restatement(self) -> None:
        self.in_sync = False
        self._losses.settled(self._monotonic())

    def _end_restatement(self, aside: Iterable[ServicePortName]) -> None:
        self.in_sync = True
        self._retry_s = _FIRST_RETRY_S
        # What was refused before and is not wanted any more must not come back.
        self._forget_failures(self.failures.keys() - set(aside))

    def _put_aside(
        self,
        plans: Mapping[ServicePortName, ServicePortPlan | None],
        why: str,
        result: SyncResult,
    ) -> None:
        now = self._monotonic()
        for name, plan in plans.items():
            before = self.failures.get(name)
            delay = min(before.delay_s * 2, _LONGEST_RETRY_S) if before else _FIRST_RETRY_S
            self.failures[name] = Failure(plan, why, delay, now + delay)
            result.refused[name] = why

    def _forget_failures(self, names: Iterable[ServicePortName]) -> None:
        if self.failures:
            for name in names:
                self.failures.pop(name, None)

    def _lose(self, error: Exception, result: SyncResult) -> None:
        """Note that the kernel may hold something else than remembered: restate, but paced."""
        result.error = str(error)
        self.in_sync = False
        self._losses.needed(self._monotonic())
        self._restate_due = self._losses.due
