"""Where a snapshot is written: a directory, a tar.gz that appears when it is complete, a stream."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from diagnostics.snapshot.archive import SnapshotError

Place = Path | IO[bytes]
Put = Callable[[str, bytes], None]
"""Writes one file, named relative to the snapshot with ``/``."""
_STREAM_FOLDER = "kpctl-snapshot"


@contextmanager
def target(place: Place, created: datetime) -> Generator[Put, None, None]:
    """
    Give what writes files to *place*; an archive is complete when it is left without an exception.

    Raises:
        SnapshotError: There is something already, or it cannot be written.
    """
    if not isinstance(place, Path):
        with tarfile.open(fileobj=place, mode="w|gz") as archive:
            yield _to_archive(archive, _STREAM_FOLDER, created)
        return
    is_archive = place.name.endswith((".tar.gz", ".tgz"))
    if place.exists() and (is_archive or not place.is_dir() or any(place.iterdir())):
        raise SnapshotError(f"{place}: exists already; name another file or an empty directory")
    try:
        if is_archive:
            with _archive_file(place, created) as put:
                yield put
        else:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield _to_directory(place)
    except OSError as error:
        raise SnapshotError(f"{place}: cannot be written: {error.strerror or error}") from error


def _to_directory(path: Path) -> Put:
    def put(name: str, data: bytes) -> None:
        file = path / name
        for folder in reversed(file.relative_to(path).parents[:-1]):
            (path / folder).mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)

    return put


def _to_archive(archive: tarfile.TarFile, folder: str, created: datetime) -> Put:
    def put(name: str, data: bytes) -> None:
        member = tarfile.TarInfo(f"{folder}/{name}")
        member.size, member.mode = len(data), 0o600
        member.mtime = int(created.timestamp())
        archive.addfile(member, io.BytesIO(data))

    return put


@contextmanager
def _archive_file(path: Path, created: datetime) -> Generator[Put, None, None]:
    folder = path.name.removesuffix(".tgz").removesuffix(".tar.gz")
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with (
            os.fdopen(descriptor, "wb") as stream,
            tarfile.open(fileobj=stream, mode="w:gz") as archive,
        ):
            yield _to_archive(archive, folder, created)
        Path(unfinished).rename(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
