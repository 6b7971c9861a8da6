"""Which UDP entries are stale, which walks find them, and how requests merge."""

from ipaddress import ip_network

import pytest

from proxy.conntrack.messages import EntryReader
from proxy.conntrack.stale import (
    MAX_FILTERED_SEARCHES,
    CleanupRequest,
    Frontend,
    Judge,
    Reason,
    Search,
    merge,
    place,
    plan_searches,
)
from proxy.model.addresses import IPFamily
from tests.support.conntrack_entries import VECTORS, encode_entry

VIP = Frontend("172.30.0.10", 53)
NODE_PORT = Frontend(None, 30053)
ENDPOINT = place("10.1.0.1", 5353)
GONE = place("10.1.0.9", 5353)
AT_VIP = place("172.30.0.10", 53)
AT_NODE = place("192.168.0.1", 30053)

# What kube-proxy keeps and we delete: nothing is served there, so the flow feeds a black hole
# (known upstream as kubernetes/kubernetes#139629).
DELIBERATE_DIFFERENCES = {"service-without-slices": Reason.NO_ENDPOINTS}


def request(**changes) -> CleanupRequest:
    return CleanupRequest(
        IPFamily.IPV4,
        **({"node_addresses": frozenset({"192.168.0.1"})} | changes),
    )


def request_of(objects, node_addresses) -> CleanupRequest:
    """Read a test case's Services and EndpointSlices."""
    services = [obj for obj in objects if obj["kind"] == "Service"]
    slices = [obj for obj in objects if obj["kind"] == "EndpointSlice"]
    frontends = {}
    for service in services:
        spec = service["spec"]
        addresses = [spec["clusterIP"], *spec.get("externalIPs", ())]
        addresses += [i["ip"] for i in service["status"]["loadBalancer"]["ingress"]]
        for port in spec["ports"]:
            if port["protocol"] != "UDP":
                continue
            serving = frozenset(
                place(address, slice_port["port"])
                for slice_ in slices
                if slice_["metadata"]["labels"]["kubernetes.io/service-name"]
                == service["metadata"]["name"]
                for slice_port in slice_["ports"]
                if slice_port["name"] == port["name"]
                for endpoint in slice_["endpoints"]
                if endpoint["conditions"]["serving"]
                for address in endpoint["addresses"]
            )
            frontends.update({Frontend(a, port["port"]): serving for a in addresses})
            if "nodePort" in port:
                frontends[Frontend(None, port["nodePort"])] = serving
    return CleanupRequest(IPFamily.IPV4, frontends, node_addresses=node_addresses)


@pytest.mark.parametrize("case", VECTORS["cleanup"], ids=lambda case: case["name"])
def test_the_same_entries_go_as_with_kube_proxy_but_for_the_named_differences(case):
    # Entries of a nodePort have no destination in these cases, so 0.0.0.0 plays the node.
    judge = Judge(request_of(case["objects"], frozenset({"0.0.0.0"})))
    reader = EntryReader(IPFamily.IPV4)
    deleted = 0
    for entry in case["entries"]:
        ends = reader.ends(memoryview(encode_entry(*entry["flow"], identity=1)))
        reason = None if ends is None else judge.verdict(*ends)
        if case["name"] in DELIBERATE_DIFFERENCES:
            assert entry["expect"] == "keep"
            assert reason is DELIBERATE_DIFFERENCES[case["name"]]
        else:
            assert (reason is not None) == (entry["expect"] == "delete"), entry
            deleted += reason is not None
    assert deleted == case["deleted"]


def test_a_flow_to_a_serving_endpoint_stays():
    judge = Judge(request(frontends={VIP: frozenset({ENDPOINT})}))
    assert judge.verdict(AT_VIP, ENDPOINT) is None


def test_a_flow_to_an_endpoint_that_left_goes():
    judge = Judge(request(frontends={VIP: frozenset({ENDPOINT})}))
    assert judge.verdict(AT_VIP, GONE) is Reason.NOT_SERVING


def test_the_same_pod_on_another_port_is_another_endpoint():
    judge = Judge(request(frontends={VIP: frozenset({ENDPOINT})}))
    assert judge.verdict(AT_VIP, place("10.1.0.1", 53)) is Reason.NOT_SERVING


