"""In which order Services are written on a fresh node: what others need first, first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.plan.service_plan import ServicePortPlan

BATCH_SIZE = 2000
_DNS_PORT = 53
_API = ("default", "kubernetes")


def first_batches(
    plans: Sequence[ServicePortPlan],
) -> tuple[list[ServicePortPlan], Iterator[Sequence[ServicePortPlan]]]:
    """Return the plans to write first (the API server and cluster DNS), and the rest in batches."""
    first = [plan for plan in plans if _is_vital(plan)]
    rest = [plan for plan in plans if not _is_vital(plan)]
    batches = (rest[start : start + BATCH_SIZE] for start in range(0, len(rest), BATCH_SIZE))
    return first, batches


def _is_vital(plan: ServicePortPlan) -> bool:
    name = plan.name
    if (name.namespace, name.name) == _API:
        return True
    return name.namespace == "kube-system" and any(f.port == _DNS_PORT for f in plan.frontends)
