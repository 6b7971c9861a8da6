"""What people may write to name a frontend, and which of those that are known is meant."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from diagnostics.fate.asked import Asked, Known, chosen, read_asked
from diagnostics.fate.frontends import Frontend
from diagnostics.trace.question import QuestionError
from proxy.plan.service_plan import FrontendKind

VIP, OUTER, V6 = ip_address("10.96.0.1"), ip_address("192.0.2.5"), ip_address("fd00::1")
HTTP, DNS = Known("shop/web:http", FrontendKind.CLUSTER_IP), Known("shop/web:dns")
KNOWN = {
    Frontend(VIP, 80, 6): HTTP,
    Frontend(V6, 80, 6): HTTP,
    Frontend(OUTER, 80, 6): Known("shop/web:http", FrontendKind.EXTERNAL_IP),
    Frontend(None, 30080, 6): Known("shop/web:http", FrontendKind.NODE_PORT),
    Frontend(VIP, 53, 6): DNS,
    Frontend(VIP, 53, 17): DNS,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop/web", ("shop/web", "", None)),
        ("svc/web", ("here/web", "", None)),
        ("services/web:http", ("here/web", "http", None)),
        (" web ", ("here/web", "", None)),
        ("10.96.0.1", ("", "", VIP)),
        ("10.96.0.1:80", ("", "80", VIP)),
        ("fd00::1", ("", "", V6)),
        ("[fd00::1]:80", ("", "80", V6)),
        ("30080", ("", "30080", None)),
        ("nodeport:30080", ("", "30080", None)),
    ],
)
def test_a_text_names_a_service_an_address_or_a_node_port(
    text: str, expected: tuple[object, ...]
) -> None:
    found = read_asked(text, "here")
    assert (found.service, found.port, found.address) == expected


@pytest.mark.parametrize(
    "text", ["", "Shop/Web", "a/b/c", "[fd00::zz]:1", "web:", "-x", "1.2.3.4:x"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(QuestionError, match=r"is no Service|is not an IP address"):
        read_asked(text, "")


def asked(text: str, **options: object) -> list[Frontend]:
    return chosen(read_asked(text, "shop"), KNOWN, **options)  # type: ignore[arg-type]


def test_of_a_service_port_the_cluster_ip_is_meant() -> None:
    assert asked("web:http") == [Frontend(VIP, 80, 6)]


def test_of_a_port_number_every_protocol_is_meant() -> None:
    assert asked("web:53") == [Frontend(VIP, 53, 6), Frontend(VIP, 53, 17)]
    assert asked("web:53", protocol="udp") == [Frontend(VIP, 53, 17)]


def test_somebody_outside_means_the_outer_address() -> None:
    assert asked("web:http", client="external") == [Frontend(OUTER, 80, 6)]


def test_all_means_every_frontend() -> None:
    assert len(asked("web", every=True)) == len(KNOWN)


def test_an_unknown_place_is_asked_as_it_is() -> None:
    assert asked("10.1.1.1:81", protocol="UDP") == [Frontend(ip_address("10.1.1.1"), 81, 17)]
    assert asked("31111") == [Frontend(None, 31111, 6)]


@pytest.mark.parametrize(
    ("text", "protocol", "said"),
    [
        ("other/web", "", "did you mean shop/web"),
        ("web:x", "", r"no port 'x'; it has dns \(53/TCP\), dns \(53/UDP\), http \(80/TCP\)"),
        ("web:http", "SCTP", "no port 'http' of protocol SCTP"),
        ("web", "ICMP", "'ICMP' is none of TCP, UDP, SCTP"),
        ("10.9.9.9", "", "no Service has this address"),
        ("10.9.9.9:0", "", "port 0 is not within 1..65535"),
    ],
)
def test_what_is_not_known_is_told(text: str, protocol: str, said: str) -> None:
    with pytest.raises(QuestionError, match=said):
        asked(text, protocol=protocol)


def test_asked_remembers_its_text() -> None:
    assert read_asked("web", "") == Asked("web", "default/web")
