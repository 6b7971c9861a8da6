"""Listening sockets: addresses as configurations write them, both IP families, clear errors."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import NamedTuple

_BACKLOG = 128
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Address(NamedTuple):
    """Where to listen: an IP address and a TCP port; port 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BindError(Exception):
    """Listening on ``address`` is impossible for now; the text names it and the reason."""

    def __init__(self, address: Address, error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address


def parse_address(text: str) -> Address:
    """
    Return the address of ``1.2.3.4:80``, ``[::1]:80`` or ``:80``, which means every address.

    Raises:
        ValueError: It is none of these; the text says so.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "::"
    try:
        ip_address(host)
    except ValueError:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{text!r} is no IP:port")
    return Address(host, int(port))


def open_socket(address: Address, *, dual_stack: bool) -> socket.socket:
    """
    Return a listening, non-blocking socket.

    With *dual_stack* both wildcards take IPv4 and IPv6, as Go's do; without it, or for another
    address, the socket takes the address's own family only.

    Raises:
        BindError: The kernel refuses, or there is no such port.
    """
    try:
        return _open(address, dual_stack=dual_stack)
    except OverflowError:
        raise BindError(address, OSError(errno.EINVAL, "no such port")) from None
    except OSError as error:
        raise BindError(address, error) from None


def _open(address: Address, *, dual_stack: bool) -> socket.socket:
    if dual_stack and address.host in ("0.0.0.0", "::"):
        try:
            return _bind(socket.AF_INET6, Address("::", address.port), v6_only=False)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
            # The kernel has no IPv6 at all; serve what it has.
            return _bind(socket.AF_INET, Address("0.0.0.0", address.port), v6_only=False)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return _bind(family, address, v6_only=True)


def _bind(family: socket.AddressFamily, address: Address, *, v6_only: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6_only))
        sock.setblocking(False)
        sock.bind((address.host, address.port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
