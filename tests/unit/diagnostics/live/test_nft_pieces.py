"""Rules and elements straight from the kernel mean what nft prints of them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from diagnostics.live.errors import ReadError
from diagnostics.live.expressions import decode_rule
from diagnostics.live.kernel import KernelSet, KernelTable
from diagnostics.live.nftables import live_ruleset
from diagnostics.live.packed import Undecoded
from diagnostics.live.sets import KernelNamedSet
from diagnostics.nftables.model import NftRuleset, Rule
from proxy.kernel.netlink import NetlinkError
from proxy.netfilter.wire import attributes
from tests.support.recorded_nft import RecordedNft

RECORDED = ("kube-proxy-nftables", "own-nftables", "other-tables")
CHAIN = "service-IDRS2K5D-bench/svc-2486/tcp/p80-tcp"
CALLED = (ip_address("172.30.25.0"), "tcp", 80)
# What nft words in another way than the kernel's own expressions do: the same meaning.
OTHER_WORDS = {
    "tcp dport 1000-2000 accept": "tcp dport >= 1000 tcp dport <= 2000 accept",
    "meta mark set meta mark & 0xffff01ff | 0x00000100": (
        "meta mark set meta mark & 0xffff00ff ^ 0x00000100"
    ),
    "ip daddr 10.0.0.1 tcp dport 80 accept": (
        "meta l4proto tcp ip daddr 10.0.0.1 th dport 80 accept"
    ),
    "tcp dport 80 accept": "ip protocol tcp th dport 80 accept",
    "ip protocol ospf accept": "ip protocol 89 accept",
    "meta l4proto ospf accept": "meta l4proto 89 accept",
}


def live(node: RecordedNft) -> NftRuleset:
    return live_ruleset(node.tables(), node, node.run)


class _SetsOf:
    def __init__(self, node: RecordedNft, table: KernelTable) -> None:
        self._node, self._table = node, table

    def header(self, name: str) -> KernelSet | None:
        return self._node.set(self._table, name)

    def elements(self, name: str) -> list[bytes]:
        return self._node.elements(self._table, name)


def decoded(node: RecordedNft) -> tuple[list[tuple[str, str]], list[str]]:
    """The texts of rules as decoded and as nft prints them, and those that are left to nft."""
    pairs, left = [], []
    for table in node.tables():
        for name, chain in node.ruleset.tables[table.family, table.name].chains.items():
            raws = node.rules(table, name)
            assert len(raws) == len(chain.rules)
            for raw, printed in zip(raws, chain.rules, strict=True):
                expressions = attributes(raw)[4]
                try:
                    found = decode_rule(expressions, table.family, _SetsOf(node, table))
                except Undecoded:
                    left.append(printed.text)
                else:
                    rule = Rule(printed.handle, 1, table.family, found, printed.comment)
                    pairs.append((rule.text, printed.text))
    return pairs, left


@pytest.mark.parametrize("name", ["kube-proxy-nftables", "own-nftables"])
def test_all_rules_of_a_proxy_are_decoded_as_nft_prints_them(name: str) -> None:
    pairs, left = decoded(RecordedNft(name))
    assert len(pairs) >= 17
    assert left == []
    assert [ours for ours, _ in pairs] == [nfts for _, nfts in pairs]


def test_rules_of_others_are_decoded_with_their_meaning_or_left_to_nft() -> None:
    pairs, left = decoded(RecordedNft("other-tables"))
    assert len(pairs) >= 50
    different = [(ours, nfts) for ours, nfts in pairs if ours != nfts]
    assert [OTHER_WORDS.get(nfts) for _, nfts in different] == [ours for ours, _ in different]
    assert "icmp type echo-request limit rate 5/second accept" in left
    assert "ct state != established accept" in left


@pytest.mark.parametrize("name", RECORDED)
def test_a_chain_says_the_same_as_in_a_whole_listing(name: str) -> None:
    node = RecordedNft(name)
    tables = live(node)
    for key, table in node.ruleset.tables.items():
        assert list(tables.tables[key].chains) == list(table.chains)
        for chain in table.chains.values():
            ours = tables.tables[key].chains[chain.name]
            assert (ours.hook, ours.priority, ours.policy) == (
                chain.hook,
                chain.priority,
                chain.policy,
            )
            for mine, nfts in zip(ours.rules, chain.rules, strict=True):
                assert (mine.handle, mine.comment) == (nfts.handle, nfts.comment)
                assert mine.text in (nfts.text, OTHER_WORDS.get(nfts.text))


@pytest.mark.parametrize("name", RECORDED)
def test_an_element_says_the_same_as_in_a_whole_listing(name: str) -> None:
    node = RecordedNft(name)
    tables, count = live(node), 0
    for key, table in node.ruleset.tables.items():
        for printed in table.sets.values():
            ours = tables.tables[key].sets[printed.name]
            assert (ours.kind, ours.key_types, ours.data_types) == (
                printed.kind,
                printed.key_types,
                printed.data_types,
            )
            for element in printed.elements:
                if element.spans and all(low == high for low, high in element.spans):
                    found = ours.lookup([low for low, _ in element.spans])
                    assert found is not None
                    assert (found.text, found.data) == (element.text, element.data)
                    count += 1
    assert count >= 4


def test_only_what_is_looked_at_is_asked_for() -> None:
    node = RecordedNft("kube-proxy-nftables")
    table = live(node).tables["ip", "kube-proxy"]
    assert node.asked == [("tables", "")]
    assert node.ran == ["nft -j list chains"]
    found = table.sets["service-ips"].lookup(CALLED)
    assert found is not None
    assert found.data == {"goto": {"target": CHAIN}}
    assert "10.128.30.34 . 8080" in table.chains[CHAIN].rules[0].text
    assert table.chains[CHAIN].rules[0].handle
    assert node.asked[1:] == [
        ("set", "service-ips"),
        ("element", "service-ips"),
        ("rules", CHAIN),
        ("set", "__map3142"),
        ("elements", "__map3142"),
    ]
    assert node.ran == ["nft -j list chains"]


def test_a_key_is_asked_for_once_also_when_it_is_not_there() -> None:
    node = RecordedNft("kube-proxy-nftables")
    found = live(node).tables["ip", "kube-proxy"].sets["service-ips"]
    for _ in range(2):
        assert found.lookup((ip_address("172.30.25.0"), "udp", 80)) is None
    assert node.asked.count(("element", "service-ips")) == 1


def test_the_catch_all_of_a_map_covers_other_keys() -> None:
    found = live(RecordedNft("other-tables")).tables["ip", "mix"].sets["any"]
    assert isinstance(found, KernelNamedSet)
    other = found.lookup((ip_address("10.9.9.9"),))
    assert other is not None
    assert other.data == {"accept": None}


def test_intervals_are_looked_up_in_nfts_listing() -> None:
    node = RecordedNft("other-tables")
    found = live(node).tables["ip", "mix"].sets["iv"].lookup((ip_address("10.200.0.1"),))
    assert found is not None
    assert found.data == {"drop": None}
    assert node.ran[-1] == "nft -j list map ip mix iv"


def test_a_chain_with_a_rule_that_only_nft_knows_is_listed_by_nft() -> None:
    node = RecordedNft("other-tables")
    rules = live(node).tables["inet", "fw"].chains["input"].rules
    assert "icmp type echo-request limit rate 5/second accept" in [rule.text for rule in rules]
    assert node.ran[-1] == "nft -j list chain inet fw input"


def test_a_set_that_is_not_there_is_absent_and_all_of_them_can_be_gone_through() -> None:
    sets = live(RecordedNft("other-tables")).tables["ip", "mix"].sets
    assert sets.get("nowhere") is None
    assert sorted(sets) == ["any", "iv", "m", "net", "vl"]
    assert len(sets) == 5
    assert [element.text for element in sets["m"].elements] == ["10.0.0.1 . 80 : 10.2.0.1 . 8080"]


def test_no_table_needs_no_program() -> None:
    node = RecordedNft("other-tables")
    assert live_ruleset([], node, node.run).tables == {}
    assert node.ran == []


def test_a_kernel_that_refuses_is_an_error_and_never_an_empty_chain() -> None:
    class Refusing(RecordedNft):
        def rules(self, table: KernelTable, chain: str) -> list[bytes]:
            raise NetlinkError(1, "Operation not permitted")

    rules = live(Refusing("other-tables")).tables["ip", "mix"].chains["p"].rules
    with pytest.raises(ReadError, match=r"nftables table ip mix: .*not permitted.*run as root"):
        len(rules)
