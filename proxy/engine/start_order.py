"""In which order Services are written on a fresh node: what others need first, first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from proxy.plan.service_plan import ServicePortPlan

BATCH_SIZE = 2000
T = TypeVar("T")
_DNS_PORT = 53
_API = ("default", "kubernetes")


def first_batches(
    plans: Sequence[ServicePortPlan],
) -> tuple[list[ServicePortPlan], Iterator[Sequence[ServicePortPlan]]]:
    """Return the plans to write first (the API server and cluster DNS), and the rest in batches."""
    first = [plan for plan in plans if _is_vital(plan)]
    rest = [plan for plan in plans if not _is_vital(plan)]
    return first, batched(rest)


def batched(items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Yield *items* in batches that one transaction can take."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, BATCH_SIZE)):
        yield batch


def _is_vital(plan: ServicePortPlan) -> bool:
    name = plan.name
    if (name.namespace, name.name) == _API:
        return True
    return name.namespace == "kube-system" and any(f.port == _DNS_PORT for f in plan.frontends)
