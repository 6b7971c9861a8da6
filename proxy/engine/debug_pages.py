"""What /debug/* shows: the desired state, the last synchronisation, and why a Service is so."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.engine.family import FamilyProxy
from proxy.engine.loop import Engine
from proxy.model.endpoints import target_text
from proxy.model.services import ServiceName
from proxy.model.store import ClusterStore
from proxy.plan.planner import claim_text
from proxy.plan.service_plan import ServicePortPlan


class DebugPages:
    """Answers for the HTTP server's thread; each takes the engine's lock while it reads."""

    def __init__(self, engine: Engine, store: ClusterStore) -> None:
        self._engine = engine
        self._store = store

    def desired(self) -> Mapping[str, object]:
        """Return every plan in force, by family and service port."""
        with self._engine.lock:
            return {
                proxy.name: {
                    f"{plan.name}/{plan.name.protocol}": _plan_page(plan)
                    for plan in proxy.planner.all_effective()
                }
                for proxy in self._engine.families.values()
            }

    def last_sync(self) -> Mapping[str, object] | None:
        """Return how the last synchronisation of each family went."""
        with self._engine.lock:
            return dict(self._engine.last_result) or None

    def why(self, namespace: str, name: str) -> Mapping[str, object] | None:
        """Return what is known of one Service: endpoints and why, plans, conflicts, refusals."""
        service = ServiceName(namespace, name)
        with self._engine.lock:
            families = {
                proxy.name: self._family_page(proxy, service)
                for proxy in self._engine.families.values()
                if self._store.ports(service, proxy.family)
            }
            slices = sorted(self._store.slices(service))
        if not families and not slices:
            return None
        return {"service": str(service), "endpointSlices": slices, "families": families}

    def _family_page(self, proxy: FamilyProxy, service: ServiceName) -> Mapping[str, object]:
        merged = self._store.endpoints(service, proxy.family)
        failures = proxy.reconciler.failures
        conflicts = [c for c in proxy.planner.conflicts() if c.loser.service == service]
        ports = {}
        for plan in proxy.planner.plans_of(service):
            used = {*plan.cluster, *plan.local}
            page = _plan_page(plan)
            page["endpoints"] = [
                {
                    "endpoint": str(endpoint),
                    "used": endpoint.target in used,
                    "ready": endpoint.ready,
                    "serving": endpoint.serving,
                    "terminating": endpoint.terminating,
                    "local": endpoint.is_local,
                    "zoneHints": sorted(endpoint.zone_hints or ()),
                    "nodeHints": sorted(endpoint.node_hints or ()),
                }
                for endpoint in merged.get((plan.name.port, plan.name.protocol), ())
            ]
            page["inKernel"] = proxy.reconciler.plan_of(plan.name) == plan
            if failure := failures.get(plan.name):
                page["refused"] = failure.reason
            ports[f"{plan.name.port or plan.name.protocol}"] = page
        return {
            "ports": ports,
            "conflicts": [{"frontend": c.frontend, "servedBy": str(c.winner)} for c in conflicts],
        }


def _plan_page(plan: ServicePortPlan) -> dict[str, object]:
    return {
        "frontends": [
            {
                "kind": frontend.kind.value,
                "address": claim_text(plan, frontend),
                "route": frontend.route.value,
                "otherwise": frontend.refusal.value,
                "masquerade": "always" if frontend.always_masquerade else "outsiders",
            }
            for frontend in plan.frontends
        ],
        "clusterEndpoints": [target_text(target) for target in plan.cluster],
        "localEndpoints": [target_text(target) for target in plan.local],
        "topology": plan.topology or "none",
        "affinitySeconds": plan.affinity_timeout_s,
        "sourceRanges": [str(network) for network in plan.allowed_sources],
    }
