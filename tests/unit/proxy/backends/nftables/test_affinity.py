from proxy.backends.nftables.affinity import stale_entries
from proxy.backends.settings import Settings
from proxy.model.addresses import IPFamily, pack_address
from tests.support.nft_messages import elements_of
from tests.support.plans import address, endpoint, filled, plan, service_port

CLIENT = pack_address("10.0.0.2")
NODE = pack_address("192.0.2.1")


def entry(called, port, pod):
    key = CLIENT + called + b"\x06\0\0\0" + port.to_bytes(2, "big") + b"\0\0"
    return key, address("pod", pod) + b"\x1f\x90\0\0"


def purged(table, *entries):
    return [element.key for element in elements_of(stale_entries(table, entries))]


def sticky(*pods, **more):
    made = plan(service_port(1, affinity_timeout_s=60, **more), *map(endpoint, pods))
    return filled(Settings(IPFamily.IPV4), made)


def test_clients_of_serving_endpoints_are_kept():
    vip = address("cluster", 1)
    assert purged(sticky(1, 2), entry(vip, 80, 1), entry(vip, 80, 2)) == []


def test_clients_of_an_endpoint_that_left_are_forgotten():
    vip = address("cluster", 1)
    gone, kept = entry(vip, 80, 3), entry(vip, 80, 1)
    assert purged(sticky(1, 2), gone, kept) == [gone[0]]


def test_clients_of_a_service_that_is_gone_or_lost_affinity_are_forgotten():
    vip = address("cluster", 1)
    without = filled(Settings(IPFamily.IPV4), plan(service_port(1), endpoint(1)))
    assert purged(without, entry(vip, 80, 1)) == [entry(vip, 80, 1)[0]]
    assert purged(filled(Settings(IPFamily.IPV4)), entry(vip, 80, 1)) == [entry(vip, 80, 1)[0]]


def test_clients_of_a_node_port_are_kept_whatever_address_they_called():
    table = sticky(1, node_port=30001)
    assert purged(table, entry(NODE, 30001, 1)) == []
    assert purged(table, entry(NODE, 30001, 2)) == [entry(NODE, 30001, 2)[0]]


def test_another_port_of_the_same_address_is_another_frontend():
    vip = address("cluster", 1)
    assert purged(sticky(1), entry(vip, 81, 1)) == [entry(vip, 81, 1)[0]]
