"""Which virtual servers somebody means: a Service by name, or a place by address and port."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diagnostics.readers.ipvs import place
from proxy.model.addresses import unpack_address

_SERVICE_PREFIX = re.compile(r"(?:svc|services?)/")
_NAME = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SERVICE = re.compile(rf"(?:({_NAME})/)?({_NAME})(?::({_NAME}))?")


class SelectionError(ValueError):
    """It names neither a Service nor a place; the text says what would."""


@dataclass(frozen=True, slots=True)
class Selection:
    """
    What is asked for; of a selection of everything all is "" or 0.

    Attributes:
        service: ``namespace/name``; with *port_name* one of its ports.
        address: of the virtual server, as it is printed.
        port: 0 for all.
    """

    service: str = ""
    port_name: str = ""
    address: str = ""
    port: int = 0

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.service and not self.address

    def has(self, address: str, port: int, service: str) -> bool:
        """Return whether a virtual server of a service port (``shop/web:http``) is meant."""
        if self.service:
            name, _, port_name = service.partition(":")
            return name == self.service and self.port_name in ("", port_name)
        return self.address in ("", address) and self.port in (0, port)


def read_selection(text: str, namespace: str = "") -> Selection:
    """
    Return what ``svc/NAME[:PORTNAME]``, ``NAMESPACE/NAME``, ``IP[:PORT]`` or ``[IPv6]:PORT`` means.

    Args:
        text: "" for everything.
        namespace: that of a name without one; "" for default.

    Raises:
        SelectionError: It is none of these.
    """
    if not text:
        return Selection()
    prefix = _SERVICE_PREFIX.match(text)
    found = None if prefix else place(text)
    if found is not None:
        return Selection(address=unpack_address(found.address), port=found.port)
    named = _SERVICE.fullmatch(text[prefix.end() :] if prefix else text)
    if named is None or not (prefix or named[1]):
        raise SelectionError(
            f"{text}: neither a Service nor an address; expected svc/NAME, NAMESPACE/NAME, IP or "
            "IP:PORT"
        )
    return Selection(f"{named[1] or namespace or 'default'}/{named[2]}", named[3] or "")
