"""Defaults of the file format and of the platform."""

from typing import Any

import pytest

from proxy.config.convert import replace_attribute
from proxy.config.decode import decode_fields
from proxy.config.defaults import (
    append_port,
    default_config,
    with_defaults,
    with_platform_defaults,
)
from proxy.config.schema import FIELDS
from proxy.config.text import Mapping
from tests.support.config_cases import cases, non_zero, resolved


def nested(values: dict[str, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path, value in values.items():
        *sections, leaf = path.split(".")
        node = root
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return root


@pytest.mark.parametrize("case", cases("defaults", "fileDefaults"))
def test_file_defaults_are_those_of_kube_proxy(case: dict[str, Any]) -> None:
    document = Mapping()
    document.update(case["config"])
    filled = with_defaults(decode_fields(document).values)
    expected = Mapping()
    expected.update(as_mappings(case["expect"]))
    # Both sides as typed fields: a duration is seconds, whatever its spelling.
    assert non_zero(nested(filled)) == non_zero(nested(decode_fields(expected).values))


def as_mappings(node: dict[str, Any]) -> Mapping:
    result = Mapping()
    for key, value in node.items():
        result.put(key, as_mappings(value) if isinstance(value, dict) else value)
    return result


@pytest.mark.parametrize("case", cases("defaults", "linuxDefaults"))
def test_platform_defaults_fill_what_is_empty(case: dict[str, Any]) -> None:
    config = resolved({"mode": case["mode"], "detectLocalMode": case["detectLocalMode"]})
    done = with_platform_defaults(config)
    assert {"mode": done.mode, "detectLocalMode": done.detect_local.mode} == case["expect"]


@pytest.mark.parametrize("case", cases("defaults", "appendPort"))
def test_a_port_is_added_to_a_bare_address_only(case: dict[str, Any]) -> None:
    assert append_port(case["address"], case["port"]) == case["expect"]


@pytest.mark.parametrize("path", [field.path for field in FIELDS if field.zero_is_unset])
def test_an_explicit_zero_gets_the_default_where_kube_proxy_says_so(path: str) -> None:
    field = next(field for field in FIELDS if field.path == path)
    assert with_defaults({path: field.zero})[path] == field.default


@pytest.mark.parametrize(
    ("path", "zero"),
    [
        ("conntrack.tcpEstablishedTimeout", 0.0),
        ("conntrack.maxPerCore", 0),
        ("iptables.masqueradeBit", 0),
        ("iptables.localhostNodePorts", False),
        ("oomScoreAdj", 0),
        ("ipvs.minSyncPeriod", 0.0),
    ],
)
def test_an_explicit_zero_of_a_pointer_field_is_kept(path: str, zero: object) -> None:
    assert with_defaults({path: zero})[path] == zero


@pytest.mark.parametrize("bind_address", ["::", "2001:db8::1"])
def test_an_ipv6_bind_address_moves_the_servers_to_ipv6(bind_address: str) -> None:
    filled = with_defaults({"bindAddress": bind_address})
    assert filled["healthzBindAddress"] == "[::]:10256"
    assert filled["metricsBindAddress"] == "[::1]:10249"


def test_the_nftables_mode_answers_node_ports_on_primary_addresses_by_default() -> None:
    nftables = replace_attribute(default_config(), "mode", "nftables")
    given = replace_attribute(nftables, "node_port_addresses", ("10.0.0.0/8",))
    assert with_platform_defaults(nftables).node_port_addresses == ("primary",)
    assert with_platform_defaults(given).node_port_addresses == ("10.0.0.0/8",)
    assert with_platform_defaults(default_config()).node_port_addresses == ()
