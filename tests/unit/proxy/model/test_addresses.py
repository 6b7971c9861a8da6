"""Addresses are parsed once and kept in one form."""

import pytest

from proxy.model.addresses import (
    IPFamily,
    canonical_address,
    network_family,
    pack_address,
    parse_network,
    unpack_address,
)


@pytest.mark.parametrize(
    ("text", "family", "canonical"),
    [
        ("10.0.0.1", "IPv4", "10.0.0.1"),
        ("010.008.0.1", "IPv4", "10.8.0.1"),
        ("2001:DB8:0:0::0001", "IPv6", "2001:db8::1"),
        ("::ffff:10.0.0.1", "IPv4", "10.0.0.1"),
    ],
)
def test_an_address_has_one_canonical_text(text: str, family: str, canonical: str) -> None:
    assert canonical_address(text) == (IPFamily(family), canonical)
    packed = pack_address(text)
    assert packed is not None
    assert unpack_address(packed) == canonical
    assert len(packed) * 8 == IPFamily(family).bits


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.0.0", "10.0.0.256", "10.0.0.0.1", "10.0.0.-1", "10.0.0.x", " 10.0.0.1", "0x7f.1"),
        *(":", ":::", "fe80::1%eth0", "[::1]", "1:2:3:4:5:6:7:8:9", "::g", "::1\0", "::\ud800"),
        *("1.2.3.٤", "1.2.3." + "9" * 5000, "1.2.3:8080", "10.0.0.1:80", "10.0.0.0/8", "::/0"),
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert pack_address(text) is None
    assert canonical_address(text) is None


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("010.001.000.000/16", "10.1.0.0/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.1/32", "10.0.0.1/32"),
        ("FD00::1/64", "fd00::/64"),
        ("::/0", "::/0"),
    ],
)
def test_a_cidr_has_its_host_bits_masked(text: str, network: str) -> None:
    found = parse_network(text)
    assert str(found) == network
    assert network_family(found) is (IPFamily.IPV6 if ":" in text else IPFamily.IPV4)


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8"),
        *("10.0.0.0/255.0.0.0", "10.0.0.0/0.0.0.255", "10.0.0.0/8/8", "fe80::%eth0/64", "::/129"),
        *("10.0.0/8", "10.0.0.256/8", "x/8", "10.0.0.0/" + "8" * 5000, "10.0.0.0/٨"),
    ],
)
def test_what_is_no_cidr_is_none(text: str) -> None:
    assert parse_network(text) is None
