"""
Writing a snapshot: the flat directory that ``open_snapshot`` reads, or the same as a tar.gz.

Every file goes through ``stripping``; with redaction also through ``hiding``. ``manifest.json``
tells version, node and time, and of each file its command, size and SHA-256, and all gaps. With
several nodes the files of each are in ``nodes/NAME``, with a manifest of their own, and what
belongs to the cluster is above them, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import msgspec

from diagnostics.snapshot.hiding import Names
from diagnostics.snapshot.parts import FACTS, OBJECT_PARTS, Gap, Part, gap
from diagnostics.snapshot.source import Content, PartSource
from diagnostics.snapshot.stripping import strip_objects, strip_sysctl, strip_text
from diagnostics.snapshot.target import Place, Put, target

# What a redacted snapshot leaves out: free text.
_FREE_TEXT = frozenset({Part.METRICS, Part.LOG})
_BACKENDS = frozenset({Part.IPTABLES, Part.IP6TABLES})
CLUSTER_PARTS = (*(part for part in Part if part in OBJECT_PARTS - {Part.OBJECTS}), Part.CONFIG)
"""What is the same on every node."""
NODE_PARTS = tuple(part for part in Part if part not in OBJECT_PARTS | {Part.MANIFEST, Part.CONFIG})
"""What each node has of its own."""
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
    """What was written where; ``path`` is None for a stream."""

    path: Path | None
    files: tuple[WrittenFile, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class WrittenNodes:
    """What ``write_nodes`` did: the cluster's files, and those of each node by its own name."""

    cluster: Written
    nodes: dict[str, Written]


Progress = Callable[[Part, int, int], None]
"""Told of each part before it is read: the part, its number from 1, and how many there are."""


def write_snapshot(
    source: PartSource,
    place: Place,
    origin: Origin,
    *,
    redact: bool = False,
    node_only: bool = False,
    progress: Progress | None = None,
) -> Written:
    """
    Collect everything *source* has.

    Args:
        source: The node.
        place: A directory, created if need be, or a file whose name ends in .tar.gz or .tgz, or a
            stream for a tar.gz. A file appears only when it is complete. Files and directories are
            readable by their owner alone.
        origin: For the manifest.
        redact: Hide names, see ``diagnostics.snapshot.hiding``.
        node_only: Leave out what belongs to the cluster.
        progress: Told what is going on.

    Raises:
        SnapshotError: *place* exists already, or cannot be written.
    """
    names = Names() if redact else None
    with target(place, origin.created) as put:
        parts = NODE_PARTS if node_only else _COLLECTED
        files, gaps = _collect(source, parts, names, put, progress)
        node = names.node(origin.node) if names else origin.node
        put(Part.MANIFEST.value, _manifest(origin, {"node": node}, redact, files, gaps))
    return Written(place if isinstance(place, Path) else None, tuple(files), tuple(gaps))


def write_nodes(
    cluster: PartSource,
    nodes: Iterable[tuple[str, PartSource]],
    place: Place,
    origin: Origin,
    *,
    redact: bool = False,
) -> WrittenNodes:
    """
    Collect the parts of the cluster, then those of each node as it comes.

    Names are hidden alike in all of them. Only one node is held at a time.

    Args:
        cluster: Has ``CLUSTER_PARTS``.
        nodes: Names of Nodes and their parts.
        place: As for ``write_snapshot``.
        origin: For the manifests; its node is not used.
        redact: As for ``write_snapshot``.

    Raises:
        SnapshotError: As ``write_snapshot``, and what iterating over *nodes* raises.
    """
    names = Names() if redact else None
    written: dict[str, Written] = {}
    folders = []
    with target(place, origin.created) as put:
        files, gaps = _collect(cluster, CLUSTER_PARTS, names, put)
        for name, source in nodes:
            shown = names.node(name) if names else name
            folder = f"nodes/{shown}"
            folders.append(shown)

            def put_below(file: str, data: bytes, folder: str = folder) -> None:
                put(f"{folder}/{file}", data)

            found, missing = _collect(source, NODE_PARTS, names, put_below)
            about = {"node": shown}
            put_below(Part.MANIFEST.value, _manifest(origin, about, redact, found, missing))
            written[name] = Written(None, tuple(found), tuple(missing))
        put(Part.MANIFEST.value, _manifest(origin, {"nodes": sorted(folders)}, redact, files, gaps))
    path = place if isinstance(place, Path) else None
    return WrittenNodes(Written(path, tuple(files), tuple(gaps)), written)


def _collect(
    source: PartSource,
    parts: Sequence[Part],
    names: Names | None,
    put: Put,
    progress: Progress | None = None,
) -> tuple[list[WrittenFile], list[Gap]]:
    files: list[WrittenFile] = []
    gaps: list[Gap] = []
    for number, part in enumerate(parts, 1):
        if progress:
            progress(part, number, len(parts))
        found = _read(source, part, names)
        if isinstance(found, Gap):
            gaps.append(_hidden(found, names))
            continue
        for name, command, contents in _files(part, found):
            data = _part_data(part, contents, names)
            if isinstance(data, Gap):
                gaps.append(_hidden(data, names))
                continue
            put(name, data)
            digest = hashlib.sha256(data).hexdigest()
            files.append(WrittenFile(name, digest, len(data), command))
    return files, gaps


def _hidden(found: Gap, names: Names | None) -> Gap:
    return Gap(found.what, names.told(found.why), names.told(found.how)) if names else found


def _read(source: PartSource, part: Part, names: Names | None) -> tuple[Content, ...] | Gap:
    if names and part in _FREE_TEXT:
        return gap(part, "left out of a redacted snapshot", "make one without --redact")
    return source.read(part)


def _files(
    part: Part, found: tuple[Content, ...]
) -> Iterator[tuple[str, str, tuple[Content, ...]]]:
    """Yield name, command and contents of each file: a second backend has one of its own."""
    command = " ".join(FACTS[part].command)
    if part not in _BACKENDS:
        yield part.value, command, found
        return
    yield part.value, command, found[:1]
    for other in found[1:]:
        name = PurePosixPath(other.name).name
        yield name, f"{name.removesuffix('.txt')} -c", (other,)


def _part_data(part: Part, found: tuple[Content, ...], names: Names | None) -> bytes | Gap:
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
    origin: Origin,
    about: Mapping[str, object],
    redacted: bool,
    files: list[WrittenFile],
    gaps: list[Gap],
) -> bytes:
    value = {
        "apiVersion": "kpctl.io/v1",
        "kind": "Snapshot",
        "kpctlVersion": origin.version,
        **about,
        "created": origin.created.isoformat(timespec="seconds"),
        "redacted": redacted,
        "files": files,
        "gaps": gaps,
    }
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
