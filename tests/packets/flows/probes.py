"""
Sends new connections through the node and observes what becomes of each.

One loop plays both ends: clients in the namespace where their address lives, and listeners that
tell every client where it landed and which source address was seen there. TCP and UDP are the
kernel's own sockets, so an answer proves that the way back is translated too.
"""

from __future__ import annotations

import errno
import itertools
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from kpctl.lab.netns import Namespace
from tests.packets.flows import icmp, sctp
from tests.packets.flows.attempts import Attempt, HarnessError, Outcome, Probe
from tests.packets.flows.scenario import Endpoint
from tests.packets.flows.site import Site
from tests.packets.flows.sockets import (
    close_at_once,
    family_of,
    local_port,
    open_listener,
    open_socket,
    receive_with_target,
    send_from,
)

PATIENCE_S = 1.5  # over TCP's first retransmission; only silence ever takes this long
QUIET_S = 0.1
_CONTROL_PATIENCE_S = 5.0
_STRANGER_S = 0.3
_IN_FLIGHT = 200
_CONTROL_PORT = 4091
_CONTROL_IP = {socket.AF_INET: "198.18.0.1", socket.AF_INET6: "2001:2::1"}  # RFC 2544, RFC 5180
_WILDCARD = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_FIRST_PORT, _LAST_PORT = 10000, 29999  # below node ports and the kernel's own choices

# Never used twice by this process, so that no packet meets the conntrack entry of an earlier one.
_source_ports = itertools.cycle(range(_FIRST_PORT, _LAST_PORT + 1))
_tags = itertools.count(1)


