"""CIDR lists of a configuration: which are CIDRs, and which belong to which family."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.model.addresses import IPFamily, Network, network_family, pack_address, parse_network


def network(cidr: str) -> Network | None:
    """Return *cidr* as a network, or None; unlike Python, a netmask is no prefix length."""
    prefix = cidr.partition("/")[2]
    return parse_network(cidr) if prefix.isascii() and prefix.isdigit() else None


def is_cidr(text: str) -> bool:
    """Whether *text* is an address with a prefix length."""
    return network(text) is not None


def is_catch_all(cidr: str) -> bool:
    """Whether *cidr* covers its whole family; False for what is no CIDR."""
    parsed = network(cidr)
    return parsed is not None and parsed.prefixlen == 0


def cidrs_by_family(cidrs: Iterable[str]) -> dict[IPFamily, tuple[str, ...]]:
    """Return the CIDRs of each family in their order; what is no CIDR is left out."""
    result: dict[IPFamily, list[str]] = {family: [] for family in IPFamily}
    for cidr in cidrs:
        parsed = network(cidr)
        if parsed is not None:
            result[network_family(parsed)].append(cidr)
    return {family: tuple(found) for family, found in result.items()}


def ips_by_family(addresses: Iterable[str]) -> dict[IPFamily, tuple[str, ...]]:
    """Return the addresses of each family in their order; what is no address is left out."""
    result: dict[IPFamily, list[str]] = {family: [] for family in IPFamily}
    for address in addresses:
        packed = pack_address(address)
        if packed is not None:
            result[IPFamily.IPV4 if len(packed) == 4 else IPFamily.IPV6].append(address)
    return {family: tuple(found) for family, found in result.items()}
