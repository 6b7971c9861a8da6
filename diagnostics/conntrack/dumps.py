"""Where the lines of a dump come from: a file that is read as it is walked, whatever its size."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BufferedIOBase, BytesIO
from pathlib import Path

from diagnostics.snapshot.archive import SnapshotError, open_files
from diagnostics.snapshot.detect import detect
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.snapshot.parts import Gap, Part, part_of

Lines = Callable[[], Iterator[bytes]]
"""Begins to read anew with each call; raises SnapshotError."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEAD_BYTES = 1 << 16
_LONGEST_LINE = 1 << 16
_OTHER_ENCODING = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ENTRY = re.compile(rb"^.*\bsrc=\S+ dst=\S+.*\bsrc=\S+ dst=\S+", re.MULTILINE)


def lines_of(snapshot: NodeSnapshot, path: Path) -> tuple[Lines, ...] | Gap:
    """
    Return the lines of a node's dump, or why there are none.

    A file below a directory is read line by line; one in an archive is unpacked as a whole.
    """
    file = _only_file(path, snapshot.name)
    if file is not None and _is_plain(file):
        return (lambda: _lines(file, _open(file)),)
    contents = snapshot.contents(Part.CONNTRACK)
    if isinstance(contents, Gap):
        return contents
    return tuple(_of_bytes(content.data) for content in contents)


def _of_bytes(data: bytes) -> Lines:
    return lambda: _lines(Path(), BytesIO(data))


def is_table_alone(path: Path) -> bool:
    """Return whether a path is one dump of a connection table, and nothing else."""
    if not path.is_file() or not _is_plain(path):
        return False
    head = _head(path)
    return detect(head.decode("utf-8", "replace")) is Part.CONNTRACK


def _only_file(path: Path, node: str) -> Path | None:
    """Return the one file that must be the node's dump, None when only its content can tell."""
    if path.is_file():
        return path if is_table_alone(path) else None
    if not path.is_dir():
        return None
    names = [name for name in open_files(path).names if part_of(name) is Part.CONNTRACK]
    if len(names) > 1 and node:
        names = [name for name in names if node in name.split("/")]
    if len(names) != 1 or not _ENTRY.search(_head(path / names[0])):
        return None
    return path / names[0]


def _is_plain(path: Path) -> bool:
    return not _head(path).startswith(_OTHER_ENCODING)


def _head(path: Path) -> bytes:
    """Return the beginning of a file, unpacked; "" when it is damaged."""
    try:
        with _open(path) as stream:
            return stream.read(_HEAD_BYTES)
    except (OSError, EOFError):
        return b""


def _open(path: Path) -> BufferedIOBase:
    stream = path.open("rb")
    packed = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    stream.seek(0)
    if not packed:
        return stream
    stream.close()
    return gzip.open(path)


def _lines(path: Path, stream: BufferedIOBase) -> Iterator[bytes]:
    """Yield lines; one that is too long to be an entry comes in pieces."""
    with closing(stream):
        try:
            while line := stream.readline(_LONGEST_LINE):
                yield line
        except (OSError, EOFError) as error:
            raise SnapshotError(f"{path}: truncated or damaged ({error}); copy it again") from error
