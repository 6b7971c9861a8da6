"""Which frontends somebody means: a Service by name, or a place by address and port."""

from __future__ import annotations

from dataclasses import dataclass

from diagnostics.fate.asked import read_asked


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
        return not (self.service or self.address or self.port)

    def has(self, address: str, port: int, service: str) -> bool:
        """Return whether a virtual server of a service port (``shop/web:http``) is meant."""
        if self.service:
            name, _, port_name = service.partition(":")
            return name == self.service and self.port_name in ("", port_name)
        return self.address in ("", address) and self.port in (0, port)


def read_selection(text: str, namespace: str = "") -> Selection:
    """
    Return what *text* means, see ``read_asked``; "" is everything.

    Raises:
        QuestionError: It is neither a Service nor a place.
    """
    if not text:
        return Selection()
    asked = read_asked(text, namespace)
    if asked.service:
        return Selection(asked.service, asked.port)
    address = str(asked.address) if asked.address else ""
    return Selection(address=address, port=int(asked.port or 0))
