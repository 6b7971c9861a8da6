"""
``--redact``: names out, traces valid.

Addresses and ports stay as they are: rules, routes, sets and objects must still fit each other, and
none of them names anybody. Names of namespaces, Services, Pods and Nodes become ``ns-1``, ``svc-1``
…, the same one everywhere: in objects, in comments of rules, and in kube-proxy's nftables chains.
Names that every cluster has (default, kube-system, kubernetes) stay. Labels other than those a
proxy reads, and selectors, go; so do metrics and logs, whose text cannot be searched for names.

Not changed are the hashes in names of chains (KUBE-SVC-…): they no longer are those of the Service
beside them, which a trace takes from the comment, and who knows a name can still recognise its
hash. Comments of other programs' rules stay too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_KEPT_NAMES = frozenset({"default", "kube-system", "kube-public", "kube-node-lease", "kubernetes"})
_KEPT_LABELS = frozenset(
    {
        "kubernetes.io/service-name",
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "service.kubernetes.io/headless",
        "service.kubernetes.io/service-proxy-name",
        "endpointslice.kubernetes.io/managed-by",
        "node.kubernetes.io/exclude-from-external-load-balancers",
    }
)
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME = r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?"
# "ns/svc:port …" and "ns/svc …" at the beginning of a comment, of rules and of map elements.
_COMMENT = re.compile(rf'((?:--comment|comment"?:?) *"?)({_LABEL})/({_NAME})(?=[:" \s\\])')
# kube-proxy's nftables chains: service-2QRHZV4L-ns/svc/tcp/port
_CHAIN = re.compile(rf"(-[A-Z0-9]{{8}}-)({_LABEL})/({_NAME})(?=/(?:tcp|udp|sctp)/)")


class Names:
    """Pseudonyms, given in the order in which names are first met."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}

    def _of(self, prefix: str, name: str) -> str:
        if not name or name in _KEPT_NAMES:
            return name
        key = (prefix, name)
        if key not in self._given:
            self._counts[prefix] = self._counts.get(prefix, 0) + 1
            self._given[key] = f"{prefix}-{self._counts[prefix]}"
        return self._given[key]

    def namespace(self, name: str) -> str:
        """Return a namespace's pseudonym."""
        return self._of("ns", name)

    def service(self, name: str) -> str:
        """Return that of a Service; the same name in two namespaces has one pseudonym."""
        return self._of("svc", name)

    def slice(self, name: str) -> str:
        """Return that of an EndpointSlice."""
        return self._of("slice", name)

    def pod(self, name: str) -> str:
        """Return that of a Pod."""
        return self._of("pod", name)

    def node(self, name: str) -> str:
        """Return that of a Node."""
        return self._of("node", name)

    def text(self, text: str) -> str:
        """Return rules or sets with the names of Services replaced."""

        def replaced(match: re.Match[str]) -> str:
            namespace, service = self.namespace(match[2]), self.service(match[3])
            return f"{match[1]}{namespace}/{service}"

        return _CHAIN.sub(replaced, _COMMENT.sub(replaced, text))

    def told(self, text: str) -> str:
        """Return a message with the names of Nodes and Pods that were met replaced."""
        given = [
            (name, new) for (prefix, name), new in self._given.items() if prefix in ("node", "pod")
        ]
        for name, new in sorted(given, key=lambda one: -len(one[0])):
            text = re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", new, text)
        return text

    def objects(self, values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return objects, as ``strip_objects`` leaves them, with all their names replaced."""
        return [self._object(value) for value in values]

    def _object(self, value: Mapping[str, Any]) -> dict[str, Any]:
        kind = str(value["kind"])
        rename: dict[str, Callable[[str], str]] = {
            "Service": self.service,
            "EndpointSlice": self.slice,
            "Pod": self.pod,
            "Node": self.node,
        }
        metadata = dict(value["metadata"])
        if kind in rename:
            metadata["name"] = rename[kind](str(metadata.get("name", "")))
        if "namespace" in metadata:
            metadata["namespace"] = self.namespace(str(metadata["namespace"]))
        labels = metadata.pop("labels", None)
        if isinstance(labels, dict):
            metadata["labels"] = self._labels(labels)
        found = {**value, "metadata": metadata}
        if kind == "EndpointSlice":
            endpoints = value.get("endpoints")
            found["endpoints"] = [
                self._endpoint(endpoint)
                for endpoint in (endpoints if isinstance(endpoints, list) else ())
                if isinstance(endpoint, dict)
            ]
        spec = value.get("spec")
        if isinstance(spec, dict):
            found["spec"] = self._spec(spec)
        if kind == "Node" and isinstance(value.get("status"), dict):
            found["status"] = {"addresses": self._addresses(value["status"].get("addresses"))}
        return found

    def _labels(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: text for name, text in labels.items() if name in _KEPT_LABELS}
        for name, rename in (
            ("kubernetes.io/service-name", self.service),
            ("kubernetes.io/hostname", self.node),
        ):
            if name in kept:
                kept[name] = rename(str(kept[name]))
        return kept

    def _spec(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        found = {
            name: field for name, field in spec.items() if name not in ("selector", "externalName")
        }
        if "nodeName" in found:
            found["nodeName"] = self.node(str(found["nodeName"]))
        return found

    def _addresses(self, addresses: object) -> list[Any]:
        """The Node's addresses; one that is a name is another name of the Node."""
        rows = addresses if isinstance(addresses, list) else []
        return [
            row for row in rows if isinstance(row, dict) and str(row.get("type", "")).endswith("IP")
        ]

    def _endpoint(self, endpoint: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("addresses", "conditions", "hints", "zone")
        found = {name: endpoint[name] for name in kept if name in endpoint}
        if endpoint.get("nodeName"):
            found["nodeName"] = self.node(str(endpoint["nodeName"]))
        hints = found.get("hints")
        if isinstance(hints, dict) and isinstance(hints.get("forNodes"), list):
            nodes = [row for row in hints["forNodes"] if isinstance(row, dict)]
            names = [{"name": self.node(str(row.get("name", "")))} for row in nodes]
            found["hints"] = {**hints, "forNodes": names}
        target = endpoint.get("targetRef")
        if isinstance(target, dict) and target.get("kind") == "Pod":
            found["targetRef"] = {
                "kind": "Pod",
                "name": self.pod(str(target.get("name", ""))),
                "namespace": self.namespace(str(target.get("namespace", ""))),
            }
        return found
