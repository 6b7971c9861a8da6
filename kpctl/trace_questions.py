"""Turns what a user asked of ``kpctl trace`` into questions about packets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from diagnostics.cluster.names import Names
from diagnostics.cluster.plans import Cluster, ObjectsMissing, load_cluster
from diagnostics.fate.asked import Asked, Known, chosen, planned_knowledge
from diagnostics.fate.clients import EXTERNAL, LOOPBACK, NODE, POD, Client, Clients, clients_of
from diagnostics.fate.frontends import Frontend, kernel_frontends
from diagnostics.fate.probes import Call
from diagnostics.snapshot.node import NodeSnapshot
from diagnostics.trace.packet import Address
from diagnostics.trace.question import QuestionError
from proxy.model.addresses import IPFamily

CLIENT_KINDS = (POD, NODE, EXTERNAL, LOOPBACK)
_LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}


class Origin(NamedTuple):
    """
    The values of ``--from``, told apart.

    Attributes:
        dump: a path, "" for the running node.
        client: ``pod``, ``node``, ``external``, ``loopback``, ``pod/[NAMESPACE/]NAME`` or an IP
            address; "" for the most usual one.
    """

    dump: str = ""
    client: str = ""


def read_origin(values: Sequence[str]) -> Origin:
    """
    Tell snapshots and clients apart: ``--from`` takes both, and may be given twice.

    Raises:
        QuestionError: There are two of a kind.
    """
    dumps = [value for value in values if not _is_client(value)]
    clients = [value for value in values if _is_client(value)]
    for kind, found in (("snapshots", dumps), ("clients", clients)):
        if len(found) > 1:
            raise QuestionError(f"--from: several {kind}: {', '.join(found)}; one is followed")
    return Origin(*(found[0] if found else "" for found in (dumps, clients)))


def _is_client(value: str) -> bool:
    if value in CLIENT_KINDS:
        return True
    if re.fullmatch(r"pods?/[a-z0-9./-]+", value):
        return not Path(value).exists()
    return _address(value) is not None


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


class Questions:
    """
    Questions about one node.

    Args:
        node: The node.
        namespace: Of names without one, "" for default.
    """

    def __init__(self, node: NodeSnapshot, namespace: str = "") -> None:
        self._node = node
        self._namespace = namespace or "default"
        self._cluster = _cluster(node)
        self.names = Names.of(node)

    def about(
        self, asked: Asked, origin: str, *, protocol: str = "", every: bool = False
    ) -> list[Call]:
        """
        Return the calls to follow.

        Raises:
            QuestionError: The Service, port or client is not known.
        """
        kind = origin if origin in CLIENT_KINDS else POD
        frontends = self._frontends(asked, protocol, kind, every=every)
        calls = [call for one in frontends for call in self._calls(one, origin)]
        if not calls:
            versions = {one.address.version for one in frontends if one.address}
            said = f" of IPv{versions.pop()}" if len(versions) == 1 else ""
            raise QuestionError(
                f"--from: there is no client {origin or kind!r}{said} on this node; "
                "name an address instead"
            )
        return calls

    def client(self, text: str, family: IPFamily) -> Client | None:
        """Return a client of a family; None when there is none."""
        version = 4 if family is IPFamily.IPV4 else 6
        address = _address(text)
        if address is not None:
            return Client("address", address) if address.version == version else None
        if text.startswith(("pod/", "pods/")):
            found = [one for one in self._pod(text) if one.version == version]
            return Client(text, found[0]) if found else None
        if text == LOOPBACK:
            return Client(LOOPBACK, _LOOPBACK[version], "")
        general = self._clients(family).general
        wanted = (text,) if text else (POD, NODE)
        return next((one for kind in wanted for one in general if one.kind == kind), None)

    def _pod(self, text: str) -> tuple[Address, ...]:
        name = text.partition("/")[2]
        if "/" not in name:
            name = f"{self._namespace}/{name}"
        found = self.names.pod_addresses(name)
        if not found:
            raise QuestionError(
                f"--from: the address of pod {name} is not known; check its name and namespace "
                "(-n), or give its address"
            )
        return found

    def _clients(self, family: IPFamily) -> Clients:
        return clients_of(self._node, self._cluster, family)

    def _frontends(self, asked: Asked, protocol: str, kind: str, *, every: bool) -> list[Frontend]:
        planned = planned_knowledge(self._cluster) if self._cluster else {}
        try:
            return chosen(asked, planned, protocol=protocol, client=kind, every=every)
        except QuestionError:
            # The API does not know it, or cannot be asked: the kernel may, by its comments.
            known = {front: Known(name) for front, name in self._in_kernel()}
            try:
                return chosen(asked, known, protocol=protocol, client=kind, every=every)
            except QuestionError as error:
                if planned:
                    raise
                raise QuestionError(f"{error}; without the API only rules tell names") from error

    def _in_kernel(self) -> Iterator[tuple[Frontend, str]]:
        for family in IPFamily:
            yield from kernel_frontends(self._node, family).items()

    def _calls(self, frontend: Frontend, origin: str) -> Iterator[Call]:
        for family in IPFamily:
            version = 4 if family is IPFamily.IPV4 else 6
            if frontend.address is not None and frontend.address.version != version:
                continue
            client = self.client(origin, family)
            address = frontend.address or self._node_address(family, origin)
            if client is not None and address is not None:
                yield Call(client, frontend, address)
                return

    def _node_address(self, family: IPFamily, origin: str) -> Address | None:
        if origin == LOOPBACK:
            return _LOOPBACK[4 if family is IPFamily.IPV4 else 6]
        return next(iter(self._clients(family).node_addresses), None)


def _cluster(node: NodeSnapshot) -> Cluster | None:
    try:
        return load_cluster(node)
    except ObjectsMissing:
        return None
