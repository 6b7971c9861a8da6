"""``--from PATH``: a directory, an archive or one dump, of one node or of several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diagnostics.snapshot.archive import Files, Limits, SnapshotError, open_files
from diagnostics.snapshot.bundle import BundleSource, NodeFiles, sort_files
from diagnostics.snapshot.content import decode
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Part


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a path holds; ``nodes`` are in the order of their names."""

    path: str
    nodes: tuple[NodeSnapshot, ...]

    def names(self) -> tuple[str, ...]:
        """Return the names of the nodes."""
        return tuple(node.name for node in self.nodes)

    def node(self, name: str = "") -> NodeSnapshot:
        """
        Return one node, which need not be named where there is only one.

        Raises:
            SnapshotError: There is none of that name, or a name is needed.
        """
        if not name and len(self.nodes) == 1:
            return self.nodes[0]
        for node in self.nodes:
            if node.name == name and name:
                return node
        names = ", ".join(filter(None, self.names())) or "one without a name"
        if not name:
            raise SnapshotError(f"{self.path}: has several nodes ({names}); say which: --node NAME")
        if len(self.nodes) == 1 and self._may_be(self.nodes[0], name):
            return self.nodes[0].named(name)
        raise SnapshotError(f"{self.path}: has no node {name!r}; it has {names}")

    @staticmethod
    def _may_be(node: NodeSnapshot, name: str) -> bool:
        """Whether nothing contradicts a name: a host may be called otherwise than its Node."""
        known = {one.metadata.name for one in node.objects().nodes or ()}
        return name in known if known else not node.name


def open_snapshot(path: str | Path, limits: Limits | None = None) -> Snapshot:
    """
    Return the nodes that *path* holds.

    Names of files and their content tell what they are; see ``diagnostics.snapshot.bundle`` for
    the layouts that are known. Nothing is written to disk, and nothing outside is read.

    Raises:
        SnapshotError: It cannot be read, holds no dump, or is an archive that must not be trusted.
    """
    path = Path(path)
    files = open_files(path, limits)
    bundle = sort_files(files, str(path))
    nodes = []
    for found in bundle.nodes:
        source = BundleSource(files, found, str(path))
        several = len(bundle.nodes) > 1 or "nodes" in _folders(found)
        name = (_host_name(files, found) or found.name) if several else ""
        nodes.append(NodeSnapshot(source, name, files.notes))
    if len(nodes) > 1:  # else nothing needs to be read yet
        nodes.sort(key=lambda node: node.name)
    return Snapshot(str(path), tuple(nodes))


def _folders(node: NodeFiles) -> set[str]:
    return {folder for names in node.parts.values() for name in names for folder in _path(name)}


def _path(name: str) -> list[str]:
    return name.split("/")[:-1]


def _host_name(files: Files, node: NodeFiles) -> str:
    """
    Return what cilium-bugtool's ``hostname`` printed: its pod has the node's name.

    Our own snapshots have the Node's name in their manifest.
    """
    names = () if Part.MANIFEST in node.parts else node.parts.get(Part.HOSTNAME, ())
    return decode(files.read(names[0])).text.strip() if names else ""
