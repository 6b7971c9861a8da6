"""Finds the network namespace that a packet is to be sent from: the node's own, or a pod's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from diagnostics.trace.packet import Address
from kpctl.lab.netns import NETNS_DIR, Namespace
from kpctl.live_trace.question import LiveTraceError
from proxy.kernel.command import Denied

_OWN = Path("/proc/thread-self/ns/net")
_ANY_PORT = 9
_NO_NUMBER = 1 << 31  # NETNSA_NSID_NOT_ASSIGNED is -1
_Identity = tuple[int, int]


def named_namespace(name: str) -> Namespace:
    """
    Return a namespace by what a user may say: a name of ip-netns(8), a process id, or a path.

    Raises LiveTraceError when there is none.
    """
    path = Path(f"/proc/{name}/ns/net") if name.isdecimal() else NETNS_DIR / name
    if _identity(path) is None:
        raise LiveTraceError(
            f"{name}: there is no network namespace {path}",
            "name one of `ip netns list`, or a process id of the pod (see `crictl inspect`)",
        )
    return Namespace(str(path))


def namespace_of(address: Address) -> Namespace | None:
    """
    Return the namespace on this node that has an address; None for the caller's own.

    Of several with the same address that one is taken which a device of the caller's leads to.

    Raises:
        LiveTraceError: None has it, several have it, or namespaces may not be entered.
    """
    if _has(address):
        return None
    try:
        found = [namespace for namespace in _others() if _has_inside(namespace, address)]
    except Denied as error:
        raise LiveTraceError(
            f"namespaces of pods cannot be entered: {error}", "run it as root"
        ) from error
    if len(found) > 1:
        found = _neighbours(found) or found
    if not found:
        raise LiveTraceError(
            f"{address} is no address of this node or of a pod on it: nothing can be sent from it",
            "run it on the node that has it, or name a namespace with --netns",
        )
    if len(found) > 1:
        names = ", ".join(namespace.name for namespace in found)
        raise LiveTraceError(
            f"{len(found)} network namespaces have the address {address}: {names}",
            "name the right one with --netns",
        )
    return found[0]


def _others() -> Iterator[Namespace]:
    """Yield every other namespace once, those with a name first."""
    seen = {_identity(_OWN)}
    named = sorted(NETNS_DIR.iterdir()) if NETNS_DIR.is_dir() else []
    processes = sorted(path for path in Path("/proc").iterdir() if path.name.isdecimal())
    for path in (*named, *(process / "ns/net" for process in processes)):
        identity = _identity(path)
        if identity is not None and identity not in seen:
            seen.add(identity)
            yield Namespace(str(path))


def _has_inside(namespace: Namespace, address: Address) -> bool:
    try:
        with namespace.enter():
            return _has(address)
    except OSError:  # it went away meanwhile, or the name is of no namespace
        return False


def _has(address: Address) -> bool:
    """
    Whether the calling thread's namespace has an address; nothing is sent.

    A host speaks to its own address from that address. Binding to it would not tell: hosts may
    allow that for any address (ip_nonlocal_bind).
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), _ANY_PORT))
        except OSError:
            return False
        return str(probe.getsockname()[0]) == str(address)


def _neighbours(namespaces: list[Namespace]) -> list[Namespace]:
    """Return those that the caller's namespace numbers, as it does for far ends of its links."""
    from pyroute2 import IPRoute

    found = []
    with IPRoute() as netlink:
        for namespace in namespaces:
            with suppress(OSError), namespace.path.open("rb") as handle:
                answer = netlink.get_netnsid(fd=handle.fileno())
                if answer is not None and 0 <= answer["nsid"] < _NO_NUMBER:
                    found.append(namespace)
    return found


def _identity(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
