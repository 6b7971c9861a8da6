"""
Cluster state from a directory of manifests, followed as it changes.

The directory and its files are looked at by ``stat`` a few times a second: that works the same
for editors, ``cp``, git and the symbolic links a mounted ConfigMap is swapped by. A file is read
when it looked the same twice, so that one that is still being written is not taken for whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.model.events import Removed, Replaced, Resource, SourceEvent, Unreadable, Upserted
from proxy.model.objects import ApiObject
from proxy.sources.manifest_files import (
    FileContents,
    Key,
    ManifestSyntaxError,
    describe_key,
    read_manifest,
)
from proxy.sources.resources import is_followed
from proxy.sources.source import ConfigurationError, Report, Sink, SourceProblem

SUFFIXES = (".yaml", ".yml", ".json")
LOOK_EVERY_S = 0.1
# A directory of thousands of files is looked at more rarely: at most 2 % of the time.
LOOK_PAUSE_FACTOR = 50
STOP_TIMEOUT_S = 2.0

Signature = tuple[int, int, int, int]
"""Device, inode, size in bytes and modification time in ns: differs when a file changed."""


@dataclass(slots=True)
class _File:
    """What is known of one file; ``signature`` is that of the contents read."""

    signature: Signature | None = None
    contents: FileContents = field(default_factory=FileContents)
    broken: bool = False


@dataclass(slots=True)
class View:
    """The objects of all files together, after selection; the first file by name wins."""

    objects: dict[Key, ApiObject] = field(default_factory=dict)
    unreadable: dict[Key, str] = field(default_factory=dict)


class ManifestDirectory:
    """
    Reads the files of a directory when they changed; knows no threads and no clock.

    Args:
        path: The directory; files in it that begin with a dot are not looked at.
        node_name: Selects the Node.
        report: Told of files that cannot be read and objects that are there twice.
    """

    def __init__(self, path: Path, node_name: str, report: Report) -> None:
        self._path = path
        self._node_name = node_name
        self._report = report
        self._files: dict[str, _File] = {}
        self._seen: dict[str, Signature] | None = None
        self._view: View | None = None
        self._told: frozenset[str] = frozenset()
        self._lost = False

    def check(self) -> None:
        """Raise ConfigurationError unless this is a directory that can be read."""
        try:
            os.scandir(self._path).close()
        except OSError as error:
            raise ConfigurationError(
                f"cannot read the manifests directory {self._path}: {error.strerror}; "
                "check --manifests"
            ) from error

    def look(self, received: float) -> list[SourceEvent]:
        """
        Look at the directory; return what changed since the last look.

        The first look reads everything and returns a ``Replaced`` per resource. *received* is
        the time.monotonic() the events carry.
        """
        found = self._scan()
        if found is None:
            return []
        before, self._seen = self._seen, found
        stale = {
            name
            for name, signature in found.items()
            if self._files.setdefault(name, _File()).signature != signature
            and (before is None or before.get(name) == signature)
        }
        # Some editors remove a file for a moment when they save.
        gone = [name for name in self._files if name not in found and name not in (before or ())]
        for name in gone:
            del self._files[name]
        for name in stale:
            self._read(name, found[name])
        if self._view is not None and not stale and not gone:
            return []
        return self._update(received)

    def _scan(self) -> dict[str, Signature] | None:
        found: dict[str, Signature] = {}
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIXES) and not entry.name.startswith("."):
                        _add_signature(entry, found)
        except OSError as error:
            if not self._lost:
                self._tell(f"manifests {self._path}: {error.strerror}; everything stays as it was")
            self._lost = True
            return None
        if self._lost:
            self._lost = False
            self._tell(f"manifests {self._path} can be read again", resolved=True)
        return found

    def _read(self, name: str, signature: Signature) -> None:
        file = self._files[name]
        file.signature = signature
        place = self._path / name
        try:
            contents = read_manifest(name, place.read_bytes())
        except (ManifestSyntaxError, OSError) as error:
            kept = len(file.contents.objects)
            reason = getattr(error, "strerror", None) or error
            self._tell(f"cannot read {place}: {reason}; {kept} objects it had before stay")
            file.broken = True
            return
        file.contents = contents
        if file.broken:
            file.broken = False
            self._tell(f"{place} can be read again", resolved=True)

    def _tell(self, text: str, resolved: bool = False) -> None:
        self._report(SourceProblem(text, resolved))

    def _update(self, received: float) -> list[SourceEvent]:
        previous, self._view = self._view, self._merge()
        if previous is None:
            return list(_first_events(self._view))
        return list(_difference(previous, self._view, received))

    def _merge(self) -> View:
        view, owners, problems = View(), dict[Key, str](), list[str]()
        for name in sorted(self._files):
            contents = self._files[name].contents
            problems += [f"{self._path / name}: {problem}" for problem in contents.problems]
            for key, problem in contents.unreadable.items():
                if key not in owners:
                    owners[key] = name
                    view.unreadable[key] = f"{name}: {problem}"
            for key, obj in contents.objects.items():
                if owners.setdefault(key, name) != name:
                    problems.append(
                        f"{key[0].value} {describe_key(key)} is in {owners[key]} and in {name} of "
                        f"{self._path}: {owners[key]} counts; remove one of them"
                    )
                elif is_followed(key[0], obj, self._node_name):
                    view.objects[key] = obj
        self._keep_unreadable(view)
        for problem in problems:
            if problem not in self._told:
                self._tell(problem)
        self._told = frozenset(problems)
        return view

    def _keep_unreadable(self, view: View) -> None:
        """An object that cannot be read any more stays as it was."""
        if self._view is not None:
            for key in view.unreadable.keys() & self._view.objects.keys() - view.objects.keys():
                view.objects[key] = self._view.objects[key]


def _add_signature(entry: os.DirEntry[str], found: dict[str, Signature]) -> None:
    try:
        status = entry.stat()
    except OSError:
        return  # gone between the listing and now, or a link that leads nowhere
    if entry.is_file():
        found[entry.name] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _first_events(view: View) -> Iterator[SourceEvent]:
    for resource in Resource:
        objects = tuple(obj for key, obj in view.objects.items() if key[0] is resource)
        bad = ((key, text) for key, text in view.unreadable.items() if key[0] is resource)
        yield Replaced(resource, (*objects, *(Unreadable(*key, text) for key, text in bad)))


def _difference(before: View, after: View, received: float) -> Iterator[SourceEvent]:
    for key, obj in after.objects.items():
        if before.objects.get(key) != obj:
            yield Upserted(obj, received)
    for key in before.objects.keys() - after.objects.keys():
        yield Removed(*key)
    for key, problem in after.unreadable.items():
        if before.unreadable.get(key) != problem:
            yield Unreadable(*key, problem)


class ManifestSource:
    """
    A directory of manifests as a source.

    Args:
        path: The directory.
        node_name: Selects the Node.
        report: Told of problems and of their end.
    """

    def __init__(self, path: Path, node_name: str, report: Report) -> None:
        self._directory = ManifestDirectory(path, node_name, report)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, sink: Sink) -> None:
        """Begin to read and follow; raises ConfigurationError when there is no such directory."""
        self._directory.check()
        self._thread = threading.Thread(
            target=self._run, args=(sink,), name="manifests", daemon=True
        )
        self._thread.start()

    def _run(self, sink: Sink) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            started = time.monotonic()
            events = self._directory.look(started)
            looked_s = 0.0 if events else time.monotonic() - started
            for event in events:
                sink(event)
            del events
            pause_s = max(LOOK_EVERY_S, LOOK_PAUSE_FACTOR * looked_s)

    def stop(self) -> None:
        """Stop following; waits for the thread, for 2 s at most."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
