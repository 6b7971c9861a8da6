import errno
import socket

import pytest

from proxy.runtime.listening import Address, open_socket, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:10256", ("0.0.0.0", 10256)),
        ("[::1]:80", ("::1", 80)),
        (":10249", ("::", 10249)),
    ],
)
def test_addresses_are_parsed(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["10256", "1.2.3.4", "1.2.3.4:", "1.2.3.4:http", ":65536", "node:80"]
)
def test_what_is_no_address_is_refused_by_name(text):
    with pytest.raises(ValueError, match="no IP:port"):
        parse_address(text)


def test_an_ipv6_address_is_shown_in_brackets():
    assert str(Address("::1", 80)) == "[::1]:80"


def test_a_wildcard_falls_back_to_ipv4_where_the_kernel_has_no_ipv6(monkeypatch):
    real = socket.socket

    def without_ipv6(family, kind):
        if family is socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with open_socket(Address("0.0.0.0", 0), dual_stack=True) as sock:
        assert sock.family is socket.AF_INET


def test_without_dual_stack_a_wildcard_takes_its_own_family_only():
    with open_socket(Address("::", 0), dual_stack=False) as sock:
        port = sock.getsockname()[1]
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
        with socket.create_connection(("::1", port), timeout=10):
            pass
