"""
Files of an archive or a directory, read without ever writing one.

An archive may come from anywhere. Absolute names, ``..``, links that lead elsewhere, devices, and
more files or bytes than a node can have are refused as a whole, with one message; what remains is
kept in memory, and only files that may be a dump.

SnapshotError
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from diagnostics.snapshot.parts import part_of

_CHUNK_BYTES = 1 << 20
_GZIP_MAGIC, _ZIP_MAGIC = b"\x1f\x8b", b"PK\x03\x04"
_EXTENDED_TYPES = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_MOST_HEADER_BYTES = 1 << 20
_MOST_FILE_BYTES = 512 << 20
_EMPTY_ZIP_MAGIC = b"PK\x05\x06"
_TAR_MAGIC, _TAR_MAGIC_OFFSET = b"ustar", 257
_BROKEN = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    # What tarfile and zipfile let through from fields that make no sense.
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    RuntimeError,
    struct.error,
)
# What no dump has and archives are full of.
_NEVER = (".log.gz", ".pcap", ".pcapng", ".so", ".bin", ".pprof", ".png", ".html")


class SnapshotError(Exception):
    """A snapshot cannot be used; the text names the path, the reason and the next step."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one archive may hold; in bytes after unpacking."""

    files: int = 50_000
    total_bytes: int = 4 << 30
    file_bytes: int = _MOST_FILE_BYTES
    kept_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Files:
    """
    Files by their path with ``/``, relative to the archive or directory.

    ``read`` returns the content of one; ``notes`` tell what was passed over.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]
    notes: tuple[str, ...] = ()


def open_files(path: Path, limits: Limits | None = None) -> Files:
    """
    Return the files below *path*: a directory, a tar (.gz, .xz, .bz2), a zip, or one file.

    Raises:
        SnapshotError: It cannot be read, is damaged, or must not be trusted.
    """
    limits = limits or Limits()
    try:
        if path.is_dir():
            return _directory(path, limits)
        if not path.exists():
            raise SnapshotError(f"{path}: no such file or directory")
        if not path.is_file():
            raise SnapshotError(f"{path}: neither a file nor a directory")
        with path.open("rb") as stream:
            return _file(path, stream, limits)
    except _BROKEN as error:
        raise SnapshotError(
            f"{path}: truncated or damaged ({error}); copy it again, or unpack what is left of it "
            "and name the directory"
        ) from error
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror or error}") from error


def _file(path: Path, stream: IO[bytes], limits: Limits) -> Files:
    head = stream.read(512)
    stream.seek(0)
    if head.startswith((_ZIP_MAGIC, _EMPTY_ZIP_MAGIC)):
        return _zip(path, stream, limits)
    if _is_tar(head) or path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
        return _tar(path, stream, limits)
    if head.startswith(_GZIP_MAGIC):
        with gzip.open(stream) as unpacked:
            first = unpacked.read(512)
        stream.seek(0)
        if _is_tar(first):
            return _tar(path, stream, limits)
        with gzip.open(stream) as unpacked:
            data = _read(unpacked, path.name, path, limits.file_bytes)
        return _single(path.name.removesuffix(".gz"), data)
    return _single(path.name, _read(stream, path.name, path, limits.file_bytes))


def _is_tar(head: bytes) -> bool:
    return head[_TAR_MAGIC_OFFSET : _TAR_MAGIC_OFFSET + len(_TAR_MAGIC)] == _TAR_MAGIC


def _single(name: str, data: bytes) -> Files:
    return Files((name,), lambda _: data)


def _read(stream: IO[bytes] | gzip.GzipFile, name: str, path: Path, most: int) -> bytes:
    """Read to the end, but never more than *most* bytes."""
    whole = bytearray()
    while chunk := stream.read(_CHUNK_BYTES):
        whole += chunk
        if len(whole) > most:
            raise SnapshotError(f"{path}: {name} has more than {most} bytes unpacked; refused")
    return bytes(whole)


class _Checks:
    """Judges the members of one archive, and keeps count."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._files = 0
        self._bytes = 0
        self._kept = 0
        self.kept: dict[str, bytes] = {}
        self.links = 0
        self.unnamed = 0

    def refuse(self, name: str, why: str) -> SnapshotError:
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        return SnapshotError(f"{self._path}: refused, {shown!r} {why}; nothing of it was read")

    def name(self, name: str) -> str:
        """Return a member's name in one form, "" for one that is not read for its name."""
        if name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":"):
            raise self.refuse(name, "has an absolute path")
        parts = name.replace("\\", "/").split("/")
        if ".." in parts:
            raise self.refuse(name, "leads out of the archive")
        if "\0" in name:
            raise self.refuse(name, "has a NUL in its name")
        if not name.isprintable():
            self.unnamed += 1  # such as bytes that are no UTF-8; no dump is called like that
            return ""
        return "/".join(part for part in parts if part not in ("", "."))

    def count(self, name: str, size: int) -> None:
        """Count one member of a declared size."""
        if size < 0:
            raise self.refuse(name, f"has a size of {size} bytes")
        self._files += 1
        self._bytes += size
        if self._files > self._limits.files:
            raise self.refuse(name, f"is one of more than {self._limits.files} files")
        if self._bytes > self._limits.total_bytes:
            raise self.refuse(name, f"makes it more than {self._limits.total_bytes} bytes unpacked")

    def link(self, name: str, target: str, hard: bool) -> None:
        """Pass over a link within the archive to where no dump is; refuse any other."""
        base = [] if hard else name.split("/")[:-1]
        depth = len(base)
        for part in target.split("/"):
            depth += -1 if part == ".." else part not in ("", ".")
            if depth < 0:
                break
        if target.startswith("/") or depth < 0:
            raise self.refuse(name, f"is a link to {target!r}, outside the archive")
        if part_of(name) is not None:
            raise self.refuse(name, f"is a link to {target!r} in place of a dump")
        self.links += 1

    def keep(self, name: str, stream: IO[bytes]) -> None:
        """Read a file into memory."""
        if name in self.kept:
            raise self.refuse(name, "is there twice")
        data = _read(stream, name, self._path, self._limits.file_bytes)
        self._kept += len(data)
        if self._kept > self._limits.kept_bytes:
            most = self._limits.kept_bytes
            raise self.refuse(
                name,
                f"makes it more than {most} bytes of dumps (unpacked, a directory may have more)",
            )
        self.kept[name] = data

    def files(self) -> Files:
        notes = self.notes("links in the archive were not followed")
        return Files(tuple(self.kept), self.kept.__getitem__, notes)

    def notes(self, of_links: str) -> tuple[str, ...]:
        """Return what was passed over."""
        found = [f"{self.links} {of_links}"] if self.links else []
        if self.unnamed:
            found.append(f"{self.unnamed} files were not read: their names are no text")
        return tuple(found)


