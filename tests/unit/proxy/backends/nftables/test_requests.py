from proxy.backends.nftables import layout, requests
from proxy.backends.nftables.requests import Change
from proxy.model.addresses import IPFamily
from proxy.netfilter.statements import goto
from proxy.netfilter.wire import Msg, attributes
from tests.support.nft_messages import elements_of, name_in
from tests.support.plans import address, simple

SETS = layout.sets(IPFamily.IPV4)
KEY = address("cluster", 1) + b"\x06\0\0\0" + b"\0\x50\0\0"
NAME = simple(1).name


def only(made):
    (request,) = made
    (element,) = elements_of([request])
    return request, element


def test_a_verdict_element_carries_its_services_name_as_comment():
    change = Change(KEY, goto("lb-1"), NAME)
    _, element = only(requests.add_elements(SETS[layout.SERVICE_IPS], [change], True))
    assert b"ns/svc-1:p80\0" in element.userdata
    assert b"lb-1\0" in element.data
    _, element = only(requests.add_elements(SETS[layout.SERVICE_IPS], [change], False))
    assert element.userdata == b""


def test_a_deletion_names_the_key_alone():
    _, element = only(
        requests.delete_elements(SETS[layout.SERVICE_IPS], [Change(KEY, goto("lb-1"), NAME)])
    )
    assert (element.kind, element.key, element.data) == (Msg.DELSETELEM, KEY, b"")


def test_deleting_a_range_names_both_ends():
    first, last = KEY + bytes((10, 0, 0, 0)), KEY + bytes((10, 255, 255, 255))
    _, element = only(
        requests.delete_elements(SETS[layout.ALLOWED_SOURCES], [Change(first, last, NAME)])
    )
    assert (element.key, element.end) == (first, last)


def test_many_elements_are_spread_over_messages_that_fit_their_length_field():
    item = SETS[layout.ENDPOINTS]
    value = address("pod", 1) + b"\x1f\x90\0\0"
    changes = [Change(KEY + n.to_bytes(4, "little"), value, NAME) for n in range(5000)]
    made = list(requests.add_elements(item, changes, True))
    assert len(made) > 1
    assert [element.key for element in elements_of(made)] == [change.key for change in changes]
    for request in made:
        assert len(attributes(request.body)[3]) < 0xFFFF
        assert request.origins == (NAME,)


def test_no_elements_make_no_request():
    assert list(requests.add_elements(SETS[layout.ENDPOINTS], [], True)) == []


def test_shared_elements_have_no_origin():
    change = Change(address("cluster", 1), b"", None)
    request, element = only(requests.add_elements(SETS[layout.CLUSTER_IPS], [change], True))
    assert request.origins == ()
    assert (element.key, element.data, element.userdata) == (change.key, b"", b"")


def test_flushing_names_a_set_or_a_chain_or_nothing():
    assert name_in(requests.flush_set("hairpin")) == "hairpin"
    assert name_in(requests.flush_rules("services")) == "services"
    assert name_in(requests.flush_rules()) == ""
