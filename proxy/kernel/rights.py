"""What this process may do and which families this node has."""

from __future__ import annotations

from pathlib import Path

from proxy.model.addresses import IPFamily

_CAP_NET_ADMIN = 12
_IF_INET6 = Path("/proc/net/if_inet6")
_DISABLE_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
_OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
_STATUS = Path("/proc/self/status")


def may_administer_network() -> bool:
    """Return whether this process has CAP_NET_ADMIN."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def supported_families() -> tuple[IPFamily, ...]:
    """Return IPv4 and, unless the kernel has it not or switched off, IPv6."""
    if not _IF_INET6.exists() or _first_character(_DISABLE_IPV6) == "1":
        return (IPFamily.IPV4,)
    return (IPFamily.IPV4, IPFamily.IPV6)


def _first_character(path: Path) -> str:
    try:
        return path.read_text()[:1]
    except OSError:
        return ""


def set_oom_score_adj(value: int) -> str:
    """Make the kernel's OOM killer prefer others; return "" or what went wrong."""
    try:
        _OOM_SCORE_ADJ.write_text(str(value))
    except OSError as error:
        return f"{_OOM_SCORE_ADJ}: {error.strerror}"
    return ""
