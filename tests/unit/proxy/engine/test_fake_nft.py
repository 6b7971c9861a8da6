"""What an NftPort promises, on the fake and on the kernel: the proof that the fake is honest."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from dataclasses import replace

import pytest

from kpctl.lab.netns import Namespace
from proxy.backends.nftables import layout, requests
from proxy.backends.nftables.requests import Change
from proxy.backends.nftables.table import NftablesTable
from proxy.backends.settings import Settings
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.nftables import NetlinkNft, TransactionRejected
from proxy.model.addresses import IPFamily
from proxy.netfilter.objects import Chain, NamedSet, rule
from proxy.netfilter.statements import DROP, goto, jump, verdict
from tests.support.fake_nft import FakeNft

SETTINGS = Settings(IPFamily.IPV4)
SETS = layout.sets(IPFamily.IPV4)
VIPS, ENDPOINTS, CLUSTER_IPS = (
    SETS[n] for n in (layout.SERVICE_IPS, layout.ENDPOINTS, layout.CLUSTER_IPS)
)
VIP = bytes((10, 96, 0, 1)) + bytes((6, 0, 0, 0)) + bytes((0, 80, 0, 0))
INDEXED = VIP + bytes(4)
TARGET, OTHER_TARGET = bytes((10, 180, 0, 1, 0, 80, 0, 0)), bytes((10, 180, 0, 2, 0, 80, 0, 0))


class KernelNft:
    """The kernel in a namespace of this test's thread, with the questions a test asks the fake."""

    def __init__(self) -> None:
        self.port = NetlinkNft(IPFamily.IPV4)

    def rule_count(self, table: str, chain: str) -> int:
        command = ["nft", "-j", "list", "chain", "ip", table, chain]
        listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return sum("rule" in item for item in listed["nftables"])


@pytest.fixture
def namespace():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root")
    home = Namespace(f"kpctl-t{os.getpid()}-port").create()
    try:
        with home.enter():
            yield
    finally:
        home.delete()


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def nft(request):
    """Two objects: the port, and who counts rules."""
    if request.param == "fake":
        fake = FakeNft()
        yield fake, fake
        return
    request.getfixturevalue("namespace")
    kernel = KernelNft()
    try:
        yield kernel.port, kernel
    finally:
        kernel.port.close()


@pytest.fixture
def port(nft):
    """A port whose kernel has the skeleton of the table."""
    nft[0].apply(NftablesTable(SETTINGS).restate((), replace=False).requests)
    return nft[0]


def change(key: bytes, value: object = b"") -> Change:
    return Change(key, value, None)


def adding(item: NamedSet, *changes: Change) -> list[requests.Request]:
    return list(requests.add_elements(item, changes, False))


def deleting(item: NamedSet, *changes: Change) -> list[requests.Request]:
    return list(requests.delete_elements(item, changes))


def chain_with(name: str, *rules) -> list[requests.Request]:
    chain = Chain(name, rules)
    return [requests.add_chain(chain), *requests.add_rules(chain)]


def refusals_of(port, *batches: list[requests.Request]) -> list[tuple[int, int]]:
    """Return index and errno of each refused request."""
    with pytest.raises(TransactionRejected) as rejected:
        port.apply([request for batch in batches for request in batch])
    return [(refusal.index, refusal.error.errno) for refusal in rejected.value.refusals]


def keys(port, item: NamedSet) -> set[bytes]:
    return {key for key, _ in port.elements(layout.TABLE, item.name)}


def test_nothing_is_there_before_the_table_is_made(nft) -> None:
    port = nft[0]
    assert port.table_comment(layout.TABLE) is None
    assert port.chains(layout.TABLE) == frozenset()
    assert port.elements(layout.TABLE, layout.SERVICE_IPS) == []


def test_an_empty_transaction_is_accepted(nft) -> None:
    assert nft[0].apply([]) == 0.0


def test_the_skeleton_makes_the_comment_the_chains_and_their_rules(nft, port) -> None:
    assert port.table_comment(layout.TABLE) == layout.TABLE_COMMENT
    assert {"services", "lb-3"} & port.chains(layout.TABLE) == {"services"}
    assert nft[1].rule_count(layout.TABLE, "services") == 2


def test_the_comment_of_a_table_that_exists_stays(nft) -> None:
    port = nft[0]
    plain = requests.Request(requests.Msg.NEWTABLE, 0x400, requests.string(1, layout.TABLE))
    port.apply([plain])
    port.apply([requests.add_table()])
    assert port.table_comment(layout.TABLE) == ""


