"""The state behind the stub API server: versioned objects, a history, and who watches it."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

Json = dict[str, Any]
Matches = Callable[[Json], bool]
Send = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of an object, encoded once."""

    obj: Json
    raw: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    plural: str
    version: int
    before: Stored | None
    after: Stored | None


@dataclass(eq=False, slots=True)
class Watcher:
    """An open watch; ``closed`` is set when it is to end."""

    plural: str
    matches: Matches
    send: Send
    closed: threading.Event = field(default_factory=threading.Event)

    def tell(self, change: Change) -> None:
        line = watch_line(change, self.matches)
        if line and not self.closed.is_set():
            self.tell_raw(line)

    def tell_raw(self, line: bytes) -> None:
        try:
            self.send(line)
        except OSError:
            self.closed.set()


def watch_line(change: Change, matches: Matches) -> bytes:
    """Return the line of a change as a watcher with this selector sees it, or nothing."""
    before = change.before if change.before and matches(change.before.obj) else None
    after = change.after if change.after and matches(change.after.obj) else None
    if after is not None:
        kind = b"MODIFIED" if before else b"ADDED"
        return b'{"type":"%b","object":%b}\n' % (kind, after.raw)
    if before is None:
        return b""
    gone = change.after or change.before
    assert gone is not None
    metadata = before.obj["metadata"] | {"resourceVersion": str(change.version)}
    raw = msgspec.json.encode(before.obj | {"metadata": metadata})
    return b'{"type":"DELETED","object":%b}\n' % raw


class Expired(Exception):
    """The version is no longer known."""


class Store:
    """Objects by (plural, namespace, name), in one sequence of versions; thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 1000
        self._floor = self.version
        self._tables: dict[str, dict[tuple[str, str], Stored]] = {}
        self._history: deque[Change] = deque(maxlen=100_000)
        self._watchers: list[Watcher] = []
        self._snapshots: dict[str, tuple[int, list[Stored]]] = {}
        self._ids = itertools.count(1)

    def get(self, plural: str, namespace: str, name: str) -> Stored | None:
        return self._tables.get(plural, {}).get((namespace, name))

    def put(self, plural: str, obj: Json) -> Stored:
        """Create or replace an object; watchers have been told when this returns."""
        with self.lock:
            self.version += 1
            meta = obj["metadata"] | {"resourceVersion": str(self.version)}
            meta.setdefault("uid", f"00000000-0000-4000-8000-{next(self._ids):012d}")
            obj = obj | {"metadata": meta}
            stored = Stored(obj, msgspec.json.encode(obj), self.version)
            table = self._tables.setdefault(plural, {})
            key = (meta.get("namespace", ""), meta["name"])
            before = table.get(key)
            table[key] = stored
            self._publish(Change(plural, self.version, before, stored))
            return stored

    def delete(self, plural: str, namespace: str, name: str) -> Stored | None:
        with self.lock:
            before = self._tables.get(plural, {}).pop((namespace, name), None)
            if before is not None:
                self.version += 1
                self._publish(Change(plural, self.version, before, None))
            return before

    def _publish(self, change: Change) -> None:
        self._history.append(change)
        for watcher in self._watchers:
            if watcher.plural == change.plural:
                watcher.tell(change)

    def select(self, plural: str, matches: Matches) -> list[Stored]:
        """Return the matching objects in the order of their keys."""
        table = self._tables.get(plural, {})
        return [table[key] for key in sorted(table) if matches(table[key].obj)]

    def keep_snapshot(self, items: list[Stored], version: int) -> str:
        """Keep the rest of a list for its next page; return the continue token."""
        token = f"page-{next(self._ids)}"
        self._snapshots[token] = (version, items)
        return token

    def snapshot(self, token: str) -> tuple[int, list[Stored]]:
        if token not in self._snapshots:
            raise Expired
        return self._snapshots.pop(token)

    def watch(self, watcher: Watcher, since: int) -> None:
        """Tell *watcher* what happened after *since*, and from now on what happens."""
        with self.lock:
            if since < self._floor:
                raise Expired
            for change in self._history:
                if change.plural == watcher.plural and change.version > since:
                    watcher.tell(change)
            self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        with self.lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def watchers(self, plural: str = "") -> list[Watcher]:
        with self.lock:
            return [w for w in self._watchers if plural in ("", w.plural)]

    def compact(self) -> None:
        """Forget the history and all unfinished lists: older versions get 410 from now on."""
        with self.lock:
            self.version += 1
            self._floor = self.version
            self._history.clear()
            self._snapshots.clear()


def selector(label_selector: str, field_selector: str) -> Matches:
    """Return the predicate of the selectors a proxy uses: ``!k``, ``k``, ``a=b`` and ``a!=b``."""
    labels = [_requirement(text, _label) for text in label_selector.split(",") if text]
    fields = [_requirement(text, _field) for text in field_selector.split(",") if text]
    requirements = [*labels, *fields]
    return lambda obj: all(requirement(obj) for requirement in requirements)


def _requirement(text: str, read: Callable[[Json, str], object]) -> Matches:
    if text.startswith("!"):
        return lambda obj: read(obj, text[1:]) is None
    if "!=" in text:
        name, _, value = text.partition("!=")
        return lambda obj: (read(obj, name) or "") != value
    if "=" in text:
        name, _, value = text.partition("=")
        return lambda obj: read(obj, name) == value.removeprefix("=")
    return lambda obj: read(obj, text) is not None


def _label(obj: Json, name: str) -> object:
    return (obj["metadata"].get("labels") or {}).get(name)


def _field(obj: Json, path: str) -> object:
    value: Any = obj
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def merge_patch(target: Any, patch: Any) -> Any:
    """Return *target* changed by a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def join_items(items: Iterable[Stored]) -> bytes:
    return b",".join(item.raw for item in items)
