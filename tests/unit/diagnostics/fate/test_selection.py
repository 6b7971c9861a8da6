"""What people may write to name a virtual server."""

from __future__ import annotations

import pytest

from diagnostics.fate.selection import Selection, read_selection
from diagnostics.trace.question import QuestionError


@pytest.mark.parametrize(
    ("text", "namespace", "expected"),
    [
        ("", "", Selection()),
        ("svc/web", "shop", Selection("shop/web")),
        ("service/web:http", "", Selection("default/web", "http")),
        ("shop/web", "other", Selection("shop/web")),
        ("svc/shop/web", "", Selection("shop/web")),
        ("10.96.0.1", "", Selection(address="10.96.0.1")),
        ("10.96.0.1:443", "", Selection(address="10.96.0.1", port=443)),
        ("[fd00::1]:80", "", Selection(address="fd00::1", port=80)),
        ("30080", "", Selection(port=30080)),
        ("web", "shop", Selection("shop/web")),
    ],
)
def test_services_and_places_are_told_apart(text: str, namespace: str, expected: Selection) -> None:
    assert read_selection(text, namespace) == expected


@pytest.mark.parametrize("text", ["svc/", "svc/A_B", "10.96.0.1:http", "a/b/c"])
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(QuestionError, match="NAMESPACE/NAME"):
        read_selection(text)


def test_a_selection_of_a_service_takes_all_its_ports_unless_one_is_named() -> None:
    assert Selection("shop/web").has("10.96.0.1", 80, "shop/web:http")
    assert not Selection("shop/web", "dns").has("10.96.0.1", 80, "shop/web:http")
    assert not Selection("shop/web").has("10.96.0.1", 80, "shop/web2:http")
    assert not Selection(address="10.96.0.1", port=443).has("10.96.0.1", 80, "")
