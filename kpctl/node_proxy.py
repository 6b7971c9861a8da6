"""The composition root of ``kpctl run``: builds the parts, connects them, and ends them."""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from kpctl.cluster_source import make_source
from kpctl.exit_codes import ENVIRONMENT, FINDINGS, OK
from kpctl.planes.build import KernelLacks, Monitor, build_plane
from kpctl.version import kpctl_version, kubernetes_version
from proxy.config.convert import to_v1alpha1
from proxy.config.gates import KNOWN_GATES, gate_enabled
from proxy.config.node import node_name
from proxy.config.startup import family_mismatches, node_port_warnings
from proxy.config.types import IPVS, NFTABLES, ProxyConfig
from proxy.config.watch import FileWatch
from proxy.conntrack.settings import setting_writes
from proxy.engine.debug_pages import DebugPages
from proxy.engine.loop import AddressesChanged, Engine, Item, Kernel
from proxy.engine.node_settings import NodeView, node_port_restriction
from proxy.engine.publisher import Outlets, Publisher, conntrack_reporter
from proxy.engine.start_gate import FatalError
from proxy.kernel.addresses import AddressMonitor
from proxy.kernel.capabilities import why_refused
from proxy.kernel.command import CommandError
from proxy.kernel.conntrack import load_conntrack
from proxy.kernel.conntrack_worker import ConntrackWorker
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.rights import may_administer_network, set_oom_score_adj, supported_families
from proxy.kernel.sysctl import SysctlTree, apply_settings, cpu_count
from proxy.model.addresses import IPFamily, parse_networks, unpack_address
from proxy.model.store import ClusterStore
from proxy.runtime.clock import SystemClock
from proxy.runtime.events import Event, NodeEvents, warn_of_ipvs
from proxy.runtime.health import ProxyHealth
from proxy.runtime.http import MetricsPages, health_handler, metrics_handler
from proxy.runtime.http_message import Handler
from proxy.runtime.http_server import HttpLoop
from proxy.runtime.listening import BindError, parse_address
from proxy.runtime.logs import get_logger
from proxy.runtime.metrics import BuildInfo, ProxyMetrics
from proxy.runtime.service_health import PortFailure, ServiceHealth
from proxy.runtime.zpages import Process
from proxy.sources.source import ConfigurationError

log = get_logger(__name__)
T = TypeVar("T")

