"""
Which pods are used to read which nodes, and what that takes: told before anything is done.

A node's own proxy pod is used where one runs in the node's network namespace; else a debug pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostics.snapshot.parts import FACTS
from kpctl.all_nodes.api import NodesApi, Right
from kpctl.all_nodes.debug_pods import CAPABILITIES, DEFAULT_IMAGE
from kpctl.all_nodes.execute import Container
from kpctl.all_nodes.pod_source import KERNEL_PARTS
from proxy.sources.failures import ApiError
from proxy.sources.source import ConfigurationError, SourceError

PROXY_NAMESPACE = "kube-system"
OWN_LABEL, OWN_VALUE = "k8s-app", "kpctl"
PROXY_LABELS = (f"{OWN_LABEL} in (kube-proxy,{OWN_VALUE})", "component=kube-proxy")
"""Selectors of proxies' pods: DaemonSets of kubeadm and most clouds, static pods of others."""
_HOSTNAME_LABEL = "kubernetes.io/hostname"
_SYSTEM_LABEL = "kubernetes.io/os"
_NAMES_SHOWN = 5
# A websocket begins with GET; servers from 1.35 on want the right to create as well.
_EXEC_VERBS = ("create", "get")


@dataclass(frozen=True, slots=True)
class Choice:
    """
    What a user said.

    Attributes:
        nodes: Names, empty for all.
        labels: A label selector of Nodes, "" for all.
        debug_pods: Use debug pods even where there is a proxy's pod.
        image, namespace: Of debug pods.
        timeout_s: For one node, everything included.
        concurrency: How many nodes are read at a time.
    """

    nodes: tuple[str, ...] = ()
    labels: str = ""
    debug_pods: bool = False
    image: str = DEFAULT_IMAGE
    namespace: str = PROXY_NAMESPACE
    timeout_s: float = 120.0
    concurrency: int = 8


def make_choice(
    nodes: str, labels: str, debug_pods: bool, image: str, namespace: str, timeout_s: float
) -> Choice:
    """Return the choice that options make; ``nodes`` are separated by commas."""
    names = tuple(filter(None, (name.strip() for name in nodes.split(","))))
    return Choice(
        names, labels, debug_pods, image or DEFAULT_IMAGE, namespace or PROXY_NAMESPACE, timeout_s
    )


@dataclass(frozen=True, slots=True)
class Target:
    """
    One node; ``container`` is its proxy's, None for a debug pod.

    ``own`` says that the container is one of this program, which can make a snapshot by itself.
    """

    node: str
    hostname: str
    container: Container | None = None
    own: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done; ``notes`` are about nodes whose proxy's pod cannot be used."""

    targets: tuple[Target, ...]
    choice: Choice
    notes: tuple[str, ...] = ()

    @property
    def with_debug_pod(self) -> tuple[Target, ...]:
        """The nodes that get a pod."""
        return tuple(one for one in self.targets if one.container is None)

    def rights(self) -> tuple[Right, ...]:
        """Return what the API server must allow, in the order of its need."""
        namespaces = {one.container.namespace for one in self.targets if one.container}
        found = []
        if self.with_debug_pod:
            here = self.choice.namespace
            found = [Right(verb, "pods", here) for verb in ("create", "get", "delete")]
            namespaces.add(here)
        for namespace in sorted(namespaces):
            found += [Right(verb, "pods/exec", namespace) for verb in _EXEC_VERBS]
        return tuple(found)

    def lines(self) -> Iterator[str]:
        """Yield what the user is told, one line each."""
        existing = [one for one in self.targets if one.container]
        if existing:
            shown = _shown(f"{one.container} on {one.node}" for one in existing)
            yield f"{len(existing)} nodes: run programs in the proxy's pod ({shown})"
        if self.with_debug_pod:
            choice = self.choice
            yield (
                f"{len(self.with_debug_pod)} nodes: create a pod in namespace {choice.namespace}, "
                f"image {choice.image}, host network, capabilities {', '.join(CAPABILITIES)}; "
                f"deleted afterwards ({_shown(one.node for one in self.with_debug_pod)})"
            )
        commands = (" ".join(FACTS[part].command) for part in KERNEL_PARTS)
        yield f"programs: {'; '.join(commands)}; ls, tail and cat below /proc and /sys"
        if any(one.own for one in existing):
            yield "in pods of kpctl: kpctl snapshot --node-only -o -"
        yield f"rights: {'; '.join(map(str, self.rights()))}"
        yield from (f"note: {note}" for note in self.notes)


