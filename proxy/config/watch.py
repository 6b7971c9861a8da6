"""
Noticing that the configuration file has other content than at start.

kube-proxy watches the inode it opened, so it misses the symlink swap of a ConfigMap volume and
runs on with old settings. Here the path is looked at again: a cheap stat each time, the content
only when the stat differs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_Stamp = tuple[int, int, int, int]


class FileWatch:
    """
    Answers whether the content of a file differs from when the watch was made.

    A file that is gone or unreadable has not changed: it may be on its way back.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._stamp = self._read_stamp()
        self._digest = self._read_digest()

    def changed(self) -> bool:
        """Whether the content differs now; symlinks are followed. Never raises."""
        stamp = self._read_stamp()
        if stamp is None or stamp == self._stamp:
            return False
        digest = self._read_digest()
        if digest is None:
            return False
        if self._digest is None or digest == self._digest:
            # INVARIANT: the stamp only advances together with known-equal content, so that a
            # difference is reported on every call, not only on the first.
            self._stamp, self._digest = stamp, digest
            return False
        return True

    def _read_stamp(self) -> _Stamp | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def _read_digest(self) -> bytes | None:
        try:
            return hashlib.sha256(self._path.read_bytes()).digest()
        except OSError:
            return None
