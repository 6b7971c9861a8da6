"""Virtual servers, ipsets and kube-ipvs0 of a namespace, written and read by the usual programs."""

from __future__ import annotations

import json

from kpctl.lab.netns import Namespace
from proxy.backends.ipvs.names import DEVICE
from tests.support.ipvs_text import NodeState, parse_servers, parse_sets


def write_sets(namespace: Namespace, state: NodeState) -> None:
    """Make the sets with their members."""
    lines = [f"create {name} {found.kind}" for name, found in state.sets.items()]
    lines += [f"add {name} {item}" for name, found in state.sets.items() for item in found.members]
    namespace.run(["ipset", "restore"], stdin="\n".join([*lines, ""]))


def write_state(namespace: Namespace, state: NodeState) -> None:
    """Make the sets, the device and the virtual servers."""
    write_sets(namespace, state)
    namespace.ip([f"link add {DEVICE} type dummy"])
    namespace.ip(f"addr add {address} dev {DEVICE}" for address in state.addresses)
    for server, reals in state.servers.items():
        namespace.run(["ipvsadm", "-A", *server.split()])
        for real in reals:
            namespace.run(["ipvsadm", "-a", *server.split()[:2], "-r", *real.split()])


def read_state(namespace: Namespace) -> NodeState:
    """Return what is there; without the device there are no addresses."""
    listed = namespace.run(["ip", "-json", "addr", "show", "dev", DEVICE], check=False).stdout
    return NodeState(
        parse_servers(namespace.run(["ipvsadm", "-Sn"]).stdout),
        frozenset(
            f"{address['local']}/{address['prefixlen']}"
            for device in json.loads(listed or "[]")
            for address in device["addr_info"]
        ),
        parse_sets(namespace.run(["ipset", "save"]).stdout),
    )
