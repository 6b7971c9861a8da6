"""The listing of IPVS connections in a snapshot, recognised by its content or by its name."""

from __future__ import annotations

import re
from pathlib import Path

from diagnostics.readers.ipvs_connections import is_connection_listing
from diagnostics.snapshot.archive import open_files
from diagnostics.snapshot.content import decode
from diagnostics.snapshot.parts import Gap

_NAME = re.compile(
    r"ip_vs_conn(?:\.txt)?|ipvsadm[-_](?:connections?|c|Lc|Lcn|Lnc|L-n-c)(?:\.\w+)*", re.IGNORECASE
)


def is_listing_alone(path: Path) -> bool:
    """Return whether a path is a listing of connections and nothing else; raises SnapshotError."""
    files = open_files(path)
    return (
        path.is_file() and len(files.names) == 1 and not isinstance(connection_listing(path), Gap)
    )


def connection_listing(path: Path) -> str | Gap:
    """
    Return the text of the listing in a directory, an archive or a file of its own, or a Gap.

    Raises:
        SnapshotError: The path cannot be read.
    """
    files = open_files(path)
    single = len(files.names) == 1
    for name in files.names:
        if single or _NAME.fullmatch(name.rpartition("/")[2]):
            text = decode(files.read(name)).text
            if is_connection_listing(text) or not text.strip():
                return text
    return Gap(
        "IPVS connections",
        f"{path} has no listing of them",
        "run: ipvsadm -Lnc > ipvsadm-connections.txt",
    )
