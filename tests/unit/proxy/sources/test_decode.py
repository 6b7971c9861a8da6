"""Bytes of the API into objects."""

import json

import pytest

from proxy.model.events import Resource, Unreadable
from proxy.model.objects import Service
from proxy.sources.decode import Listing, ResourceDecoder, decode_status
from proxy.sources.failures import ApiError, GarbledError

SERVICES = ResourceDecoder(Resource.SERVICE)


def service(name="web", **spec):
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": "7"}, "spec": spec}


def page(*items, **metadata):
    return json.dumps({"metadata": {"resourceVersion": "9"} | metadata, "items": items}).encode()


def objects(*items):
    return list(Listing(SERVICES, SERVICES.decode_page(page(*items)).items))


def event(kind, obj):
    return json.dumps({"type": kind, "object": obj}).encode()


def test_a_page_gives_its_objects_version_and_continue_token():
    decoded = SERVICES.decode_page(page(service("a"), service("b"), **{"continue": "next"}))

    assert [obj.metadata.name for obj in Listing(SERVICES, decoded.items)] == ["a", "b"]
    assert (decoded.meta.resource_version, decoded.meta.continue_token) == ("9", "next")


@pytest.mark.parametrize("body", [b'{"metadata":{},"items":null}', b'{"metadata":{},"items":[]}'])
def test_an_empty_page_has_no_objects(body):
    assert SERVICES.decode_page(body).items == []


def test_one_bad_object_of_a_page_costs_only_itself_and_names_the_field():
    bad = service("bad", ports=[{"port": "http"}])

    first, broken, last = objects(service("a"), bad, service("b"))

    assert (first.metadata.name, last.metadata.name) == ("a", "b")
    assert broken == Unreadable(
        Resource.SERVICE, "shop", "bad", "spec.ports[0].port: Expected int, got str"
    )


def test_a_listing_can_be_read_again():
    listing = Listing(SERVICES, SERVICES.decode_page(page(service("a"), service("b"))).items)

    assert len(listing) == 2
    assert list(listing) == list(listing)


def test_a_name_that_is_no_utf_8_costs_only_its_object():
    body = page(service("a"), service("NAME")).replace(b"NAME", b"\xff")

    first, broken = Listing(SERVICES, SERVICES.decode_page(body).items)

    assert first.metadata.name == "a"
    assert isinstance(broken, Unreadable)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"metadata": {"name": 3}}, "metadata.name: Expected str, got int"),
        ({"metadata": []}, "metadata: Expected object, got array"),
        ({"spec": {}}, "Object missing required field metadata"),
        (17, "Expected object, got int"),
        (service(""), "metadata.name: missing"),
    ],
)
def test_an_object_without_readable_metadata_is_reported_without_a_name(item, problem):
    bad, good = objects(item, service("a"))

    assert good.metadata.name == "a"
    assert (bad.name, bad.problem) == ("", problem)


def test_absurd_values_are_not_the_decoders_affair():
    (found,) = objects(service(ports=[{"port": 99999, "protocol": "QUIC"}]))

    assert found.spec.ports[0].port == 99999


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Sign in</html>",
        page(service())[:-5],
        b'{"kind":"Status"}',
        b"[1]",
        b'{"metadata":{},"items":' + b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_list_is_garbled(body):
    with pytest.raises(GarbledError):
        SERVICES.decode_page(body)


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "DELETED"])
def test_an_event_gives_its_object_and_version(kind):
    decoded = SERVICES.decode_event(event(kind, service("a")))

    assert isinstance(decoded.obj, Service)
    assert (decoded.type, decoded.resource_version) == (kind, "7")


def test_a_bookmark_of_a_kind_with_required_fields_needs_only_its_version():
    line = event("BOOKMARK", {"kind": "EndpointSlice", "metadata": {"resourceVersion": "55"}})

    decoded = ResourceDecoder(Resource.ENDPOINT_SLICE).decode_event(line)

    assert (decoded.obj, decoded.resource_version) == (None, "55")


def test_a_bad_object_in_an_event_keeps_its_version_so_that_the_watch_moves_on():
    decoded = SERVICES.decode_event(event("MODIFIED", service("a", clusterIP=7)))

    assert decoded.obj == Unreadable(
        Resource.SERVICE, "shop", "a", "spec.clusterIP: Expected str, got int"
    )
    assert decoded.resource_version == "7"


def test_an_error_event_is_raised_as_the_error_it_tells():
    line = event("ERROR", {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired"})

    with pytest.raises(ApiError) as caught:
        SERVICES.decode_event(line)

    assert caught.value.expired


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ADDED","obj',
        b"\x00\x01",
        b"[]",
        b'"text"',
        event("INVENTED", service()),
        b'{"type":"ERROR","object":3}',
        b'{"type":"ADDED","object":{"metadata":{"name":"\xff"}}}',
        b'{"type":"ADDED","object":' + b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_event_is_garbled_and_shown(line):
    with pytest.raises(GarbledError, match=r"a line of|Expected"):
        SERVICES.decode_event(line)


def test_an_http_error_is_told_in_the_servers_words():
    body = b'{"kind":"Status","message":"services is forbidden","reason":"Forbidden","code":403}'

    error = decode_status(body, 403)

    assert (error.status, error.reason, error.message) == (
        403,
        "Forbidden",
        "services is forbidden",
    )


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b'{"code":"x"}', b"\xff"])
def test_an_http_error_of_a_proxy_keeps_the_http_status(body):
    assert decode_status(body, 502, 3.0).status == 502