def is_candidate(name: str, size: int) -> bool:
    """Return whether a file may be a dump: by its name, or so small that its content may tell."""
    if part_of(name) is not None:
        return True
    base = name.rsplit("/", 1)[-1]
    if name.endswith(_NEVER) or base.startswith("."):
        return False
    return size <= 16 << 20 and (
        name.endswith((".txt", ".json", ".yaml", ".yml")) or "." not in base
    )


class _Member(tarfile.TarInfo):
    """A member whose extended headers are small; tarfile reads those into memory at once."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one header block."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED_TYPES and member.size > _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


def _tar(path: Path, stream: IO[bytes], limits: Limits) -> Files:
    checks = _Checks(path, limits)
    # Streaming: one pass, and the declared sizes are counted before anything is unpacked.
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as archive:
        for member in archive:
            name = checks.name(member.name)
            checks.count(name, member.size)
            if member.isdir() or not name:
                continue
            if member.issym() or member.islnk():
                checks.link(name, member.linkname, member.islnk())
                continue
            if not member.isreg():
                raise checks.refuse(name, "is a device, a pipe or the like")
            if is_candidate(name, member.size):
                content = archive.extractfile(member)
                if content is not None:
                    checks.keep(name, content)
    return checks.files()


def _zip(path: Path, stream: IO[bytes], limits: Limits) -> Files:
    checks = _Checks(path, limits)
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            name = checks.name(member.filename)
            checks.count(name, member.file_size)
            mode = member.external_attr >> 16
            if member.is_dir() or not name:
                continue
            if stat.S_ISLNK(mode):
                checks.link(name, archive.read(member)[:4096].decode("utf-8", "replace"), False)
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise checks.refuse(name, "is a device, a pipe or the like")
            if member.flag_bits & 1:
                raise checks.refuse(name, "is encrypted")
            if is_candidate(name, member.file_size):
                try:
                    with archive.open(member) as content:
                        checks.keep(name, content)
                except NotImplementedError as error:
                    raise checks.refuse(name, f"cannot be unpacked ({error})") from error
    return checks.files()


def _directory(path: Path, limits: Limits) -> Files:
    checks = _Checks(path, limits)
    root = path.resolve()
    names = []
    for name, size in _walk(root, checks):
        checks.count(name, 0)
        if not name.isprintable():
            checks.unnamed += 1
            continue
        if is_candidate(name, size):
            names.append(name)

    def read(name: str) -> bytes:
        try:
            with (root / name).open("rb") as stream:
                return _read(stream, name, path, limits.file_bytes)
        except OSError as error:
            reason = error.strerror or error
            raise SnapshotError(f"{path / name}: cannot be read: {reason}") from error

    notes = checks.notes("links that lead outside were not followed")
    return Files(tuple(sorted(names)), read, notes)


def _walk(root: Path, checks: _Checks) -> Iterator[tuple[str, int]]:
    """Yield regular files below *root*; links count only while they stay below it."""
    for folder, _, files in os.walk(root):
        for file in sorted(files):
            path = Path(folder, file)
            try:
                inside = not path.is_symlink() or path.resolve().is_relative_to(root)
                found = path.stat()
            except OSError:
                continue
            if not inside:
                checks.links += 1
            elif stat.S_ISREG(found.st_mode):
                yield path.relative_to(root).as_posix(), found.st_size


def gunzip(data: bytes, name: str, where: str = "", most: int = _MOST_FILE_BYTES) -> bytes:
    """
    Return *data* unpacked if it is gzip, else as it is.

    Raises:
        SnapshotError: It is damaged, or more than *most* bytes; names *name* within *where*.
    """
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            return _read(stream, name, Path(where or name), most)
    except _BROKEN as error:
        place = f"{where}: {name}" if where else name
        raise SnapshotError(f"{place}: truncated or damaged ({error})") from error
