"""One proxy process under measurement: start, change, memory, idle CPU, the kernel's own time."""

from __future__ import annotations

import os
import re
import signal
import statistics
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kpctl.lab.netns import Namespace
from proxy.conntrack.messages import CT_DELETE, nfnetlink_header
from proxy.kernel.command import Process
from proxy.kernel.conntrack import open_netfilter
from proxy.model.addresses import IPFamily
from tests.benchmarks.cluster import ProbeService
from tests.benchmarks.traffic import Probe

TARGETS = ("10.200.99.1", "10.200.99.2")  # outside every ServiceCIDR
START_TIMEOUT_S = 120
CHANGE_TIMEOUT_S = 60
IDLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What one run showed.

    Attributes:
        start_s: process start until the measured ClusterIP answers.
        changes_ms: API write sent until new flows reach the new endpoint, one per change.
        change_cpu_ms: CPU of the process per change.
        kernel_ms: the kernel's part of one change, 0 when the proxy does not tell.
        pss_mb: proportional set size after the start.
        idle_cpu: share of one CPU while nothing changes, 0..1.
    """

    program: str
    services: int
    start_s: float
    changes_ms: Sequence[float]
    change_cpu_ms: float
    kernel_ms: float
    pss_mb: float
    idle_cpu: float

    @property
    def median_ms(self) -> float:
        """Median of the changes."""
        return statistics.median(self.changes_ms)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the changes."""
        ordered = sorted(self.changes_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def measure(
    program: str,
    argv: Sequence[str],
    namespace: Namespace,
    service: ProbeService,
    *,
    services: int,
    changes: int,
    log: Path,
) -> Figures:
    """Run *argv* in *namespace*, which is also the calling thread's, and measure it."""
    probe = Probe(service.vip, TARGETS)
    service.move(TARGETS[0])
    _forget_flows()
    process: Process | None = None
    try:
        with log.open("wb") as output:
            started = time.perf_counter()
            process = namespace.spawn(list(argv), stdout=output, stderr=output)
        start_s = probe.wait_for(TARGETS[0], START_TIMEOUT_S) - started
        _settle(process.pid)
        cpu, kernel = _cpu_s(process.pid), _kernel()
        times = []
        for number in range(changes):
            _forget_flows()
            times.append(_change(probe, service, TARGETS[(number + 1) % 2]))
        cpu_ms = (_cpu_s(process.pid) - cpu) / changes * 1000
        after = _kernel()
        transactions = after[1] - kernel[1]
        kernel_ms = (after[0] - kernel[0]) / transactions * 1000 if transactions else 0.0
        idle = _idle(process.pid)
        return Figures(
            program, services, start_s, times, cpu_ms, kernel_ms, _pss_mb(process.pid), idle
        )
    finally:
        probe.close()
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _forget_flows() -> None:
    """Empty connection tracking here, so that a source port used again is a new flow."""
    with open_netfilter() as netlink:
        netlink.request(CT_DELETE, 0, nfnetlink_header(IPFamily.IPV4))


def _change(probe: Probe, service: ProbeService, target: str) -> float:
    began = time.perf_counter()
    service.move(target)
    return (probe.wait_for(target, CHANGE_TIMEOUT_S) - began) * 1000


def _settle(pid: int) -> None:
    """Wait until the process has been idle for a moment: late work of the start is over."""
    quiet = 0
    while quiet < 3:
        before = _cpu_s(pid)
        time.sleep(0.2)
        quiet = quiet + 1 if _cpu_s(pid) - before <= 0.01 else 0


def _idle(pid: int) -> float:
    before = _cpu_s(pid)
    time.sleep(IDLE_S)
    return (_cpu_s(pid) - before) / IDLE_S


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = int(fields[13]) + int(fields[14])  # programs it runs, such as nft
    return (int(fields[11]) + int(fields[12]) + children) / os.sysconf("SC_CLK_TCK")


def _pss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _kernel() -> tuple[float, float]:
    """Return seconds and number of kernel transactions so far, as the proxy's metrics tell."""
    with urllib.request.urlopen("http://127.0.0.1:10249/metrics", timeout=10) as answer:
        text = answer.read().decode()
    pattern = r'^kpctl_kernel_transaction_duration_seconds_{}\{{ip_family="IPv4"\}} (\S+)'
    found = [re.search(pattern.format(part), text, re.MULTILINE) for part in ("sum", "count")]
    return tuple(float(match[1]) if match else 0.0 for match in found)  # type: ignore[return-value]
