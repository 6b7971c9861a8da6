from dataclasses import replace

import pytest

from proxy.backends.nftables import layout
from proxy.backends.nftables.text import render_table
from proxy.backends.settings import LocalTraffic, Settings
from proxy.model.addresses import IPFamily, pack_address
from tests.support.plans import (
    ServiceGenerator,
    address,
    applied,
    endpoint,
    filled,
    network,
    plan,
    service_port,
    simple,
)

V4 = Settings(IPFamily.IPV4, local_traffic=LocalTraffic(network=network("10.0.0.0/8")))


def block(text, head):
    """The lines of one set, map or chain, without indentation."""
    lines = iter(text.splitlines())
    assert any(line == f"\t{head} {{" for line in lines), f"no {head}"
    found = []
    for line in lines:
        if line == "\t}":
            return found
        found.append(line.strip().rstrip(","))
    raise AssertionError(f"{head} does not end")


def test_the_script_replaces_a_table_of_any_layout():
    lines = render_table(filled(V4)).splitlines()
    assert lines[:4] == [
        "table ip kube-proxy",
        "delete table ip kube-proxy",
        "table ip kube-proxy {",
        f'\tcomment "{layout.TABLE_COMMENT}"',
    ]
    assert lines[-1] == "}"


def test_ipv6_has_a_table_of_its_own():
    text = render_table(filled(Settings(IPFamily.IPV6), simple(1, 1, family=IPFamily.IPV6)))
    assert "table ip6 kube-proxy {" in text
    assert "fd00:172:30::1 . tcp . 80 . 0 : fd00:10:180::1 . 8080" in text


def test_elements_read_as_people_write_them():
    text = render_table(filled(V4, simple(1, 1, 2)))
    assert block(text, "map service-ips") == [
        "type ipv4_addr . inet_proto . inet_service : verdict",
        'comment "ClusterIP, ExternalIP and LoadBalancer IP traffic"',
        "elements = {",
        '172.30.0.1 . tcp . 80 comment "ns/svc-1:p80" : goto cluster-ip-lb-2',
        "}",
    ]
    assert block(text, "map endpoints") == [
        "typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport",
        "elements = {",
        "172.30.0.1 . tcp . 80 . 0 : 10.180.0.1 . 8080",
        "172.30.0.1 . tcp . 80 . 1 : 10.180.0.2 . 8080",
        "}",
    ]
    assert block(text, "chain lb-2") == [
        "meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport"
        " . numgen random mod 2 map @endpoints"
    ]


def test_a_set_without_elements_has_no_elements_line():
    assert "elements = {" not in block(render_table(filled(V4)), "map service-ips")


def test_ranges_show_their_last_address_and_single_addresses_do_not():
    port = service_port(
        1,
        load_balancer_vips=(address("balancer", 1),),
        source_ranges=(network("10.0.0.0/8"), network("203.0.113.7/32")),
    )
    text = render_table(filled(V4, plan(port, endpoint(1))))
    assert block(text, "set allowed-sources")[-3:-1] == [
        "5.6.0.1 . tcp . 80 . 10.0.0.0-10.255.255.255",
        "5.6.0.1 . tcp . 80 . 203.0.113.7",
    ]


def test_refusals_point_to_what_refuses():
    local = service_port(2, internal_policy_local=True)
    text = render_table(filled(V4, simple(1), plan(local, endpoint(1))))
    assert block(text, "map no-endpoint-services")[-3:-1] == [
        '172.30.0.1 . tcp . 80 comment "ns/svc-1:p80" : goto reject-chain',
        '172.30.0.2 . tcp . 80 comment "ns/svc-2:p80" : drop',
    ]


def test_names_can_be_left_out():
    assert "ns/svc-1" not in render_table(filled(replace(V4, comments=False), simple(1, 1)))


def test_shared_elements_are_written_once():
    first = plan(service_port(1, port=80), endpoint(1, local=True))
    second = plan(service_port(1, port=443), endpoint(1, local=True))
    text = render_table(filled(V4, first, second))
    assert block(text, "set cluster-ips")[-2] == "172.30.0.1"
    assert block(text, "set hairpin")[-2] == "10.180.0.1 . 10.180.0.1"


def test_restricted_node_ports_look_their_addresses_up():
    node = replace(V4, node_port_addresses=frozenset({pack_address("192.0.2.1")}))
    assert block(render_table(filled(node)), "set nodeport-ips")[-2] == "192.0.2.1"
    assert "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports" in block(
        render_table(filled(node)), "chain services"
    )
    assert (
        "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap"
        " @service-nodeports" in block(render_table(filled(V4)), "chain services")
    )


def test_text_shows_what_was_committed_in_its_places():
    table = filled(V4, simple(1, 1, 2, 3))
    changed = simple(1, 2, 3)
    table.change({changed.name: changed})
    assert "10.180.0.1 " in render_table(table)
    applied(table, table.change({changed.name: changed}))
    assert block(render_table(table), "map endpoints")[-3:-1] == [
        "172.30.0.1 . tcp . 80 . 0 : 10.180.0.3 . 8080",
        "172.30.0.1 . tcp . 80 . 1 : 10.180.0.2 . 8080",
    ]


@pytest.mark.parametrize("family", IPFamily)
def test_every_chain_and_set_that_is_named_is_also_written(family):
    draw = ServiceGenerator(7, family).plan
    text = render_table(filled(Settings(family), *(draw(number) for number in range(40))))
    words = text.replace(";", " ").replace(",", " ").split()
    written = {words[i + 1] for i, word in enumerate(words) if word in ("chain", "set", "map")}
    for index, word in enumerate(words[:-1]):
        if word in ("goto", "jump"):
            assert words[index + 1] in written
        if word.startswith("@"):
            assert word[1:] in written


def test_a_chain_is_written_before_it_is_jumped_to():
    draw = ServiceGenerator(7, IPFamily.IPV4).plan
    text = render_table(filled(V4, *(draw(number) for number in range(40))))
    seen = set()
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["chain"]:
            seen.add(words[1])
        if words[-2:-1] in (["goto"], ["jump"]) and ":" not in words:
            assert words[-1] in seen