def test_elements_can_be_added_read_and_deleted(port) -> None:
    port.apply(adding(ENDPOINTS, change(INDEXED, TARGET)))
    assert port.elements(layout.TABLE, layout.ENDPOINTS) == [(INDEXED, TARGET)]
    port.apply(deleting(ENDPOINTS, change(INDEXED, TARGET)))
    assert port.elements(layout.TABLE, layout.ENDPOINTS) == []


def test_an_element_can_be_added_twice_with_the_same_data(port) -> None:
    port.apply(adding(ENDPOINTS, change(INDEXED, TARGET)))
    port.apply(adding(ENDPOINTS, change(INDEXED, TARGET)))
    assert keys(port, ENDPOINTS) == {INDEXED}


def test_an_element_cannot_be_added_with_other_data(port) -> None:
    port.apply(adding(ENDPOINTS, change(INDEXED, TARGET)))
    assert refusals_of(port, adding(ENDPOINTS, change(INDEXED, OTHER_TARGET))) == [
        (0, errno.EEXIST)
    ]
    port.apply(adding(VIPS, change(VIP, DROP)))
    assert refusals_of(port, adding(VIPS, change(VIP, goto("reject-chain")))) == [(0, errno.EEXIST)]


def test_an_element_is_replaced_by_deleting_it_in_the_same_transaction(port) -> None:
    port.apply(adding(ENDPOINTS, change(INDEXED, TARGET)))
    old, new = change(INDEXED, TARGET), change(INDEXED, OTHER_TARGET)
    port.apply([*deleting(ENDPOINTS, old), *adding(ENDPOINTS, new)])
    assert port.elements(layout.TABLE, layout.ENDPOINTS) == [(INDEXED, OTHER_TARGET)]


def test_a_missing_element_cannot_be_deleted(port) -> None:
    assert refusals_of(port, deleting(ENDPOINTS, change(INDEXED))) == [(0, errno.ENOENT)]


def test_a_refused_transaction_changes_nothing(port) -> None:
    batch = adding(CLUSTER_IPS, change(VIP[:4]))
    assert refusals_of(port, batch, deleting(ENDPOINTS, change(INDEXED))) == [(1, errno.ENOENT)]
    assert keys(port, CLUSTER_IPS) == set()


def test_every_refused_request_is_reported(port) -> None:
    missing = deleting(ENDPOINTS, change(INDEXED))
    fine = adding(CLUSTER_IPS, change(VIP[:4]))
    assert refusals_of(port, missing, fine, missing) == [(0, errno.ENOENT), (2, errno.ENOENT)]


def test_an_element_cannot_lead_to_a_missing_chain(port) -> None:
    assert refusals_of(port, adding(VIPS, change(VIP, goto("lb-3")))) == [(0, errno.ENOENT)]


def test_a_rule_cannot_lead_to_a_missing_chain(port) -> None:
    assert refusals_of(port, chain_with("a", rule(verdict(jump("lb-3"))))) == [(1, errno.ENOENT)]


def test_a_rule_needs_its_chain(port) -> None:
    batch = list(requests.add_rules(Chain("absent", (rule(verdict(DROP)),))))
    assert refusals_of(port, batch) == [(0, errno.ENOENT)]


def test_a_rule_cannot_look_up_a_missing_set(nft) -> None:
    port = nft[0]
    port.apply([requests.add_table()])
    check = layout.cluster_ips_check(SETTINGS)
    batch = [requests.add_chain(check), *requests.add_rules(check)]
    assert refusals_of(port, chain_with("first"), batch) == [(2, errno.ENOENT)]


def test_elements_of_a_missing_set_are_refused(nft) -> None:
    nft[0].apply([requests.add_table()])
    assert refusals_of(nft[0], adding(CLUSTER_IPS, change(VIP[:4]))) == [(0, errno.ENOENT)]
    assert refusals_of(nft[0], deleting(CLUSTER_IPS, change(VIP[:4]))) == [(0, errno.ENOENT)]


def test_requests_for_a_missing_table_are_refused(nft) -> None:
    table = NftablesTable(SETTINGS).restate((), replace=False).requests
    assert refusals_of(nft[0], table[1:2]) == [(0, errno.ENOENT)]
    assert refusals_of(nft[0], [requests.delete_table()]) == [(0, errno.ENOENT)]
    assert refusals_of(nft[0], [requests.flush_rules()]) == [(0, errno.ENOENT)]


