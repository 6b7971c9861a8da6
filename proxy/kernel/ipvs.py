"""
IPVS of this network namespace: virtual servers and their real servers, over generic netlink.

    OSError
    ├── IpvsMissing     the kernel has no IPVS
    └── NetlinkError    it refused a request
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.kernel.command import CommandError, run
from proxy.kernel.genetlink import NETLINK_GENERIC, family_id
from proxy.kernel.netlink import NetlinkError, NetlinkSocket
from proxy.kernel.query import in_batches, query
from proxy.model.addresses import IPFamily
from proxy.netfilter.ipvs import Action, Operation, RealServer, ServerKey, VirtualServer
from proxy.netfilter.ipvs_messages import (
    FAMILY_NAME,
    GET_SERVER,
    GET_TIMEOUTS,
    SCHEDULER_BYTES,
    ServerReader,
    encode_operation,
    generic_header,
    read_real_server,
    read_timeouts,
    real_servers_request,
    timeouts_request,
)

MODULE = "ip_vs"
# Schedulers, types of sets and matches are loaded when they are asked for.
_MODULES = (MODULE, "ip_vs_rr", "nf_conntrack", "dummy", "ip_set", "xt_set", "xt_ipvs")

_LOAD_TIMEOUT_S = 30
_TCP = 6
# In a network for documentation (RFC 5737), and kube-proxy's own choice for the same purpose.
_TRIAL_SERVER = ServerKey(bytes((198, 51, 100, 0)), 20000, _TCP)


class IpvsMissing(OSError):
    """The kernel has no IPVS, and loading its module did not help; the text says what to do."""

    def __init__(self) -> None:
        super().__init__(
            errno.EPROTONOSUPPORT,
            f"the kernel has no IPVS: load its modules with 'modprobe -a {' '.join(_MODULES)}' (on "
            "the host, if this is a container; at every boot, if they are listed in "
            "/etc/modules-load.d/ipvs.conf), or install the package that holds them "
            "(linux-modules-extra on some distributions). Upstream has deprecated mode ipvs since "
            "Kubernetes 1.35 and will refuse it by default from 1.40: mode nftables is its "
            "successor and needs none of these modules",
        )

    def __str__(self) -> str:
        return str(self.strerror)


class IpvsPort(Protocol):
    """What is needed of the kernel's IPVS; ``NetlinkIpvs`` has it."""

    def servers(self, family: IPFamily) -> dict[ServerKey, VirtualServer]:
        """Return all virtual servers of a family; raises NetlinkError."""

    def real_servers(self, server: VirtualServer) -> list[RealServer]:
        """Return a virtual server's real servers; raises NetlinkError."""

    def apply(self, operations: Sequence[Operation]) -> list[NetlinkError | None]:
        """Make changes in order; return each one's refusal, or None. Raises NetlinkError."""

    def timeouts(self) -> tuple[int, int, int]:
        """Return (tcp_s, tcp_fin_s, udp_s); raises NetlinkError."""

    def set_timeouts(self, tcp_s: int, tcp_fin_s: int, udp_s: int) -> None:
        """Set the time-outs that are not 0; raises NetlinkError."""

    def has_scheduler(self, name: str) -> bool:
        """Whether virtual servers may use a scheduler; raises NetlinkError."""

    def close(self) -> None:
        """Close the socket."""


def load_module() -> None:
    """Ask modprobe(8) for IPVS; what it says is not looked at, for the kernel is asked after it."""
    with contextlib.suppress(CommandError):
        run(["modprobe", MODULE], timeout_s=_LOAD_TIMEOUT_S, check=False)


def open_generic() -> NetlinkSocket:
    """Return a generic netlink socket of this network namespace; raises NetlinkError."""
    return NetlinkSocket(NETLINK_GENERIC)


class NetlinkIpvs:
    """
    The IPVS of the network namespace in which it is made; not safe for several threads at once.

    Raises IpvsMissing when the kernel has none even after *load*, and NetlinkError. Every method
    may raise NetlinkError.
    """

    def __init__(
        self,
        open_socket: Callable[[], NetlinkSocket] = open_generic,
        load: Callable[[], None] = load_module,
    ) -> None:
        self._netlink = open_socket()
        try:
            self._type = self._find(load)
        except BaseException:
            self._netlink.close()
            raise

    def _find(self, load: Callable[[], None]) -> int:
        number = family_id(self._netlink, FAMILY_NAME)
        if number is None:
            load()
            number = family_id(self._netlink, FAMILY_NAME)
        if number is None:
            raise IpvsMissing
        return number

    def servers(self, family: IPFamily) -> dict[ServerKey, VirtualServer]:
        """
        Return all virtual servers of a family, whoever made them.

        Except those known by a firewall mark, which have no address.
        """
        read = ServerReader(family).read
        servers = (
            read(message.payload)
            for message in self._netlink.dump(self._type, generic_header(GET_SERVER))
        )
        return {server.key: server for server in servers if server is not None}

    def real_servers(self, server: VirtualServer) -> list[RealServer]:
        """Return a virtual server's real servers; empty also when there is no such server."""
        family = IPFamily.IPV4 if len(server.key.address) == 4 else IPFamily.IPV6
        reals = (
            read_real_server(message.payload, family)
            for message in self._netlink.dump(self._type, real_servers_request(server.key))
        )
        return [real for real in reals if real is not None]

    def apply(self, operations: Sequence[Operation]) -> list[NetlinkError | None]:
        """
        Make any number of changes, in order; return each one's refusal, or None.

        A refusal stops nothing. The kernel's: EEXIST for what is there already, ESRCH for changes
        of a virtual server that is not there, or of its real servers; ENOENT for a real server
        that is not there, and for a scheduler that the kernel lacks.
        """
        return in_batches(self._netlink, self._type, 0, list(map(encode_operation, operations)))

    def timeouts(self) -> tuple[int, int, int]:
        """Return how long connections live: (tcp_s, tcp_fin_s, udp_s)."""
        answers = query(self._netlink, self._type, generic_header(GET_TIMEOUTS))
        return read_timeouts(answers[0].payload)

    def set_timeouts(self, tcp_s: int, tcp_fin_s: int, udp_s: int) -> None:
        """Set how long connections live; the kernel keeps what is 0."""
        self._netlink.request(self._type, 0, timeouts_request(tcp_s, tcp_fin_s, udp_s))

    def has_scheduler(self, name: str) -> bool:
        """
        Whether virtual servers may use a scheduler.

        One that no virtual server uses is tried on one that nobody reaches, made and deleted at
        once; the kernel loads the scheduler's module, ip_vs_*name*, for it.
        """
        if len(name.encode()) > SCHEDULER_BYTES:
            return False
        servers = {**self.servers(IPFamily.IPV4), **self.servers(IPFamily.IPV6)}
        if any(server.scheduler == name for server in servers.values()):
            return True
        trial = VirtualServer(_TRIAL_SERVER, name)
        delete = Operation(Action.DELETE_SERVER, trial)
        if trial.key in servers:  # left by a program that was killed during its own trial
            self.apply([delete])
        try:
            (refusal,) = self.apply([Operation(Action.NEW_SERVER, trial)])
        finally:
            # In vain when it was refused; needed when the answer was lost.
            self.apply([delete])
        if refusal is not None and refusal.errno != errno.ENOENT:
            raise refusal
        return refusal is None

    def close(self) -> None:
        """Close the socket; closing twice is harmless."""
        self._netlink.close()
