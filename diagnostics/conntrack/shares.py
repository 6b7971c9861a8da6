"""Whose entries they are: Services, endpoints and clients, by number, with their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from diagnostics.cluster.names import Names
from diagnostics.conntrack.survey import Pair, Survey
from diagnostics.conntrack.truth import Truth
from proxy.conntrack.stale import Place
from proxy.model.addresses import unpack_address
from proxy.model.endpoints import target_text


@dataclass(frozen=True, slots=True)
class Share:
    """
    A part of the table.

    Attributes:
        what: a Service, or where there is no name the place that was called.
        place: an address, or address and port; "" for a Service.
        owner: who is behind the place, "" when that is not known.
    """

    what: str
    place: str
    owner: str
    protocol: int
    count: int


@dataclass(frozen=True, slots=True)
class Naming:
    """Names from wherever there are any; ``truth`` None: endpoints are not known."""

    names: Names
    truth: Truth | None

    def service(self, protocol: int, called: Place) -> str:
        """Return the service port that is called there, or ""."""
        if self.truth is not None:
            return self.truth.service(protocol, called)
        port = int.from_bytes(called[-2:], "big")
        return self.names.service(ip_address(called[:-2]), port, protocol)

    def owner(self, address: str) -> str:
        """Return who has an address, or ""."""
        return self.names.owner(ip_address(address))


def service_shares(found: Survey, naming: Naming, most: int) -> list[Share]:
    """Return the Services with the most entries, and translated places without a Service."""
    counted: Counter[tuple[str, str, int]] = Counter()
    for (protocol, called, _), count in _pairs(found):
        name = naming.service(protocol, called)
        place = "" if name else target_text(called)
        counted[name, place, protocol] += count
    return [
        Share(name, place, "", protocol, count)
        for (name, place, protocol), count in counted.most_common(most)
    ]


def endpoint_shares(found: Survey, naming: Naming, most: int) -> list[Share]:
    """Return the endpoints with the most entries, with the Service that led there."""
    counted: Counter[tuple[str, Place, int]] = Counter()
    for (protocol, called, target), count in _pairs(found):
        if called != target:
            counted[naming.service(protocol, called), target, protocol] += count
    return [
        Share(name, target_text(target), _owner(naming, target), protocol, count)
        for (name, target, protocol), count in counted.most_common(most)
    ]


def source_shares(found: Survey, naming: Naming, most: int) -> list[Share]:
    """Return the clients with the most entries."""
    return list(_sources(found, naming, most))


def _sources(found: Survey, naming: Naming, most: int) -> Iterator[Share]:
    for client, count in found.sources.top(most):
        address = unpack_address(client)
        yield Share("", address, naming.owner(address), 0, count)


def _owner(naming: Naming, target: Place) -> str:
    return naming.owner(unpack_address(target[:-2]))


def _pairs(found: Survey) -> Iterator[tuple[Pair, int]]:
    yield from found.pairs.counts.items()
    yield from found.others.counts.items()


def of_services(found: Survey, naming: Naming) -> int:
    """Return how many entries were opened to a Service."""
    return sum(
        count for (protocol, called, _), count in _pairs(found) if naming.service(protocol, called)
    )
