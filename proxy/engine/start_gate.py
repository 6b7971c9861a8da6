"""When enough is known to write rules for the first time."""

from __future__ import annotations

import time

from proxy.config.types import NODE_CIDR, ProxyConfig
from proxy.model.events import Resource
from proxy.model.node import NodeInfo
from proxy.model.store import ClusterStore
from proxy.runtime.logs import get_logger

log = get_logger(__name__)

NODE_WAIT_S = 30.0
POD_CIDR_WAIT_S = 300.0
NEEDED = frozenset({Resource.SERVICE, Resource.ENDPOINT_SLICE, Resource.NODE})


class FatalError(Exception):
    """The proxy cannot work as configured; the text says why and what to do."""


class StartGate:
    """
    Holds the start back until Services, EndpointSlices and the Node are known.

    Without a first list of each there is no limit: rules from half a cluster are worse than the
    old ones. A Node that is missing or has no address yet is waited for as long as kube-proxy
    does. ``deadline`` is a monotonic time, infinite while nothing is waited for.
    """

    def __init__(self, config: ProxyConfig, node_name: str, *, wait_for_node: bool) -> None:
        self.deadline = float("inf")
        self._needs_pod_cidrs = config.detect_local.mode == NODE_CIDR
        self._node_name = node_name
        self._wait_for_node = wait_for_node

    def is_open(self, store: ClusterStore) -> bool:
        """Return whether to start now; raises FatalError when waiting longer would not help."""
        if not store.synced >= NEEDED:
            return False
        if self._is_complete(store.node) or not self._wait_for_node:
            return True
        now = time.monotonic()
        if self.deadline == float("inf"):
            self.deadline = now + (POD_CIDR_WAIT_S if self._needs_pod_cidrs else NODE_WAIT_S)
            log.info("Waiting for the Node object to have what is needed", node=self._node_name)
        if now < self.deadline:
            return False
        if self._needs_pod_cidrs:
            raise FatalError(
                f"timed out waiting for pod CIDRs of node {self._node_name!r}: detectLocalMode "
                "NodeCIDR needs them; check the Node object or choose another mode"
            )
        log.error("Timed out waiting for the Node or its addresses; going on without them")
        return True

    def _is_complete(self, info: NodeInfo | None) -> bool:
        if info is None or not info.addresses:
            return False
        return bool(info.pod_cidrs) or not self._needs_pod_cidrs
