"""``kpctl run --dry-run``: print the nft text of what would be written, and write nothing."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from kpctl.cluster_source import EventLog, make_source
from kpctl.exit_codes import FINDINGS, OK
from kpctl.version import kubernetes_version
from proxy.backends.nftables.text import render_table
from proxy.config.gates import gate_enabled
from proxy.config.node import node_name
from proxy.config.types import ProxyConfig
from proxy.engine.loop import Engine, Kernel
from proxy.engine.nftables.plane import NftablesPlane
from proxy.engine.nftables.reconciler import NftReconciler
from proxy.engine.publisher import Outlets, Publisher
from proxy.engine.start_gate import FatalError
from proxy.kernel.addresses import local_addresses
from proxy.kernel.dry_run import AcceptingNft
from proxy.kernel.rights import supported_families
from proxy.model.addresses import IPFamily
from proxy.model.store import ClusterStore
from proxy.runtime.clock import SystemClock
from proxy.runtime.health import ProxyHealth
from proxy.runtime.logs import get_logger
from proxy.runtime.metrics import BuildInfo, ProxyMetrics
from proxy.sources.source import ConfigurationError

log = get_logger(__name__)


def dry_run(config: ProxyConfig, master: str, manifests: Path | None) -> int:
    """Read the cluster once, print the tables, return the exit code; needs no rights."""
    name = node_name(config.hostname_override, socket.gethostname())
    families = supported_families()
    metrics = ProxyMetrics(BuildInfo(git_version=kubernetes_version()))
    health = ProxyHealth(2 * config.sync_period_s, SystemClock())
    source, _ = make_source(config, master, manifests, name, metrics)
    store = ClusterStore(
        families, name, allow_external_ips=gate_enabled(config, "AllowServiceExternalIPs")
    )
    ports: Mapping[IPFamily, AcceptingNft] = {family: AcceptingNft() for family in families}
    engine = Engine(
        config,
        name,
        store,
        Kernel(NftablesPlane(ports), local_addresses),
        Publisher(Outlets(metrics, health, {}, EventLog(), None)),
        wait_for_node=manifests is None,
        on_started=lambda: engine.stop(),
    )
    try:
        source.start(engine.submit)
        engine.run()
    except (ConfigurationError, FatalError) as error:
        log.error("command failed", err=error)
        return FINDINGS
    for proxy in engine.families.values():
        if isinstance(proxy.reconciler, NftReconciler):
            sys.stdout.write(render_table(proxy.reconciler.table))
    return OK
