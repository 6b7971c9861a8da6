"""
What is known about labs on this machine: one directory each, /run/kpctl/lab/NAME.

``lab.json`` in it is written before anything else of the lab exists, and the directory is removed
last, so whatever a killed lab left behind can be found from here. A directory appears under its
name complete, by a rename that fails if the name is taken.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from kpctl.exit_codes import FINDINGS, USAGE
from kpctl.lab.netns import Namespace, with_prefix

STATE_DIR = Path("/run/kpctl/lab")
DEFAULT_NAME = "lab"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_ORPHAN = re.compile(r"kpctl-([0-9a-f]{6})-")


class LabError(Exception):
    """
    The lab cannot do what was asked; the text is complete, with the next step.

    ``exit_code`` is the command's: 1 there is no such lab, 2 usage, 4 the environment.
    """

    def __init__(self, message: str, exit_code: int = FINDINGS) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class LabRecord:
    """
    One lab.

    Attributes:
        name: What the user calls it.
        ident: Six hexadecimal digits in the names of its namespaces, "" if unknown.
        pid: The process that runs it.
        started: That process's start time, in clock ticks since boot (proc(5), stat field 22).
        mode: The proxy mode.
        created: Seconds since the epoch.
    """

    name: str
    ident: str
    pid: int
    started: int
    mode: str
    created: float

    @property
    def directory(self) -> Path:
        """Its state: lab.json, manifests/, logs/."""
        return STATE_DIR / self.name

    @property
    def prefix(self) -> str:
        """What the names of its namespaces begin with."""
        return f"kpctl-{self.ident}-"

    def namespace(self, role: str) -> Namespace:
        """The namespace of a host of the topology."""
        return Namespace(f"{self.prefix}{role}")

    def namespaces(self) -> tuple[Namespace, ...]:
        """Those of its namespaces that exist."""
        return with_prefix(self.prefix) if self.ident else ()

    def alive(self) -> bool:
        """Whether the process that runs it still does."""
        return process_start(self.pid) == self.started


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none of that id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name is in parentheses and may contain anything, so count from behind it.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def claim(name: str | None, mode: str) -> LabRecord:
    """
    Take a name for a lab of this process and make its directory.

    Args:
        name: None for the first free one of ``lab``, ``lab-2``, …
        mode: The proxy mode, to be shown by ``status``.

    Raises:
        LabError: The name is not valid (2) or in use (1).
        OSError: The directory cannot be made.
    """
    if name is not None:
        _check_name(name)
        record = _try_claim(name, mode)
        if record is None:
            raise LabError(f"a lab {name!r} exists; remove it: kpctl lab down --name {name}")
        return record
    for candidate in _default_names():
        record = _try_claim(candidate, mode)
        if record is not None:
            return record
    raise AssertionError("the default names are endless")


def records() -> tuple[LabRecord, ...]:
    """All labs, running or not, by name; one whose lab.json is damaged has no ``ident``."""
    if not STATE_DIR.is_dir():
        return ()
    names = sorted(path.name for path in STATE_DIR.iterdir() if _NAME.fullmatch(path.name))
    return tuple(_load(name) for name in names)


def find(name: str | None) -> LabRecord:
    """
    The lab of that name, or the only one that runs.

    Raises:
        LabError: There is none, or *name* is None and several run.
    """
    known = records()
    if name is not None:
        _check_name(name)
        for record in known:
            if record.name == name:
                return record
        raise LabError(f"there is no lab {name!r}; see: kpctl lab status")
    running = [record for record in known if record.alive()] or list(known)
    if not running:
        raise LabError("no lab is running; start one in another terminal: kpctl lab run")
    if len(running) > 1:
        names = ", ".join(record.name for record in running)
        raise LabError(f"there are several labs: {names}; choose one with --name", USAGE)
    return running[0]


def forget(record: LabRecord) -> None:
    """Remove a lab's directory; its namespaces must be gone. An absent one is not an error."""
    shutil.rmtree(record.directory, ignore_errors=True)


def orphans() -> tuple[Namespace, ...]:
    """Namespaces named as a lab's that belong to no known lab."""
    known = {record.ident for record in records()}
    found = ((ns, _ORPHAN.match(ns.name)) for ns in with_prefix("kpctl-"))
    return tuple(ns for ns, match in found if match is not None and match[1] not in known)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise LabError(
            f"--name {name!r}: must be 1 to 32 lower-case letters, digits and inner hyphens", USAGE
        )


def _default_names() -> Iterator[str]:
    yield DEFAULT_NAME
    yield from (f"{DEFAULT_NAME}-{number}" for number in count(2))


def _try_claim(name: str, mode: str) -> LabRecord | None:
    """Make the lab's directory; None if the name is taken."""
    pid = os.getpid()
    started = process_start(pid)
    assert started is not None, "a running process has a start time"
    record = LabRecord(name, secrets.token_hex(3), pid, started, mode, time.time())
    draft = STATE_DIR / f".{record.ident}"
    draft.mkdir(parents=True)
    (draft / "lab.json").write_text(json.dumps(asdict(record), indent=1) + "\n")
    try:
        draft.rename(record.directory)
    except OSError:
        shutil.rmtree(draft)
        if not record.directory.exists():
            raise
        return None
    return record


def _load(name: str) -> LabRecord:
    try:
        raw = json.loads((STATE_DIR / name / "lab.json").read_text())
        fields = [raw[key] for key in ("ident", "pid", "started", "mode", "created")]
        return LabRecord(name, *fields)
    except (OSError, ValueError, KeyError, TypeError):
        return LabRecord(name, "", 0, 0, "?", 0.0)
