"""Brings a lab into being and takes it away: namespaces, pods, manifests, the proxy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from kpctl.exit_codes import ENVIRONMENT, USAGE
from kpctl.lab import echo, shop, state, topology
from kpctl.lab.netns import create_all, delete_all
from kpctl.lab.probes import Outcome, Probe
from kpctl.lab.state import LabError, LabRecord
from kpctl.lab.traffic import attempt, healthy
from proxy.kernel.command import PACKAGES, STDOUT, Process, find_tool

HEALTHZ_PORT = 10256

# What the proxy runs in each mode, or what shows its rules.
_TOOLS = {"nftables": ("ip", "nft"), "iptables": ("ip", "iptables"), "ipvs": ("ip", "iptables")}
_POD_START_S = 10
_PROXY_START_S = 20
_PROXY_STOP_S = 3
_POLL_S = 0.01
_LOG_LINES_IN_ERROR = 8


def require_environment(mode: str = "") -> None:
    """
    Refuse early what could only fail later; *mode* is that of a proxy which is to start.

    Raises:
        LabError: Not root, or tools are missing; all of them are named (exit code 4).
    """
    if os.geteuid() != 0:
        raise LabError(
            "the lab makes network namespaces and needs root: sudo kpctl lab …", ENVIRONMENT
        )
    missing = [tool for tool in _TOOLS.get(mode, ("ip",)) if find_tool(tool) is None]
    if missing:
        packages = " ".join(PACKAGES[tool] for tool in missing)
        raise LabError(
            f"the lab needs {' and '.join(missing)}, not found here; "
            f"install the Debian packages: apt-get install {packages}",
            ENVIRONMENT,
        )


def proxy_argv(manifests: Path, mode: str) -> list[str]:
    """The command that runs the proxy of node-1 on a directory of manifests."""
    return [
        *(sys.executable, "-m", "kpctl", "run"),
        *("--manifests", str(manifests)),
        *("--proxy-mode", mode),
        *("--hostname-override", topology.NODE),
        *("--cluster-cidr", ",".join(topology.CLUSTER_CIDRS)),
        *("--healthz-bind-address", f"0.0.0.0:{HEALTHZ_PORT}"),
        # The size of the connection table is the machine's, not the lab's.
        *("--conntrack-max-per-core", "0"),
    ]


def remove(record: LabRecord) -> None:
    """
    Remove everything of a lab whose process has ended, or is the caller.

    Raises:
        CommandError: ip(8) failed; what is left can be removed by calling this again.
    """
    delete_all(record.namespaces())
    state.forget(record)


def stop(record: LabRecord, timeout_s: float = 15) -> None:
    """
    End a lab, running or not, and remove everything of it.

    A running one is asked to clean up itself, and killed if it does not within *timeout_s*.
    """
    try:
        handle = os.pidfd_open(record.pid) if record.pid else None
    except ProcessLookupError:
        handle = None
    if handle is not None:
        try:
            # Checked behind the handle: a recycled process id has another start time.
            if record.alive() and record.pid != os.getpid():
                _end_process(record, handle, timeout_s)
        finally:
            os.close(handle)
    remove(record)


def _end_process(record: LabRecord, handle: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        while record.alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if record.alive():
            signal.pidfd_send_signal(handle, signal.SIGKILL)


class Lab:
    """
    A lab of this process, from :func:`kpctl.lab.state.claim` to :meth:`down`.

    Attributes: ``record``; ``argv``, the command of its proxy; ``proxy``, its process once started.
    """

    def __init__(
        self, record: LabRecord, bulk_services: int = 0, argv: Sequence[str] | None = None
    ) -> None:
        """*bulk_services* are made beside the shop; *argv* replaces the proxy's command."""
        self.record = record
        self.probes = shop.probes(bulk_services)
        self.manifests = record.directory / "manifests"
        self.argv = list(argv or proxy_argv(self.manifests, record.mode))
        self.proxy: Process | None = None
        self._bulk_services = bulk_services
        self._children: list[Process] = []

    @property
    def proxy_log(self) -> Path:
        """Where the proxy's output goes."""
        return self._log("proxy")

    def up(self) -> None:
        """
        Make the network, the pods and the manifests, and start the proxy; ready is another matter.

        Raises:
            CommandError: A tool failed or may not do what it should.
            OSError: A sysctl or a file cannot be written.
        """
        self._build_network()
        self._write_manifests()
        (self.record.directory / "logs").mkdir()
        for pod in topology.PODS:
            if pod.serves:
                argv = [sys.executable, "-I", "-S", echo.__file__, "--pod", pod.name, *pod.serves]
                self._spawn(pod.name, argv, pod.name)
        self.proxy = self._spawn(topology.NODE, self.argv, "proxy")

    async def ready(self) -> None:
        """
        Return when pods answer on their own addresses, and the proxy forwards and is healthy.

        Raises:
            LabError: The proxy ended, or there was no success in time (exit code 1).
        """
        node = self.record.namespace(topology.NODE)
        direct = [
            Probe(pod.name, pod.ipv4, int(port), topology.NODE, protocol)
            for pod in topology.PODS
            for protocol, _, port in (served.partition(":") for served in pod.serves)
        ]
        await asyncio.gather(*(self._until(probe, _POD_START_S) for probe in direct))
        # Big labs are given more time: 1 s for each 1,000 Services.
        patience_s = _PROXY_START_S + self._bulk_services / 1000
        deadline = time.monotonic() + patience_s
        wanted = [probe for probe in self.probes if probe.outcome is Outcome.LANDED]
        await asyncio.gather(*(self._until(probe, patience_s) for probe in (wanted[0], wanted[-1])))
        while not await healthy(node, HEALTHZ_PORT):
            self._check(deadline, f"/healthz on port {HEALTHZ_PORT} of the node is not 200")
            await asyncio.sleep(_POLL_S)

    def down(self) -> None:
        """
        End all processes and remove everything; may be called at any stage, and again.

        Raises:
            CommandError: Something is left, which ``kpctl lab down`` will find.
        """
        if self.proxy is not None and self.proxy.poll() is None:
            self.proxy.terminate()
            with suppress(TimeoutError):
                _wait(self.proxy, _PROXY_STOP_S)
        remove(self.record)
        for child in self._children:
            child.wait()

    def proxy_error(self) -> str:
        """Why the lab cannot go on if its proxy has ended, with the end of its log; else ""."""
        if self.proxy is None or self.proxy.poll() is None:
            return ""
        return f"the proxy ended with status {self.proxy.returncode}{self._log_tail()}"

    def _build_network(self) -> None:
        hosts = {role: self.record.namespace(role) for role in topology.ROLES}
        create_all(list(hosts.values()))
        for role, sysctls in topology.SYSCTLS.items():
            hosts[role].set_sysctls(sysctls)
        for commands in (
            topology.link_commands(self.record.prefix),
            topology.address_commands(),
        ):
            for role, lines in commands.items():
                hosts[role].ip(lines)

    def _write_manifests(self) -> None:
        self.manifests.mkdir()
        for name, objects in shop.manifests().items():
            text = yaml.safe_dump_all(objects, sort_keys=False)
            (self.manifests / name).write_text(text)
        for name, objects in shop.bulk_manifests(self._bulk_services):
            listing = {"apiVersion": "v1", "kind": "List", "items": objects}
            (self.manifests / name).write_text(json.dumps(listing))

    def _spawn(self, role: str, argv: Sequence[str], log: str) -> Process:
        with self._log(log).open("wb") as output:
            child = self.record.namespace(role).spawn(
                argv, stdout=output, stderr=STDOUT, env=environment(self.record)
            )
        self._children.append(child)
        return child

    async def _until(self, probe: Probe, patience_s: float) -> None:
        """Repeat a probe until it lands."""
        sender = self.record.namespace(probe.role)
        deadline = time.monotonic() + patience_s
        while (seen := await attempt(probe, sender, 0.2)).outcome is not Outcome.LANDED:
            self._check(deadline, f"{probe.way}: {seen.outcome.value} {seen.detail}".rstrip())
            await asyncio.sleep(_POLL_S)

    def _check(self, deadline: float, pending: str) -> None:
        """Raise if there is no sense in waiting any longer."""
        if error := self.proxy_error():
            raise LabError(error)
        if time.monotonic() > deadline:
            raise LabError(f"the lab did not become ready: {pending}{self._log_tail()}")

    def _log(self, name: str) -> Path:
        return self.record.directory / "logs" / f"{name}.log"

    def _log_tail(self) -> str:
        try:
            lines = self.proxy_log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        tail = "".join(f"\n  {line}" for line in lines[-_LOG_LINES_IN_ERROR:])
        return f"; the end of its log:{tail}" if tail else "; its log is empty"


def environment(record: LabRecord) -> dict[str, str]:
    """The environment of programs in the lab: no cluster but this, kpctl in PATH."""
    inherited = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    path = [str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]
    return {
        **inherited,
        "PATH": os.pathsep.join(path),
        "KPCTL_LAB": record.name,
        "KPCTL_LAB_DIR": str(record.directory),
        # What stands for an API server, and which node this is: see kpctl.reading.
        "KPCTL_MANIFESTS": str(record.directory / "manifests"),
        "NODE_NAME": topology.NODE,
    }


def _wait(process: Process, timeout_s: float) -> None:
    """Wait for a process to end; TimeoutError if it does not."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_POLL_S)


def enter(record: LabRecord, role: str) -> None:
    """
    Move the calling thread into a host of the lab for good.

    Raises:
        LabError: The lab has no such host; its hosts are named (exit code 2).
    """
    hosts = [ns.name.removeprefix(record.prefix) for ns in record.namespaces()]
    if role not in hosts:
        raise LabError(f"lab {record.name} has no host {role!r}; it has: {', '.join(hosts)}", USAGE)
    record.namespace(role).enter_for_good()
