"""Lists of API objects out of a directory of manifests, where there is no API server."""

from __future__ import annotations

from pathlib import Path

import msgspec

from diagnostics.readers.objects import documents
from diagnostics.snapshot.parts import Part
from proxy.sources.manifests import SUFFIXES
from proxy.sources.source import ConfigurationError

ENVIRONMENT_VARIABLE = "KPCTL_MANIFESTS"
_KINDS = {
    Part.SERVICES: "Service",
    Part.SLICES: "EndpointSlice",
    Part.NODES: "Node",
    Part.PODS: "Pod",
    Part.SERVICE_CIDRS: "ServiceCIDR",
}


class ManifestLists:
    """
    What ``kpctl run --manifests`` follows, as an API server would list it.

    Args:
        directory: Holds YAML and JSON files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, part: Part) -> bytes:
        """
        Return all objects of a part as one JSON list.

        Raises:
            SourceError: The directory cannot be read, or the part is no list of objects.
        """
        kind = _KINDS.get(part)
        if kind is None:
            raise ConfigurationError(f"manifests have no {part.value}")
        try:
            files = sorted(one for one in self._directory.iterdir() if one.suffix in SUFFIXES)
            found = [value for one in files for value in documents(one.read_bytes())]
        except OSError as error:
            raise ConfigurationError(f"{self._directory}: {error.strerror}") from error
        items = [value for value in found if value.get("kind") == kind]
        return msgspec.json.encode({"kind": f"{kind}List", "items": items})
