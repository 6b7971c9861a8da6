"""A node's snapshot made by this program itself, where it runs in the node's pod."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from diagnostics.snapshot.archive import SnapshotError
from diagnostics.snapshot.open import open_snapshot
from diagnostics.snapshot.parts import Gap, Part
from diagnostics.snapshot.source import Content
from diagnostics.snapshot.write import NODE_PARTS
from kpctl.all_nodes.pod_source import Run

_NAME = "snapshot.tar.gz"


class OwnSnapshot:
    """
    ``kpctl snapshot --node-only -o -``, run in a pod of kpctl.

    Args:
        run: Runs a program there; raises SourceError when that is not possible.
        node: The Node's name.
    """

    def __init__(self, run: Run, node: str) -> None:
        self._run = run
        self._node = node

    def read_into(self, put: Callable[[Part, tuple[Content, ...] | Gap], None]) -> bool:
        """Hand over what is in it; return whether there was one: other versions may not know it."""
        ran = self._run(("kpctl", "snapshot", "--node-only", "-o", "-", "--node", self._node))
        if not ran.stdout or ran.code not in (0, 3):
            return False
        with tempfile.TemporaryDirectory(prefix="kpctl-") as folder:
            path = Path(folder, _NAME)
            path.write_bytes(ran.stdout)
            try:
                source = open_snapshot(path).node(self._node).source
                found = {part: source.read(part) for part in NODE_PARTS if part is not Part.LOG}
            except SnapshotError:
                return False
        for part, content in found.items():
            put(part, content)
        return True