def test_scaled_to_zero_every_flow_goes():
    judge = Judge(request(frontends={VIP: frozenset()}))
    assert judge.verdict(AT_VIP, ENDPOINT) is Reason.NO_ENDPOINTS


def test_a_flow_that_began_before_the_rules_goes_once_the_service_exists():
    judge = Judge(request(frontends={VIP: frozenset({ENDPOINT})}))
    assert judge.verdict(AT_VIP, AT_VIP) is Reason.NOT_TRANSLATED


def test_flows_of_a_removed_service_go():
    judge = Judge(request(removed_frontends=frozenset({VIP, NODE_PORT})))
    assert judge.verdict(AT_VIP, ENDPOINT) is Reason.FRONTEND_REMOVED
    assert judge.verdict(AT_NODE, ENDPOINT) is Reason.FRONTEND_REMOVED


def test_an_untranslated_flow_to_a_removed_external_address_stays():
    """It began after the removal, towards whoever really has that address."""
    judge = Judge(request(removed_frontends=frozenset({VIP})))
    assert judge.verdict(AT_VIP, AT_VIP) is None


def test_other_addresses_and_ports_are_not_touched():
    judge = Judge(request(frontends={VIP: frozenset(), NODE_PORT: frozenset()}))
    assert judge.verdict(place("172.30.0.10", 54), GONE) is None
    assert judge.verdict(place("172.30.0.11", 53), GONE) is None
    assert judge.verdict(place("192.168.0.1", 53), GONE) is None


def test_node_ports_count_at_the_nodes_addresses_only():
    """A flow to some other host that has the nodePort's number is not ours (kube-proxy cuts it)."""
    judge = Judge(request(frontends={NODE_PORT: frozenset({ENDPOINT})}))
    assert judge.verdict(AT_NODE, GONE) is Reason.NOT_SERVING
    assert judge.verdict(AT_NODE, ENDPOINT) is None
    elsewhere = place("203.0.113.7", 30053)
    assert judge.verdict(elsewhere, elsewhere) is None
    assert judge.verdict(elsewhere, GONE) is None


def test_an_external_address_that_is_the_nodes_own_is_found_before_its_node_ports():
    frontends = {Frontend("192.168.0.1", 30053): frozenset({GONE}), NODE_PORT: frozenset()}
    assert Judge(request(frontends=frontends)).verdict(AT_NODE, GONE) is None


def test_a_frontend_taken_over_by_another_service_exists():
    judge = Judge(
        request(frontends={VIP: frozenset({ENDPOINT})}, removed_frontends=frozenset({VIP}))
    )
    assert judge.verdict(AT_VIP, ENDPOINT) is None


def test_a_complete_request_deletes_flows_to_cluster_ips_that_no_service_has():
    judge = Judge(
        request(
            frontends={VIP: frozenset({ENDPOINT})},
            service_networks=(ip_network("172.30.0.0/16"),),
        )
    )
    assert judge.verdict(place("172.30.9.9", 53), GONE) is Reason.NO_SUCH_SERVICE
    assert judge.verdict(place("172.31.9.9", 53), GONE) is None
    assert judge.verdict(AT_VIP, ENDPOINT) is None


def test_ipv6_flows_are_judged_alike():
    vip = Frontend("fd00:172:30::a", 53)
    judge = Judge(
        CleanupRequest(
            IPFamily.IPV6,
            {vip: frozenset({place("fd00:10::1", 53)})},
            service_networks=(ip_network("fd00:172:30::/112"),),
        )
    )
    at_vip = place("fd00:172:30::a", 53)
    assert judge.verdict(at_vip, place("fd00:10::1", 53)) is None
    assert judge.verdict(at_vip, place("fd00:10::2", 53)) is Reason.NOT_SERVING
    other = place("fd00:172:30::b", 53)
    assert judge.verdict(other, place("fd00:10::2", 53)) is Reason.NO_SUCH_SERVICE


def test_a_place_needs_an_address():
    with pytest.raises(ValueError, match="not an IP address: 'pod-1'"):
        place("pod-1", 53)


def test_an_empty_request_needs_no_walk():
    assert request().empty
    assert plan_searches(request()) == ()


