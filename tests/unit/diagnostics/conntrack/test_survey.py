"""What a walk finds: shares, stale entries, and bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.cluster.names import Names
from diagnostics.cluster.plans import load_cluster
from diagnostics.conntrack.heavy import HeavyHitters
from diagnostics.conntrack.shares import (
    Naming,
    endpoint_shares,
    of_services,
    service_shares,
    source_shares,
)
from diagnostics.conntrack.stale_rows import stale_rows
from diagnostics.conntrack.survey import Survey, Wanted, state_names, survey
from diagnostics.conntrack.text import TextTable
from diagnostics.conntrack.truth import Truth
from diagnostics.snapshot.open import open_snapshot
from proxy.conntrack.stale import Reason
from tests.support import conntrack_dump as dump


@pytest.fixture
def naming(tmp_path: Path) -> Naming:
    node = open_snapshot(dump.write_dump(tmp_path / "d")).node()
    return Naming(Names.of(node), Truth(load_cluster(node)))


def table_of(*lines: str) -> TextTable:
    data = [line.encode() + b"\n" for line in lines]
    return TextTable([lambda: iter(data)])


def walked(naming: Naming, *lines: str, wanted: Wanted | None = None) -> Survey:
    return survey(table_of(*lines).entries(), naming.truth, wanted or Wanted())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (dump.FINE_UDP, None),
        (dump.GONE_ENDPOINT, Reason.NOT_SERVING),
        (dump.UNTRANSLATED, Reason.NOT_TRANSLATED),
        (dump.NODE_PORT, Reason.NOT_SERVING),
        (dump.OTHER_HOST, None),
        (dump.NO_SERVICE, Reason.NO_SUCH_SERVICE),
        (dump.FINE_TCP, None),
        (dump.DRAINING_TCP, None),
        (dump.GONE_TCP, Reason.NOT_SERVING),
        (dump.PING, None),
    ],
)
def test_an_entry_is_stale_when_it_leads_to_no_current_endpoint(naming, line, reason) -> None:
    found = walked(naming, line)
    assert [one.reason for one in (*found.stale, *found.stale_others)] == (
        [reason] if reason else []
    )
    assert sum(found.stale_total.values()) == (1 if reason else 0)


def test_a_udp_flow_to_an_endpoint_that_does_not_serve_is_stale_though_it_is_listed(naming):
    line = dump.FINE_UDP.replace("10.244.0.2", "10.244.0.6")
    assert [one.reason for one in walked(naming, line).stale] == [Reason.NOT_SERVING]


def test_ending_tcp_connections_count_only_when_asked_for(naming) -> None:
    assert not walked(naming, dump.ENDING_TCP).stale_others
    assert len(walked(naming, dump.ENDING_TCP, wanted=Wanted(ending=True)).stale_others) == 1


def test_only_wanted_protocols_are_kept(naming) -> None:
    found = walked(naming, *dump.ALL, wanted=Wanted(frozenset({6})))
    assert not found.stale
    assert {one.protocol for one in found.stale_others} == {6}


def test_a_table_full_of_stale_tcp_does_not_crowd_out_udp(naming) -> None:
    lines = [dump.GONE_TCP] * 5 + [dump.GONE_ENDPOINT]
    found = walked(naming, *lines, wanted=Wanted(most=2))
    assert (len(found.stale_others), len(found.stale)) == (2, 1)
    assert sum(found.stale_total.values()) == 6


def test_where_ipvs_hides_what_it_translates_an_untranslated_entry_says_nothing(tmp_path) -> None:
    node = open_snapshot(dump.write_dump(tmp_path / "d")).node()
    truth = Truth(load_cluster(node), sees_translation=False)
    found = survey(table_of(dump.UNTRANSLATED, dump.GONE_ENDPOINT).entries(), truth, Wanted())
    assert [one.reason for one in found.stale] == [Reason.NOT_SERVING]


def test_an_address_of_services_that_the_node_holds_itself_needs_no_translation(tmp_path) -> None:
    directory = dump.write_dump(tmp_path / "d")
    links = (directory / "ip-addr.json").read_text()
    (directory / "ip-addr.json").write_text(links.replace(dump.NODE_ADDRESS, dump.DNS))
    node = open_snapshot(directory).node()
    found = survey(table_of(dump.UNTRANSLATED).entries(), Truth(load_cluster(node)), Wanted())
    assert not found.stale


def test_rows_have_udp_first_and_those_that_carry_most_first(naming) -> None:
    busy = dump.GONE_ENDPOINT.replace("bytes=500", "bytes=50000").replace("4002", "4009")
    table = table_of(dump.GONE_TCP, dump.GONE_ENDPOINT, busy)
    found = survey(table.entries(), naming.truth, Wanted())
    rows = stale_rows([*found.stale_others, *found.stale], table, naming)
    assert [row.flow.original.source_port for row in rows] == [4009, 4002, 5001]
    assert [row.rate for row in rows] == [1000, 10, None]
    assert [row.service for row in rows] == ["shop/dns:p", "shop/dns:p", "shop/web:p"]


def test_shares_name_services_endpoints_and_clients(naming) -> None:
    found = walked(naming, *dump.ALL)
    assert found.total == len(dump.ALL)
    assert of_services(found, naming) == 8
    services = service_shares(found, naming, 10)
    assert [(one.what or one.place, one.count) for one in services] == [
        ("shop/dns:p", 4),
        ("shop/web:p", 4),
        ("10.96.7.7:53", 1),
    ]
    owners = {one.place: one.owner for one in endpoint_shares(found, naming, 10)}
    assert owners["10.244.0.2:5353"] == "pod shop/dns_2 on n1"
    assert owners["10.244.0.77:5353"] == ""
    assert [(one.place, one.count) for one in source_shares(found, naming, 1)] == [
        ("10.244.0.9", 9)
    ]


def test_without_services_places_are_counted_and_nothing_is_called_stale(naming) -> None:
    found = survey(table_of(*dump.ALL).entries(), None, Wanted())
    assert not found.stale_total
    places = {one.place for one in service_shares(found, Naming(naming.names, None), 10)}
    assert "10.96.7.7:53" in places


def test_states_are_those_of_tcp_and_for_others_whether_there_was_an_answer(naming) -> None:
    states = {(protocol, state): n for protocol, state, n in state_names(walked(naming, *dump.ALL))}
    assert states[6, "ESTABLISHED"] == 3
    assert states[6, "TIME_WAIT"] == 1
    assert (states[17, "answered"], states[17, "UNREPLIED"]) == (1, 5)


def test_idle_connections_are_told_by_the_time_they_have_left(naming) -> None:
    found = walked(naming, dump.FINE_TCP, dump.GONE_TCP)
    assert found.idle_longer(24 * 3600, 432_000) == 1
    assert found.idle_longer(48 * 3600, 432_000) == 0


def test_frequent_keys_survive_any_number_of_rare_ones_within_the_stated_error() -> None:
    counted: HeavyHitters[int] = HeavyHitters(most=100)
    for number in range(5000):
        counted.add(-1)
        counted.add(number)
    assert len(counted.counts) <= 100
    ((key, count),) = counted.top(1)
    assert key == -1
    assert count <= 5000 <= count + counted.error
