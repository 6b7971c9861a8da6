"""
Traffic that must not notice anything: connections that talk for a whole test, and a caller that
makes one new connection after the other.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import selectors
import socket
import termios
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from kpctl.lab.netns import Namespace
from tests.packets.cluster import BACKEND_PORT
from tests.packets.flows.scenario import Endpoint
from tests.packets.flows.site import Site
from tests.packets.flows.sockets import close_at_once, family_of, open_listener, open_socket

_PATIENCE_S = 10.0
_MESSAGE = 16
# Apart from the probes' ports and from each other, so that no connection takes a port of one that
# lasts, or meets the conntrack entry of an earlier one.
_lasting_ports = itertools.cycle(range(31500, 32000))
_ports = itertools.cycle(range(32000, 60000))


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls whom."""

    source: str
    target: Endpoint


class Echo:
    """Answers on every address of a namespace: its own address first, then what it is sent."""

    def __init__(self, namespace: Namespace) -> None:
        self._selector = selectors.DefaultSelector()
        with namespace.enter():
            listener = open_listener("TCP", Endpoint("0.0.0.0", BACKEND_PORT))
        assert listener is not None
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(0.1):
                made = key.fileobj
                assert isinstance(made, socket.socket)
                if made is self._listener:
                    self._accept()
                else:
                    self._answer(made)

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while True:
                made, _ = self._listener.accept()
                made.setblocking(False)
                with suppress(OSError):
                    made.send(socket.inet_aton(made.getsockname()[0]))
                self._selector.register(made, selectors.EVENT_READ)

    def _answer(self, made: socket.socket) -> None:
        try:
            data = made.recv(4096)
            if data:
                made.sendall(data)
                return
        except OSError:
            pass
        self._selector.unregister(made)
        made.close()

    def is_quiet(self) -> bool:
        """Whether every answer was acknowledged: a peer may take its time for that."""
        connections = [key.fileobj for key in list(self._selector.get_map().values())]
        return all(_unacknowledged(each) == 0 for each in connections if each != self._listener)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            made = key.fileobj
            assert isinstance(made, socket.socket)
            close_at_once(made)
        self._selector.close()


def _unacknowledged(made: object) -> int:
    assert isinstance(made, socket.socket)
    return int.from_bytes(fcntl.ioctl(made, termios.TIOCOUTQ, b"\0\0\0\0"), "little")


def connect(
    site: Site, call: Call, *, patience_s: float = _PATIENCE_S, port: int = 0
) -> tuple[socket.socket, str]:
    """
    Make a connection; return it and the address of the backend that answered.

    Args:
        port: The client's port; by default one that was not used lately.

    Raises:
        OSError: It was refused, or nobody answered in time.
    """
    with site.home_of(call.source).enter():
        made = open_socket(family_of(call.source), socket.SOCK_STREAM)
    try:
        made.settimeout(patience_s)
        made.bind((call.source, port or next(_ports)))
        made.connect((call.target.ip, call.target.port))
        return made, socket.inet_ntoa(_receive(made, 4))
    except BaseException:
        close_at_once(made)
        raise


def _receive(made: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = made.recv(length - len(data))
        if not more:
            raise ConnectionError("closed by the other side")
        data += more
    return data


class Conversation:
    """One connection that says something and hears it back, again and again."""

    def __init__(self, site: Site, call: Call) -> None:
        self.call = call
        self.socket, self.backend = connect(site, call, port=next(_lasting_ports))
        self.rounds = 0

    def talk(self) -> None:
        """One exchange; raises OSError when the connection is broken or silent."""
        said = os.urandom(_MESSAGE)
        self.socket.sendall(said)
        if _receive(self.socket, _MESSAGE) != said:
            raise ConnectionError("heard something else")
        self.rounds += 1


class Background:
    """Runs a step again and again in a thread; can pause, and keeps what went wrong."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.failures: list[str] = []
        self._calls = calls
        self._allowed = threading.Event()
        self._resting = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._steps = 0

    @property
    def steps(self) -> int:
        """Rounds made so far."""
        return self._steps

    def step(self) -> Iterable[str]:
        """One round; yield a line for each failure."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._closing:
            if not self._allowed.is_set():
                self._resting.set()
                self._allowed.wait(0.05)
                continue
            self._resting.clear()
            self.failures += self.step()
            self._steps += 1

    def pause(self) -> None:
        """Return when nothing is under way."""
        self._allowed.clear()
        self._resting.clear()
        assert self._resting.wait(2 * _PATIENCE_S)

    def go_on(self, rounds: int = 2) -> None:
        """Continue, and return after some more rounds."""
        self._allowed.set()
        wanted, deadline = self._steps + rounds, time.monotonic() + 3 * _PATIENCE_S
        while self._steps < wanted:
            assert time.monotonic() < deadline, self.failures
            time.sleep(0.005)

    def __enter__(self) -> Self:
        self._thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._thread.join(2 * _PATIENCE_S)


class Talkers(Background):
    """Connections that talk in turn."""

    def __init__(self, site: Site, calls: Sequence[Call]) -> None:
        super().__init__(calls)
        self.conversations = [Conversation(site, call) for call in calls]

    def step(self) -> Iterator[str]:
        """Every connection says something and hears it back."""
        for each in self.conversations:
            try:
                each.talk()
            except OSError as error:
                yield f"{each.call} at {each.backend}, round {each.rounds}: {error}"
        time.sleep(0.01)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for each in self.conversations:
            close_at_once(each.socket)


class Caller(Background):
    """
    Makes new connections, one after the other.

    ``backends`` may be set to the addresses that may answer; ``reached`` are those that did.
    """

    def __init__(self, site: Site, calls: Sequence[Call]) -> None:
        super().__init__(calls)
        self.backends: frozenset[str] | None = None
        self.reached: set[str] = set()
        self._site = site

    def step(self) -> Iterator[str]:
        """Every call is made once."""
        for call in self._calls:
            try:
                made, backend = connect(self._site, call)
                close_at_once(made)
            except OSError as error:
                yield f"{call}: {error!r}"
            else:
                self.reached.add(backend)
                if self.backends is not None and backend not in self.backends:
                    yield f"{call}: answered by {backend}"
            time.sleep(0.001)


@contextmanager
def traffic(
    site: Site, lasting: Sequence[Call], repeated: Sequence[Call]
) -> Iterator[tuple[Talkers, Caller, Echo]]:
    """Talkers and caller at work, and who answers them."""
    with (
        Echo(site.world) as echo,
        Talkers(site, lasting) as talkers,
        Caller(site, repeated) as caller,
    ):
        yield talkers, caller, echo
