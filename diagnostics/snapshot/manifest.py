"""``manifest.json`` of a snapshot as it is read back: what was missing, and what each file was."""

from __future__ import annotations

import hashlib

import msgspec

from diagnostics.snapshot.parts import Gap, Part


class _File(msgspec.Struct):
    name: str
    sha256: str


class Manifest(msgspec.Struct):
    """One manifest; empty where there is none, or one that is not understood."""

    gaps: list[Gap] = []
    files: list[_File] = []

    def gap_of(self, what: str) -> Gap | None:
        """Return the gap that the snapshot was made with, by the name of the thing."""
        return next((one for one in self.gaps if one.what == what), None)

    def lists(self, part: Part) -> bool:
        """Return whether there was a file of a part."""
        return any(file.name == part.value for file in self.files)

    def contradicts(self, name: str, data: bytes) -> bool:
        """Return whether a file of that name had other content when the snapshot was made."""
        digests = [file.sha256 for file in self.files if file.name == name]
        return bool(digests) and hashlib.sha256(data).hexdigest() not in digests


def read_manifest(data: bytes) -> Manifest:
    """Return what *data* says; never raises."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Manifest()
