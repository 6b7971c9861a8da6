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
from diagnostics.snapshot.manifest import Manifest, read_manifest
from diagnostics.snapshot.parts import (
    FACTS,
    NO_DUMPS,
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
     "host", "host_service_logs", "system", "dumps", "etc", "proc", "sys"}
)  # fmt: skip
_END_BYTES = 1 << 16
_PROXY_RULES = re.compile(rb"KUBE-|kube-proxy")
# Parts told by their name only; their content looks like anything.
_BY_NAME = frozenset(
    {Part.METRICS, Part.LOG, Part.HOSTNAME, Part.MANIFEST, Part.RECENT, Part.LEGACY}
)
# They are found in folders that are no nodes', too.
_WEAK = frozenset({Part.METRICS, Part.LOG})
_OF_SEVERAL = frozenset({Part.ROUTES, Part.ROUTES6, Part.RULES, Part.RULES6})
# calicoctl node diags.
_BACKENDS = frozenset({Part.IPTABLES, Part.IP6TABLES})
_NFT_BACKEND = b"(nf_tables)"
_DECIDES = re.compile(rb"^(?:\[\d+:\d+\] )?-A |^:\S+ DROP", re.MULTILINE)
_ADDRESSES_BY_FAMILY = {"ipv4_addr", "ipv6_addr"}
_LONGEST_BARE = 4096
_MOST_UNPACKED_BYTES = 2 << 30
# What shells, runtimes, kubectl and the tools themselves print instead of a dump.
_ERROR = re.compile(
    r"command terminated with exit code|exit status \d|\berror\b|executable file not found"
    r"|no such file or directory|command not found|cannot initialize|permission denied"
    r"|operation not permitted|must be root|unable to connect|connection refused|oci runtime"
    r"|^> Error while running|unable to upgrade connection|can't use ",
    re.IGNORECASE,
)
_SAME_DUMP = {
    Part.NFT_TEXT: {Part.NFT_JSON},
    Part.ROUTES: {Part.ROUTES6},
    Part.RULES: {Part.RULES6},
}


