"""
The only module that starts other programs.

Everything that talks to ip(8), nft(8) and their like goes through :func:`run`, so that a missing
tool, a missing permission, a hanging child and a failure are told apart once, in one wording.
Arguments are lists and never pass through a shell.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

Process = subprocess.Popen[bytes]
PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT

# The Debian package of each tool that a node may lack.
PACKAGES: Mapping[str, str] = {
    "bridge": "iproute2",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "ip6tables": "iptables",
    "ip6tables-restore": "iptables",
    "ip6tables-save": "iptables",
    "ipset": "ipset",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "iptables-save": "iptables",
    "ipvsadm": "ipvsadm",
    "modprobe": "kmod",
    "nft": "nftables",
    "ss": "iproute2",
    "sysctl": "procps",
    "tc": "iproute2",
}

# How tools word EPERM and EACCES; run() asks them to speak English.
_DENIED = ("operation not permitted", "permission denied", "must be root")
_MESSAGE_STDERR_CHARS = 1000
# A root shell made by a plain su(1) keeps the user's PATH, without the folders of such tools.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class CommandError(Exception):
    """
    A program could not be started, was stopped, or failed; the text says which, why, what next.

    CommandError → ToolMissing | Denied | TimedOut

    Attributes: ``argv``; ``returncode``, None when there is none; ``stderr``, unshortened;
    ``hint``, the next step, possibly empty.
    """

    def __init__(
        self,
        argv: Sequence[str],
        problem: str,
        *,
        returncode: int | None = None,
        stderr: str = "",
        hint: str = "",
    ) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr
        self.hint = hint
        text = f"{shlex.join(argv)}: {problem}"
        if said := stderr.strip():
            text += f": {said[:_MESSAGE_STDERR_CHARS]}"
        super().__init__(f"{text}; {hint}" if hint else text)


class ToolMissing(CommandError):
    """The program is not installed, or not in PATH."""


class Denied(CommandError):
    """The program, or starting it, needs a permission that this process lacks."""


class TimedOut(CommandError):
    """The program did not end within its time and was killed."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program left behind; text is decoded as UTF-8 with replacement."""

    stdout: str
    stderr: str
    returncode: int


def find_tool(name: str) -> str | None:
    """Where a program is, in PATH or in a folder of administration tools; None if nowhere."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN]))


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    timeout_s: float = 30,
    check: bool = True,
    started: Callable[[int], None] = lambda _: None,
) -> Completed:
    """
    Run a program to its end.

    Args:
        argv: The program, looked up as find_tool() does, and its arguments.
        stdin: Text to feed it; None means an empty input, never this process's own.
        timeout_s: The program is killed after this many seconds.
        check: Raise when it ends with a status other than 0.
        started: Is told the program's pid before the program is given its input.

    Raises:
        CommandError: One of its subclasses where the reason is known.

    """
    process = spawn(
        argv,
        stdin=DEVNULL if stdin is None else PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "LC_ALL": "C"},
        new_session=False,
    )
    with process:
        try:
            started(process.pid)
            out, err = process.communicate(None if stdin is None else stdin.encode(), timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise TimedOut(argv, f"did not end within {timeout_s:g} s") from None
        except BaseException:
            process.kill()
            raise
    done = Completed(out.decode(errors="replace"), err.decode(errors="replace"), process.returncode)
    if check and done.returncode != 0:
        raise failure(argv, done)
    return done


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    new_session: bool = True,
) -> Process:
    """
    Start a program and return at once; the caller ends it and waits for it.

    The child inherits the network namespace of the calling thread. With *new_session* a Ctrl-C on
    the terminal does not reach it.

    Raises:
        ToolMissing: It is not installed.
        Denied: It may not be executed.
        CommandError: The kernel refuses to start it for another reason.

    """
    try:
        return subprocess.Popen(
            list(argv),
            executable=find_tool(argv[0]),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            start_new_session=new_session,
        )
    except FileNotFoundError:
        raise ToolMissing(argv, f"{argv[0]} is not installed", hint=_install(argv[0])) from None
    except PermissionError:
        raise Denied(argv, f"{argv[0]} may not be executed") from None
    except OSError as error:
        raise CommandError(argv, error.strerror or str(error)) from None


def _install(tool: str) -> str:
    """The next step for a missing tool."""
    package = PACKAGES.get(tool)
    return f"install the package {package}" if package else "install it or correct PATH"


def failure(argv: Sequence[str], done: Completed) -> CommandError:
    """The error for a program that ended with a status other than 0, for callers of check=False."""
    if done.returncode < 0:
        problem = f"was killed by signal {-done.returncode}"
    else:
        problem = f"exit status {done.returncode}"
    denied = any(words in done.stderr.lower() for words in _DENIED)
    kind = Denied if denied else CommandError
    hint = "run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN" if denied else ""
    return kind(argv, problem, returncode=done.returncode, stderr=done.stderr, hint=hint)