_CONFIG_LOOK_S = 2.0
# After the start almost nothing is garbage; a full collection would only pass over live objects.
_GC_THRESHOLDS = (50_000, 50, 100)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beside the configuration."""

    master: str = ""
    manifests: Path | None = None
    init_only: bool = False
    watch: FileWatch | None = None
    drain_limit_s: float = 3600.0
    flags: Mapping[str, str] = field(default_factory=dict)


def clean_up(config: ProxyConfig) -> int:
    """Delete everything that kpctl or kube-proxy left in the kernel, in any mode."""
    if not _has_rights():
        return ENVIRONMENT
    from kpctl import leftovers

    return leftovers.clean_up(parse_networks(config.ipvs.exclude_cidrs))


def run(config: ProxyConfig, options: Options) -> int:
    """Run the proxy until a signal; return the exit code."""
    if not _has_rights():
        return ENVIRONMENT
    if problem := set_oom_score_adj(config.oom_score_adj):
        log.v(2).info("Cannot set OOM score", problem=problem)
    _apply_conntrack_settings(config)
    if options.init_only:
        log.info("System initialized and --init-only specified")
        return OK
    try:
        return _NodeProxy(config, options).run()
    except (ConfigurationError, FatalError) as error:
        log.error("command failed", err=error)
        return FINDINGS
    except (CommandError, KernelLacks) as error:
        log.error("command failed", err=error)
        return ENVIRONMENT
    except NetlinkError as error:
        lacking = why_refused(IPFamily.IPV4)
        log.error("command failed", err=f"netlink: {error}" + (f"; {lacking}" if lacking else ""))
        return ENVIRONMENT


def _has_rights() -> bool:
    if may_administer_network():
        return True
    log.error(
        "command failed",
        err="missing capability CAP_NET_ADMIN: run as root, or give the container or unit "
        "CAP_NET_ADMIN (securityContext.capabilities.add: [NET_ADMIN])",
    )
    return False


def _apply_conntrack_settings(config: ProxyConfig) -> None:
    writes = setting_writes(config.conntrack, cpu_count())
    if not writes:
        return
    try:
        load_conntrack()
    except NetlinkError as error:
        log.error("Connection tracking is not available in this kernel", err=error)
        return
    apply_settings(writes, SysctlTree())


class _NodeProxy:
    """One running proxy: sources, engine, servers, monitors."""

    def __init__(self, config: ProxyConfig, options: Options) -> None:
        self._config = config
        self._options = options
        self._name = node_name(config.hostname_override, socket.gethostname())
        self._clock = SystemClock()
        self._metrics = ProxyMetrics(BuildInfo(git_version=kubernetes_version()))
        self._metrics.set_features(
            (name, gate.stage, gate_enabled(config, name)) for name, gate in KNOWN_GATES.items()
        )
        self._health = ProxyHealth(2 * config.sync_period_s, self._clock)
        self._probes = HttpLoop("healthz")
        self._pages = HttpLoop("metrics")
        self._families = supported_families()
        self._built = build_plane(config, self._families, drain_limit_s=options.drain_limit_s)
        self._stopping = threading.Event()
        self._conntrack = ConntrackWorker(conntrack_reporter(self._metrics))
        self._source, self._events = make_source(
            config, options.master, options.manifests, self._name, self._metrics
        )
        self._store = ClusterStore(
            self._families,
            self._name,
            allow_external_ips=gate_enabled(config, "AllowServiceExternalIPs"),
        )
        self._exit_code = OK
        self._monitors: list[Monitor | AddressMonitor] = []
        self.engine = Engine(
            config,
            self._name,
            self._store,
            Kernel(self._built.plane, self._built.addresses),
            Publisher(self._outlets()),
            wait_for_node=options.manifests is None,
            on_starting=self._on_starting,
            on_started=self._on_started,
        )

    def _outlets(self) -> Outlets:
        # Health check ports listen on addresses that are known once the Node is.
        self._service_health: dict[IPFamily, ServiceHealth] = {}
        return Outlets(
            self._metrics, self._health, self._service_health, self._events, self._conntrack
        )

    def _prepare_health_ports(self, view: NodeView) -> None:
        for family in self._families:
            restriction = node_port_restriction(self._config, view, family)
            # Loopback counts here: unlike NodePorts, these ports are sockets of ours.
            local = map(unpack_address, view.addresses.get(family, ()))
            self._service_health[family] = ServiceHealth(
                self._probes,
                family.value,
                self._health.healthy,
                self._health_port_failed,
                addresses=None if restriction.match_all else restriction.node_addresses(local),
            )

    def _health_port_failed(self, failure: PortFailure) -> None:
        namespace, name = failure.service
        event = NodeEvents(self._name).service_health_failed(
            namespace, name, failure.port, failure.error
        )
        self._events.record(event)

    def run(self) -> int:
        """Start everything, work until told to stop, end everything; rules stay."""
        gc.disable()  # nothing is garbage while everything is read for the first time
        mode = self._config.mode
        log.info("Version info", version=kubernetes_version(), kpctl=kpctl_version(), mode=mode)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._conntrack.start()
        self._source.start(self.engine.submit)
        self._serve()
        self._watch_config()
        try:
            self.engine.run()
        finally:
            # The process ends here, so a stream that is slow to close is not waited for.
            self._stopping.set()
            for monitor in self._monitors:
                monitor.close()
            self._probes.stop()
            self._pages.stop()
            self._conntrack.close(timeout_s=0.5)
        log.info("Stopped; rules stay in the kernel")
        return self._exit_code

    def _on_signal(self, number: int, _frame: object) -> None:
        log.info("Stopping", signal=signal.Signals(number).name)
        self.engine.stop()

    def _on_starting(self, view: NodeView) -> None:
        if self._config.mode == IPVS:
            warn_of_ipvs(self._events, self._name)
        self._check_node(view)
        self._prepare_health_ports(view)

    def _check_node(self, view: NodeView) -> None:
        ips = view.ips(self._config)
        log.info(
            "Successfully retrieved NodeIPs",
            NodeIPs=[ips.by_family[f] for f in self._families if ips.is_known(f)],
        )
        pod_cidrs = view.info.pod_cidrs if view.info else ()
        warnings = list(node_port_warnings(self._config, ips.primary_family, pod_cidrs))
        mismatches = family_mismatches(
            self._config, ips.primary_family, pod_cidrs, dual_stack=len(self._families) == 2
        )
        for mismatch in mismatches:
            if mismatch.fatal:
                raise FatalError(f"kube-proxy configuration is incorrect: {mismatch.message}")
            warnings.append(mismatch.message)
        ports = node_port_restriction(self._config, view, IPFamily.IPV4)
        if self._config.mode == NFTABLES and ports.covers_ipv4_loopback and not ports.match_all:
            warnings.append(
                "nodePortAddresses includes loopback addresses, but NodePorts on localhost are "
                "not supported in nftables mode"
            )
        for text in warnings:
            log.error("Kube-proxy configuration may be incomplete or incorrect", err=text)

    def _on_started(self) -> None:
        # Not before: the kernel would prepare a notification for every element of the start.
        self._watch_kernel()
        threading.Thread(target=self._remove_leftovers, name="leftovers", daemon=True).start()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.enable()
        served = [p.name for p in self.engine.families.values() if p.reconciler.in_sync]
        if served:
            log.info("Services are served", families=served)
        self._events.record(NodeEvents(self._name).started())

    def _remove_leftovers(self) -> None:
        from kpctl.leftovers import LeftoverRemoval  # what is there mostly needs none of it

        limit_s = self._options.drain_limit_s
        excluded = parse_networks(self._config.ipvs.exclude_cidrs)
        removal = LeftoverRemoval(self._built.running, excluded, limit_s, self._stopping)
        removal.run(self._unserved)

    def _unserved(self) -> frozenset[IPFamily]:
        """Return the families whose rules are not in force."""
        families = self.engine.families.items()
        return frozenset(f for f, proxy in families if not proxy.reconciler.in_sync)

    # -- servers -----------------------------------------------------------------------------

    def _serve(self) -> None:
        config, events = self._config, NodeEvents(self._name)
        self._probes.start()
        self._pages.start()
        if config.healthz_bind_address:
            handler = health_handler(self._health, self._metrics)
            self._listen(self._probes, config.healthz_bind_address, handler, events.healthz_failed)
        handler = metrics_handler(self._metrics_pages())
        self._listen(self._pages, config.metrics_bind_address, handler, events.metrics_failed)

    def _listen(
        self, loop: HttpLoop, address: str, handler: Handler, event: Callable[[str], Event]
    ) -> None:
        if self._config.bind_address_hard_fail:
            try:
                loop.listen(parse_address(address), handler)
            except BindError as error:
                self._events.record(event(str(error)))
                raise FatalError(str(error)) from error
            return
        loop.serve(
            parse_address(address),
            handler,
            lambda error: log.error("Server failed; trying again in 5s", err=error),
        )

    def _metrics_pages(self) -> MetricsPages:
        debug = DebugPages(self.engine, self._store)
        process = Process(
            flags=self._options.flags,
            version=f"kpctl {kpctl_version()}",
            emulation_version=kubernetes_version(),
            clock=self._clock,
            started_wall_ns=self._clock.wall_ns(),
            started_monotonic_ns=self._clock.monotonic_ns(),
        )
        return MetricsPages(
            metrics=self._metrics,
            process=process,
            mode=self._config.mode,
            configz=lambda: to_v1alpha1(self._config),
            desired=debug.desired,
            last_sync=debug.last_sync,
            why=debug.why,
            profiling=self._config.enable_profiling,
        )

    # -- watchers ----------------------------------------------------------------------------

    def _watch_kernel(self) -> None:
        watch = self._built.watch()
        addresses = AddressMonitor(self._built.device)
        self._monitors += [watch.monitor, addresses]
        self._relay("kernel-monitor", watch.monitor.edits(), lambda edit: edit)
        self._relay("address-monitor", addresses.changes(), lambda _: AddressesChanged())
        # What happened between the first look and the first notification.
        self.engine.submit(AddressesChanged())
        for edit in watch.missed:
            self.engine.submit(edit)

    def _relay(self, name: str, news: Iterator[T], item: Callable[[T], Item]) -> None:
        def relay() -> None:
            for new in news:
                self.engine.submit(item(new))

        threading.Thread(target=relay, name=name, daemon=True).start()

    def _watch_config(self) -> None:
        watch = self._options.watch
        if watch is None:
            return

        def look() -> None:
            while not watch.changed():
                time.sleep(_CONFIG_LOOK_S)
            log.error(
                "command failed",
                err="content of the proxy server's configuration file was updated",
            )
            self._exit_code = FINDINGS
            self.engine.stop()

        threading.Thread(target=look, name="config-watch", daemon=True).start()
