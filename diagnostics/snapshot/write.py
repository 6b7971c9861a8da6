"""
Writing a snapshot: the flat directory that ``open_snapshot`` reads, or the same as a tar.gz.

Every file goes through ``stripping``; with redaction also through ``hiding``. ``manifest.json``
tells version, node and time, and of each file its command, size and SHA-256, and all gaps.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from diagnostics.snapshot.archive import SnapshotError
from diagnostics.snapshot.hiding import Names
from diagnostics.snapshot.parts import FACTS, OBJECT_PARTS, Gap, Part, gap
from diagnostics.snapshot.source import Content, PartSource
from diagnostics.snapshot.stripping import strip_objects, strip_sysctl, strip_text

# What a redacted snapshot leaves out: free text.
_FREE_TEXT = frozenset({Part.METRICS, Part.LOG})
_COLLECTED = tuple(part for part in Part if part not in (Part.MANIFEST, Part.OBJECTS))
_LIST_KINDS = {
    Part.SERVICES: ("ServiceList", "v1"),
    Part.SLICES: ("EndpointSliceList", "discovery.k8s.io/v1"),
    Part.NODES: ("NodeList", "v1"),
    Part.PODS: ("PodList", "v1"),
    Part.SERVICE_CIDRS: ("ServiceCIDRList", "networking.k8s.io/v1"),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """What the manifest says of the snapshot as a whole; ``created`` has a time zone."""

    version: str
    node: str
    created: datetime


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One file in the manifest; ``size`` is in bytes."""

    name: str
    sha256: str
    size: int
    command: str


@dataclass(frozen=True, slots=True)
class Written:
    """What ``write_snapshot`` did."""

    path: Path
    files: tuple[WrittenFile, ...]
    gaps: tuple[Gap, ...]


Progress = Callable[[Part, int, int], None]
"""Told of each part before it is read: the part, its number from 1, and how many there are."""


def write_snapshot(
    source: PartSource,
    path: Path,
    origin: Origin,
    *,
    redact: bool = False,
    progress: Progress | None = None,
) -> Written:
    """
    Collect everything *source* has.

    Args:
        source: The node.
        path: A directory, created if need be, or a file whose name ends in .tar.gz or .tgz. The
            file appears only when it is complete. Both are readable by their owner alone.
        origin: For the manifest.
        redact: Hide names, see ``diagnostics.snapshot.hiding``.
        progress: Told what is going on.

    Raises:
        SnapshotError: *path* exists already, or cannot be written.
    """
    archive = path.name.endswith((".tar.gz", ".tgz"))
    if path.exists() and (archive or not path.is_dir() or any(path.iterdir())):
        raise SnapshotError(f"{path}: exists already; name another file or an empty directory")
    try:
        if archive:
            return _write_archive(source, path, origin, redact, progress)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _collect(source, path, origin, redact, progress, _to_directory(path))
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be written: {error.strerror or error}") from error


_Put = Callable[[str, bytes], None]


def _to_directory(path: Path) -> _Put:
    def put(name: str, data: bytes) -> None:
        descriptor = os.open(path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)

    return put


def _write_archive(
    source: PartSource, path: Path, origin: Origin, redact: bool, progress: Progress | None
) -> Written:
    folder = path.name.removesuffix(".tgz").removesuffix(".tar.gz")
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with (
            os.fdopen(descriptor, "wb") as stream,
            tarfile.open(fileobj=stream, mode="w:gz") as archive,
        ):

            def put(name: str, data: bytes) -> None:
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size, member.mode = len(data), 0o600
                member.mtime = int(origin.created.timestamp())
                archive.addfile(member, io.BytesIO(data))

            written = _collect(source, path, origin, redact, progress, put)
        Path(unfinished).rename(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return written


def _collect(
    source: PartSource,
    path: Path,
    origin: Origin,
    redact: bool,
    progress: Progress | None,
    put: _Put,
) -> Written:
    names = Names() if redact else None
    files: list[WrittenFile] = []
    gaps: list[Gap] = []
    for number, part in enumerate(_COLLECTED, 1):
        if progress:
            progress(part, number, len(_COLLECTED))
        data = _part_data(source, part, names)
        if isinstance(data, Gap):
            gaps.append(data)
            continue
        put(part.value, data)
        command = " ".join(FACTS[part].command)
        digest = hashlib.sha256(data).hexdigest()
        files.append(WrittenFile(part.value, digest, len(data), command))
    node = names.node(origin.node) if names else origin.node
    put(Part.MANIFEST.value, _manifest(origin, node, redact, files, gaps))
    return Written(path, tuple(files), tuple(gaps))


def _part_data(source: PartSource, part: Part, names: Names | None) -> bytes | Gap:
    if names and part in _FREE_TEXT:
        return gap(part, "left out of a redacted snapshot", "make one without --redact")
    found = source.read(part)
    if isinstance(found, Gap):
        return found
    if part in OBJECT_PARTS:
        return _objects(part, found, names)
    if part is Part.CONFIG:
        return _config(found[0], names)
    text = "\n".join(content.data.decode("utf-8", "replace") for content in found)
    if part is Part.SYSCTL:
        text = strip_sysctl(text)
    if names and part is Part.HOSTNAME:
        text = f"{names.node(text.strip())}\n"
    text = strip_text(text)
    return (names.text(text) if names else text).encode()


def _objects(part: Part, found: tuple[Content, ...], names: Names | None) -> bytes:
    from diagnostics.readers.objects import documents

    def every() -> Iterator[dict[str, object]]:
        for content in found:
            yield from documents(content.data)

    items = strip_objects(every())
    kind, version = _LIST_KINDS[part]
    value = {
        "kind": kind,
        "apiVersion": version,
        "items": names.objects(items) if names else items,
    }
    return msgspec.json.format(msgspec.json.encode(value), indent=1)


def _config(content: Content, names: Names | None) -> bytes | Gap:
    """Return the configuration alone: its ConfigMap has a kubeconfig beside it."""
    from dataclasses import replace

    from diagnostics.readers.objects import ConfigProblem, read_config
    from proxy.config.convert import render_yaml

    try:
        config = read_config(content.data)
    except ConfigProblem as error:
        return gap(Part.CONFIG, f"{content.name}: {error}", "see kpctl config validate")
    if names:
        config = replace(config, hostname_override=names.node(config.hostname_override))
    return render_yaml(config).encode()


def _manifest(
    origin: Origin, node: str, redacted: bool, files: list[WrittenFile], gaps: list[Gap]
) -> bytes:
    value = {
        "apiVersion": "kpctl.io/v1",
        "kind": "Snapshot",
        "kpctlVersion": origin.version,
        "node": node,
        "created": origin.created.isoformat(timespec="seconds"),
        "redacted": redacted,
        "files": files,
        "gaps": gaps,
    }
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