@dataclass(slots=True)
class NodeFiles:
    """
    Names of files by part, of one node; ``name`` is "" where the layout does not tell.

    ``failed`` are parts whose file has only the error of the command that should have filled it.
    """

    name: str
    parts: dict[Part, list[str]] = field(default_factory=dict)
    failed: dict[Part, str] = field(default_factory=dict)

    def add(self, found: _Found) -> None:
        """Add one file."""
        if found.error:
            self.failed.setdefault(found.part, f"{found.name} says: {found.error}")
        else:
            self.parts.setdefault(found.part, []).append(found.name)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The nodes of one archive or directory, in the order of their names."""

    files: Files
    nodes: tuple[NodeFiles, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    part: Part
    name: str
    error: str = ""


def sort_files(files: Files, where: str) -> Bundle:
    """
    Return which files are what, by node.

    A name that says what a file is must not be contradicted by its content; other files are
    recognised by their content.

    Raises:
        SnapshotError: None of them is a dump.
    """
    sorter = _Sorter(files, where)
    found = [one for name in files.names if (one := sorter.found(name)) is not None]
    if not any(not one.error for one in found):
        raise SnapshotError(
            f"{where}: no dump was found in {len(files.names)} files; expected one such as "
            "iptables-save.txt, nft-ruleset.json, ipvsadm-save.txt or services.json"
        )
    shared = NodeFiles("")
    nodes: dict[str, NodeFiles] = {}
    folders = {_folder(one.name) for one in found if one.part not in SHARED_PARTS | _WEAK}
    for one in found:
        folder = _folder(one.name)
        if folder in folders:
            nodes.setdefault(folder, NodeFiles(_node_name(folder))).add(one)
        else:
            shared.add(one)
    merged = list(nodes.values()) or [NodeFiles("")]
    for node in merged:
        for part, names in shared.parts.items():
            of_one = part in _WEAK and len(merged) > 1
            if part in OBJECT_PARTS or (part not in node.parts and not of_one):
                node.parts.setdefault(part, []).extend(names)
    return Bundle(files, tuple(sorted(merged, key=lambda node: node.name)))


class _Sorter:
    """Tells files by their name and content; bounded in what it unpacks."""

    def __init__(self, files: Files, where: str) -> None:
        self._files = files
        self._where = where
        self._unpacked = 0

    def found(self, name: str) -> _Found | None:
        """Return which part a file is, None if none."""
        named = part_of(name)
        if named in _BY_NAME:
            return _Found(named, name)
        if named is None and NO_DUMPS.fullmatch(_base(name)):
            return None
        text = decode(self._ends(name)).text
        seen = detect(text)
        if named is not None and seen is not None:
            return _Found(_agree(named, seen), name)
        if named is not None and (not text.strip() or _may_be_bare(named, text)):
            # An empty dump is one: there are no rules. Others look like nothing, as "[]" does.
            return _Found(named, name, _error_in(text))
        return None if seen is None else _Found(seen, name)

    def _ends(self, name: str) -> bytes:
        """Return the beginning and the end of a file: the kind of a YAML list is at its end."""
        packed = self._files.read(name)
        data = gunzip(packed, name, self._where)
        if data is not packed:
            self._unpacked += len(data)
            if self._unpacked > _MOST_UNPACKED_BYTES:
                raise SnapshotError(
                    f"{self._where}: refused, {name!r} makes it more than {_MOST_UNPACKED_BYTES} "
                    "bytes in compressed files"
                )
        if len(data) <= 2 * _END_BYTES:
            return data
        return data[:_END_BYTES] + b"\n" + data[-_END_BYTES:]


def _may_be_bare(named: Part, text: str) -> bool:
    """Whether a dump may have nothing in it that would tell what it is."""
    return named is not Part.CONFIG and len(text) < _LONGEST_BARE and "<html" not in text


def _error_in(text: str) -> str:
    """Return the line with which a command failed, "" if there is none."""
    lines = (line.strip() for line in text.splitlines() if not line.startswith("#"))
    return next((line[:200] for line in lines if _ERROR.search(line)), "")


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


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _folder(name: str) -> str:
    """Return the folder of a node that a file is in."""
    folders = name.split("/")[:-1]
    if "nodes" in folders[:-1]:
        return "/".join(folders[: folders.index("nodes") + 2])
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
        self._manifests: dict[str, Manifest] = {}

    def read(self, part: Part) -> tuple[Content, ...] | Gap:
        """As ``PartSource.read``."""
        names = self._node.parts.get(part)
        if not names:
            return self._gap(part)
        contents = [self._content(name) for name in names]
        if part in OBJECT_PARTS | _OF_SEVERAL or {*map(_base, names)} == _ADDRESSES_BY_FAMILY:
            return tuple(contents)
        if part in _BACKENDS:
            return _by_backend(contents, part)
        return (best_dump(contents, part),)

    def _gap(self, part: Part) -> Gap:
        """Why it is missing may be in the file itself or in the manifest."""
        if part in self._node.failed:
            return gap(part, self._node.failed[part])
        manifest = self._manifest(self._node.parts.get(Part.MANIFEST, [""])[0])
        if one := manifest.gap_of(FACTS[part].what):
            return Gap(one.what, f"not in {self._where}: {one.why}", one.how)
        if manifest.lists(part):
            return gap(part, f"not in {self._where}, though its manifest lists it: it was cut")
        return gap(part, f"not in {self._where}")

    def _manifest(self, name: str) -> Manifest:
        if name not in self._manifests:
            known = name in self._files.names
            self._manifests[name] = read_manifest(self._files.read(name) if known else b"")
        return self._manifests[name]

    def _content(self, name: str) -> Content:
        packed = self._files.read(name)
        decoded = decode(gunzip(packed, name, self._where))
        folder, slash, base = name.rpartition("/")
        note = decoded.note
        if self._manifest(f"{folder}{slash}{Part.MANIFEST.value}").contradicts(base, packed):
            edited = "it was changed after it was collected, says the manifest's SHA-256"
            note = f"{note}; {edited}" if note else edited
        return Content(name, decoded.text.encode(), note)


def _by_backend(contents: list[Content], part: Part) -> tuple[Content, ...]:
    """Return the best dump, and that of iptables' other backend if it has rules or drops."""
    first = max(contents, key=lambda one: (_rules_of_proxy(one), len(one.data)))
    is_nft = _is_nft(first)
    others = [one for one in contents if _is_nft(one) != is_nft and _DECIDES.search(one.data)]
    same = [one for one in contents if one not in others]
    return (best_dump(same, part), *([best_dump(others, part)] if others else []))


def _is_nft(content: Content) -> bool:
    return _NFT_BACKEND in content.data[:_END_BYTES]


def best_dump(contents: list[Content], part: Part) -> Content:
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
