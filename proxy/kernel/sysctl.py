"""Kernel parameters below /proc/sys (and the few that live in /sys), read and written as text."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from proxy.conntrack.settings import Change, SettingWrite

PROC_SYS = Path("/proc/sys")
_log = logging.getLogger(__name__)

_ONLINE_CPUS = Path("/sys/devices/system/cpu/online")


class SysctlError(Exception):
    """
    A parameter could not be read or written; the text names it and the kernel's reason.

    ``path`` is the file, ``reason`` the kernel's words.
    """

    def __init__(self, action: str, path: Path, error: OSError) -> None:
        self.path = path
        self.reason = error.strerror or str(error)
        super().__init__(f"cannot {action} {path}: {self.reason}")


class SysctlTree:
    """
    The parameters of the network namespace this process lives in.

    Names are slash-separated below *root*, ``net/ipv4/ip_forward``; an absolute path is taken as
    it is. Every method raises SysctlError.
    """

    def __init__(self, root: Path = PROC_SYS) -> None:
        self._root = root

    def read(self, name: str) -> str:
        """Return the value without its newline."""
        path = self._root / name
        try:
            return path.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise SysctlError("read", path, error) from error

    def read_int(self, name: str) -> int:
        """Return a value that is one number."""
        text = self.read(name)
        try:
            return int(text)
        except ValueError:
            raise SysctlError(
                "read", self._root / name, OSError(0, f"{text[:40]!r} is not a number")
            ) from None

    def write(self, name: str, value: int | str) -> None:
        """Write one value."""
        path = self._root / name
        try:
            # Opened without O_CREAT and O_TRUNC: a missing parameter is an error, never a new file.
            with path.open("r+", encoding="ascii") as file:
                file.write(f"{value}\n")
        except OSError as error:
            raise SysctlError("write", path, error) from error


@dataclass(frozen=True, slots=True)
class SettingOutcome:
    """
    What became of one wanted setting.

    ``before`` is the value found, None when it could not be read. ``written`` tells whether the
    kernel took the wanted value now. ``problem`` is empty when the setting is in force: it was
    written, or what is there suffices; otherwise it is a sentence for the operator.
    """

    write: SettingWrite
    before: int | None
    written: bool
    problem: str = ""


def apply_settings(
    writes: tuple[SettingWrite, ...], tree: SysctlTree
) -> tuple[SettingOutcome, ...]:
    """
    Make the writes in order and log them; return one outcome each.

    Never raises, and no failure stops the rest.

    kube-proxy ends when a write fails, which takes a node's Services away for the sake of a tuning
    value, typically in a container where nf_conntrack_max is read-only. Here each outcome says
    what is wrong and what to do, and the node is served.
    """
    outcomes = tuple(_apply(write, tree) for write in writes)
    for outcome in outcomes:
        _report(outcome)
    return outcomes


def _report(outcome: SettingOutcome) -> None:
    fields: dict[str, object] = {"entry": outcome.write.path, "value": outcome.write.value}
    if outcome.problem:
        _log.warning(outcome.problem, extra={"kv": fields})
    elif outcome.written:
        _log.info("Set sysctl", extra={"kv": fields | {"before": outcome.before}})


def _apply(write: SettingWrite, tree: SysctlTree) -> SettingOutcome:
    before: int | None
    try:
        before = tree.read_int(write.path)
    except SysctlError:
        before = None
    if before is not None and not _needed(write, before):
        return SettingOutcome(write, before, written=False)
    try:
        tree.write(write.path, write.value)
    except SysctlError as error:
        problem = "" if _suffices(write, before) else _problem(write, before, error)
        return SettingOutcome(write, before, False, problem)
    return SettingOutcome(write, before, written=True)


def _needed(write: SettingWrite, present: int) -> bool:
    if write.change is Change.IF_SMALLER:
        return present < write.value
    return write.change is Change.ALWAYS or present != write.value


def _suffices(write: SettingWrite, present: int | None) -> bool:
    """Whether a value that cannot be changed is as good: the same, or a larger table."""
    if present is None:
        return False
    return present == write.value or (write.change is not Change.ALWAYS and present > write.value)


def _problem(write: SettingWrite, before: int | None, error: SysctlError) -> str:
    present = "unknown" if before is None else str(before)
    return (
        f"{error}: {write.name} stays at {present}, wanted {write.value}; the proxy goes on. "
        f"Set it on the node, or set {write.way_out} to leave it alone."
    )


def cpu_count(path: Path = _ONLINE_CPUS) -> int:
    """
    Return how many CPUs the machine runs, at least 1.

    Those of the machine, not those this process may use: the connection table is the machine's.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        # A list of ranges: "0-3,6".
        ends = [tuple(map(int, part.split("-"))) for part in text.split(",")]
    except (OSError, ValueError):
        return os.cpu_count() or 1
    return sum(part[-1] - part[0] + 1 for part in ends)