def test_flushing_a_set_deletes_all_its_elements_and_no_others(port) -> None:
    port.apply(adding(ENDPOINTS, change(INDEXED, TARGET)) + adding(CLUSTER_IPS, change(VIP[:4])))
    port.apply([requests.flush_set(layout.ENDPOINTS)])
    assert keys(port, ENDPOINTS) == set()
    assert keys(port, CLUSTER_IPS) == {VIP[:4]}


def test_flushing_a_chain_deletes_its_rules_and_no_others(nft, port) -> None:
    port.apply([requests.flush_rules("services")])
    assert nft[1].rule_count(layout.TABLE, "services") == 0
    assert nft[1].rule_count(layout.TABLE, "masquerading") == 2
    port.apply([requests.flush_rules()])
    assert nft[1].rule_count(layout.TABLE, "masquerading") == 0


def test_rules_of_a_missing_chain_cannot_be_flushed(port) -> None:
    assert refusals_of(port, [requests.flush_rules("absent")]) == [(0, errno.ENOENT)]


def test_rules_are_appended_each_time(nft, port) -> None:
    port.apply(chain_with("a", rule(verdict(DROP))))
    port.apply(chain_with("a", rule(verdict(DROP))))
    assert nft[1].rule_count(layout.TABLE, "a") == 2


def test_a_chain_that_something_leads_to_cannot_be_deleted(port) -> None:
    port.apply(chain_with("target", rule(verdict(DROP))))
    port.apply(adding(VIPS, change(VIP, goto("target"))))
    assert refusals_of(port, [requests.delete_chain("target")]) == [(0, errno.EBUSY)]
    port.apply(deleting(VIPS, change(VIP)))
    port.apply(chain_with("source", rule(verdict(jump("target")))))
    assert refusals_of(port, [requests.delete_chain("target")]) == [(0, errno.EBUSY)]
    port.apply([requests.flush_rules("source"), requests.delete_chain("target")])
    assert {"source", "target"} & port.chains(layout.TABLE) == {"source"}


def test_a_missing_chain_cannot_be_deleted(port) -> None:
    assert refusals_of(port, [requests.delete_chain("absent")]) == [(0, errno.ENOENT)]


def test_a_set_can_be_declared_again_but_not_with_another_type(port) -> None:
    port.apply([requests.add_set(CLUSTER_IPS, 1)])
    other = NamedSet(layout.CLUSTER_IPS, VIPS.key)
    assert refusals_of(port, [requests.add_set(other, 1)]) == [(0, errno.EEXIST)]


def test_a_chain_without_a_hook_cannot_become_a_base_chain(nft) -> None:
    port = nft[0]
    port.apply([requests.add_table(), *chain_with("filter-input")])
    base = next(chain for chain in layout.base_chains() if chain.name == "filter-input")
    assert refusals_of(port, [requests.add_chain(base)]) == [(0, errno.EOPNOTSUPP)]


def test_a_base_chain_cannot_move_to_another_hook(port) -> None:
    base = next(chain for chain in layout.base_chains() if chain.name == "filter-input")
    forward = next(chain for chain in layout.base_chains() if chain.name == "filter-forward")
    moved = replace(base, hook=forward.hook)
    assert refusals_of(port, [requests.add_chain(moved)]) == [(0, errno.EOPNOTSUPP)]


def test_restating_twice_leaves_the_same_table(nft, port) -> None:
    port.apply(NftablesTable(SETTINGS).restate((), replace=False).requests)
    assert nft[1].rule_count(layout.TABLE, "services") == 2
    port.apply(NftablesTable(SETTINGS).restate((), replace=True).requests)
    assert nft[1].rule_count(layout.TABLE, "services") == 2


def test_deleting_the_table_deletes_everything_in_it(port) -> None:
    port.apply([requests.delete_table()])
    assert port.chains(layout.TABLE) == frozenset()
    assert port.table_comment(layout.TABLE) is None


def test_the_fake_fails_the_transactions_it_was_told_to() -> None:
    fake = FakeNft()
    fake.fail(errno.ENOMEM, after=1, times=1)
    fake.apply([requests.add_table()])
    with pytest.raises(NetlinkError) as failed:
        fake.apply([requests.delete_table()])
    assert failed.value.errno == errno.ENOMEM
    assert fake.table_comment(layout.TABLE) is not None
    fake.apply([requests.delete_table()])
    assert fake.table_comment(layout.TABLE) is None
