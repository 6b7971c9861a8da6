"""Reads the values of options: addresses, marks, ports and probabilities; ValueError if wrong."""

from __future__ import annotations

import re
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, AF_INET6, inet_pton

from diagnostics.iptables.targets import NatRange

ALL_BITS = 0xFFFFFFFF
LAST_PORT = 65535
# linux/netfilter/xt_statistic.h: a random number of 31 bits is compared with the probability.
_RANDOM_STEPS = 1 << 31
_NAT = re.compile(
    r"(\[[^\]]*\]|[^:]*|[0-9A-Fa-f:.-]*:[0-9A-Fa-f:.-]*:[0-9A-Fa-f:.-]*)(?::([^:]+))?"
)


def read_network(text: str) -> tuple[int, int, int]:
    """Return version, value and mask of ``ADDRESS``, ``ADDRESS/PREFIX`` or ``ADDRESS/MASK``."""
    literal, slash, mask_text = text.partition("/")
    try:
        if ":" in literal:
            version, bits = 6, 128
            value = int.from_bytes(inet_pton(AF_INET6, literal), "big")
        else:
            version, bits = 4, 32
            value = int.from_bytes(inet_pton(AF_INET, literal), "big")
        mask = (1 << bits) - 1
        if slash:
            mask = _mask(mask_text, bits)
    except OSError as error:
        raise ValueError(text) from error
    return version, value & mask, mask


def _mask(text: str, bits: int) -> int:
    if text.isascii() and text.isdigit():
        prefix = int(text)
        if prefix > bits:
            raise ValueError(text)
        return ((1 << prefix) - 1) << (bits - prefix)
    return int.from_bytes(inet_pton(AF_INET if bits == 32 else AF_INET6, text), "big")


def read_number(text: str) -> int:
    """Return a number of 32 bits, decimal or with 0x."""
    number = int(text, 16) if text[:2] in ("0x", "0X") else int(text)
    if not 0 <= number <= ALL_BITS:
        raise ValueError(text)
    return number


def read_masked(text: str) -> tuple[int, int]:
    """Return value and mask of ``VALUE`` or ``VALUE/MASK``."""
    value, slash, mask = text.partition("/")
    return read_number(value), read_number(mask) if slash else ALL_BITS


def read_port(text: str) -> int:
    """Return a port, 0..65535; names are not known, they are the node's."""
    if not (text.isascii() and text.isdigit()) or int(text) > LAST_PORT:
        raise ValueError(text)
    return int(text)


def read_port_range(text: str, separator: str) -> tuple[int, int]:
    """Return the first and last port of ``80``, ``80:90``, ``:90`` or ``80:``."""
    first, found, last = text.partition(separator)
    if not found:
        port = read_port(first)
        return port, port
    ports = read_port(first) if first else 0, read_port(last) if last else LAST_PORT
    if ports[0] > ports[1]:
        raise ValueError(text)
    return ports


def read_address_range(text: str) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    """Return the first and last address of ``A`` or ``A-B``."""
    first, found, last = text.partition("-")
    begin = ip_address(first)
    end = ip_address(last) if found else begin
    if begin.version != end.version:
        raise ValueError(text)
    return begin, end


def read_nat_range(text: str) -> NatRange:
    """Return ``A``, ``A:80``, ``A-B:80-90``, ``[A-B]:80``, ``:80``, ``A:80-90/80`` and the like."""
    found = _NAT.fullmatch(text)
    if found is None or not text:
        raise ValueError(text)
    addresses, ports, base = found[1].replace("[", "").replace("]", ""), found[2], None
    if ports is not None and "/" in ports:
        ports, _, shift = ports.partition("/")
        base = read_port(shift)
    first, last = read_address_range(addresses) if addresses else (None, None)
    return NatRange(first, last, read_port_range(ports, "-") if ports else None, base)


def read_probability(text: str) -> Fraction:
    """Return the probability that the kernel keeps for what iptables was given or prints."""
    probability = _quantized(Fraction(text))
    if not 0 <= probability <= 1:
        raise ValueError(text)
    return probability


def intended_probability(probability: Fraction) -> Fraction:
    """
    Return 1/n where a probability is what became of 1/n, else the probability itself.

    kube-proxy wants 1/n and writes 10 digits of it, in old versions 5; the kernel keeps 31 bits.
    """
    if probability <= 0:
        return probability
    share = Fraction(1, max(1, round(1 / probability)))
    written = (share, round(share, 10), round(share, 5))
    return share if probability in map(_quantized, written) else probability


def _quantized(probability: Fraction) -> Fraction:
    return Fraction(round(probability * _RANDOM_STEPS), _RANDOM_STEPS)
