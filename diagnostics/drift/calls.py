"""The calls that drift looks at: everything the API plans, and everything the kernel knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from diagnostics.cluster.plans import Cluster
from diagnostics.fate.clients import Clients, clients_of, special_clients
from diagnostics.fate.frontends import (
    Frontend,
    Frontends,
    frontends_of,
    kernel_frontends,
    planned_frontends,
)
from diagnostics.fate.probes import Call, calls
from diagnostics.snapshot.node import NodeSnapshot
from proxy.model.addresses import IPFamily

KUBERNETES = "default/kubernetes"


@dataclass(frozen=True, slots=True)
class FamilyCalls:
    """
    What is asked about one family.

    ``unplanned`` are frontends that only the kernel knows, with their names if it tells them.
    """

    family: IPFamily
    clients: Clients
    planned: Frontends
    unplanned: Frontends
    cluster: Cluster

    def each(self, told: Callable[[int], None]) -> Iterator[tuple[str, Call]]:
        """Yield the calls with the service port each belongs to; *told* how many are done."""
        plans = self.cluster.planners[self.family].all_effective()
        for done, plan in enumerate(plans, 1):
            told(done)
            special = list(special_clients(plan, self.clients))
            for frontend in frontends_of(plan):
                for call in calls(frontend, self.clients, special):
                    yield str(plan.name), call
        for frontend, name in self.unplanned.items():
            for call in calls(frontend, self.clients):
                yield name, call


def family_calls(node: NodeSnapshot, cluster: Cluster, family: IPFamily) -> FamilyCalls:
    """Return the calls of one family."""
    planned = planned_frontends(cluster.planners[family])
    found = kernel_frontends(node, family)
    unplanned = {frontend: name for frontend, name in found.items() if frontend not in planned}
    return FamilyCalls(family, clients_of(node, cluster, family), planned, unplanned, cluster)


def is_apiserver(frontend: Frontend, name: str) -> bool:
    """
    Return whether a frontend looks like that of ``default/kubernetes``.

    The API server gives its own Service the first address of its range and port 443.
    """
    if name:
        return name.partition(":")[0] == KUBERNETES
    last = int(frontend.address) & 0xFF if frontend.address is not None else 0
    return (last, frontend.port, frontend.protocol) == (1, 443, 6)