class Exchange:
    """Listeners all over a site, and the loop that sends probes to them."""

    def __init__(self, site: Site, family: socket.AddressFamily) -> None:
        self._site = site
        self._family = family
        self._selector = selectors.DefaultSelector()
        self._pending: set[Attempt] = set()
        self._by_token: dict[int, Attempt] = {}
        self._by_client: dict[tuple[int, str, int], Attempt] = {}
        self._sctp: dict[Namespace, socket.socket] = {}

    def close(self) -> None:
        """Close every socket."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def listen(self, wanted: Iterable[tuple[str, Endpoint]]) -> None:
        """
        Open listeners where these protocols and destinations may land.

        In the world their ports are open on every address; on the node, only those destinations
        that are the node's own. A port that another process serves is left to it.
        """
        anywhere = _WILDCARD[self._family]
        world = {(protocol, Endpoint(anywhere, at.port)) for protocol, at in wanted}
        world.add(("TCP", Endpoint(anywhere, _CONTROL_PORT)))
        node = {(protocol, at) for protocol, at in wanted if at.ip in self._site.node_addresses}
        for namespace, places in ((self._site.world, world), (self._site.node, node)):
            with namespace.enter():
                for protocol, at in sorted(places, key=str):
                    self._open(protocol, at)
        is_ip4 = self._family == socket.AF_INET
        self._open_raw(socket.IPPROTO_ICMP if is_ip4 else socket.IPPROTO_ICMPV6, self._on_icmp)
        if any(protocol == "SCTP" for protocol, _ in world):
            self._open_raw(sctp.IPPROTO_SCTP, self._on_sctp)

    def send(self, probes: Sequence[Probe], patience_s: float = PATIENCE_S) -> list[Outcome]:
        """
        Send probes that should be answered; the outcomes are in the same order.

        A probe counts as silent when *patience_s* have passed without a sign of it.
        """
        attempts: list[Attempt] = []
        for start in range(0, len(probes), _IN_FLIGHT):
            batch = self._start_all(probes[start : start + _IN_FLIGHT])
            self._run(time.monotonic() + patience_s, until=lambda: not self._pending)
            attempts += batch
            self._finish(batch)
        return [attempt.outcome or Outcome("silent") for attempt in attempts]

    def send_expecting_silence(self, probes: Sequence[Probe]) -> list[Outcome]:
        """
        Send probes that should vanish; the outcomes are in the same order.

        Silence means: from the same address a later packet to an unrelated destination was
        answered, and QUIET_S after that still nothing had come of the probe.

        Raises:
            HarnessError: That later packet was not answered.
        """
        batch = self._start_all(probes)
        target = Endpoint(_CONTROL_IP[self._family], _CONTROL_PORT)
        sources = sorted({probe.source for probe in probes})
        controls = self._start_all([Probe(source, target, "TCP") for source in sources])
        self._run(
            time.monotonic() + _CONTROL_PATIENCE_S,
            until=lambda: all(control.outcome for control in controls),
        )
        for control in controls:
            if control.outcome is None or control.outcome.at != target:
                raise HarnessError(f"the control packet {control.probe} got {control.outcome}")
        self._run(time.monotonic() + QUIET_S, until=lambda: not self._pending)
        self._finish([*batch, *controls])
        return [attempt.outcome or Outcome("silent") for attempt in batch]

    # Clients ---------------------------------------------------------------------------------

    def _start_all(self, probes: Sequence[Probe]) -> list[Attempt]:
        attempts = [Attempt(probe) for probe in probes]
        starters = {"TCP": self._start_tcp, "UDP": self._start_udp, "SCTP": self._start_sctp}
        for home, group in itertools.groupby(
            attempts, lambda a: self._site.home_of(a.probe.source)
        ):
            with home.enter():
                for attempt in group:
                    self._pending.add(attempt)
                    starters[attempt.probe.protocol](attempt)
        return attempts

    def _client(self, attempt: Attempt, kind: socket.SocketKind, protocol: int) -> socket.socket:
        made = open_socket(self._family, kind)
        attempt.sockets.append(made)
        source, port = attempt.probe.source, next(_source_ports)
        made.bind((source, port))
        self._by_client[protocol, source, port] = attempt
        return made

    def _start_tcp(self, attempt: Attempt) -> None:
        client = self._client(attempt, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        target = attempt.probe.target
        code = client.connect_ex((target.ip, target.port))
        if code not in (0, errno.EINPROGRESS):
            self._fail(attempt, code)
            return
        events = selectors.EVENT_READ | selectors.EVENT_WRITE
        self._selector.register(client, events, partial(self._on_tcp_client, attempt))

    def _on_tcp_client(self, attempt: Attempt, client: socket.socket) -> None:
        if code := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail(attempt, code)
            return
        if attempt.connected_since is None:
            attempt.connected_since = time.monotonic()
            callback = self._selector.get_key(client).data
            self._selector.modify(client, selectors.EVENT_READ, callback)
        self._read_report(attempt, client)

    def _start_udp(self, attempt: Attempt) -> None:
        client = self._client(attempt, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        token = next(_tags)
        self._by_token[token] = attempt
        try:
            client.connect((attempt.probe.target.ip, attempt.probe.target.port))
            # EPERM tells only that a filter kept the datagram; an ICMP error may be waiting.
            with suppress(PermissionError):
                client.send(str(token).encode())
        except OSError as error:
            self._fail(attempt, error.errno or 0)
            return
        callback = partial(self._read_report, attempt)
        self._selector.register(client, selectors.EVENT_READ, callback)

    def _read_report(self, attempt: Attempt, client: socket.socket) -> None:
        """Take what a listener says about the packet that reached it."""
        try:
            report = client.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(attempt, error.errno or 0)
            return
        if not report:
            self._settle(attempt, Outcome("stranger", attempt.probe.target))
            return
        ip, port, source = json.loads(report)
        self._settle(attempt, Outcome("landed", Endpoint(ip, port), source))

    def _start_sctp(self, attempt: Attempt) -> None:
        port, tag = next(_source_ports), next(_tags)
        self._by_token[tag] = attempt
        self._by_client[sctp.IPPROTO_SCTP, attempt.probe.source, port] = attempt
        packet = sctp.Packet(port, attempt.probe.target.port, 0, sctp.INIT, tag)
        try:
            self._send_sctp(attempt.probe.source, attempt.probe.target.ip, packet)
        except OSError as error:
            self._fail(attempt, error.errno or 0)

    def _fail(self, attempt: Attempt, code: int) -> None:
        if code == errno.EPERM:
            return  # a filter of the sender's own host dropped the packet: nothing was sent
        refused = code in (errno.ECONNREFUSED, errno.ECONNRESET)
        self._settle(attempt, Outcome("refused" if refused else "unreachable"))

    def _settle(self, attempt: Attempt, outcome: Outcome) -> None:
        attempt.outcome = attempt.outcome or outcome
        self._pending.discard(attempt)
        self._release(attempt)

    def _release(self, attempt: Attempt) -> None:
        for made in attempt.sockets:
            with suppress(KeyError, ValueError):
                self._selector.unregister(made)
            close_at_once(made)
        attempt.sockets.clear()

    def _finish(self, attempts: Iterable[Attempt]) -> None:
        """Give up on what is still pending."""
        for attempt in attempts:
            if attempt.outcome is None:
                if attempt.connected_since is not None:
                    attempt.outcome = Outcome("stranger", attempt.probe.target)
                else:
                    attempt.outcome = attempt.landed
            self._pending.discard(attempt)
            self._release(attempt)

    # Listeners -------------------------------------------------------------------------------

    def _open(self, protocol: str, at: Endpoint) -> None:
        if protocol == "SCTP":
            return
        if listener := open_listener(protocol, at):
            callback = self._on_connection if protocol == "TCP" else self._on_datagram
            self._selector.register(listener, selectors.EVENT_READ, callback)

    def _on_connection(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while True:
                connection, peer = listener.accept()
                at = connection.getsockname()
                with suppress(OSError):
                    connection.send(_report(at[0], at[1], peer[0]))
                connection.close()

    def _on_datagram(self, listener: socket.socket) -> None:
        port = local_port(listener)
        with suppress(BlockingIOError):
            while True:
                token, peer, at = receive_with_target(listener)
                self._note_landing(int(token), Endpoint(at, port), peer.ip)
                send_from(listener, at, _report(at, port, peer.ip), peer)

    def _note_landing(self, token: int, at: Endpoint, source: str) -> None:
        if attempt := self._by_token.get(token):
            attempt.landed = Outcome("landed", at, source, answered=False)

    def _open_raw(
        self, protocol: int, callback: Callable[[Namespace, socket.socket], None]
    ) -> None:
        for namespace in (self._site.world, self._site.node):
            with namespace.enter():
                raw = open_socket(self._family, socket.SOCK_RAW, protocol)
            self._selector.register(raw, selectors.EVENT_READ, partial(callback, namespace))

    def _on_sctp(self, namespace: Namespace, raw: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                data, peer, at = receive_with_target(raw)
                if self._family == socket.AF_INET:
                    data = icmp.ip4_payload(data)
                packet = sctp.Packet.decode(data)
                if packet is not None and packet.chunk == sctp.INIT:
                    self._answer_init(namespace, packet, peer.ip, at)
                elif packet is not None:
                    self._on_sctp_answer(at, packet.target_port)

    def _answer_init(self, namespace: Namespace, init: sctp.Packet, source: str, at: str) -> None:
        self._note_landing(init.tag, Endpoint(at, init.target_port), source)
        answer = sctp.Packet(
            init.target_port, init.source_port, init.tag, sctp.INIT_ACK, next(_tags)
        )
        with namespace.enter(), suppress(OSError):
            self._send_sctp(at, source, answer)

    def _on_sctp_answer(self, client: str, port: int) -> None:
        attempt = self._by_client.get((sctp.IPPROTO_SCTP, client, port))
        if attempt is not None and (landed := attempt.landed) is not None:
            self._settle(attempt, Outcome("landed", landed.at, landed.source))

    def _on_icmp(self, _: Namespace, raw: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                message = raw.recv(65536)
                family = 4 if self._family == socket.AF_INET else 6
                if family == 4:
                    message = icmp.ip4_payload(message)
                if (error := icmp.parse_unreachable(family, message)) is None:
                    continue
                client = (error.protocol, error.source, error.source_port)
                if attempt := self._by_client.get(client):
                    self._settle(attempt, Outcome("refused" if error.is_refusal else "unreachable"))

    def _send_sctp(self, source: str, target: str, packet: sctp.Packet) -> None:
        """Send from within the calling thread's current namespace."""
        with open_socket(self._family, socket.SOCK_RAW, sctp.IPPROTO_SCTP) as raw:
            raw.bind((source, 0))
            raw.sendto(packet.encode(), (target, 0))

    # Loop ------------------------------------------------------------------------------------

    def _run(self, deadline: float, until: Callable[[], bool]) -> None:
        while not until():
            left = deadline - time.monotonic()
            ready = self._selector.select(max(0, min(left, _STRANGER_S)))
            for key, _ in ready:
                # An earlier event of this round may have settled the attempt and closed it.
                if isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() != -1:
                    key.data(key.fileobj)
            self._settle_strangers()
            # On a busy machine time may be up although answers are waiting to be read.
            if left <= 0 and not ready:
                return

    def _settle_strangers(self) -> None:
        """Those who accept a connection and do not say a word are none of our listeners."""
        before = time.monotonic() - _STRANGER_S
        for attempt in list(self._pending):
            if attempt.connected_since is not None and attempt.connected_since < before:
                self._settle(attempt, Outcome("stranger", attempt.probe.target))


def _report(ip: str, port: int, source: str) -> bytes:
    return json.dumps([ip, port, source]).encode()


@contextmanager
def exchange(
    site: Site, probes: Sequence[Probe], endpoints: Iterable[Endpoint]
) -> Iterator[Exchange]:
    """
    An exchange with listeners for these probes, which are all of one IP family.

    Args:
        endpoints: Where else a probe may land.
    """
    family = family_of(probes[0].target.ip)
    protocols = {probe.protocol for probe in probes}
    wanted = {(probe.protocol, probe.target) for probe in probes}
    wanted |= {(p, at) for p in protocols for at in endpoints if family_of(at.ip) == family}
    made = Exchange(site, family)
    try:
        made.listen(wanted)
        yield made
    finally:
        made.close()
