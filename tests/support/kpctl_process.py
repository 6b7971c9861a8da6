"""``kpctl run`` as a process in a network namespace, watched through its log and the kernel."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from kpctl.lab.netns import Namespace
from proxy.backends.nftables import layout
from proxy.kernel.command import STDOUT, Completed
from proxy.kernel.nftables import NetlinkNft
from proxy.model.addresses import IPFamily, unpack_address
from tests.support.waiting import eventually

KPCTL = str(Path(sys.executable).with_name("kpctl"))
PATIENCE_S = 20.0  # for a busy machine: only a failing test waits for it
# The size of the connection tracking table belongs to the machine, not to a namespace.
CONFIG = (
    "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    "mode: nftables\nhostnameOverride: node-0\nconntrack: {maxPerCore: 0}\n"
)
_serial = count(1)


class KpctlNode:
    """A namespace to run kpctl in; ``directory`` holds its configuration, manifests and log."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace = namespace
        self.manifests = directory / "manifests"
        self.config = directory / "config.yaml"
        self.log_file = directory / "kpctl.log"
        self.manifests.mkdir()
        self.config.write_text(CONFIG)
        with namespace.enter():
            self.nft = NetlinkNft(IPFamily.IPV4)

    # -- running -------------------------------------------------------------------------------

    def run(self, *arguments: str, before: tuple[str, ...] = ()) -> Completed:
        """Run ``kpctl run`` to its end; *before* is a program that starts it."""
        return self.namespace.run(
            [*before, KPCTL, "run", *arguments], timeout_s=PATIENCE_S, check=False
        )

    @contextmanager
    def running(self, *arguments: str, source: tuple[str, ...] | None = None) -> Iterator[Running]:
        """``kpctl run`` on the manifests (or another *source*), killed at the end."""
        source = ("--manifests", str(self.manifests)) if source is None else source
        argv = [KPCTL, "run", "--config", str(self.config), *source, *arguments]
        with self.log_file.open("wb") as log:
            process = self.namespace.spawn(argv, stdout=log, stderr=STDOUT)
        try:
            yield Running(self, process)
        finally:
            process.kill()
            process.wait()

    # -- writing and looking -------------------------------------------------------------------

    def write(self, name: str, *objects: dict[str, object] | str) -> None:
        """Put a manifest into place at once; text is written as it is."""
        body = json.dumps({"kind": "List", "apiVersion": "v1", "items": objects})
        text = objects[0] if isinstance(objects[0], str) else body
        staged = self.manifests / f".{name}"
        staged.write_text(text)
        staged.replace(self.manifests / name)

    def vips(self) -> set[str]:
        """The addresses that the kernel sends somewhere."""
        found = self.nft.elements(layout.TABLE, layout.SERVICE_IPS)
        return {unpack_address(key[:4]) for key, _ in found}

    def tables(self) -> set[str]:
        return set(self.namespace.run(["nft", "list", "tables"]).stdout.splitlines())

    def nft_script(self, text: str) -> None:
        """Let another program change tables."""
        self.namespace.run(["nft", "-f", "-"], stdin=text)

    def get(self, path: str, port: int) -> tuple[int, str]:
        """Ask a server of the process at 127.0.0.1."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.sock = self.namespace.socket()
        try:
            connection.sock.settimeout(PATIENCE_S)
            connection.sock.connect(("127.0.0.1", port))
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


class Running:
    """A ``kpctl run`` that was started."""

    def __init__(self, node: KpctlNode, process: object) -> None:
        self._node = node
        self.process = process

    def log(self) -> str:
        return self._node.log_file.read_text(errors="replace")

    def wait_for_log(self, part: str) -> None:
        self._eventually(lambda: part in self.log(), f"no {part!r} in the log")

    def wait_for_vips(self, *vips: str) -> None:
        """Wait until exactly these addresses are served."""
        self._eventually(lambda: self._node.vips() == set(vips), f"{vips} are not served")

    def wait_until(self, condition: object, what: str) -> None:
        self._eventually(condition, what)

    def terminate(self) -> int:
        """End it as systemd does; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def _eventually(self, condition, what: str) -> None:
        try:
            eventually(lambda: condition() or self.process.poll() is not None, PATIENCE_S)
            assert condition()
        except AssertionError:
            status = self.process.poll()
            raise AssertionError(f"{what}; exit status {status}; log:\n{self.log()}") from None


@contextmanager
def kpctl_node(directory: Path) -> Iterator[KpctlNode]:
    """A namespace of its own, removed with everything inside."""
    namespace = Namespace(f"kpctl-t{os.getpid()}-run{next(_serial)}")
    namespace.create()
    try:
        node = KpctlNode(namespace, directory)
        yield node
        node.nft.close()
    finally:
        namespace.delete()


def service(name: str, ip: str, **spec: object) -> dict[str, object]:
    """A Service's manifest in namespace ns, with port 80/TCP."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"clusterIP": ip, "ports": [{"port": 80, "protocol": "TCP"}], **spec},
    }


def endpoint_slice(of: str, *addresses: str, **fields: object) -> dict[str, object]:
    """The manifest of its EndpointSlice, port 8080."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{of}-slice",
            "namespace": "ns",
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        **fields,
    }


def web(name: str = "web", ip: str = "10.96.0.1") -> tuple[dict[str, object], dict[str, object]]:
    """A Service with one endpoint."""
    return service(name, ip), endpoint_slice(name, "10.180.0.1")
