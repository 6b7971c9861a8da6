"""Clean-ups against a table in memory that ignores filters, as kernels before 5.8 do."""

import errno
import tracemalloc

import pytest

from proxy.conntrack.stale import CleanupRequest, Frontend, Reason, place
from proxy.kernel.conntrack import WALK_ATTEMPTS, clean_up
from proxy.kernel.netlink import NetlinkError
from proxy.model.addresses import IPFamily
from tests.support.conntrack_entries import VECTORS, FakeTable, encode_entry

VIP = Frontend("172.30.0.10", 53)
SERVING = place("10.1.0.1", 53)


def flow(number: int, endpoint: str = "10.1.0.9", port: int = 53, protocol: str = "UDP") -> bytes:
    """Return the entry of one client of the VIP."""
    client = ("10.0.0.2", 1024 + number)
    return encode_entry(
        protocol,
        (*client, "172.30.0.10", port),
        (endpoint, 53, *client),
        identity=1 + number,
    )


def request(**changes) -> CleanupRequest:
    return CleanupRequest(IPFamily.IPV4, **({"frontends": {VIP: frozenset({SERVING})}} | changes))


def test_stale_entries_are_deleted_and_others_stay():
    kept = [flow(1, "10.1.0.1"), flow(2, port=54), flow(3, protocol="TCP")]
    table = FakeTable([flow(4), *kept, flow(5, "172.30.0.10")])
    result = clean_up(request(), table)
    assert table.entries == kept
    assert result.deleted == {Reason.NOT_SERVING: 1, Reason.NOT_TRANSLATED: 1}
    assert (result.deleted_total, result.walks, result.examined, result.error) == (2, 1, 5, "")
    assert result.duration_s > 0


def test_a_large_table_costs_no_more_requests_than_with_kube_proxy():
    case = VECTORS["cleanupCost"]
    vip = Frontend("1.2.3.4", case["port"])
    flows = [
        encode_entry(
            "UDP",
            ("10.0.0.2", number, "1.2.3.4", 7000 + number % 2000),
            ("10.1.0.9", 53, "10.0.0.2", number),
            identity=1 + number,
        )
        for number in range(4000)
    ]
    table = FakeTable(flows)
    result = clean_up(request(frontends={vip: frozenset({SERVING})}), table)
    assert result.deleted_total == 2
    assert len(table.entries) == 3998
    assert table.requests <= case["requestsBesideDeletions"] + result.deleted_total


def test_memory_does_not_grow_with_what_is_found():
    def peak(count: int) -> int:
        table = FakeTable([flow(number) for number in range(count)])
        # Entries leave from the end, in constant time and without new memory.
        table._delete = lambda payload: None
        tracemalloc.start()
        assert clean_up(request(), table).deleted_total == count
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest - 8 * count  # the fake's own copy of its list

    few, many = peak(500), peak(20_000)
    assert many < 1.5 * few


def test_an_entry_that_expired_meanwhile_is_not_counted_and_no_error():
    table = FakeTable([flow(1), flow(2)])
    del table.entries[0]
    listed = FakeTable([flow(1), flow(2)])
    table.dump = listed.dump
    result = clean_up(request(), table)
    assert (result.deleted_total, result.error) == (1, "")


def test_an_inconsistent_walk_is_repeated():
    table = FakeTable([flow(1), flow(2)])
    table.interrupted_dumps = WALK_ATTEMPTS - 1
    result = clean_up(request(), table)
    assert (result.walks, result.deleted_total, result.error) == (WALK_ATTEMPTS, 2, "")


def test_a_walk_that_stays_inconsistent_is_reported_and_what_it_found_is_deleted():
    table = FakeTable([flow(1), flow(2)])
    table.interrupted_dumps = WALK_ATTEMPTS
    result = clean_up(request(), table)
    assert result.deleted_total == 2
    assert "the table changed while it was read" in result.error


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EPERM, "needs CAP_NET_ADMIN"), (errno.ENOBUFS, "No buffer space")],
)
def test_a_refusal_is_reported_and_not_raised(number, words):
    table = FakeTable([flow(1)])
    table.refusal = NetlinkError(number)
    result = clean_up(request(), table)
    assert result.error.startswith("cannot clean up IPv4 conntrack entries: ")
    assert words in result.error
    assert result.deleted_total == 0


def test_a_refused_deletion_is_reported():
    table = FakeTable([flow(1)])
    table._delete = lambda payload: NetlinkError(errno.EBUSY)
    assert "busy" in clean_up(request(), table).error


def test_an_empty_request_touches_nothing():
    table = FakeTable([flow(1)])
    assert clean_up(request(frontends={}), table).walks == 0
    assert table.requests == 0
