"""
Makes advised settings hold: now, through /proc/sys, and after a restart, through a file.

The file also tells what was there before, so that it can be undone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diagnostics.conntrack.capacity import Setting
from proxy.kernel.sysctl import SysctlError, SysctlTree

FILE = Path("etc/sysctl.d/99-kpctl-conntrack.conf")
"""Below the root: it comes late, so that other files do not override it."""

_ROUNDING = 512
"""The number of buckets is a multiple of those in a page: 4096 bytes of 8 each."""

_NAME = r"net\.netfilter\.nf_conntrack_[a-z_]+"
_UNDO = re.compile(rf"# before: ({_NAME}) = (\d+)")
_SET = re.compile(rf"({_NAME}) = (\d+)")
_HEAD = (
    "# Written by kpctl conntrack tune; taken back by kpctl conntrack tune --undo.\n"
    "# At boot it takes effect only if nf_conntrack is loaded first (/etc/modules-load.d).\n"
)


@dataclass(frozen=True, slots=True)
class Done:
    """
    What became of one setting.

    ``problem`` is "" when it is in force. ``left``: somebody else changed it since, so that it was
    not touched.
    """

    name: str
    before: int | None
    value: int
    problem: str = ""
    left: bool = False


class TuneError(Exception):
    """The file cannot be read or written, or is none of ours."""


def file_text(settings: Sequence[Setting], before: dict[str, int] | None = None) -> str:
    """
    Return a file for sysctl.d.

    Args:
        settings: What to set.
        before: Values to go back to, where they differ from the present ones.
    """
    return _HEAD + "".join(_blocks(settings, before or {}))


def _blocks(settings: Sequence[Setting], before: dict[str, int]) -> Iterator[str]:
    for one in settings:
        old = before.get(one.name, one.present)
        undo = "" if old is None else f"# before: {one.name} = {old}\n"
        yield f"\n# {one.why}\n{undo}{one.name} = {one.value}\n"


def apply(settings: Sequence[Setting], root: Path) -> tuple[Done, ...]:
    """
    Write the settings, then the file; return what became of each.

    A setting that the kernel refuses is not in the file. A file that is there keeps the values it
    goes back to, so that tuning twice is undone at once. Raises TuneError.
    """
    kept = _read(root) if (root / FILE).exists() else ({}, {})
    tree = SysctlTree(root / "proc/sys")
    done = tuple(_write(tree, one) for one in settings)
    made = [one for one, result in zip(settings, done, strict=True) if not result.problem]
    if made:
        names = {one.name for one in made}
        others = [
            Setting(name, kept[0].get(name), value, "set before")
            for name, value in kept[1].items()
            if name not in names
        ]
        _save(root, file_text([*others, *made], kept[0]))
    return done


def _write(tree: SysctlTree, setting: Setting) -> Done:
    path = setting.name.replace(".", "/")
    try:
        before = tree.read_int(path)
        tree.write(path, setting.value)
        now = tree.read_int(path)
    except SysctlError as error:
        return Done(setting.name, setting.present, setting.value, str(error))
    if now < setting.value:
        problem = f"{setting.name} is {now} after {setting.value} was written"
        return Done(setting.name, before, setting.value, problem)
    return Done(setting.name, before, setting.value)


def undo_plan(root: Path) -> tuple[Setting, ...]:
    """Return what undoing sets, ``present`` as it is now; raises TuneError without a file."""
    before, _ = _read(root)
    tree = SysctlTree(root / "proc/sys")
    return tuple(
        Setting(name, _present(tree, name), value, "as it was before")
        for name, value in before.items()
    )


def undo(root: Path) -> tuple[Done, ...]:
    """
    Go back to what was there before and remove the file.

    What somebody else has changed since stays. The file stays while the kernel refuses something.
    Raises TuneError.
    """
    before, made = _read(root)
    tree = SysctlTree(root / "proc/sys")
    done = []
    for name, value in before.items():
        present, ours = _present(tree, name), made.get(name)
        if ours is not None and present is not None and not _is_ours(present, ours):
            problem = f"{name} is {present}, not {ours} as it was set: it is left alone"
            done.append(Done(name, present, value, problem, left=True))
            continue
        done.append(_restore(tree, name, value))
    if all(one.left or not one.problem for one in done):
        try:
            (root / FILE).unlink()
        except OSError as error:
            raise TuneError(f"{root / FILE}: cannot be removed: {error.strerror}") from error
    return tuple(done)


def _is_ours(present: int, ours: int) -> bool:
    """Return whether a value is what was set, which the kernel rounds up by less than a page."""
    return ours <= present < ours + _ROUNDING


def _restore(tree: SysctlTree, name: str, value: int) -> Done:
    path = name.replace(".", "/")
    try:
        before = tree.read_int(path)
        tree.write(path, value)
    except SysctlError as error:
        return Done(name, None, value, str(error))
    return Done(name, before, value)


def _present(tree: SysctlTree, name: str) -> int | None:
    try:
        return tree.read_int(name.replace(".", "/"))
    except SysctlError:
        return None


def _read(root: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the values before and those that were set; raises TuneError."""
    path = root / FILE
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        raise TuneError(f"{path}: there is no such file, so nothing was tuned") from None
    except OSError as error:
        raise TuneError(f"{path}: cannot be read: {error.strerror}") from error
    if not text.startswith(_HEAD.splitlines()[0]):
        raise TuneError(f"{path}: was not written by kpctl; it is left alone")
    lines = text.splitlines()
    before = {m[1]: int(m[2]) for line in lines if (m := _UNDO.fullmatch(line))}
    made = {m[1]: int(m[2]) for line in lines if (m := _SET.fullmatch(line))}
    return before, made


def _save(root: Path, text: str) -> None:
    path = root / FILE
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise TuneError(
            f"{path}: cannot be written ({error.strerror}): the settings hold until the next start"
        ) from error
