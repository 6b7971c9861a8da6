"""Chooses where cluster state comes from, and where Events go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kpctl.version import kpctl_version
from proxy.config.types import ProxyConfig
from proxy.runtime.clock import SystemClock
from proxy.runtime.event_sender import EventSender
from proxy.runtime.events import Event, EventRecorder
from proxy.runtime.logs import get_logger
from proxy.runtime.metrics import ProxyMetrics
from proxy.sources.source import Source, SourceProblem

log = get_logger(__name__)


class EventLog:
    """Where Events go when the cluster is a directory: into the log."""

    def record(self, event: Event) -> None:
        """Log one event."""
        log.v(4).info("Event", reason=event.reason, note=event.note)


def make_source(
    config: ProxyConfig, master: str, manifests: Path | None, node_name: str, metrics: ProxyMetrics
) -> tuple[Source, EventRecorder]:
    """Return the source of cluster state and the recorder of Events that belongs to it."""
    if manifests is not None:
        from proxy.sources.manifests import ManifestSource

        return ManifestSource(manifests, node_name, report), EventLog()
    return _api_source(config, master, node_name, metrics)


def _api_source(
    config: ProxyConfig, master: str, node_name: str, metrics: ProxyMetrics
) -> tuple[Source, EventRecorder]:
    from proxy.sources.client import Client
    from proxy.sources.credentials import ApiLocation, Credentials
    from proxy.sources.failures import ApiError
    from proxy.sources.kubernetes import KubernetesSource
    from proxy.sources.resources import followed_resources

    kubeconfig = config.client_connection.kubeconfig
    if not kubeconfig and not master:
        log.info(
            "Neither kubeconfig file nor master URL was specified, falling back to in-cluster "
            "config"
        )

    def observe(method: str, host: str, code: str, seconds: float) -> None:
        metrics.observe_request(method, host, int(code) if code.isdigit() else None, seconds)

    credentials = Credentials(ApiLocation(kubeconfig, master))
    client = Client(credentials, f"kpctl/{kpctl_version()}", observe, metrics.observe_sizes)

    def post(namespace: str, event: Mapping[str, object]) -> int:
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        try:
            client.post(path, event)
        except ApiError as error:
            return error.status
        return 201

    source = KubernetesSource(
        client, credentials, followed_resources(node_name), report, metrics.watch_restarts.inc
    )
    return source, EventSender(post, node_name, SystemClock())


def report(problem: SourceProblem) -> None:
    """Log what a source says about itself."""
    if problem.resolved:
        log.info(problem.text)
    else:
        log.error(problem.text)
