"""
Network namespaces as small values: make them, link them, act inside them.

Namespaces are ip-netns(8)'s: a name under /run/netns. A network namespace belongs to a thread, so
entering one never disturbs other threads; what is created inside (a socket, a child process) stays
inside after the thread has left. Links are created within namespaces, never in the caller's own,
so no address or interface name can collide with the host's.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from proxy.kernel.command import DEVNULL, Completed, Denied, Process, failure, run, spawn

NETNS_DIR = Path("/run/netns")
_OWN = Path("/proc/thread-self/ns/net")
_KILL_TIMEOUT_S = 5
_CLONE_NEWNET = 0x40000000  # linux/sched.h

_Identity = tuple[int, int]

# Without these an IPv6 address is unusable for a second or more, and hosts look for routers.
_QUIET_IPV6 = {
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.default.router_solicitations": "0",
}


@dataclass(frozen=True, slots=True)
class Namespace:
    """The network namespace /run/netns/``name``; the value may exist before the namespace does."""

    name: str

    @property
    def path(self) -> Path:
        """The file that names the namespace."""
        return NETNS_DIR / self.name

    def exists(self) -> bool:
        """Whether the name is taken."""
        return self.path.exists()

    def create(self) -> Namespace:
        """
        Create it, with lo up and without IPv6 duplicate address detection; return self.

        Raises:
            CommandError: The name is taken, or this process may not create namespaces.

        """
        create_all([self])
        return self

    def delete(self) -> None:
        """Kill every process inside and remove it; an absent namespace is not an error."""
        delete_all([self])

    @contextmanager
    def enter(self) -> Iterator[None]:
        """
        Move the calling thread into the namespace, and back at the end.

        Raises:
            FileNotFoundError: There is no such namespace.
            Denied: This process lacks CAP_SYS_ADMIN.

        """
        with _OWN.open("rb") as home, self.path.open("rb") as target:
            _setns(target.fileno(), f"namespace {self.name}")
            try:
                yield
            finally:
                _setns(home.fileno(), "the original namespace")

    def enter_for_good(self) -> None:
        """Move the calling thread into the namespace; errors as :meth:`enter`."""
        with self.path.open("rb") as target:
            _setns(target.fileno(), f"namespace {self.name}")

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout_s: float = 30,
        check: bool = True,
    ) -> Completed:
        """Run a program inside, to its end; arguments and errors of proxy.kernel.command.run."""
        with self.enter():
            return run(argv, stdin=stdin, timeout_s=timeout_s, check=check)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] = DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        new_session: bool = True,
    ) -> Process:
        """Start a program inside; arguments and errors of proxy.kernel.command.spawn."""
        with self.enter():
            return spawn(
                argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, new_session=new_session
            )

    def socket(
        self,
        family: int = socket.AF_INET,
        kind: int = socket.SOCK_STREAM,
        protocol: int = 0,
    ) -> socket.socket:
        """A new socket that belongs to the namespace, usable from any thread."""
        with self.enter():
            return socket.socket(family, kind, protocol)

    def ip(self, commands: Iterable[str]) -> None:
        """
        Configure links, addresses and routes by one batch, which stops at the first error.

        A command is one of ip-link(8), ip-route(8) and so on, without the leading "ip".

        Example: ``ns.ip(["link add br0 type bridge", "addr add 10.0.0.1/24 dev br0"])``.
        """
        lines = list(commands)
        if lines:
            _ip_batch(["ip", "-n", self.name], lines)

    def set_sysctls(self, values: Mapping[str, str]) -> None:
        """
        Set sysctls of the namespace by dotted name, such as ``net.ipv4.ip_forward``.

        Interface names that contain dots are not supported.

        Raises:
            OSError: No such sysctl, or the kernel refuses the value.

        """
        with self.enter():
            for name, value in values.items():
                Path("/proc/sys", *name.split(".")).write_text(value)

    def sysctl(self, name: str) -> str:
        """The value of a sysctl of the namespace, without surrounding space."""
        with self.enter():
            return Path("/proc/sys", *name.split(".")).read_text().strip()

    def pids(self) -> tuple[int, ...]:
        """Other processes whose main thread is inside, ascending; empty if it is absent."""
        return tuple(pid for pid, _ in _processes_in(_identities([self])))


def create_all(namespaces: Sequence[Namespace]) -> None:
    """Create several namespaces in one batch, as :meth:`Namespace.create` does for one."""
    _ip_batch(["ip"], [f"netns add {ns.name}" for ns in namespaces])
    for ns in namespaces:
        ns.ip(["link set lo up"])
        with suppress(FileNotFoundError):  # a kernel without IPv6
            ns.set_sysctls(_QUIET_IPV6)


def delete_all(namespaces: Sequence[Namespace]) -> None:
    """
    Kill every process inside the namespaces and remove them; absent ones are skipped.

    The processes have ended, or are waited for in vain for 5 s, when this returns.
    """
    present = [ns for ns in namespaces if ns.exists()]
    _kill_inside(present)
    if present:
        _ip_batch(["ip"], [f"netns del {ns.name}" for ns in present])


def with_prefix(prefix: str) -> tuple[Namespace, ...]:
    """The existing namespaces whose name starts with *prefix*, by name."""
    if not NETNS_DIR.is_dir():
        return ()
    names = sorted(entry.name for entry in NETNS_DIR.iterdir())
    return tuple(Namespace(name) for name in names if name.startswith(prefix))


def link(
    left: Namespace,
    left_device: str,
    right: Namespace,
    right_device: str,
) -> None:
    """
    Connect two namespaces by a veth pair, both ends up and without addresses.

    Raises:
        CommandError: A namespace is absent, or has a device of that name.

    """
    left.ip(
        [
            f"link add {left_device} type veth peer name {right_device} netns {right.name}",
            f"link set {left_device} up",
        ]
    )
    right.ip([f"link set {right_device} up"])


def _kill_inside(namespaces: Sequence[Namespace]) -> None:
    """Kill every process inside the namespaces, without a chance to hit a recycled process id."""
    identities = _identities(namespaces)
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    # Again, for children that were born while the others were being killed.
    while (found := _processes_in(identities)) and time.monotonic() < deadline:
        for pid, identity in found:
            _kill_if_inside(pid, identity, deadline)


def _kill_if_inside(pid: int, identity: _Identity, deadline: float) -> None:
    """Kill a process if it is still in that namespace, and wait until it has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The handle pins the process; only now does the check mean the one to be killed.
        if _identity(Path(f"/proc/{pid}/ns/net")) == identity:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], max(0, deadline - time.monotonic()))
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _ip_batch(program: Sequence[str], lines: Sequence[str]) -> None:
    """Run ip(8) commands as one batch; an error names the command that failed, not the batch."""
    argv = [*program, "-batch", "-"]
    done = run(argv, stdin="".join(f"{line}\n" for line in lines), check=False)
    if done.returncode == 0:
        return
    where = re.search(r"Command failed -:(\d+)", done.stderr)
    if where is not None:
        argv = [*program, *lines[int(where[1]) - 1].split()]
        done = replace(done, stderr=done.stderr.replace(where[0], ""))
    raise failure(argv, done)


def _setns(descriptor: int, what: str) -> None:
    """Move the calling thread; os.setns exists only from Python 3.12."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) == 0:
        return
    code = ctypes.get_errno()
    if isinstance(error := OSError(code, os.strerror(code)), PermissionError):
        raise Denied(
            ["setns", what], os.strerror(code), hint="run as root, or with CAP_SYS_ADMIN"
        ) from None
    raise error


def _identity(path: Path) -> _Identity | None:
    """Device and inode of a namespace file, which identify it; None if there is none."""
    try:
        status = path.stat()
    except OSError:  # no such namespace; or the process is gone, or a zombie
        return None
    return status.st_dev, status.st_ino


def _identities(namespaces: Sequence[Namespace]) -> frozenset[_Identity]:
    """The identities of those namespaces that exist."""
    return frozenset(i for ns in namespaces if (i := _identity(ns.path)) is not None)


def _processes_in(identities: frozenset[_Identity]) -> list[tuple[int, _Identity]]:
    """Each other process whose main thread is in one of the namespaces, with that one; by pid."""
    found = []
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        identity = _identity(Path(f"/proc/{pid}/ns/net"))
        if identity in identities and pid != os.getpid():
            found.append((pid, identity))
    return found
