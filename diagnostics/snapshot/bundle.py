"""
Files → nodes: which dumps belong together, in our own layout and in those of others.

    kpctl snapshot, by hand    iptables-save.txt …, or one folder for each node
    calicoctl cluster diags    nodes/NODE/iptables-nft-save.txt …, cluster/kubernetes/services.yaml
    cilium sysdump             cilium-bugtool-POD-…/cmd/iptables-save--c.md …, k8s-services-….yaml
    must-gather                nodes/NODE/…, namespaces/NS/core/services.yaml,
                               cluster-scoped-resources/core/nodes/NODE.yaml

Dumps of the kernel in one folder are one node; objects outside such folders belong to every node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from diagnostics.snapshot.archive import Files, SnapshotError, gunzip
from diagnostics.snapshot.content import decode
from diagnostics.snapshot.detect import detect
from diagnostics.snapshot.parts import (
    OBJECT_PARTS,
    RULE_PARTS,
    SHARED_PARTS,
    Gap,
    Part,
    gap,
    part_of,
)
from diagnostics.snapshot.source import Content

# Folders within a node's that sort its dumps; cilium-bugtool's is cmd.
_INNER_FOLDERS = frozenset(
    {"cmd", "network", "networking", "net", "iptables", "nftables", "nft", "ipvs", "ipset", "ip",
     "host", "host_service_logs", "dumps", "etc", "proc", "sys"}
)  # fmt: skip
_END_BYTES = 1 << 16
_PROXY_RULES = re.compile(rb"KUBE-|kube-proxy")
# Parts told by their name only; their content looks like anything.
_BY_NAME = frozenset(
    {Part.METRICS, Part.LOG, Part.HOSTNAME, Part.MANIFEST, Part.RECENT, Part.LEGACY}
)
_SAME_DUMP = {
    Part.NFT_TEXT: {Part.NFT_JSON},
    Part.ROUTES: {Part.ROUTES6},
    Part.RULES: {Part.RULES6},
}


@dataclass(slots=True)
class NodeFiles:
    """Names of files by part, of one node; ``name`` is "" where the layout does not tell."""

    name: str
    parts: dict[Part, list[str]] = field(default_factory=dict)

    def add(self, part: Part, name: str) -> None:
        """Add one file."""
        self.parts.setdefault(part, []).append(name)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The nodes of one archive or directory, in the order of their names."""

    files: Files
    nodes: tuple[NodeFiles, ...]


def sort_files(files: Files, where: str) -> Bundle:
    """
    Return which files are what, by node.

    A name that says what a file is must not be contradicted by its content; other files are
    recognised by their content.

    Raises:
        SnapshotError: None of them is a dump.
    """
    shared = NodeFiles("")
    nodes: dict[str, NodeFiles] = {}
    found: list[tuple[Part, str, str]] = []
    for name in files.names:
        part = _part(files, name)
        if part is not None:
            found.append((part, _folder(name), name))
    if not found:
        raise SnapshotError(
            f"{where}: no dump was found in {len(files.names)} files; expected one such as "
            "iptables-save.txt, nft-ruleset.json, ipvsadm-save.txt or services.json"
        )
    folders = {folder for part, folder, _ in found if part not in SHARED_PARTS}
    for part, folder, name in found:
        if folder in folders:
            nodes.setdefault(folder, NodeFiles(_node_name(folder))).add(part, name)
        else:
            shared.add(part, name)
    merged = list(nodes.values()) or [NodeFiles("")]
    for node in merged:
        for part, names in shared.parts.items():
            if part in OBJECT_PARTS or part not in node.parts:
                node.parts.setdefault(part, []).extend(names)
    return Bundle(files, tuple(sorted(merged, key=lambda node: node.name)))


def _part(files: Files, name: str) -> Part | None:
    named = part_of(name)
    if named in _BY_NAME:
        return named
    data = gunzip(files.read(name), name)
    if len(data) > 2 * _END_BYTES:
        data = (
            data[:_END_BYTES] + b"\n" + data[-_END_BYTES:]
        )  # the kind of a YAML list is at its end
    text = decode(data).text
    if not text.strip():
        return named  # an empty dump is one: there are no rules
    seen = detect(text)
    if named is None or seen is None:
        # Dumps without anything in them look like nothing, as "[]" does.
        if named is None or named is Part.CONFIG:
            return seen
        return named if _is_bare(text) else None
    return _agree(named, seen)


def _is_bare(text: str) -> bool:
    """Whether a dump may have nothing in it that would tell what it is."""
    return len(text) < 4096 and "<html" not in text


def _agree(named: Part, seen: Part) -> Part:
    """Return which of two opinions counts: the finer one where both are possible."""
    if named is seen or (named in OBJECT_PARTS and seen is Part.OBJECTS):
        return named
    same_tool = {Part.IPTABLES, Part.IP6TABLES}
    if named in same_tool and seen in same_tool:
        return named
    if seen in _SAME_DUMP and named in _SAME_DUMP[seen]:
        return seen if named is Part.NFT_JSON else named
    return seen


def _folder(name: str) -> str:
    """Return the folder of a node that a file is in."""
    folders = name.split("/")[:-1]
    while folders and folders[-1] in _INNER_FOLDERS:
        folders.pop()
    return "/".join(folders)


def _node_name(folder: str) -> str:
    """Return the node's name that a folder tells, "" if it is only the root of an archive."""
    folders = folder.split("/") if folder else []
    if "nodes" in folders[:-1]:
        return folders[folders.index("nodes") + 1]
    return folders[-1] if folders else ""


class BundleSource:
    """The parts of one node of a bundle; files are read when they are asked for."""

    def __init__(self, files: Files, node: NodeFiles, where: str) -> None:
        self._files = files
        self._node = node
        self._where = where

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        """As ``PartSource.read``."""
        names = self._node.parts.get(part)
        if not names:
            return gap(part, f"not in {self._where}")
        contents = [self._content(name) for name in names]
        if part in OBJECT_PARTS or part in (Part.ROUTES, Part.ROUTES6, Part.RULES, Part.RULES6):
            return tuple(contents)
        return (_best(contents, part),)

    def _content(self, name: str) -> Content:
        data = gunzip(self._files.read(name), name)
        decoded = decode(data)
        return Content(name, decoded.text.encode(), decoded.note)


def _best(contents: list[Content], part: Part) -> Content:
    """
    Return one of several dumps of the same thing.

    Both of iptables' backends may have been dumped: the proxy's rules are in one of them.
    """
    if len(contents) == 1:
        return contents[0]
    proxys = part in RULE_PARTS
    best = max(contents, key=lambda one: (proxys and _rules_of_proxy(one), len(one.data)))
    others = ", ".join(content.name for content in contents if content is not best)
    return Content(best.name, best.data, f"{best.note + '; ' if best.note else ''}not {others}")


def _rules_of_proxy(content: Content) -> int:
    return len(_PROXY_RULES.findall(content.data))
