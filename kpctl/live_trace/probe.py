"""
Opens one real connection, or sends one datagram, and tells where it landed.

Three witnesses: what the caller's socket was told, the kernel's connection table, and the kernel's
trace of the first packet.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from ipaddress import ip_address

from diagnostics.trace.packet import PROTOCOL_NAMES, SCTP, UDP, Address
from diagnostics.trace.question import Question
from kpctl.lab.netns import Namespace
from kpctl.live_trace.guard import Limits, require_harmless
from kpctl.live_trace.origins import named_namespace, namespace_of
from kpctl.live_trace.own_table import OwnTable
from kpctl.live_trace.packets import TracedPacket
from kpctl.live_trace.question import LiveTraceError, PacketFilter
from kpctl.live_trace.watch import TraceSocket, follow
from proxy.conntrack.entries import Direction, Entry, get_request, read_entry
from proxy.conntrack.messages import CT_GET
from proxy.kernel.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from proxy.kernel.query import query

_DNS_PORT = 53
# A DNS query (RFC 1035) for the name servers of the root, which every DNS server answers somehow.
_DNS_QUERY = bytes.fromhex("4b50010000010000000000000000020001")
_DATAGRAM = b"kpctl trace --probe\n"
_MOST_TRACED = 3  # the first packet and two repetitions of it
_TRACE_WAIT_S = 0.5
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM})
_KINDS = {UDP: (socket.SOCK_DGRAM, 0), SCTP: (socket.SOCK_STREAM, socket.IPPROTO_SCTP)}


class Answer(enum.Enum):
    """What the caller was told."""

    CONNECTED = "connected"
    ANSWERED = "answered"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    SILENT = "no answer"


@dataclass(frozen=True, slots=True)
class Probe:
    """
    What to send.

    Attributes:
        protocol: number of the transport protocol.
        source: None leaves it to the kernel.
        origin: the namespace to send from, None for the caller's.
        timeout_s: how long to wait for an answer.
    """

    protocol: int
    destination: Address
    port: int
    source: Address | None = None
    origin: Namespace | None = None
    timeout_s: float = 3.0

    @classmethod
    def of(cls, question: Question, *, netns: str = "", any_source: bool = False) -> Probe:
        """
        Return the probe for a question, from its source: the node, or a pod on it.

        Args:
            question: What to send.
            netns: Send from here: a name of ip-netns(8), a process id or a path.
            any_source: Nobody asked for the question's source, so send from this namespace.

        Raises:
            LiveTraceError: Nothing can be sent from there.
        """
        protocol, to = question.protocol, (question.dst, question.port)
        if netns:
            return cls(protocol, *to, origin=named_namespace(netns))
        if any_source:
            return cls(protocol, *to)
        return cls(protocol, *to, question.src, namespace_of(question.src))

    @property
    def packets(self) -> PacketFilter:
        """Return the filter of what is sent, without the source, which is chosen later."""
        return PacketFilter.to(self.protocol, self.destination, self.port)


@dataclass(frozen=True, slots=True)
class Probed:
    """
    What became of it.

    Attributes:
        answer: what the caller was told, after ``seconds``.
        detail: the system's words for it, "" without.
        sent: the packets as the caller sent them.
        entry: the connection table's entry, None when there is none.
        packets: the kernel's traces, the first packet first; possibly none.
        lost: whether the kernel had more to tell than could be read.
    """

    answer: Answer
    detail: str
    seconds: float
    sent: Direction
    entry: Entry | None
    packets: tuple[TracedPacket, ...]
    lost: bool


def send_probe(probe: Probe, limits: Limits) -> Probed:
    """
    Send it; everything is removed, and the connection closed, when this returns or raises.

    Raises:
        LiveTraceError: It could hurt, or cannot be done.
        NetlinkError: The kernel refuses something unexpectedly.
    """
    require_harmless(probe.packets, limits)
    with (
        closing(OwnTable(probe.packets.family)) as table,
        TraceSocket() as traces,
        _opened(probe) as opened,
    ):
        host, port = opened.getsockname()[:2]
        sent = Direction(str(host), port, str(probe.destination), probe.port)
        narrow = replace(probe.packets, source_port=port)
        table.trace(narrow, _MOST_TRACED, _MOST_TRACED)
        started = time.monotonic()
        answer, detail = _ask(opened, probe)
        seconds = time.monotonic() - started
        entry = _entry(probe.protocol, sent)
        packets = tuple(follow(traces, _TRACE_WAIT_S, _MOST_TRACED))
        return Probed(answer, detail, seconds, sent, entry, packets, traces.lost)


@contextmanager
def _opened(probe: Probe) -> Iterator[socket.socket]:
    """A socket inside the origin, with a port of its own, so that the trace can be for it only."""
    family = socket.AF_INET6 if probe.destination.version == 6 else socket.AF_INET
    kind, protocol = _KINDS.get(probe.protocol, (socket.SOCK_STREAM, 0))
    inside = probe.origin.enter() if probe.origin else nullcontext()
    try:
        with inside:
            source = str(probe.source or _usual_source(family, probe))
            opened = socket.socket(family, kind, protocol)
    except OSError as error:
        name = PROTOCOL_NAMES.get(probe.protocol, str(probe.protocol))
        raise LiveTraceError(
            f"no {name} socket can be made: {error.strerror}",
            "for SCTP load its module: modprobe sctp; or ask without --probe",
        ) from error
    with opened:
        opened.settimeout(probe.timeout_s)
        try:
            opened.bind((source, 0))
        except OSError as error:
            raise LiveTraceError(
                f"nothing can be sent from {source or 'here'}: {error.strerror}",
                "use an address of the node, or of a pod on it",
            ) from error
        yield opened


def _usual_source(family: int, probe: Probe) -> str:
    """Return the address that the routes choose for the destination, "" without a route."""
    with socket.socket(family, socket.SOCK_DGRAM) as unused:
        try:
            unused.connect((str(probe.destination), probe.port))  # sends nothing
        except OSError:
            return ""
        return str(unused.getsockname()[0])


def _ask(opened: socket.socket, probe: Probe) -> tuple[Answer, str]:
    try:
        opened.connect((str(probe.destination), probe.port))
        if probe.protocol != UDP:
            return Answer.CONNECTED, ""
        opened.send(_DNS_QUERY if probe.port == _DNS_PORT else _DATAGRAM)
        opened.recv(1)
    except ConnectionRefusedError as error:
        return Answer.REFUSED, error.strerror or ""
    except TimeoutError:
        return Answer.SILENT, ""
    except OSError as error:
        number = error.errno or 0
        if number in _UNREACHABLE:
            return Answer.UNREACHABLE, os.strerror(number)
        return Answer.SILENT, os.strerror(number)
    return Answer.ANSWERED, ""


def _entry(protocol: int, sent: Direction) -> Entry | None:
    if ip_address(sent.source).is_unspecified:  # there was no route, so nothing was sent
        return None
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            answers = query(netlink, CT_GET, get_request(protocol, sent))
    except NetlinkError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    return read_entry(answers[0].payload) if answers else None
