"""
What the proxy's two fixed ports answer: the healthz port (10256) and the metrics port (10249).

Paths, bodies and headers are kube-proxy's, so that probes, scrapers and people find what they
know. The metrics port adds /debug pages about this proxy's decisions, for this machine only.
"""

from __future__ import annotations

import gzip
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

import msgspec

from proxy.runtime.health import HealthReport, ProxyHealth
from proxy.runtime.http_message import JSON, Handler, Request, Response
from proxy.runtime.listening import BindError
from proxy.runtime.logs import get_logger, set_verbosity
from proxy.runtime.metrics import CONTENT_TYPE, ProxyMetrics
from proxy.runtime.zpages import Process, flagz, statusz

log = get_logger(__name__)

NOSNIFF = ("X-Content-Type-Options", "nosniff")
NOT_FOUND = Response(404, b"404 page not found\n", headers=(NOSNIFF,))
_GZIP_LEVEL = 4

# A JSON-able dict, or None when there is nothing to show.
Page = Callable[[], "Mapping[str, object] | None"]


@dataclass(frozen=True, slots=True)
class MetricsPages:
    """
    Where the metrics port gets its answers; every callable must be quick and thread-safe.

    Attributes:
        metrics: What /metrics renders.
        process: What /flagz and /statusz show.
        mode: The proxy mode, ``nftables``.
        configz: The configuration in force, with kind and apiVersion.
        desired: What the proxy wants the kernel to have.
        last_sync: How the last sync went.
        why: Given namespace and name, how one Service became what it is; None when unknown.
        profiling: Whether enableProfiling is set: opens /debug/stacks and /debug/flags/v.
    """

    metrics: ProxyMetrics
    process: Process
    mode: str
    configz: Callable[[], Mapping[str, object]]
    desired: Page
    last_sync: Page
    why: Callable[[str, str], Mapping[str, object] | None]
    profiling: bool = False


def report_healthz_failure(error: BindError) -> None:
    """Log that the healthz port cannot be opened."""
    reason = f"failed to start proxy healthz on {error.address}: {error}"
    log.error("Healthz server failed", err=reason)


def report_metrics_failure(error: BindError) -> None:
    """Log that the metrics port cannot be opened."""
    reason = f"starting metrics server failed on {error.address}: {error}"
    log.error("Metrics server failed", err=reason)


def health_handler(health: ProxyHealth, metrics: ProxyMetrics) -> Handler:
    """Return the handler of the healthz port: /healthz and /livez, any method."""

    def answer(request: Request) -> Response:
        if request.path == "/healthz":
            report = health.healthz()
            metrics.healthz.inc(str(report.status))
        elif request.path == "/livez":
            report = health.livez()
            metrics.livez.inc(str(report.status))
        else:
            return NOT_FOUND
        return _health_response(report)

    return answer


def _health_response(report: HealthReport) -> Response:
    return Response(report.status, report.body, JSON, (NOSNIFF,))


def metrics_handler(pages: MetricsPages) -> Handler:
    """Return the handler of the metrics port."""
    routes: dict[str, Handler] = {
        "/metrics": lambda request: _metrics(request, pages.metrics),
        "/metrics/slis": lambda request: _slis(request, pages.metrics),
        "/healthz": lambda request: _ping(request, pages.metrics),
        "/healthz/ping": lambda request: _ping(request, pages.metrics),
        "/proxyMode": lambda _request: Response(200, pages.mode.encode(), headers=(NOSNIFF,)),
        "/configz": lambda _request: _json({"kubeproxy.config.k8s.io": pages.configz()}),
    }
    paths = sorted(["/flagz", "/statusz", *routes])
    routes["/flagz"] = lambda request: flagz(request, pages.process)
    routes["/statusz"] = lambda request: statusz(request, pages.process, paths)

    if pages.profiling:
        routes["/debug/stacks"] = lambda request: _local_only(request, _stacks)
        routes["/debug/flags/v"] = _set_verbosity

    def answer(request: Request) -> Response:
        if route := routes.get(request.path):
            return route(request)
        if request.path.startswith("/debug/"):
            return _debug(request, pages)
        return NOT_FOUND

    return answer


def _metrics(request: Request, metrics: ProxyMetrics) -> Response:
    if request.method not in ("GET", "HEAD"):
        return _method_not_allowed("GET")
    return _exposition(request, metrics.render())


def _slis(request: Request, metrics: ProxyMetrics) -> Response:
    if request.method == "DELETE":
        metrics.reset_slis()
        return Response(200, b"metrics reset\n")
    if request.method not in ("GET", "HEAD"):
        return _method_not_allowed("GET, DELETE")
    return _exposition(request, metrics.render_slis())


def _exposition(request: Request, body: bytes) -> Response:
    codings = [one.partition(";") for one in request.header("accept-encoding").split(",")]
    if any(
        name.strip() == "gzip" and quality.replace(" ", "") != "q=0" for name, _, quality in codings
    ):
        packed = gzip.compress(body, _GZIP_LEVEL)
        return Response(200, packed, CONTENT_TYPE, (("Content-Encoding", "gzip"),))
    return Response(200, body, CONTENT_TYPE)


def _ping(request: Request, metrics: ProxyMetrics) -> Response:
    """The metrics port's /healthz says only that this server answers."""
    metrics.observe_ping()
    verbose = request.query.split("=")[0] == "verbose" and request.path == "/healthz"
    body = b"[+]ping ok\nhealthz check passed\n" if verbose else b"ok"
    return Response(200, body, headers=(NOSNIFF,))


def _debug(request: Request, pages: MetricsPages) -> Response:
    """Pages about the proxy's insides: they name every Service, so only this machine sees them."""
    match request.path.split("/")[2:]:
        case ["desired"]:
            page, missing = pages.desired, "nothing was planned yet"
        case ["last-sync"]:
            page, missing = pages.last_sync, "nothing was synced yet"
        case ["why", namespace, name]:
            page = partial(pages.why, namespace, name)
            missing = f"no Service {namespace}/{name} is known to this proxy"
        case ["why", *_rest]:
            return _error(404, "use /debug/why/<namespace>/<service>")
        case _:
            return NOT_FOUND
    return _local_only(request, lambda: _page(page(), missing))


def _local_only(request: Request, answer: Callable[[], Response]) -> Response:
    if not ip_address(request.peer).is_loopback:
        return _error(
            403,
            f"{request.path} answers only clients on this machine, and you are {request.peer}; "
            "ask from the node itself, through its loopback address",
        )
    return answer()


def _page(content: Mapping[str, object] | None, missing: str) -> Response:
    return _error(404, missing) if content is None else _json(content)


def _stacks() -> Response:
    """What every thread is doing right now."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {ident} ({names.get(ident, 'unknown')}):\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    ]
    return Response(200, "\n".join(parts).encode())


def _set_verbosity(request: Request) -> Response:
    if request.method != "PUT":
        return _method_not_allowed("PUT")
    text = request.body.decode("latin-1").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        return Response(400, f"{text!r} is no log verbosity; send a number\n".encode())
    set_verbosity(int(text))
    return Response(200, f"log verbosity is now {int(text)}\n".encode())


def _method_not_allowed(allowed: str) -> Response:
    return Response(405, b"method not allowed\n", headers=(("Allow", allowed),))


def _error(status: int, text: str) -> Response:
    return _json({"error": text}, status)


def _json(content: object, status: int = 200) -> Response:
    body = msgspec.json.encode(content, enc_hook=str)
    return Response(status, body, JSON, (NOSNIFF,))
