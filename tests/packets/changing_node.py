"""
A node whose proxy mode changes under load: one process ends, another begins, clients go on.

Unlike tests/packets/traffic.py, whose clients wait until they are served, the ones here tell a
connection that was served at once from one that was late, because a packet of it was lost.
"""

from __future__ import annotations

import json
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from kpctl.lab.netns import Namespace
from tests.packets.cluster import (
    BACKEND_PORT,
    NODE,
    NODE_IP,
    NODE_IP6,
    POD_NETWORKS,
    SERVICE_CIDR,
    backend,
    node,
    service,
    slice_of,
    vip,
)
from tests.packets.flows.daemon import KpctlRun
from tests.packets.flows.scenario import Endpoint, Manifest, NodeSpec, Scenario, Stage
from tests.packets.flows.site import Site, site_for
from tests.packets.flows.sockets import close_at_once, open_listener
from tests.packets.traffic import Background, Call, Echo, Talkers, connect

PATIENCE_S = 60.0  # for a busy machine, or an emulated one: only a failing test waits for it
_POLL_S = 0.02
_LATE = struct.Struct("=100xI")  # tcpi_total_retrans of struct tcp_info, linux/tcp.h
SERVED = "Services are served"
REMOVED = "Removed what a node proxy left"
_SPEC = NodeSpec(
    name=NODE,
    ip_family=4,
    ips=(NODE_IP,),
    interfaces={"eth0": (f"{NODE_IP}/24", f"{NODE_IP6}/64")},
    labels={},
    cluster_cidr=POD_NETWORKS,
    masquerade_all=False,
    node_port_addresses=(),
    localhost_node_ports=False,
    service_cidrs=(SERVICE_CIDR, "fd00:172:30::/112"),
)

# -- Services and their clients --------------------------------------------------------------

_NUMBERS = (1, 2, 3)
_PLAIN, _STICKY = 1, 2
OBJECTS: tuple[Manifest, ...] = tuple(
    each
    for name, number, affinity_s in (("plain", _PLAIN, 0), ("sticky", _STICKY, 600))
    for each in (
        service(
            name,
            vip(number),
            vip(number, 6),
            node_port=30080 + number,
            affinity_s=affinity_s,
        ),
        slice_of(name, *(backend(n) for n in _NUMBERS)),
        slice_of(name, *(backend(n, 6) for n in _NUMBERS), family=6),
    )
)
_POD, _OUTSIDER = {4: "10.1.0.10", 6: "fd00:1::10"}, {4: "203.0.113.10", 6: "2001:db8:9::10"}
_NODE = {4: NODE_IP, 6: NODE_IP6}


def _calls(family: int) -> tuple[Call, ...]:
    """Calls of every kind of client to every kind of address."""
    return tuple(
        Call(source, target)
        for number in (_PLAIN, _STICKY)
        for source, target in (
            (_POD[family], Endpoint(vip(number, family), 80)),
            (_NODE[family], Endpoint(vip(number, family), 80)),
            (_OUTSIDER[family], Endpoint(_NODE[family], 30080 + number)),
        )
    )


FAMILIES = (4, 6)
CALLS = {family: _calls(family) for family in FAMILIES}


def told_by(address: str) -> str:
    """What a backend says of itself: the last four bytes of its address, as an IPv4 address."""
    return socket.inet_ntoa(ip_address(address).packed[-4:])


BACKENDS = {told_by(backend(n, family)) for n in _NUMBERS for family in FAMILIES}


def many_services(count: int) -> Manifest:
    """Further Services with three endpoints each, which nobody calls."""
    items = [
        each
        for n in range(count)
        for each in (
            service(f"many-{n}", f"172.30.{2 + n // 250}.{n % 250}", port=443),
            slice_of(f"many-{n}", *(f"10.181.{n // 250}.{3 * (n % 80) + m}" for m in _NUMBERS)),
        )
    ]
    return {"apiVersion": "v1", "kind": "List", "metadata": {"name": "many"}, "items": items}


