"""
Configurations that are valid but do not fit the node or the cluster: judged once at start, when
the node's addresses are known. Messages follow kube-proxy's, because people search for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxy.config import types
from proxy.config.addresses import cidrs_by_family, ips_by_family
from proxy.config.types import ProxyConfig
from proxy.config.validation import split_host_port
from proxy.model.addresses import IPFamily, canonical_address

_UNSPECIFIED = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class FamilyMismatch:
    """A setting of the wrong IP family; a fatal one must end the process."""

    message: str
    fatal: bool = False


def node_port_warnings(
    config: ProxyConfig, primary: IPFamily, pod_cidrs: Sequence[str]
) -> tuple[str, ...]:
    """
    Return what is odd about nodePortAddresses on this node; empty when nothing is.

    Call it before the word primary is expanded; that word is never odd.
    """
    addresses = config.node_port_addresses
    if not addresses:
        return (
            "nodePortAddresses is unset; NodePort connections will be accepted on all local IPs. "
            f"Consider using `--nodeport-addresses {types.PRIMARY}`",
        )
    if addresses == (types.PRIMARY,):
        return ()
    other = _other(primary)
    own = cidrs_by_family(addresses)
    accepted = "NodePort connections will be accepted on all local"
    if not own[primary]:
        return (
            f"cluster appears to be {primary.value}-primary but nodePortAddresses contains only "
            f"{other.value} addresses; {accepted} {primary.value} IPs",
        )
    lists = (config.detect_local.cluster_cidrs, config.ipvs.exclude_cidrs, pod_cidrs)
    if not own[other] and any(_is_dual_stack(cidrs) for cidrs in lists):
        return (
            "cluster appears to be dual-stack but nodePortAddresses contains only "
            f"{primary.value} addresses; {accepted} {other.value} IPs",
        )
    return ()


def family_mismatches(
    config: ProxyConfig, primary: IPFamily, pod_cidrs: Sequence[str], *, dual_stack: bool
) -> tuple[FamilyMismatch, ...]:
    """
    Return the settings whose family the proxy does not serve, or not first.

    Args:
        config: The resolved configuration.
        primary: The node's primary family.
        pod_cidrs: The Node's pod networks.
        dual_stack: Whether the proxy serves both families.
    """
    cluster = f"cluster is {primary.value}-{'primary' if dual_stack else 'only'}"
    other = _other(primary)
    mode = config.detect_local.mode
    found = []
    if _only_other(config.detect_local.cluster_cidrs, primary):
        message = f"{cluster} but clusterCIDRs contains only {other.value} addresses"
        fatal = mode == types.CLUSTER_CIDR and not dual_stack
        found.append(FamilyMismatch(message, fatal))
    if _only_other(pod_cidrs, primary):
        message = f"{cluster} but node.spec.podCIDRs contains only {other.value} addresses"
        found.append(FamilyMismatch(message, mode == types.NODE_CIDR))
    if ips_by_family([config.winkernel.source_vip])[other]:
        found.append(FamilyMismatch(f"{cluster} but winkernel.sourceVip is {other.value}"))
    if not dual_stack:
        found.extend(_single_stack_mismatches(config, primary, cluster))
    return tuple(found)


def _single_stack_mismatches(
    config: ProxyConfig, primary: IPFamily, cluster: str
) -> Iterable[FamilyMismatch]:
    other = _other(primary)
    if _only_other(config.ipvs.exclude_cidrs, primary):
        message = f"{cluster} but ipvs.excludeCIDRs contains only {other.value} addresses"
        yield FamilyMismatch(message)
    for name, address in (
        ("healthzBindAddress", config.healthz_bind_address),
        ("metricsBindAddress", config.metrics_bind_address),
    ):
        parsed = canonical_address(split_host_port(address)[0] or "")
        if parsed is not None and parsed[0] is other and parsed[1] not in _UNSPECIFIED:
            yield FamilyMismatch(f"{cluster} but {name} is {other.value}")


def _other(family: IPFamily) -> IPFamily:
    return IPFamily.IPV6 if family is IPFamily.IPV4 else IPFamily.IPV4


def _only_other(cidrs: Sequence[str], family: IPFamily) -> bool:
    own = cidrs_by_family(cidrs)
    return bool(own[_other(family)]) and not own[family]


def _is_dual_stack(cidrs: Sequence[str]) -> bool:
    return all(cidrs_by_family(cidrs).values())