def test_one_frontend_is_searched_by_address_and_port():
    searches = plan_searches(request(frontends={VIP: frozenset()}))
    assert searches == (Search(destination=bytes((172, 30, 0, 10)), port=b"\0\x35"),)


def test_ports_of_one_address_share_a_walk_and_node_ports_are_searched_by_port():
    frontends = {VIP: frozenset(), Frontend("172.30.0.10", 54): frozenset(), NODE_PORT: frozenset()}
    assert set(plan_searches(request(frontends=frontends))) == {
        Search(destination=bytes((172, 30, 0, 10))),
        Search(port=(30053).to_bytes(2, "big")),
    }


def test_one_departed_endpoint_of_many_frontends_is_one_walk():
    frontends = {VIP: frozenset(), NODE_PORT: frozenset(), Frontend("1.2.3.4", 53): frozenset()}
    searches = plan_searches(request(frontends=frontends, removed_endpoints=frozenset({GONE})))
    assert searches == (Search(reply_source=GONE),)


def test_many_departed_endpoints_of_one_frontend_are_one_walk():
    gone = frozenset(place(f"10.1.0.{n}", 53) for n in range(5))
    searches = plan_searches(request(frontends={VIP: frozenset()}, removed_endpoints=gone))
    assert searches == (Search(destination=bytes((172, 30, 0, 10)), port=b"\0\x35"),)


def test_searching_for_endpoints_still_searches_for_removed_frontends():
    frontends = {Frontend(f"172.30.1.{n}", 53): frozenset() for n in range(5)}
    searches = plan_searches(
        request(
            frontends=frontends,
            removed_frontends=frozenset({VIP}),
            removed_endpoints=frozenset({GONE}),
        )
    )
    assert set(searches) == {
        Search(reply_source=GONE),
        Search(destination=bytes((172, 30, 0, 10)), port=b"\0\x35"),
    }


def test_many_addresses_with_few_ports_are_searched_by_port():
    frontends = {Frontend(f"172.30.1.{n}", 53): frozenset() for n in range(100)}
    assert plan_searches(request(frontends=frontends)) == (Search(port=b"\0\x35"),)


def test_many_addresses_with_many_ports_are_one_walk_over_everything():
    frontends = {
        Frontend(f"172.30.1.{n}", 50 + n): frozenset() for n in range(MAX_FILTERED_SEARCHES + 1)
    }
    assert plan_searches(request(frontends=frontends)) == (Search(),)


def test_a_complete_request_is_one_walk_over_everything():
    networks = (ip_network("172.30.0.0/16"),)
    assert plan_searches(request(service_networks=networks)) == (Search(),)


def test_merging_keeps_the_newer_truth_of_each_frontend():
    other = Frontend("172.30.0.11", 53)
    older = request(frontends={VIP: frozenset({GONE}), other: frozenset()})
    newer = request(frontends={VIP: frozenset({ENDPOINT})})
    assert merge(older, newer).frontends == {VIP: frozenset({ENDPOINT}), other: frozenset()}


def test_merging_lets_removal_and_return_override_each_other():
    added = request(frontends={VIP: frozenset({ENDPOINT})})
    removed = request(removed_frontends=frozenset({VIP}))
    gone = merge(added, removed)
    assert (gone.frontends, gone.removed_frontends) == ({}, frozenset({VIP}))
    back = merge(removed, added)
    assert (back.frontends, back.removed_frontends) == (added.frontends, frozenset())


def test_merging_narrows_the_search_only_when_both_may_be_narrowed():
    narrow = request(frontends={VIP: frozenset()}, removed_endpoints=frozenset({GONE}))
    other = request(frontends={VIP: frozenset()}, removed_endpoints=frozenset({ENDPOINT}))
    wide = request(frontends={NODE_PORT: frozenset()})
    assert merge(narrow, other).removed_endpoints == {GONE, ENDPOINT}
    assert merge(narrow, wide).removed_endpoints is None
    assert merge(wide, narrow).removed_endpoints is None


def test_merging_keeps_a_complete_request_complete():
    networks = (ip_network("172.30.0.0/16"),)
    complete = request(service_networks=networks)
    later = request(node_addresses=frozenset({"192.168.0.2"}))
    merged = merge(complete, later)
    assert merged.service_networks == networks
    assert merged.node_addresses == {"192.168.0.2"}