class BothFamilies(Echo):
    """Answers in both families; see told_by."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(namespace)
        with namespace.enter():
            listener = open_listener("TCP", Endpoint("::", BACKEND_PORT))
        assert listener is not None
        self._six = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def _answer(self, made: socket.socket) -> None:
        if made is not self._six:
            super()._answer(made)
            return
        with suppress(BlockingIOError, ConnectionError):
            while True:
                connection, _ = made.accept()
                connection.setblocking(False)
                with suppress(OSError):
                    connection.send(ip_address(connection.getsockname()[0]).packed[-4:])
                self._selector.register(connection, selectors.EVENT_READ)


@dataclass(slots=True)
class Counts:
    """
    What became of new connections.

    Attributes:
        served: reached a backend, all of them.
        late: those whose first packet, or its answer, was lost and sent again.
        failed: the others, one line each.
        elsewhere: reached, but another backend than one of the Service's.
        slowest_s: until the backend's answer.
    """

    served: int = 0
    late: int = 0
    failed: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Stream(Background):
    """Makes new connections every few milliseconds and counts what becomes of them."""

    def __init__(self, site: Site, calls: Sequence[Call], pace_s: float) -> None:
        super().__init__(calls)
        self.counts = Counts()
        self._pace_s = pace_s
        self._site = site

    def step(self) -> Iterator[str]:
        """Every call is made once."""
        for call in self._calls:
            self._call(call)
            time.sleep(self._pace_s)
        yield from ()

    def _call(self, call: Call) -> None:
        begun = time.monotonic()
        try:
            made, found = connect(self._site, call, patience_s=3.0)
        except OSError as error:
            self.counts.failed.append(f"{call}: {error!r}")
            return
        self.counts.served += 1
        self.counts.slowest_s = max(self.counts.slowest_s, time.monotonic() - begun)
        (again,) = _LATE.unpack(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LATE.size))
        close_at_once(made)
        self.counts.late += bool(again)
        if found not in BACKENDS:
            self.counts.elsewhere.append(f"{call}: answered by {found}")


# -- the proxy -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """
    One change of mode, in seconds after the new process was started.

    Attributes:
        served_s: until all Services were served by the new mode.
        removed_s: until the old mode's rules were gone.
        said: the new process's log up to then.
    """

    served_s: float
    removed_s: float
    said: str


class ChangingRun(KpctlRun):
    """``kpctl run``, one process after the other."""

    def change_mode(self, mode: str, end: signal.Signals) -> Change:
        """End the process by a signal and start one of another mode, as a DaemonSet does."""
        assert self._process is not None
        self._process.send_signal(end)
        assert self._process.wait(PATIENCE_S) == (0 if end == signal.SIGTERM else -end)
        return self.begin(mode)

    def begin(self, mode: str) -> Change:
        """Start a process; return when it has removed what the other mode left."""
        before = self._begin(mode)
        begun, times = time.monotonic(), []
        for part in (SERVED, REMOVED):
            self.wait_until(lambda part=part: part in self.log()[before:], part)  # type: ignore[misc]
            times.append(time.monotonic() - begun)
        return Change(*times, self.log()[before:])

    def break_off(self, mode: str, when: Callable[[], object]) -> None:
        """Kill the process, start one of another mode, and kill that before it serves."""
        self.stop()
        before = self._begin(mode)
        self.wait_until(when, "the moment to kill it")
        self.stop()
        assert SERVED not in self.log()[before:], "too late"

    def _begin(self, mode: str) -> int:
        """Start a process; return where its part of the log begins."""
        config = json.loads(self._config.read_text())
        self._config.write_text(json.dumps(config | {"mode": mode}))
        before = len(self.log())
        self._spawn()
        return before

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Return once a condition holds; fail when the process ends before, or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self._process is not None
            assert self._process.poll() is None, f"{what}: it ended\n{self.evidence()}"
            assert time.monotonic() < deadline, f"{what}: not in time\n{self.evidence()}"
            time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class ChangingNode:
    """The node, its proxy, connections that last and streams of new ones."""

    site: Site
    run: ChangingRun
    talkers: Talkers
    streams: tuple[Stream, ...]

    def change_mode(self, mode: str, end: signal.Signals = signal.SIGTERM) -> Change:
        """Change the mode under load, and let the load go on for a while."""
        made = self.run.change_mode(mode, end)
        self.go_on()
        return made

    def go_on(self) -> None:
        """Let the load go on for a while."""
        for each in (self.talkers, *self.streams):
            each.go_on(3)

    def counts(self) -> Counts:
        """What became of all new connections so far."""
        parts = [stream.counts for stream in self.streams]
        return Counts(
            sum(part.served for part in parts),
            sum(part.late for part in parts),
            [line for part in parts for line in part.failed],
            [line for part in parts for line in part.elsewhere],
            max(part.slowest_s for part in parts),
        )

    def nobody_noticed(self) -> None:
        """Assert that no connection was lost, late or misled, and that those that last live."""
        counts = self.counts()
        assert not counts.failed, (len(counts.failed), counts, self.run.evidence())
        assert not counts.elsewhere, (counts, self.run.evidence())
        assert not counts.late, (counts, self.run.evidence())
        assert not self.talkers.failures, (self.talkers.failures, self.run.evidence())


@contextmanager
def changing_node(
    directory: Path,
    mode: str,
    *objects: Manifest,
    prepare: Callable[[Namespace], object] = lambda _: None,
    pace_s: float = 0.002,
) -> Iterator[ChangingNode]:
    """
    A node with a proxy in *mode* under load.

    *prepare* is done before the proxy starts; *pace_s* is between two new connections of a family.
    """
    scenario = Scenario("change-of-mode", "", mode, _SPEC, ())
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        site = stack.enter_context(site_for(scenario))
        run = ChangingRun(scenario, site, directory)
        stack.callback(run.stop)
        prepare(site.node)
        run.start(Stage("at start", (), (node(), *OBJECTS, *objects), ()))
        run.wait_until(lambda: SERVED in run.log(), "both families")
        stack.enter_context(BothFamilies(site.world))
        calls = CALLS[4] + CALLS[6]
        talkers = stack.enter_context(Talkers(site, calls * 2))
        streams = [Stream(site, CALLS[family], pace_s) for family in FAMILIES]
        for stream in streams:
            stack.enter_context(stream)
        yield ChangingNode(site, run, talkers, tuple(streams))
        assert "Traceback" not in run.log(), run.log()
