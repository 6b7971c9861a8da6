"""
Runs a command inside user-mode Linux: a kernel with IPVS that is an ordinary process.

    python -m tests.uml.run [--timeout-s 1800] -- pytest tests/ipvs

The command sees the host's files, and what it writes is gone afterwards. It runs as root in the
checkout, with the checkout's .venv first in PATH, one processor, and Debian's UML kernel, which has
IPVS, ipset, legacy iptables, dummy, veth and network namespaces, but no nftables. Its output is
passed on as it comes; the exit status is the command's, or

* 3: there is none, because the kernel stopped or the time was up; the kernel's last words follow,
* 4: something is not installed, or this is not root.

init.sh is the first process inside; xstate.c is preloaded into the kernel's process. The process id
namespace around it ends all of its processes, however this one ends.
"""

from __future__ import annotations

import argparse
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
MODULES = Path("/usr/lib/uml/modules")
NO_STATUS = 3
NOT_INSTALLED = 4

_PACKAGES = {
    "linux.uml": "user-mode-linux",
    "gcc": "gcc",
    "insmod": "kmod",
    "ip": "iproute2",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
_MEMORY_MIB = 1024
_LAST_WORDS_BYTES = 8000
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def main(argv: Sequence[str]) -> int:
    """Run what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.uml.run")
    parser.add_argument("--timeout-s", type=float, default=1800, help="hard limit, all included")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(argv)
    if problem := _what_is_missing():
        print(f"tests.uml.run: {problem}", file=sys.stderr)
        return NOT_INSTALLED
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    return run(options.command, options.timeout_s)


def run(command: Sequence[str], timeout_s: float) -> int:
    """Boot, run the command with its output to ours, halt; errors as the module says."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kpctl-uml-") as name:
        exchange = Path(name)
        shutil.copy(HERE / "init.sh", exchange)
        (exchange / "init.sh").chmod(0o755)
        (exchange / "command").write_text(_script(command))
        shim = exchange / "xstate.so"
        subprocess.run(
            ["gcc", "-O2", "-shared", "-fPIC", "-o", shim, HERE / "xstate.c"], check=True
        )
        with _machine(exchange, shim) as (output, kernel_log):
            last_words = _pass_on(output, kernel_log, started + timeout_s)
        status = exchange / "status"
        if status.exists() and (text := status.read_text().strip()).isdigit():
            return int(text)
    why = "the time was up" if time.monotonic() > started + timeout_s else "the kernel stopped"
    sys.stderr.buffer.write(last_words)
    print(f"\ntests.uml.run: {why} before the command had ended", file=sys.stderr)
    return NO_STATUS


def _what_is_missing() -> str:
    if os.geteuid() != 0:
        return "needs root: process id namespaces, and a guest that is root on this file system"
    missing = {pkg for tool, pkg in _PACKAGES.items() if shutil.which(tool, path=_SEARCH) is None}
    if not MODULES.is_dir():
        missing.add("user-mode-linux")
    if missing:
        return f"not installed; run: apt-get install {' '.join(sorted(missing))}"
    return ""


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _script(command: Sequence[str]) -> str:
    environment = {
        "PATH": f"{CHECKOUT}/.venv/bin:{_SEARCH}",
        "PYTHONPATH": str(CHECKOUT),
        "HOME": "/run/home",
        "TMPDIR": "/run/tmp",
        "LANG": "C.UTF-8",
    }
    exports = "".join(f"export {name}={shlex.quote(v)}\n" for name, v in environment.items())
    return f"{exports}cd {shlex.quote(str(CHECKOUT))}\nexec {shlex.join(command)}\n"


@contextmanager
def _machine(exchange: Path, shim: Path) -> Iterator[tuple[int, int]]:
    """A machine at work; yields what to read the command's output and the kernel's log from."""
    output, output_end = os.pipe()
    kernel_log, kernel_log_end = os.pipe()
    guest = None
    try:
        guest = subprocess.Popen(
            _kernel_command(exchange, shim, output_end, kernel_log_end),
            env={"PATH": _SEARCH, **_room_for_memory(exchange)},
            stdin=subprocess.DEVNULL,
            stdout=kernel_log_end,
            stderr=kernel_log_end,
            pass_fds=(output_end, kernel_log_end),
            start_new_session=True,
        )
        os.close(output_end)
        os.close(kernel_log_end)
        yield output, kernel_log
    finally:
        if guest is not None:
            guest.kill()
            guest.wait()
        os.close(output)
        os.close(kernel_log)


def _kernel_command(exchange: Path, shim: Path, output: int, kernel_log: int) -> list[str]:
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--pid", "--fork", "--kill-child"),
        # Not the first process of the namespace itself: a kernel that panics could not end then.
        *("sh", "-c", 'ulimit -c 0; LD_PRELOAD=$0 "$@"; exit', str(shim), "linux.uml"),
        *(f"mem={_MEMORY_MIB}M", "quiet", f"uml_dir={exchange}"),
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *("con=null", f"con0=null,fd:{kernel_log}", f"con1=null,fd:{output}"),
        # What the kernel does not know becomes the environment of the first process.
        *(f"init={exchange}/init.sh", f"exchange={exchange}"),
    ]


def _room_for_memory(exchange: Path) -> dict[str, str]:
    """Where the guest's memory is kept, a file: in a container /dev/shm may be too small for it."""
    try:
        if shutil.disk_usage("/dev/shm").free > 2 * _MEMORY_MIB << 20:
            return {}
    except OSError:
        pass
    return {"TMPDIR": str(exchange)}


def _pass_on(output: int, kernel_log: int, deadline: float) -> bytes:
    """Copy the output until it ends or time is up; return the end of the kernel's log."""
    last_words = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        selector.register(kernel_log, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                else:
                    last_words = (last_words + data)[-_LAST_WORDS_BYTES:]
    return last_words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
