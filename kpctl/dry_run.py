"""``kpctl run --dry-run``: print what would be written to the kernel, and write nothing."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kpctl.cluster_source import EventLog, make_source
from kpctl.exit_codes import ENVIRONMENT, FINDINGS, OK
from kpctl.planes.ipvs import addresses_elsewhere
from kpctl.version import kubernetes_version
from proxy.config.gates import gate_enabled
from proxy.config.node import node_name
from proxy.config.types import IPVS, ProxyConfig
from proxy.engine.dry_planes import build_dry_plane
from proxy.engine.loop import Engine, Kernel
from proxy.engine.publisher import Outlets, Publisher
from proxy.engine.start_gate import NEEDED, FatalError
from proxy.kernel.addresses import local_addresses
from proxy.kernel.rights import supported_families
from proxy.model.store import ClusterStore
from proxy.runtime.clock import SystemClock
from proxy.runtime.health import ProxyHealth
from proxy.runtime.logs import get_logger
from proxy.runtime.metrics import BuildInfo, ProxyMetrics
from proxy.sources.source import ConfigurationError

log = get_logger(__name__)

API_PATIENCE_S = 30.0


def dry_run(
    config: ProxyConfig, master: str, manifests: Path | None, patience_s: float = API_PATIENCE_S
) -> int:
    """
    Read the cluster once, print its rules, return the exit code; needs no rights.

    Gives up when the API server has not told everything in *patience_s* seconds.
    """
    name = node_name(config.hostname_override, socket.gethostname())
    families = supported_families()
    dry = build_dry_plane(config, families)
    addresses = addresses_elsewhere if config.mode == IPVS else local_addresses
    metrics = ProxyMetrics(BuildInfo(git_version=kubernetes_version()))
    health = ProxyHealth(2 * config.sync_period_s, SystemClock())
    source, _ = make_source(config, master, manifests, name, metrics)
    store = ClusterStore(
        families, name, allow_external_ips=gate_enabled(config, "AllowServiceExternalIPs")
    )
    engine = Engine(
        config,
        name,
        store,
        Kernel(dry.plane, addresses),
        Publisher(Outlets(metrics, health, {}, EventLog(), None)),
        wait_for_node=manifests is None,
        on_started=lambda: engine.stop(),
    )
    try:
        source.start(engine.submit)
        with _bounded(engine, store, patience_s):
            engine.run()
    except (ConfigurationError, FatalError) as error:
        log.error("command failed", err=error)
        return FINDINGS
    finally:
        source.stop()
    if not engine.families:
        log.error("command failed", err=_unanswered(config, master, store, patience_s))
        return ENVIRONMENT
    for proxy in engine.families.values():
        sys.stdout.write(dry.text(proxy))
    return OK


@contextmanager
def _bounded(engine: Engine, store: ClusterStore, patience_s: float) -> Iterator[None]:
    """End the engine if it still waits for a first list; for a Node it waits by its own rules."""

    def give_up() -> None:
        if not store.synced >= NEEDED:
            engine.stop()

    timer = threading.Timer(patience_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _unanswered(config: ProxyConfig, master: str, store: ClusterStore, patience_s: float) -> str:
    from proxy.sources.credentials import ApiLocation, server_of

    server = server_of(ApiLocation(config.client_connection.kubeconfig, master))
    missing = ", ".join(sorted(resource.value for resource in NEEDED - store.synced))
    return (
        f"the API server at {server} did not list {missing} within {patience_s:g} s: check that "
        "it is reachable from here and that the credentials may list them, or use --manifests "
        "with a directory of objects"
    )