def _shown(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _NAMES_SHOWN
    return ", ".join(every[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def make_plan(api: NodesApi, choice: Choice) -> Plan:
    """
    Return what reading the chosen nodes takes; nothing is done yet.

    Raises:
        ConfigurationError: There are no such nodes.
        SourceError: The API server cannot be asked, or does not let us list Nodes.
    """
    notes: list[str] = []
    nodes = _chosen(_listed(api, choice.labels), choice, notes)
    pods: dict[str, Target] = {}
    if not choice.debug_pods:
        try:
            pods = _proxy_pods(api)
        except ApiError as error:
            if error.status != 403:
                raise
            notes.append(f"proxies' pods cannot be listed: {error.message or error}")
    targets = []
    for name, node in nodes.items():
        host = str((node.get("labels") or {}).get(_HOSTNAME_LABEL) or name)
        found = pods.get(name)
        container, own = (found.container, found.own) if found else (None, False)
        targets.append(Target(name, host, container, own))
    return Plan(tuple(targets), choice, tuple(notes))


def missing_rights(api: NodesApi, plan: Plan) -> list[Right]:
    """Return which of the plan's rights the server says we lack; none where it does not tell."""
    try:
        return [right for right in plan.rights() if not api.may(right)]
    except ApiError:
        return []  # the requests themselves will be refused, then


def _listed(api: NodesApi, labels: str) -> Sequence[Mapping[str, Any]]:
    try:
        return api.nodes(labels)
    except ApiError as error:
        if error.status != 403:
            raise
        needed = Right("list", "nodes")
        raise SourceError(f"no right to {needed}: {error.message or error}") from error


def _chosen(
    listed: Sequence[Mapping[str, Any]], choice: Choice, notes: list[str]
) -> dict[str, Mapping[str, Any]]:
    """Return the metadata of the chosen nodes by their name, in alphabetical order."""
    every = {str(node["metadata"]["name"]): node["metadata"] for node in listed}
    others = [name for name, node in every.items() if _system(node) not in ("", "linux")]
    for name in others:
        notes.append(f"node {name} is left out: it runs {_system(every.pop(name))}")
    if absent := [name for name in choice.nodes if name not in every]:
        having = f" with labels {choice.labels}" if choice.labels else ""
        raise ConfigurationError(
            f"there is no node {', '.join(absent)}{having}; there are {_shown(sorted(every))}"
        )
    if not every:
        having = f" with labels {choice.labels}" if choice.labels else ""
        raise ConfigurationError(f"there are no nodes{having}")
    return {name: every[name] for name in sorted(choice.nodes or every)}


def _system(node: Mapping[str, Any]) -> str:
    return str((node.get("labels") or {}).get(_SYSTEM_LABEL) or "")


def _proxy_pods(api: NodesApi) -> dict[str, Target]:
    """Return the pods that can be used, by node; one of this program is preferred."""
    found: dict[str, Target] = {}
    for labels in PROXY_LABELS:
        for pod in api.pods(PROXY_NAMESPACE, labels):
            target = _usable(pod)
            if target and (target.own or target.node not in found):
                found[target.node] = target
    return found


def _usable(pod: Mapping[str, Any]) -> Target | None:
    """A pod that runs in its node's network namespace."""
    metadata, spec, status = (pod.get(key) or {} for key in ("metadata", "spec", "status"))
    node = str(spec.get("nodeName") or "")
    running = status.get("phase") == "Running" and not metadata.get("deletionTimestamp")
    if not node or not running or not spec.get("hostNetwork"):
        return None
    states = status.get("containerStatuses") or ()
    started = [str(one.get("name")) for one in states if "running" in (one.get("state") or {})]
    own = (metadata.get("labels") or {}).get(OWN_LABEL) == OWN_VALUE
    wanted = [name for name in started if name in ("kube-proxy", "kpctl")] or started
    if not wanted:
        return None
    where = Container(str(metadata.get("namespace")), str(metadata.get("name")), wanted[0])
    return Target(node, node, where, own)
