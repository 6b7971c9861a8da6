"""
What IPVS mode needs before its first virtual server: sysctls, timeouts, a scheduler.

Parameters and values are kube-proxy's (1.36); they stay as they are when the proxy ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from proxy.kernel.sysctl import SysctlTree

_CONN_REUSE = "net/ipv4/vs/conn_reuse_mode"
# Since 5.9 the kernel reschedules reused connections without a delay and the default is right.
_REUSE_FIXED = (5, 9)


def ipvs_sysctls(*, strict_arp: bool, release: str = "") -> Iterator[tuple[str, int]]:
    """Yield the parameters and their values, for a kernel *release* ("" for the running one)."""
    yield "net/ipv4/vs/conntrack", 1
    if _version(release or os.uname().release) < _REUSE_FIXED:
        yield _CONN_REUSE, 0
    yield "net/ipv4/vs/expire_nodest_conn", 1
    yield "net/ipv4/vs/expire_quiescent_template", 1
    yield "net/ipv4/ip_forward", 1
    if strict_arp:
        yield "net/ipv4/conf/all/arp_ignore", 1
        yield "net/ipv4/conf/all/arp_announce", 2


def write_sysctls(tree: SysctlTree, *, strict_arp: bool) -> list[tuple[str, int]]:
    """Write those that differ and return them; raises SysctlError."""
    changed = []
    for name, value in ipvs_sysctls(strict_arp=strict_arp):
        if tree.read(name) != str(value):
            tree.write(name, value)
            changed.append((name, value))
    return changed


def _version(release: str) -> tuple[int, ...]:
    major, _, rest = release.partition(".")
    minor = "".join(c for c in rest.partition(".")[0] if c.isdigit())
    return int(major), int(minor or 0)
