"""
``make bench``: start, change, memory and idle CPU of the proxy at several sizes.

By default against the stub API server, in a network namespace made for it. With ``--kubeconfig``
and ``--netns`` against a real API server that already holds the Services, and with ``--kube-proxy``
beside a kube-proxy program, one after the other on the same API server. ``--modes`` names the data
planes; ipvs needs a kernel that has it (``python -m tests.uml.run -- python -m
tests.benchmarks.run --modes ipvs --sizes 100,1000,5000``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kpctl.lab.netns import Namespace, delete_all, with_prefix
from tests.benchmarks.cluster import Api, ProbeService, api_of_kubeconfig
from tests.benchmarks.measure import TARGETS, Figures, measure

SIZES = (1_000, 10_000, 50_000)
LEGACY = "iptables-legacy"
MODES = ("nftables", "iptables", LEGACY, "ipvs")
# By mode and services: seconds to start, milliseconds for a change, megabytes.
GOALS: dict[tuple[str, int], tuple[float | None, float, int | None]] = {
    ("nftables", 1_000): (0.9, 5, 60),
    ("nftables", 10_000): (2.0, 5, 100),
    ("nftables", 50_000): (8.0, 5, None),
    ("iptables", 1_000): (1.2, 30, None),
    ("iptables", 10_000): (6.0, 60, 120),
    (LEGACY, 10_000): (4.0, 800, 120),
}
FLAT = 1.5  # largest allowed growth of the cost of one change from the first to the last size
_PREFIX = "kpctl-bench-"
_KPCTL = Path(sys.executable).with_name("kpctl")


def main() -> int:
    """Measure and print; exit 1 when a goal is missed and ``--check`` is given."""
    options = _options()
    figures = list(_real(options) if options.kubeconfig else _stub(options))
    Console().print(_table(figures))
    if options.output:
        options.output.write_text(json.dumps([_as_json(one) for one in figures], indent=1))
    missed = [text for one in figures if one.program.startswith("kpctl") for text in _missed(one)]
    for mode in ("nftables", "ipvs"):
        missed += _not_flat(mode, [one for one in figures if one.program == f"kpctl {mode}"])
    for text in missed:
        print(f"goal missed: {text}")
    return 1 if missed and options.check else 0


_ALL = f"of {', '.join(MODES)}, separated by commas"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--sizes", type=lambda t: [int(n) for n in t.split(",")], default=SIZES)
    parser.add_argument("--modes", type=lambda t: t.split(","), default=["nftables"], help=_ALL)
    parser.add_argument("--endpoints", type=int, default=3)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--netns", help="with --kubeconfig: namespace that reaches the server")
    parser.add_argument("--vip", default="172.30.255.250", help="a free address for the probe")
    parser.add_argument("--kube-proxy", type=Path, help="also measure this program")
    parser.add_argument("--kube-proxy-changes", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    return parser.parse_args()


def _stub(options: argparse.Namespace) -> Iterator[Figures]:
    for mode, size in itertools.product(options.modes, options.sizes):
        with _node() as node, node.enter(), _stub_server(node, size, options.endpoints) as url:
            api = Api(url)
            with _config(mode, api="") as config:
                _choose_backend(node, mode)
                service = ProbeService.create(api, options.vip, TARGETS[0])
                argv = [str(_KPCTL), "run", "--config", str(config), "--master", url]
                yield _measure(f"kpctl {mode}", argv, node, service, options, size)


def _real(options: argparse.Namespace) -> Iterator[Figures]:
    node = Namespace(options.netns)
    with node.enter():
        api = api_of_kubeconfig(options.kubeconfig)
        _, listed = api.request("GET", "/api/v1/services?limit=1")
        size = 1 + int(listed["metadata"].get("remainingItemCount", 0))
        node.ip([f"addr replace {target}/32 dev lo" for target in TARGETS])
        service = ProbeService.create(api, options.vip, TARGETS[0])
        programs = {"kpctl": [str(_KPCTL), "run"]}
        if options.kube_proxy:
            programs["kube-proxy"] = [str(options.kube_proxy)]
        for mode, (program, start) in itertools.product(options.modes, programs.items()):
            with _config(mode, api=str(options.kubeconfig)) as config:
                node.run(["nft", "flush", "ruleset"])
                argv = [*start, "--config", str(config)]
                yield _measure(f"{program} {mode}", argv, node, service, options, size)
        service.delete()


def _choose_backend(node: Namespace, mode: str) -> None:
    if mode == LEGACY:  # where kubelet has left its mark is where the rules go
        node.run(["iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"])


def _measure(
    program: str,
    argv: list[str],
    node: Namespace,
    service: ProbeService,
    options: argparse.Namespace,
    size: int,
) -> Figures:
    is_kpctl = program.startswith("kpctl")
    changes = options.changes if is_kpctl else options.kube_proxy_changes
    log = Path(tempfile.gettempdir()) / f"{program.replace(' ', '-')}-{size}.log"
    figures = measure(program, argv, node, service, services=size, changes=changes, log=log)
    print(f"{program}, {size} services: measured", file=sys.stderr)
    return figures


@contextmanager
def _node() -> Iterator[Namespace]:
    delete_all([old for old in with_prefix(_PREFIX) if not _is_running(old)])
    node = Namespace(f"{_PREFIX}{os.getpid()}")
    node.create()
    try:
        # The VIP needs a route, and what is masqueraded an address.
        targets = [f"addr add {target}/32 dev lo" for target in TARGETS]
        node.ip([*targets, "addr add 192.0.2.1/24 dev lo", "route add default dev lo"])
        yield node
    finally:
        node.delete()


def _is_running(node: Namespace) -> bool:
    """Whether the benchmark that made *node* still runs; a killed one leaves its namespace."""
    return Path(f"/proc/{node.name.removeprefix(_PREFIX)}").exists()


@contextmanager
def _stub_server(node: Namespace, services: int, endpoints: int) -> Iterator[str]:
    argv = [sys.executable, "-m", "tests.support.apiserver", "--port", "0"]
    argv += ["--services", str(services), "--endpoints", str(endpoints)]
    read, write = os.pipe()
    with os.fdopen(read) as output, os.fdopen(write, "w") as sink:
        process = node.spawn(argv, stdout=sink)
        try:
            yield output.readline().split()[-1]
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def _config(mode: str, *, api: str) -> Iterator[Path]:
    content = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode.removesuffix("-legacy"),
        "hostnameOverride": "node-0",
        "clusterCIDR": "10.0.0.0/8",
        "clientConnection": {"kubeconfig": api},
        # These belong to the whole machine.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(content, file)
        file.flush()
        yield Path(file.name)


def _table(figures: list[Figures]) -> Table:
    table = Table(title="start, and one endpoint change from API write to moved traffic")
    for name in ("program", "services", "start s", "change ms", "p99 ms", "kernel", "CPU ms"):
        table.add_column(name, justify="right")
    table.add_column("PSS MB", justify="right")
    table.add_column("idle CPU", justify="right")
    for one in figures:
        table.add_row(
            one.program,
            f"{one.services:,}",
            f"{one.start_s:.2f}",
            f"{one.median_ms:.2f}",
            f"{one.p99_ms:.2f}",
            f"{one.kernel_ms:.3f}",
            f"{one.change_cpu_ms:.2f}",
            f"{one.pss_mb:.0f}",
            f"{one.idle_cpu:.1%}",
        )
    return table


def _missed(one: Figures) -> Iterator[str]:
    _, _, mode = one.program.partition(" ")
    start, change, memory = GOALS.get((mode, one.services), (None, float("inf"), None))
    if start and one.start_s > start:
        yield f"{mode}, {one.services} services: start {one.start_s:.2f} s > {start} s"
    if one.median_ms > change or one.p99_ms > 3 * change:
        yield f"{mode}, {one.services} services: change {one.median_ms:.2f}/{one.p99_ms:.2f} ms"
    if memory and one.pss_mb > memory:
        yield f"{mode}, {one.services} services: {one.pss_mb:.0f} MB > {memory} MB"


def _not_flat(mode: str, figures: list[Figures]) -> list[str]:
    if len(figures) < 2:
        return []
    ratio = figures[-1].median_ms / figures[0].median_ms
    return [f"{mode}: one change grows {ratio:.2f} times over the sizes"] if ratio > FLAT else []


def _as_json(one: Figures) -> dict[str, object]:
    return {
        "program": one.program,
        "services": one.services,
        "startSeconds": one.start_s,
        "changeMilliseconds": {"median": one.median_ms, "p99": one.p99_ms},
        "changeCpuMilliseconds": one.change_cpu_ms,
        "kernelMilliseconds": one.kernel_ms,
        "pssMegabytes": one.pss_mb,
        "idleCpu": one.idle_cpu,
    }


if __name__ == "__main__":
    sys.exit(main())
